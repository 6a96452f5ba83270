"""The success head as a dense judge: each chunk is paid by how much likelier success became."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prophet_gym.errors import require_count
from prophet_gym.rewards._videos import require_videos
from prophet_gym.rewards.success_head import SuccessHead
from prophet_gym.world_model import RewardOutput


class RelativeReward:
    """Rewards a chunk with p_t - p_{t-1}; an episode is done when the head says so.

    p_t is the smallest success probability of the last `min_consecutive` frames, so a single odd frame pays nothing.
    Over an episode the rewards add up to p at its end minus p at its start.

    Example:
        >>> from prophet_gym.rewards import SuccessHeadConfig
        >>> reward_model = RelativeReward(SuccessHead(SuccessHeadConfig(min_consecutive=2)), chunk=4)
        >>> reward_model.max_frames
        6
    """

    when: Literal["chunk", "end"] = "chunk"
    stride = 1

    def __init__(self, head: SuccessHead, *, chunk: int = 8) -> None:
        """Wrap a head.

        Args:
            head: Gives the probabilities.
            chunk: Frames between two judgements.
        """
        self.head = head
        self.chunk = require_count("chunk", chunk)
        self.max_frames = self.chunk + head.config.min_consecutive

    def score(self, videos: Sequence[UInt8[Tensor, "_ h w 3"]], instructions: Sequence[str]) -> RewardOutput:
        """Judge each video by its last chunk and the frames before it; one without frames is not judged.

        Raises:
            ValueError: A video is not uint8 `(frames, h, w, 3)`.
            CheckpointError: The weights are damaged.
        """
        require_videos(videos, instructions)
        rows = [self._row(video, text) for video, text in zip(videos, instructions, strict=True)]
        gains, likely, done, scored = zip(*rows, strict=True) if rows else ((), (), (), ())
        return RewardOutput(
            torch.tensor(gains, dtype=torch.float32),
            torch.tensor(scored, dtype=torch.bool),
            torch.tensor(done, dtype=torch.bool),
            torch.tensor(likely, dtype=torch.float32),
        )

    def _row(self, video: UInt8[Tensor, "_ h w 3"], instruction: str) -> tuple[float, float, bool, bool]:
        if not len(video):
            return 0.0, 0.0, False, False
        min_consecutive, threshold = self.head.config.min_consecutive, self.head.config.threshold
        sure = consecutive_probability(self.head.probabilities(video, instruction), min_consecutive)
        now, before = float(sure[-1]), float(sure[max(0, len(sure) - 1 - self.chunk)])
        return now - before, now, bool((sure[min_consecutive - 1 :][-self.chunk :] >= threshold).any()), True


def consecutive_probability(probabilities: Float[Tensor, " t"], min_consecutive: int) -> Float[Tensor, " t"]:
    """For each frame the smallest of the last `min_consecutive` probabilities, of fewer at the beginning.

    Example:
        >>> consecutive_probability(torch.tensor([0.5, 0.25, 0.75, 1.0]), 2).tolist()
        [0.5, 0.25, 0.25, 0.75]
    """
    first = probabilities.new_full((min_consecutive - 1,), float("inf"))
    return torch.cat([first, probabilities]).unfold(0, min_consecutive, 1).amin(1)
