"""How good dreams are, and how far rewards of them are to be trusted."""

from prophet_gym.evaluation._calibration import LabelledVideo, ScoredVideo, calibrate, score_videos
from prophet_gym.evaluation._metrics import FrameMetrics, frame_metrics, video_metrics
from prophet_gym.evaluation._open_loop import (
    GRIPPER,
    METRICS,
    OBJECT,
    Dream,
    Scores,
    Window,
    dream,
    evaluate_open_loop,
    windows_of,
)

__all__ = [
    "GRIPPER",
    "METRICS",
    "OBJECT",
    "Dream",
    "FrameMetrics",
    "LabelledVideo",
    "ScoredVideo",
    "Scores",
    "Window",
    "calibrate",
    "dream",
    "evaluate_open_loop",
    "frame_metrics",
    "score_videos",
    "video_metrics",
    "windows_of",
]
