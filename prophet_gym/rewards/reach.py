"""A judge of reaching: how near the gripper is to a marked place of the picture."""

import re
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prophet_gym.errors import require_number
from prophet_gym.rewards._videos import require_videos
from prophet_gym.world_model import RewardOutput

FindGripper: TypeAlias = Callable[[UInt8[Tensor, "t h w 3"]], Float[Tensor, "t 2"]]
"""Frames, each on its own, to the gripper's place in the picture: right and down, 0..1 inside of it."""

BEST = 0.999
_MARK = re.compile(r"^move the gripper to (\d\.\d{3}), (\d\.\d{3})$")


def reach_instruction(mark: Sequence[float | int] | Float[np.ndarray, " 2"]) -> str:
    """The instruction to reach a mark: its place right and down in the picture, 0..1.

    Example:
        >>> reach_instruction((0.25, 0.4))
        'move the gripper to 0.250, 0.400'
    """
    right, down = np.asarray(mark, float).tolist()
    if not (0 <= right <= 1 and 0 <= down <= 1):
        raise ValueError(f"a mark lies inside the picture, both numbers in 0..1, got {right:g}, {down:g}")
    return f"move the gripper to {right:.3f}, {down:.3f}"


def mark_of(instruction: str) -> tuple[float, float]:
    """The mark that an instruction names; ValueError if it names none."""
    found = _MARK.match(instruction)
    if found is None:
        raise ValueError(f"a reach needs an instruction of `reach_instruction(mark)`, got {instruction!r}")
    return float(found[1]), float(found[2])


class ReachReward:
    """Rewards each chunk by how near to the mark the gripper is in the chunk's last frame.

    The reward is 1 at the mark, 0 at a distance of `width` (in widths of the picture) and negative beyond. It stays
    below 1, so that no episode ends by it: the gripper has to stay where it is marked.

    Example:
        >>> reward_model = ReachReward(lambda frames: torch.full((len(frames), 2), 0.5))
        >>> marks = [reach_instruction((0.5, 0.5)), reach_instruction((0.5, 0.75))]
        >>> output = reward_model.score([torch.zeros(1, 4, 4, 3).byte()] * 2, marks)
        >>> [round(reward, 3) for reward in output.reward.tolist()]
        [0.999, 0.0]
    """

    when: Literal["chunk", "end"] = "chunk"
    stride = 1
    max_frames = 1

    def __init__(self, find_gripper: FindGripper, *, width: float = 0.25) -> None:
        """Keep what finds the gripper, e.g. by `Prophet.see_gripper`; ValueError if width is not positive."""
        self.find_gripper = find_gripper
        self.width = require_number("width, a distance in the picture,", width, above=0)

    def score(self, videos: Sequence[UInt8[Tensor, "_ h w 3"]], instructions: Sequence[str]) -> RewardOutput:
        """Judge the last frame of each video that has one.

        Raises:
            ValueError: An instruction without a mark, a video that is not uint8 `(frames, h, w, 3)`, or a gripper that
                was found nowhere.
        """
        require_videos(videos, instructions)
        marks = torch.tensor([mark_of(text) for text in instructions], dtype=torch.float32).reshape(-1, 2)
        scored = torch.tensor([len(video) > 0 for video in videos], dtype=torch.bool)
        reward = torch.zeros(len(videos), dtype=torch.float32)
        if scored.any():
            places = self.find_gripper(torch.stack([video[-1] for video in videos if len(video)])).cpu().float()
            if not torch.isfinite(places).all():
                raise ValueError(f"find_gripper must return finite places, 0..1 in the picture, got {places.tolist()}")
            reward[scored] = (1 - (places - marks[scored]).norm(dim=1) / self.width).clamp(max=BEST)
        return RewardOutput(reward, scored)
