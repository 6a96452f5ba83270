"""One stochastic denoising step of a flow head: its mean and standard deviation, its density and its KL.

Time runs from t = 1 (noise) to t = 0 (action): x_t = (1 - t) x_0 + t e, v = e - x_0, one step from t to t_next < t.
Every step function has the same signature, so that one can be passed for another.
"""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Number = float | int | Tensor
"""A number, or a tensor that broadcasts against the sample."""

LOG_TWO_PI = math.log(2 * math.pi)


Latents = Float[Tensor, "*x"]
Moments = tuple[Latents, Latents]
"""Mean and standard deviation, with sqrt(dt) in it; both in the shape of the sample and in float32."""


@runtime_checkable
class Kernel(Protocol):
    """Define a denoising step as a Gaussian; `flow_sde_step`, `cps_step` and `LearnedNoise` are kernels.

    It takes sample x and velocity v(x, t) at t in (0, 1], and gives the moments at t_next in [0, t).
    """

    def __call__(
        self, sample: Latents, velocity: Latents, t: Number, t_next: Number, *, noise_level: Number, t_clamp: Number
    ) -> Moments:
        """Return mean and standard deviation of the sample at `t_next`."""
        ...


def flow_sde_step(
    sample: Latents, velocity: Latents, t: Number, t_next: Number, *, noise_level: Number, t_clamp: Number
) -> Moments:
    """Take one Euler-Maruyama step of the Flow-GRPO SDE (arXiv 2505.05470, eq. 9), in float32.

    g = a sqrt(t / (1 - t)); mean = x (1 - g^2 dt / 2t) - v (1 + g^2 (1 - t) / 2t) dt; std = g sqrt(dt). The noise level
    a >= 0 may be a tensor over the last axis; `t_clamp`, the schedule's second time, replaces t = 1 in g.
    """
    x, v = precise(sample), precise(velocity)
    t, t_next, t_clamp, level = (like(each, x) for each in (t, t_next, t_clamp, noise_level))
    dt = t - t_next
    # g diverges at t = 1, where every path begins; the released implementations clamp it so.
    below_one = torch.where(t >= 1, t_clamp, t)
    variance = level**2 * t / (1 - below_one)
    mean = x * (1 - variance * dt / (2 * t)) - v * (1 + variance * (1 - t) / (2 * t)) * dt
    return mean, torch.sqrt(variance * dt).expand_as(x)


def cps_step(
    sample: Latents, velocity: Latents, t: Number, t_next: Number, *, noise_level: Number, t_clamp: Number = 1.0
) -> Moments:
    """Take a step of coefficients-preserving sampling: noise of the size the flow has at `t_next` (arXiv 2509.05952).

    std = t' sin(a pi/2); mean = (1 - t') x_0 + sqrt(t'^2 - std^2) x_1 with x_0 = x - t v, x_1 = x + (1 - t) v and a in
    [0, 1]. The step to t_next = 0 has std 0 and so no density. Nothing diverges at t = 1: `t_clamp` is not read.
    """
    del t_clamp
    # A tensor is not looked into, which would sync a GPU.
    if not isinstance(noise_level, Tensor) and not 0 <= noise_level <= 1:
        raise ValueError(f"noise_level must be at least 0 and at most 1, got {noise_level}")
    x, v = precise(sample), precise(velocity)
    t, t_next, level = (like(each, x) for each in (t, t_next, noise_level))
    std = t_next * torch.sin(level * (math.pi / 2))
    kept = t_next * torch.cos(level * (math.pi / 2))
    return (1 - t_next) * (x - t * v) + kept * (x + (1 - t) * v), std.expand_as(x)


def gaussian_log_prob(x: Latents, mean: Latents, std: Latents) -> Latents:
    """Return the log-density of each entry under its own Gaussian in nats; 0 where std is 0: there is no density."""
    moves = std > 0
    # The std is replaced before it divides: the gradient of a branch that is not taken would be 0 * inf = NaN.
    x, mean, std = precise(x), precise(mean), precise(torch.where(moves, std, 1.0))
    return torch.where(moves, -((x - mean) ** 2) / (2 * std**2) - torch.log(std) - 0.5 * LOG_TWO_PI, 0.0)


def gaussian_kl(mean: Latents, std: Latents, other_mean: Latents, other_std: Latents) -> Latents:
    """Return KL(N(mean, std) || N(other_mean, other_std)) of each entry in nats; 0 where either std is 0."""
    moves = (std > 0) & (other_std > 0)
    here, there = torch.where(moves, std, 1.0), torch.where(moves, other_std, 1.0)
    ratio = here / there
    divergence = 0.5 * (ratio**2 + ((mean - other_mean) / there) ** 2 - 1) - torch.log(ratio)
    return torch.where(moves, divergence, 0.0)


def gaussian_entropy(std: Latents) -> Latents:
    """Return the entropy of each entry in nats; 0 where std is 0 (no density)."""
    moves = std > 0
    return torch.where(moves, 0.5 * (LOG_TWO_PI + 1) + torch.log(torch.where(moves, std, 1.0)), 0.0)


def precise(x: Tensor) -> Tensor:
    """Return the tensor in float32, or as it is in float64: densities lose too much in half precision."""
    return x if x.dtype == torch.float64 else x.float()


def like(value: Number, sample: Tensor) -> Tensor:
    """Return a number as a tensor of the sample's dtype and device."""
    return torch.as_tensor(value, dtype=sample.dtype, device=sample.device)
