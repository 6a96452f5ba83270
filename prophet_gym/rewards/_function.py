"""Turn a function of a video into a reward model."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from prophet_gym._checks import require_count, require_when
from prophet_gym.rewards._videos import require_videos
from prophet_gym.world_model import RewardOutput


class FunctionReward:
    """Reward each video with what `function(video, instruction)` returns; None leaves the video unscored.

    **A reward of 1.0 or more means that the task is done: the episode terminates.** Keep a dense reward below 1.0, or
    return a `RewardOutput` with `done` from a reward model of your own.

    By default the function gets the latest frame alone, after every chunk. With `max_frames` and `stride` it gets the
    latest frame and frames 0, stride, 2 stride, ... of the episode (0 is the initial frame), at most the last
    `max_frames` of them. The video is uint8 (t, h, w, 3), oldest first.

    Example:
        >>> brightness = FunctionReward(lambda video, instruction: float(video[-1].float().mean()) / 255)
        >>> white = torch.full((1, 4, 4, 3), 255, dtype=torch.uint8)
        >>> brightness.score([white], ["shine"]).reward.tolist()
        [1.0]
    """

    def __init__(
        self,
        function: Callable[[Tensor, str], float | None],
        *,
        when: Literal["chunk", "end"] = "chunk",
        stride: int = 1,
        max_frames: int = 1,
    ) -> None:
        if not callable(function):
            raise ValueError(f"function must be one of a video and an instruction, got {function!r}")
        self.function = function
        self.when: Literal["chunk", "end"] = require_when(when)
        self.stride = require_count("stride", stride)
        self.max_frames = require_count("max_frames", max_frames)

    def score(self, videos: Sequence[UInt8[Tensor, "_ h w 3"]], instructions: Sequence[str]) -> RewardOutput:
        """Call the function on each video with frames; ValueError unless it returns None or a finite float32."""
        require_videos(videos, instructions)
        results = [
            self._result(video, text) if len(video) else None for video, text in zip(videos, instructions, strict=True)
        ]
        return RewardOutput(
            reward=torch.tensor([0.0 if result is None else result for result in results], dtype=torch.float32),
            scored=torch.tensor([result is not None for result in results], dtype=torch.bool),
        )

    def _result(self, video: UInt8[Tensor, "_ h w 3"], instruction: str) -> float | None:
        result = self.function(video, instruction)
        if result is None:
            return None
        try:
            number = float(result)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the function of a reward must return a number or None, got {result!r}") from error
        if not abs(number) <= torch.finfo(torch.float32).max:  # nor NaN
            wanted = "number that float32 can hold," if math.isfinite(number) else "finite number"
            raise ValueError(f"the function of a reward must return a {wanted} or None, got {number}")
        return number
