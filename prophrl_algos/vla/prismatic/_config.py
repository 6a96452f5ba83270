"""Describe the sizes and scales of Prismatic policies as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prophet_gym.errors import CheckpointError
from prophrl_algos.vla._units import Affine, affine
from prophrl_algos.vla.conventions import Convention
from prophrl_algos.vla.io._statistics import sound
from prophrl_algos.vla.prismatic._vision import VitSize

GRIPPER = 6
Numbers = Mapping[str, Sequence[float] | Sequence[bool]]


@dataclass(frozen=True)
class PrismaticConfig:
    """Hold sizes and statistics of a Prismatic policy; `states` is None for a policy that reads none."""

    text: Mapping[str, Any]
    """Configuration of the language model, in transformers' words."""
    first: VitSize
    """Sizes of DINOv2."""
    second: VitSize
    """Sizes of SigLIP."""
    actions: Numbers
    """Statistics of the training data: `q01`, `q99`, and `mask` for the numbers that are scaled."""
    states: Numbers | None
    benchmark: str = "libero"
    horizon: int = 8
    exec_steps: int = 8
    num_steps: int = 10
    without_state: str = "refuse"
    head: str = "flow"
    """`l1`, as published, or `flow`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the head."""

    @property
    def action_dim(self) -> int:
        return len(self.actions["q01"])

    @classmethod
    def from_json(cls, said: Mapping[str, Any], source: Path) -> "PrismaticConfig":
        """Return the config that `dataclasses.asdict` described; KeyError, TypeError or ValueError if it is damaged."""
        vision = {name: VitSize(**said[name]) for name in ("first", "second")}
        config = cls(**{**said, **vision})
        sound_numbers(config.actions, "actions", source)
        if config.states is not None:
            sound_numbers(config.states, "states", source)
        return config


def sound_numbers(given: Any, feature: str, source: Path) -> Numbers:
    """Return the statistics of a feature that are read, as lists; CheckpointError if they make no sense."""
    given = given if isinstance(given, Mapping) else {}
    read = sound({name: given.get(name) for name in ("q01", "q99")}, "quantile", feature, source)
    plain: dict[str, Any] = {name: value.tolist() for name, value in read.items()}
    mask = given.get("mask")
    if mask is None:
        return plain
    if not isinstance(mask, list) or len(mask) != len(plain["q01"]) or not all(isinstance(e, bool) for e in mask):
        raise CheckpointError(f"{source}: mask of {feature!r} must be {len(plain['q01'])} booleans, got {mask}")
    return plain | {"mask": mask}


def scaling(numbers: Numbers, how: Convention, gripper: int | None = None) -> Affine:
    """Return the scale of actions or states.

    A gripper of 0 and 1 that the statistics leave alone becomes -1 and 1, so that noise of one size suits all
    dimensions. Numbers that never changed in the training data are 0, as in prismatic's `zeros_mask`.
    """
    statistics = {name: torch.tensor(numbers[name], dtype=torch.float32) for name in ("q01", "q99")}
    mask = torch.tensor(numbers.get("mask", [True] * len(numbers["q01"])), dtype=torch.bool)
    found = affine(how.scaling, statistics, eps=how.eps, mask=mask)
    still = mask & (statistics["q01"] == statistics["q99"])
    found = Affine(torch.where(still, statistics["q01"], found.offset), found.scale)
    if gripper is None or bool(mask[gripper]):
        return found
    is_gripper = torch.arange(len(mask)) == gripper
    return Affine(*(torch.where(is_gripper, 0.5, part) for part in found))


def rescale_output(layer: nn.Linear, numbers: Numbers) -> None:
    """Make a published head's last layer say latents: a gripper from 0 to 1 becomes one from -1 to 1."""
    if not numbers.get("mask", [True] * layer.out_features)[GRIPPER]:
        with torch.no_grad():
            layer.weight[GRIPPER] *= 2
            layer.bias[GRIPPER] = 2 * layer.bias[GRIPPER] - 1
