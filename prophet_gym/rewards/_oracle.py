"""Score recorded videos by their labels, to check calibration itself."""

import hashlib
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from prophet_gym.rewards._videos import require_videos
from prophet_gym.world_model import RewardOutput


class OracleReward:
    """Reward 1.0 for videos that it was told are done, recognised by their last frame; leave unknown ones unscored.

    Example:
        >>> video = torch.zeros(3, 4, 4, 3, dtype=torch.uint8)
        >>> oracle = OracleReward()
        >>> oracle.tell(video, done=True)
        >>> oracle.score([video, video + 1], ["x", "x"]).scored.tolist()
        [True, False]
    """

    when: Literal["chunk", "end"] = "chunk"
    stride = 1
    max_frames = 1

    def __init__(self) -> None:
        self._truth: dict[bytes, bool] = {}

    def tell(self, video: UInt8[Tensor, "_ h w 3"], *, done: bool) -> None:
        """Remember whether the task is done in a video of at least one frame."""
        self._truth[_key(video)] = done

    def score(self, videos: Sequence[UInt8[Tensor, "_ h w 3"]], instructions: Sequence[str]) -> RewardOutput:
        """Return 1.0 where the task is done."""
        require_videos(videos, instructions)
        known = [self._truth.get(_key(video)) if len(video) else None for video in videos]
        return RewardOutput(
            torch.tensor([float(bool(done)) for done in known], dtype=torch.float32),
            torch.tensor([done is not None for done in known], dtype=torch.bool),
        )


def _key(video: Tensor) -> bytes:
    return hashlib.sha256(video[-1].cpu().contiguous().numpy().tobytes()).digest()
