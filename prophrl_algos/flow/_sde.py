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
"""A number, one number per batch element (one axis), or a tensor that broadcasts against the sample."""

LOG_TWO_PI = math.log(2 * math.pi)


Latents = Float[Tensor, "*x"]
Moments = tuple[Latents, Latents]
"""Mean and standard deviation, with sqrt(dt) in it; both in the shape of the sample and in float32."""


@runtime_checkable
class Kernel(Protocol):
    """A denoising step as a Gaussian; `flow_sde_step`, `cps_step`, `ode_step` and `LearnedNoise` are kernels.

    It takes sample x and velocity v(x, t) at t in (0, 1], and gives the moments at t_next in [0, t). A plain number out
    of these bounds is a ValueError; tensors are not looked into.
    """

    def __call__(
        self, sample: Latents, velocity: Latents, t: Number, t_next: Number, *, noise_level: Number, t_clamp: Number
    ) -> Moments:
        """Return mean and standard deviation of the sample at `t_next`."""


def flow_sde_step(
    sample: Latents, velocity: Latents, t: Number, t_next: Number, *, noise_level: Number, t_clamp: Number
) -> Moments:
    """Take one Euler-Maruyama step of the Flow-GRPO SDE (arXiv 2505.05470, eq. 9), in float32.

    g = a sqrt(t / (1 - t)); mean = x (1 - g^2 dt / 2t) - v (1 + g^2 (1 - t) / 2t) dt; std = g sqrt(dt). The noise level
    a >= 0 may be a tensor over the last axis; `t_clamp`, the schedule's second time, replaces t = 1 in g.
    """
    require_step(t, t_next, noise_level)
    x, v = precise(sample), precise(velocity)
    t, t_next, t_clamp = over_rows(t, x), over_rows(t_next, x), over_rows(t_clamp, x)
    dt = t - t_next
    # g diverges at t = 1, where every path begins; the released implementations clamp it so.
    below_one = torch.where(t >= 1, t_clamp, t)
    variance = torch.as_tensor(noise_level, dtype=x.dtype, device=x.device) ** 2 * t / (1 - below_one)
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
    require_step(t, t_next, noise_level, most=1)
    x, v = precise(sample), precise(velocity)
    t, t_next = over_rows(t, x), over_rows(t_next, x)
    level = torch.as_tensor(noise_level, dtype=x.dtype, device=x.device)
    std = t_next * torch.sin(level * (math.pi / 2))
    kept = t_next * torch.cos(level * (math.pi / 2))
    return (1 - t_next) * (x - t * v) + kept * (x + (1 - t) * v), std.expand_as(x)


def ode_step(
    sample: Latents, velocity: Latents, t: Number, t_next: Number, *, noise_level: Number = 0.0, t_clamp: Number = 1.0
) -> Moments:
    """Take the Euler step x - v dt, of std 0 and so without a density; `noise_level` and `t_clamp` are not read."""
    del noise_level, t_clamp
    require_step(t, t_next, 0.0)
    x, v = precise(sample), precise(velocity)
    return x - v * (over_rows(t, x) - over_rows(t_next, x)), torch.zeros_like(x)


def gaussian_log_prob(x: Latents, mean: Float[Tensor, "*#x"], std: Float[Tensor, "*#x"] | float | int) -> Latents:
    """Return the log-density of each entry under its own Gaussian in nats; std must be positive."""
    x, mean = precise(x), precise(mean)
    std = precise(std) if isinstance(std, Tensor) else x.new_tensor(std)
    return -((x - mean) ** 2) / (2 * std**2) - torch.log(std) - 0.5 * LOG_TWO_PI


def step_log_prob(x: Latents, mean: Latents, std: Latents) -> Latents:
    """Return `gaussian_log_prob` where std > 0, and 0 where it is 0: such a step has no density."""
    moves = std > 0
    # The std is replaced before it divides: the gradient of a branch that is not taken would be 0 * inf = NaN.
    return torch.where(moves, gaussian_log_prob(x, mean, torch.where(moves, std, 1.0)), 0.0)


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


def require_step(t: Number, t_next: Number, noise_level: Number, most: float | int = math.inf) -> None:
    """Raise ValueError where times or a noise level do not fit; tensors are not looked into, which would sync a GPU."""
    if not (isinstance(t, Tensor) or isinstance(t_next, Tensor)) and not (0 <= t_next <= t <= 1 and t > 0):
        raise ValueError(f"time must fall from t in (0, 1] to t_next in [0, t], got t={t} and t_next={t_next}")
    if not isinstance(noise_level, Tensor) and not 0 <= noise_level <= most:
        raise ValueError(f"noise_level must be at least 0 and at most {most}, got {noise_level}")


def precise(x: Tensor) -> Tensor:
    """Return the tensor in float32, or as it is in float64: densities lose too much in half precision."""
    return x if x.dtype == torch.float64 else x.float()


def over_rows(value: Number, sample: Tensor) -> Tensor:
    """Return a number, or one per batch element, in a shape that broadcasts against the sample."""
    number = torch.as_tensor(value, dtype=sample.dtype, device=sample.device)
    return number.view(-1, *[1] * (sample.ndim - 1)) if number.ndim == 1 else number
