"""Check what a reward model is shown where it comes in: a wrong image must not become a wrong reward."""

from collections.abc import Sequence

import torch
from torch import Tensor


def require_videos(videos: Sequence[object], instructions: Sequence[object]) -> None:
    """Raise ValueError unless each video is a uint8 tensor `(frames, h, w, 3)` with its instruction, a text.

    Example:
        >>> require_videos([torch.zeros(2, 3, 8, 8)], ["open the drawer"])
        Traceback (most recent call last):
        ...
        ValueError: video 0 must be a uint8 tensor (frames, height, width, 3), RGB, got float32 (2, 3, 8, 8)
    """
    if len(videos) != len(instructions):
        raise ValueError(f"each video needs its instruction, got {len(videos)} and {len(instructions)}")
    for number, (video, instruction) in enumerate(zip(videos, instructions, strict=True)):
        require_frames(f"video {number}", video, "(frames, height, width, 3)")
        if not isinstance(instruction, str):
            raise ValueError(f"instruction {number} must be a text, got {type(instruction).__name__}")


def require_frames(name: str, frames: object, form: str) -> None:
    """Raise ValueError unless frames are a uint8 tensor of this form, RGB.

    Args:
        name: Their name, for the message.
        frames: The frames to check.
        form: `(frames, height, width, 3)` or `(height, width, 3)`.
    """
    if isinstance(frames, Tensor):
        shape, right = tuple(frames.shape), len(form.split(","))
        if frames.dtype == torch.uint8 and len(shape) == right and shape[-1] == 3 and min(shape[-3:]) > 0:
            return
        got = f"{str(frames.dtype).removeprefix('torch.')} {shape}"
    else:
        got = type(frames).__name__
    raise ValueError(f"{name} must be a uint8 tensor {form}, RGB, got {got}")
