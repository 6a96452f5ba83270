"""What flow heads on published policies share: a flow around a mean, its training loss, contexts that repeat for free.

A published L1 head says one action. As a flow it says N(action, spread^2): `gaussian_velocity` is the exact velocity of
that flow, so a flow head that starts from it samples the published policy's action with a little noise, before any
training. With spread 0 it is the published policy itself.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from prophrl_algos.flow.policy import Context

SPREAD = 0.1
"""Deviation of a flow head's actions from the published head's before any training, latent units: our choice."""
LEAST_TIME = 1e-4
TIME_WIDTH = 256
LONGEST_PERIOD = 1e4


def gaussian_velocity(
    x: Float[Tensor, "b h d"], t: Float[Tensor, " b"], mean: Float[Tensor, "#b h d"], spread: float
) -> Float[Tensor, "b h d"]:
    """E[noise - action | x_t] where actions are N(mean, spread^2), independent of each other and of the noise.

    Args:
        x: x_t.
        t: in (0, 1].
        mean: of the actions.
        spread: their standard deviation; 0 leads to the mean exactly, in any number of Euler steps.
    """
    t = t[:, None, None].clamp(min=LEAST_TIME)
    variance = ((1 - t) * spread) ** 2 + t**2
    return (t - (1 - t) * spread**2) / variance * (x - (1 - t) * mean) - mean


@dataclass(frozen=True)
class Targets:
    """What `sft_loss` asks a flow head for.

    Attributes:
        x: between action and noise.
        t: where between.
        velocity: noise minus action.
    """

    x: Float[Tensor, "b h d"]
    t: Float[Tensor, " b"]
    velocity: Float[Tensor, "b h d"]


def flow_targets(x0: Float[Tensor, "b h d"], draws: int, generator: torch.Generator | None) -> Targets:
    """`draws` noises and times per action; times have the density 1.5 sqrt(t) of pi0 (arXiv 2410.24164, app. B)."""
    x0 = x0.repeat_interleave(draws, 0)
    noise = torch.randn(x0.shape, generator=generator).to(x0.device)
    t = (torch.rand(len(x0), generator=generator) ** (2 / 3)).to(x0.device)
    return Targets(torch.lerp(x0, noise, t[:, None, None]), t, noise - x0)


class TimeEmbedding(nn.Module):
    """A time in [0, 1] to a scale and a shift, which are 0 before any training.

    Args:
        width: of the layers that are scaled and shifted.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into = nn.Linear(TIME_WIDTH, width)
        self.out = nn.Linear(width, 2 * width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b two d"]:
        """Scale and shift."""
        half = TIME_WIDTH // 2
        rates = torch.exp(-math.log(LONGEST_PERIOD) * torch.arange(half, device=t.device) / half)
        angles = 1000 * t[:, None] * rates
        waves = torch.cat([angles.cos(), angles.sin()], 1)
        return self.out(F.silu(self.into(waves))).unflatten(1, (2, -1))


class SharedContext(Context):
    """Tensors with rows, each row standing for `copies` rows side by side: repeating costs no memory.

    Args:
        tensors: batch-leading.
        copies: rows that each of theirs stands for.
    """

    def __init__(self, tensors: tuple[Tensor, ...], copies: int = 1) -> None:
        self.tensors, self.copies = tensors, copies

    def select(self, rows: Int[Tensor, " r"]) -> "SharedContext":
        """The given rows, in the given order."""
        own = rows // self.copies
        return SharedContext(tuple(tensor[own.to(tensor.device)] for tensor in self.tensors))

    def repeat_interleave(self, repeats: int) -> "SharedContext":
        """Every row `repeats` times, copies of a row side by side."""
        return SharedContext(self.tensors, self.copies * repeats)

    def detach(self) -> "SharedContext":
        """The same numbers without their gradient."""
        return SharedContext(tuple(tensor.detach() for tensor in self.tensors), self.copies)
