"""When a flow is denoised and how noisily: times, noise, which steps are stochastic, and what a density is of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from prophrl_algos.flow._sde import Kernel, flow_sde_step

Choose = Callable[[Sequence[torch.Generator], int], Bool[Tensor, "b k"]]
"""`choose(generators, k)`: which of k steps are stochastic; the randomness of element i comes from generator i."""

Target = Callable[[Float[Tensor, "s times h d"]], Float[Tensor, "s k h d"]]
"""`target(latents)`: what the density of each step is of."""


def every_step(generators: Sequence[torch.Generator], steps: int) -> Bool[Tensor, "b k"]:
    """Make all steps stochastic (FA-GRPO, Flow-GRPO)."""
    return torch.ones(len(generators), steps, dtype=torch.bool)


def no_step(generators: Sequence[torch.Generator], steps: int) -> Bool[Tensor, "b k"]:
    """Make no step stochastic: the ODE, for evaluation."""
    return torch.zeros(len(generators), steps, dtype=torch.bool)


def one_random_step(generators: Sequence[torch.Generator], steps: int) -> Bool[Tensor, "b k"]:
    """Make one step of each element stochastic, drawn uniformly (pi_RL, arXiv 2510.25889)."""
    drawn = torch.stack([torch.randint(steps, (), generator=generator) for generator in generators])
    return torch.arange(steps) == drawn[:, None]


def next_latents(latents: Float[Tensor, "s times h d"]) -> Float[Tensor, "s k h d"]:
    """Return the latents after each step: a path is scored as it was sampled."""
    return latents[:, 1:]


def final_latents(latents: Float[Tensor, "s times h d"]) -> Float[Tensor, "s k h d"]:
    """Return the path's end for each step: for scoring alone, see `renoised`."""
    return latents[:, -1:].expand_as(latents[:, 1:])


@dataclass(frozen=True)
class FlowSchedule:
    """Configure how a path is sampled, and therefore how it is scored.

    Attributes:
        num_steps: Number K of denoising steps, of equal size.
        noise_level: Noise level a of the SDE, at least 0; 0 is the ODE, as policies are evaluated.
        kernel: The stochastic step, for example `flow_sde_step`.
        choose: Chooses the steps that are stochastic.
        initial_noise: Factor on the Gaussian noise that paths begin from: 1 as in training, 0 for its mean.
        target: Returns the values whose density is taken at each step.

    Example:
        >>> FlowSchedule(4).times.tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """

    num_steps: int
    noise_level: float | int = 0.5
    kernel: Kernel = flow_sde_step
    choose: Choose = every_step
    initial_noise: float | int = 1.0
    target: Target = next_latents

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}")
        for name in ("noise_level", "initial_noise"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")

    @cached_property
    def times(self) -> Float[Tensor, " times"]:
        """Return the K + 1 times, from 1 down to 0."""
        return torch.linspace(1, 0, self.num_steps + 1, dtype=torch.float32)

    def moments(
        self,
        sample: Float[Tensor, "b k h d"],
        velocity: Float[Tensor, "b k h d"],
        stochastic: Bool[Tensor, "b k"],
        first: int = 0,
    ) -> tuple[Float[Tensor, "b k h d"], Float[Tensor, "b k h d"]]:
        """Return mean and std of the samples after the steps `first`, `first + 1`, ...; std 0 where not stochastic."""
        times = self.times.to(sample.device)
        used = times[first : first + sample.shape[1] + 1, None, None]
        t, t_next = used[:-1], used[1:]
        mean, std = self.kernel(sample, velocity, t, t_next, noise_level=self.noise_level, t_clamp=times[1])
        # The usual case skips a `where` over the whole path.
        if bool(stochastic.all()):
            return mean, std
        moves = stochastic[:, :, None, None]
        return torch.where(moves, mean, sample - velocity * (t - t_next)), torch.where(moves, std, 0.0)

    @torch.no_grad()
    def probe(self, latent_dim: int, velocity: float = 0.0) -> tuple[Float[Tensor, "k d"], Float[Tensor, "k d"]]:
        """Return mean and std of each stochastic step at sample 0; learned noise may have others elsewhere."""
        # A kernel with weights computes where they lie, which need not be the caller's device.
        weights = self.kernel.parameters() if isinstance(self.kernel, nn.Module) else iter(())
        device = next((weight.device for weight in weights), torch.device("cpu"))
        still = torch.zeros(1, self.num_steps, 1, latent_dim, device=device, dtype=torch.float32)
        moves = torch.ones(1, self.num_steps, dtype=torch.bool, device=device)
        mean, std = self.moments(still, still + velocity, moves)
        return mean[0, :, 0].cpu(), std[0, :, 0].cpu()
