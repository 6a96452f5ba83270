"""When a flow is denoised and how noisily: times, noise and which of the steps are stochastic."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from prophrl_algos.flow.sde import Kernel, flow_sde_step

Choose = Callable[[Sequence[torch.Generator], int], Bool[Tensor, "b k"]]
"""Which of k steps are stochastic in each row; randomness of row i comes from generator i."""


def every_step(generators: Sequence[torch.Generator], steps: int) -> Bool[Tensor, "b k"]:
    """All steps are stochastic (FA-GRPO, Flow-GRPO)."""
    return torch.ones(len(generators), steps, dtype=torch.bool)


def no_step(generators: Sequence[torch.Generator], steps: int) -> Bool[Tensor, "b k"]:
    """No step is stochastic: the ODE, for evaluation."""
    return torch.zeros(len(generators), steps, dtype=torch.bool)


def one_random_step(generators: Sequence[torch.Generator], steps: int) -> Bool[Tensor, "b k"]:
    """One step of each row is stochastic, drawn uniformly; the others follow the ODE (pi_RL, arXiv 2510.25889)."""
    drawn = torch.stack([torch.randint(steps, (), generator=generator) for generator in generators])
    return torch.arange(steps) == drawn[:, None]


@dataclass(frozen=True)
class FlowSchedule:
    """How a path is sampled, and therefore how it is scored.

    Attributes:
        times: from 1 down to 0, one more than there are steps.
        noise_level: a of the SDE.
        kernel: the stochastic step.
        choose: which steps are stochastic.
        noise_scale: factor on `noise_level` for each latent dimension, 1 where not given.
        initial_noise: factor on the Gaussian noise that paths begin from; 1 as the flow was trained, 0 for its centre.
        to_end: each step's density is of the path's end, not of the next sample: for scoring alone, see `renoised`.

    Example:
        >>> FlowSchedule.uniform(4).times.tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """

    times: Float[Tensor, " times"]
    noise_level: float | int = 0.5
    kernel: Kernel = flow_sde_step
    choose: Choose = every_step
    noise_scale: Float[Tensor, " d"] | None = None
    initial_noise: float | int = 1.0
    to_end: bool = False

    def __post_init__(self) -> None:
        times = self.times
        if len(times) < 2 or times[0] != 1 or times[-1] != 0 or not (times[1:] < times[:-1]).all():
            raise ValueError(f"times must fall from 1 to 0 in at least one step, got {times.tolist()}")
        if not self.noise_level >= 0:
            raise ValueError(f"noise_level must be at least 0, got {self.noise_level}")
        if not self.initial_noise >= 0:
            raise ValueError(f"initial_noise must be at least 0, got {self.initial_noise}")
        if self.noise_scale is not None and not (self.noise_scale >= 0).all():
            raise ValueError(f"noise_scale must be at least 0, got {self.noise_scale.tolist()}")

    @classmethod
    def uniform(
        cls,
        num_steps: int,
        noise_level: float | int = 0.5,
        *,
        kernel: Kernel = flow_sde_step,
        choose: Choose = every_step,
        noise_scale: Float[Tensor, " d"] | None = None,
        initial_noise: float | int = 1.0,
    ) -> "FlowSchedule":
        """Steps of equal size."""
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps}")
        return cls(
            torch.linspace(1, 0, num_steps + 1, dtype=torch.float32),
            noise_level,
            kernel,
            choose,
            noise_scale,
            initial_noise,
        )

    @property
    def num_steps(self) -> int:
        """K."""
        return len(self.times) - 1

    def moments(
        self,
        sample: Float[Tensor, "b k h d"],
        velocity: Float[Tensor, "b k h d"],
        stochastic: Bool[Tensor, "b k"],
        first: int = 0,
    ) -> tuple[Float[Tensor, "b k h d"], Float[Tensor, "b k h d"]]:
        """Mean and std of the samples after the steps `first`, `first + 1`, ...; std 0 where not stochastic."""
        times = self.times.to(sample.device)
        last = first + sample.shape[1]
        t, t_next = times[first:last, None, None], times[first + 1 : last + 1, None, None]
        level = self.noise_level
        if self.noise_scale is not None:
            level = level * self.noise_scale.to(sample.device)
        # With no axis of its own, t broadcasts over rows: the kernels read one axis alone as rows.
        mean, std = self.kernel(sample, velocity, t, t_next, noise_level=level, t_clamp=times[1])
        moves = stochastic[:, :, None, None]
        if bool(stochastic.all()):
            return mean, std
        return torch.where(moves, mean, sample - velocity * (t - t_next)), torch.where(moves, std, 0.0)

    def velocity_gains(self, latent_dim: int) -> Float[Tensor, " k"]:
        """By how much the mean of each stochastic step moves per unit of velocity, over the latent's dimensions."""
        return (self._probe(latent_dim, 1.0)[0] - self._probe(latent_dim, 0.0)[0]).abs().mean(1)

    def stds(self, latent_dim: int) -> Float[Tensor, "k d"]:
        """Of each stochastic step, where sample and velocity are 0; that is everywhere, unless the noise is learned."""
        return self._probe(latent_dim, 0.0)[1]

    @torch.no_grad()
    def _probe(self, latent_dim: int, velocity: float) -> tuple[Tensor, Tensor]:
        weights = self.kernel.parameters() if isinstance(self.kernel, nn.Module) else iter(())
        device = next((weight.device for weight in weights), torch.device("cpu"))
        still = torch.zeros(1, self.num_steps, 1, latent_dim, device=device, dtype=torch.float32)
        moves = torch.ones(1, self.num_steps, dtype=torch.bool, device=device)
        mean, std = self.moments(still, still + velocity, moves)
        return mean[0, :, 0].cpu(), std[0, :, 0].cpu()
