"""Where the figures of a training loop go: TensorBoard, where it is installed."""

import warnings
from pathlib import Path
from typing import Any


class NoEvents:
    """Takes what `SummaryWriter` takes, and keeps nothing."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Drop a figure."""

    def close(self) -> None:
        """There is nothing to close."""

    def __enter__(self) -> "NoEvents":
        return self

    def __exit__(self, *_: object) -> None:
        return None


def open_events(folder: Path) -> Any:
    """Return a `SummaryWriter` of the folder; without TensorBoard warn once, and return what keeps no events."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        warnings.warn(
            f"TensorBoard is not installed, so no events are written to {folder}: pip install 'prophet-gym[train]'",
            RuntimeWarning,
            stacklevel=2,
        )
        return NoEvents()
    return SummaryWriter(str(folder))
