"""How much a run collects and how fast it learns."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainerConfig:
    """How much and how fast.

    Attributes:
        updates: rounds of collecting and improving.
        groups: groups in a round, over all processes.
        group_size: rollouts in a group.
        epochs: passes over a round's decisions.
        minibatches: optimiser steps in a pass.
        microbatch: decisions in one backward pass; smaller takes less memory and changes nothing else.
        clip_low: how far below 1 a ratio earns.
        clip_high: how far above.
        beta: weight of the KL to the reference; 0 needs no reference.
        noise_level: a of the SDE; of the forward process, see `forward_step`.
        max_grad_norm: gradients are scaled down to this norm.
        seed: of all randomness.
    """

    updates: int = 100
    groups: int = 8
    group_size: int = 8
    epochs: int = 1
    minibatches: int = 1
    microbatch: int = 64
    clip_low: float | int = 0.2
    clip_high: float | int = 0.28
    beta: float | int = 0.01
    noise_level: float | int = 0.5
    max_grad_norm: float | int = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("updates", "groups", "group_size", "epochs", "minibatches", "microbatch"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not (0 < self.clip_low < 1 and 0 < self.clip_high < math.inf):
            raise ValueError(
                f"clip_low must be in (0, 1) and clip_high above 0, got {self.clip_low} and {self.clip_high}; "
                "0.2 and 0.28 are usual"
            )
        for name in ("beta", "noise_level", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be above 0, got {self.max_grad_norm}")
