"""How good dreams are, and how far rewards of them are to be trusted."""

from prophet_gym.evaluation._calibration import calibrate
from prophet_gym.evaluation._dreams import dream
from prophet_gym.evaluation._metrics import video_metrics
from prophet_gym.evaluation._open_loop import Window, evaluate_open_loop, windows_of
from prophet_gym.evaluation._playing import ActingPolicy, make_acting_policy, play
from prophet_gym.evaluation._ranking import rank

__all__ = [
    "ActingPolicy",
    "Window",
    "calibrate",
    "dream",
    "evaluate_open_loop",
    "make_acting_policy",
    "play",
    "rank",
    "video_metrics",
    "windows_of",
]
