"""The forward process as a likelihood: how well a policy explains an action, in place of the noise that led to it.

A sampled path has a density, but of noise most of which has nothing to do with how an episode ends, and gradients have
all of it. Flow Policy Optimization (FPO, arXiv 2507.21053) takes minus the flow-matching error of the action that came
out, at noise drawn anew, for its log-density; DiffusionNFT (arXiv 2509.16117) learns from the same error. Both sample
without noise on the way, so what is learnt from is what the policy does.

Here that error is a Gaussian's log-density: at time t the policy denoises x_t = (1 - t) x_0 + t e to x_t - t v, and the
action x_0 lies around there with deviation a t. So l = -(v - (e - x_0))^2 / 2a^2 up to a constant, its KL is
(v - v_ref)^2 / 2a^2, FlowScale's weights grow with t, and every loss on log-densities can be had of it.

Differences from FPO: ratios of what the loss takes them of, not of a chunk; the sampler's times; advantages of groups
instead of a critic.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from prophrl_algos.flow.policy import FlowPath
from prophrl_algos.flow.schedule import every_step
from prophrl_algos.flow.sde import Number


def forward_step(
    sample: Float[Tensor, "*x"],
    velocity: Float[Tensor, "*x"],
    t: Number,
    t_next: Number,
    *,
    noise_level: Number,
    t_clamp: Number = 1.0,
) -> tuple[Float[Tensor, "*x"], Float[Tensor, "*x"]]:
    """Where the action lies as far as a noised one tells: mean x - t v, standard deviation a t.

    Args:
        sample: x at `t`, noised by `renoised`.
        velocity: v(x, t).
        t: in (0, 1], broadcast against the sample.
        t_next: not read.
        noise_level: a > 0, the error of a velocity that counts as one standard deviation.
        t_clamp: not read.
    """
    del t_next, t_clamp
    t = torch.as_tensor(t, dtype=sample.dtype, device=sample.device)
    return sample.float() - t * velocity.float(), (noise_level * t).expand_as(sample)


def renoised(path: FlowPath, generator: torch.Generator) -> FlowPath:
    """The end of each path, noised anew to every time of its schedule; its scores are still those of the sampled path.

    Args:
        path: as sampled.
        generator: on the CPU.
    """
    t = path.schedule.times[:-1].to(path.latents.device)[:, None, None]
    noise = torch.randn(path.latents[:, 1:].shape, generator=generator).to(path.latents)
    noised = torch.lerp(path.x0[:, None], noise, t)
    return FlowPath(
        torch.cat([noised, path.x0[:, None]], 1),
        torch.ones_like(path.stochastic),
        path.scores,
        replace(path.schedule, kernel=forward_step, choose=every_step, to_end=True),
    )
