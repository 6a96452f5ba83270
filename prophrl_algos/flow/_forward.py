"""The forward process as a score: how well a policy explains an action, in place of the noise that led to it.

A sampled path has a density, but most of its noise has nothing to do with how an episode ends, and the gradient carries
all of it. Flow Policy Optimization (FPO, arXiv 2507.21053) takes minus the flow-matching error of the final action, at
freshly drawn noise, in its place; DiffusionNFT (arXiv 2509.16117) learns from the same error. Both leave the sampler
free; here it is the ODE, so the policy learns from what it does when it is evaluated.

Here that error is a Gaussian's log-density: at time t the policy denoises x_t = (1 - t) x_0 + t e to x_t - t v, and the
action x_0 lies around there with deviation a t. So l = -(v - (e - x_0))^2 / 2a^2 up to a constant, its KL is
(v - v_ref)^2 / 2a^2, and every loss on log-densities applies to it. No step dominates the gradient: dl/dv does not
depend on t, so FlowScale, whose weights grow with t, has nothing to balance.

Differences from FPO: FPO averages over times, noise and a chunk, while the ratio here is the algorithm's own, for
FA-GRPO of each action dimension with the sampler's times summed; advantages are a group's, there is no critic.
"""

import zlib
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from prophrl_algos.flow._policy import FlowPath
from prophrl_algos.flow._schedule import every_step, final_latents
from prophrl_algos.flow._sde import Latents, Moments, Number, like, precise


def forward_step(
    sample: Latents, velocity: Latents, t: Number, t_next: Number, *, noise_level: Number, t_clamp: Number = 1.0
) -> Moments:
    """Predict the action from one noised by `renoised`: mean x - t v, standard deviation a t, in float32.

    The noise level a >= 0 is the error of a velocity that counts as one standard deviation. The mean is of the path's
    end, whatever `t_next` is.
    """
    del t_next, t_clamp
    x, v = precise(sample), precise(velocity)
    t, level = like(t, x), like(noise_level, x)
    return x - t * v, (level * t).expand_as(x)


def renoised(path: FlowPath, seed: int) -> FlowPath:
    """Noise the end of each path afresh to every time of its schedule; the scores are still the sampled path's.

    The noise of a path depends on the seed and on the noise that the path began from, not on the paths around it.
    """
    shape = path.latents.shape[1:]
    drawn = torch.stack([_noise(first, seed, shape) for first in path.latents[:, 0].cpu()]) if len(path) else 0.0
    t = path.schedule.times.to(path.latents.device)[:, None, None]
    noise = torch.as_tensor(drawn).to(path.latents)
    return FlowPath(
        path.x0[:, None] + t * (noise - path.x0[:, None]),
        torch.ones_like(path.stochastic),
        path.scores,
        replace(path.schedule, kernel=forward_step, choose=every_step, target=final_latents),
    )


def _noise(first: Float[Tensor, "h d"], seed: int, shape: torch.Size) -> Float[Tensor, "times h d"]:
    # A checksum of the path's first latents names the path, wherever it lies in the batch.
    own = zlib.crc32(first.float().numpy().tobytes())
    return torch.randn(shape, generator=torch.Generator().manual_seed((seed + own) % 2**63), dtype=torch.float32)
