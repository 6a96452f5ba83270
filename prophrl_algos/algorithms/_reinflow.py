"""ReinFlow (arXiv 2505.22094): the flow's own Euler step, with noise whose std a small network learns.

Its ratio is of the whole chunk with all steps summed, as pi_RL's, on a path in which every step is stochastic.

Differences from the paper: the network reads sample, velocity and time, not the observation's features; time runs from
noise at 1 to the action at 0; group-relative advantages instead of a critic.
"""

import math

import torch
from torch import nn

from prophrl_algos.algorithms._algorithm import Algorithm
from prophrl_algos.algorithms._pi_rl import sum_over_chunk
from prophrl_algos.flow._sde import Latents, Moments, Number, like, precise


class LearnedNoise(nn.Module):
    """Learn the std of every latent dimension between two bounds, as a `Kernel` with weights of its own.

    It starts at the geometric mean of the bounds, everywhere, and sees one row of the latent at a time. The bounds of
    ReinFlow are 0.10 and 0.24 at K = 4, and 0.08 and 0.14 with images at K = 1. Its parameters go to the optimizer too.
    """

    def __init__(self, latent_dim: int, low: float | int = 0.10, high: float | int = 0.24, hidden: int = 32) -> None:
        super().__init__()
        if not 0 < low < high:
            raise ValueError(f"bounds of the std must be 0 < low < high, got {low} and {high}")
        self.low, self.high = low, high
        last = nn.Linear(hidden, latent_dim)
        # Zeros put the std halfway between its bounds, in logarithm, whatever the input.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(nn.Linear(2 * latent_dim + 1, hidden), nn.SiLU(), last)
        self.float()  # whatever torch's default dtype is

    def forward(
        self, sample: Latents, velocity: Latents, t: Number, t_next: Number, *, noise_level: Number, t_clamp: Number
    ) -> Moments:
        """Return the mean of the ODE step and the learned std; `noise_level` and `t_clamp` are not read."""
        del noise_level, t_clamp
        x = precise(sample)
        time = like(t, x)
        mean = x - precise(velocity) * (time - like(t_next, x))
        time = time.expand(torch.broadcast_shapes(time.shape, mean.shape))[..., :1]
        # The velocity is detached: the noise follows the flow, it does not steer it.
        logit = self.network(torch.cat([sample.float(), velocity.detach().float(), time], -1)).float()
        span = math.log(self.high / self.low)
        return mean, self.low * torch.exp(span * torch.sigmoid(logit))


REINFLOW = Algorithm(
    "reinflow",
    "learned noise, one ratio per chunk",
    sum_over_chunk,
    make_kernel=lambda spec: LearnedNoise(spec.latent_dim),
)
