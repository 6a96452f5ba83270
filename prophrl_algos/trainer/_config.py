"""How much a run collects and how fast it learns."""

import math
from dataclasses import dataclass

from prophet_gym._checks import require_count, require_number


@dataclass(frozen=True)
class TrainerConfig:
    """Configure how much is collected and how fast the policy learns.

    Attributes:
        updates: Number of updates; each collects groups of rollouts and improves the policy on them.
        groups: Number of groups per update, over all processes.
        group_size: Number of rollouts per group.
        epochs: Number of passes over the collected chunks.
        minibatches: Number of optimizer steps per pass.
        microbatch: Number of chunks per backward pass; a smaller one takes less memory and changes nothing else.
        clip_low: Lower clipping range of the ratio, in (0, 1).
        clip_high: Upper clipping range of the ratio, above 0.
        beta: Weight of the KL divergence from the initial policy; 0 switches it off.
        noise_level: Noise level of the SDE, or of the forward process (see `forward_step`).
        max_grad_norm: Norm that gradients are clipped to.
        seed: Seed of all randomness.

    Raises:
        ValueError: A value is out of its range.
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
            require_count(name, getattr(self, name))
        require_count("seed", self.seed, 0)
        if not (0 < self.clip_low < 1 and 0 < self.clip_high < math.inf):
            raise ValueError(
                f"clip_low must be in (0, 1) and clip_high above 0, got {self.clip_low} and {self.clip_high}; "
                "0.2 and 0.28 are usual"
            )
        for name in ("beta", "noise_level"):
            require_number(name, getattr(self, name), least=0)
        if not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be above 0, got {self.max_grad_norm}")
