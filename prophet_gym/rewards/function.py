"""A judge made of a function: any measure of a video becomes a reward."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from prophet_gym.world_model import Verdict


class FunctionReward:
    """Rewards each video with what `function(video, instruction)` returns; None leaves the row unjudged.

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
        """Keep the function; see `RewardModel` for when, stride and max_frames."""
        if when not in ("chunk", "end") or stride < 1 or max_frames < 1:
            raise ValueError(
                "when must be 'chunk' or 'end', stride and max_frames at least 1, "
                f"got {when!r}, {stride} and {max_frames}"
            )
        self.function = function
        self.when: Literal["chunk", "end"] = when
        self.stride = stride
        self.max_frames = max_frames

    def score(self, videos: Sequence[UInt8[Tensor, "_ h w 3"]], instructions: Sequence[str]) -> Verdict:
        """Call the function on each video."""
        results = [self.function(video, text) for video, text in zip(videos, instructions, strict=True)]
        return Verdict(
            reward=torch.tensor([0.0 if result is None else float(result) for result in results]),
            valid=torch.tensor([result is not None for result in results], dtype=torch.bool),
        )
