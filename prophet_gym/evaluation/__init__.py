"""How good dreams are, and how far rewards of them are to be trusted."""

from prophet_gym.evaluation._calibration import calibrate
from prophet_gym.evaluation._metrics import video_metrics
from prophet_gym.evaluation._open_loop import Window, dream, evaluate_open_loop, windows_of

__all__ = ["Window", "calibrate", "dream", "evaluate_open_loop", "video_metrics", "windows_of"]
