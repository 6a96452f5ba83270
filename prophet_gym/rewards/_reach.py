"""Reward reaching: how near the gripper is to a marked place of the image."""

import re
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prophet_gym._checks import require_number
from prophet_gym.rewards._videos import require_videos
from prophet_gym.world_model import RewardOutput

FindGripper: TypeAlias = Callable[[UInt8[Tensor, "t h w 3"]], Float[Tensor, "t 2"]]
"""Map frames, each on its own, to the gripper's position in the image: right and down, 0..1 inside of it."""

_BEST = 0.999  # below 1.0, which would end the episode
_MARK = re.compile(r"^move the gripper to (\d\.\d{3}), (\d\.\d{3})$")


def reach_instruction(mark: Sequence[float | int] | Float[np.ndarray, " 2"]) -> str:
    """Return the instruction to reach a mark: its place right and down in the image, each in 0..1."""
    right, down = np.asarray(mark, float).tolist()
    if not (0 <= right <= 1 and 0 <= down <= 1):
        raise ValueError(f"a mark lies inside the image, both numbers in 0..1, got {right:g}, {down:g}")
    return f"move the gripper to {right:.3f}, {down:.3f}"


def mark_of(instruction: str) -> tuple[float, float]:
    """Return the mark that an instruction names; raise ValueError if it names none."""
    found = _MARK.match(instruction)
    if found is None:
        raise ValueError(f"a reach needs an instruction of `reach_instruction(mark)`, got {instruction!r}")
    return float(found[1]), float(found[2])


class ReachReward:
    """Reward each chunk by how near to the mark the gripper is in the chunk's last frame.

    The reward is 1 at the mark, 0 at a distance of `width` (in widths of the image) and negative beyond. It stays
    below 1, so that it never ends an episode: the gripper has to stay at the mark.
    """

    when: Literal["chunk", "end"] = "chunk"
    stride = 1
    max_frames = 1

    def __init__(self, find_gripper: FindGripper, *, width: float = 0.25) -> None:
        """Keep what finds the gripper, for example `see_gripper` of the bundled world model."""
        self.find_gripper = find_gripper
        self.width = require_number("width, a distance in the image,", width, above=0)

    def score(self, videos: Sequence[UInt8[Tensor, "_ h w 3"]], instructions: Sequence[str]) -> RewardOutput:
        """Score the last frame of each video that has one."""
        require_videos(videos, instructions)
        marks = torch.tensor([mark_of(text) for text in instructions], dtype=torch.float32).reshape(-1, 2)
        scored = torch.tensor([len(video) > 0 for video in videos], dtype=torch.bool)
        reward = torch.zeros(len(videos), dtype=torch.float32)
        if scored.any():
            places = self.find_gripper(torch.stack([video[-1] for video in videos if len(video)])).cpu().float()
            if not torch.isfinite(places).all():
                raise ValueError(f"find_gripper must return finite places, 0..1 in the image, got {places.tolist()}")
            reward[scored] = (1 - (places - marks[scored]).norm(dim=1) / self.width).clamp(max=_BEST)
        return RewardOutput(reward, scored)
