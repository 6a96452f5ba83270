"""How good dreams are, and how far rewards of them are to be trusted."""

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

__all__ = ["GRIPPER", "METRICS", "OBJECT", "Dream", "Scores", "Window", "dream", "evaluate_open_loop", "windows_of"]
