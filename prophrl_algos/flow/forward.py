"""The forward process as a score: how well a policy explains an action, in place of the noise that led to it.

A sampled path has a density, but of noise most of which has nothing to do with how an episode ends, and gradients have
all of it. Flow Policy Optimization (FPO, arXiv 2507.21053) takes minus the flow-matching error of the action that came
out, at noise drawn anew, in its place; DiffusionNFT (arXiv 2509.16117) learns from the same error. Both leave the
sampler free; here it is the ODE, so what is learnt from is what the policy does when it is evaluated.

Here that error is a Gaussian's log-density: at time t the policy denoises x_t = (1 - t) x_0 + t e to x_t - t v, and the
action x_0 lies around there with deviation a t. So l = -(v - (e - x_0))^2 / 2a^2 up to a constant, its KL is
(v - v_ref)^2 / 2a^2, and every loss on log-densities can be had of it. No step dominates the gradient: dl/dv does not
depend on t, so FlowScale, whose weights grow with t, has nothing to balance.

Differences from FPO: FPO averages over times and noise and over a chunk, while a loss here takes ratios of its own,
FA-GRPO of each number, summed over the sampler's times; advantages are a group's, there is no critic.
"""

import zlib
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from prophrl_algos.flow.policy import FlowPath
from prophrl_algos.flow.schedule import every_step
from prophrl_algos.flow.sde import Number, over_rows, precise, require_step


def forward_step(
    sample: Float[Tensor, "*x"],
    velocity: Float[Tensor, "*x"],
    t: Number,
    t_next: Number,
    *,
    noise_level: Number,
    t_clamp: Number = 1.0,
) -> tuple[Float[Tensor, "*x"], Float[Tensor, "*x"]]:
    """Where the action lies as far as a noised one tells: mean x - t v, standard deviation a t, in float32.

    Args:
        sample: x at `t`, noised by `renoised`.
        velocity: v(x, t).
        t: in (0, 1].
        t_next: in [0, t]; the mean is of the end, whatever it is.
        noise_level: a >= 0, the error of a velocity that counts as one standard deviation.
        t_clamp: not read.

    Raises:
        ValueError: as `flow_sde_step`.
    """
    del t_clamp
    require_step(t, t_next, noise_level)
    x, v = precise(sample), precise(velocity)
    t = over_rows(t, x)
    level = torch.as_tensor(noise_level, dtype=x.dtype, device=x.device)
    return x - t * v, (level * t).expand_as(x)


def renoised(path: FlowPath, seed: int) -> FlowPath:
    """The end of each path, noised anew to every time of its schedule; its scores are still those of the sampled path.

    What is drawn for a path depends on the seed and on the noise that the path began from, not on the paths around it.

    Args:
        path: as sampled.
        seed: of the noise.
    """
    shape = path.latents.shape[1:]
    drawn = torch.stack([_noise(first, seed, shape) for first in path.latents[:, 0].cpu()]) if len(path) else 0.0
    t = path.schedule.times.to(path.latents.device)[:, None, None]
    noise = torch.as_tensor(drawn).to(path.latents)
    return FlowPath(
        path.x0[:, None] + t * (noise - path.x0[:, None]),
        torch.ones_like(path.stochastic),
        path.scores,
        replace(path.schedule, kernel=forward_step, choose=every_step, to_end=True),
    )


def _noise(first: Float[Tensor, "h d"], seed: int, shape: torch.Size) -> Float[Tensor, "times h d"]:
    own = zlib.crc32(first.float().numpy().tobytes())
    return torch.randn(shape, generator=torch.Generator().manual_seed((seed + own) % 2**63), dtype=torch.float32)
