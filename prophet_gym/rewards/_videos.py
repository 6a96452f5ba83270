"""Check what a reward model is shown where it comes in: a wrong image must not become a wrong reward."""

from collections.abc import Sequence

import torch
from torch import Tensor


def require_videos(videos: Sequence[object], instructions: Sequence[object]) -> None:
    """Raise ValueError unless each video is a uint8 tensor `(frames, h, w, 3)` with its instruction, a text."""
    if len(videos) != len(instructions):
        raise ValueError(f"each video needs its instruction, got {len(videos)} and {len(instructions)}")
    for number, (video, instruction) in enumerate(zip(videos, instructions, strict=True)):
        require_frames(f"video {number}", video, "(frames, height, width, 3)")
        if not isinstance(instruction, str):
            raise ValueError(f"instruction {number} must be a text, got {type(instruction).__name__}")


def require_frames(name: str, frames: object, form: str) -> None:
    """Raise ValueError unless frames are a uint8 tensor of a form such as `(height, width, 3)`, RGB."""
    got = type(frames).__name__
    if isinstance(frames, Tensor):
        shape = tuple(frames.shape)
        if frames.dtype == torch.uint8 and len(shape) == len(form.split(",")) and shape[-1] == 3 and min(shape[-3:]):
            return
        got = f"{str(frames.dtype).removeprefix('torch.')} {shape}"
    raise ValueError(f"{name} must be a uint8 tensor {form}, RGB, got {got}")
