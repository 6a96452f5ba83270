"""The contract of a flow policy (a VLA seen as a velocity field), and its sampled paths."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from prophrl_algos.flow._schedule import FlowSchedule

Obs = Mapping[str, Tensor]
"""Hold what a policy reads, before embedding, batch-leading: images stay uint8, texts are tokens."""


@dataclass(frozen=True)
class FlowSpec:
    """Hold the sizes of a flow policy, each at least 1.

    Attributes:
        horizon: Number H of actions in a latent.
        latent_dim: Number D of dimensions of each action in a latent, padding included.
        action_dim: Number A <= D of dimensions that belong to the action and are scored.
        exec_steps: Number C <= H of actions that are executed and scored.
        num_steps: Number K of denoising steps.
    """

    horizon: int
    latent_dim: int
    action_dim: int
    exec_steps: int
    num_steps: int

    def __post_init__(self) -> None:
        for name, size in vars(self).items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if self.exec_steps > self.horizon:
            raise ValueError(
                f"exec_steps={self.exec_steps} must be at most horizon={self.horizon}: "
                "execute fewer actions of a chunk, or predict more"
            )
        if self.action_dim > self.latent_dim:
            raise ValueError(f"action_dim={self.action_dim} must be at most latent_dim={self.latent_dim}")


@runtime_checkable
class Context(Protocol):
    """Hold what `encode` returns and `velocity` reads, for example a KV cache or hidden states of a batch."""

    def select(self, rows: Int[Tensor, " r"]) -> "Context":
        """Return the given batch elements, in the given order."""
        ...

    def repeat_interleave(self, repeats: int) -> "Context":
        """Return every batch element `repeats` times, its copies side by side."""
        ...


class TensorContext(dict[str, Tensor]):
    """Hold named, batch-leading tensors, for policies that need no more."""

    def select(self, rows: Int[Tensor, " r"]) -> "TensorContext":
        return TensorContext(select_obs(self, rows))

    def repeat_interleave(self, repeats: int) -> "TensorContext":
        return TensorContext({name: tensor.repeat_interleave(repeats, 0) for name, tensor in self.items()})


@runtime_checkable
class FlowPolicy(Protocol):
    """Declare a flow policy, an `nn.Module`: t = 1 is noise, t = 0 the action, and v = noise - action.

    Element i of every output depends on element i of the inputs only. `prophrl_algos.testing.check_flow_policy` checks
    an implementation.
    """

    spec: FlowSpec

    def prepare(self, env_obs: Any, instructions: Sequence[str]) -> Obs:
        """Turn an env's observations into the policy's input tensors, without a gradient."""
        ...

    def encode(self, obs: Obs, *, grad: bool) -> Context:
        """Encode the prefix for all denoising steps, with `obs` moved to the policy's device; updates recompute it."""
        ...

    def velocity(self, ctx: Context, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        """Return v(x, t) in float32."""
        ...

    def decode(self, x0: Float[Tensor, "b h d"], obs: Obs) -> Float[Tensor, "b n a"]:
        """Turn latents into the env's actions, in its units and gripper sign; the log-prob does not include this."""
        ...

    def sft_loss(
        self, obs: Obs, actions: Float[Tensor, "b h a"], *, generator: torch.Generator | None
    ) -> Float[Tensor, ""]:
        """Return the flow-matching loss on demonstrated actions in the env's units."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:  # noqa: FBT001, FBT002 nn.Module's own
        """Return the weights, as `nn.Module` does."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as `nn.Module` does."""
        ...


@dataclass(frozen=True)
class FlowScores:
    """Hold a policy's log-probs and stds of the steps of a path, on executed actions and real dimensions; float32.

    `log_prob` is in nats and 0 where std is 0, as it is where a step is deterministic.
    """

    log_prob: Float[Tensor, "s k n a"]
    mean: Float[Tensor, "s k n a"]
    std: Float[Tensor, "s k n a"]

    def select(self, rows: Int[Tensor, " r"]) -> "FlowScores":
        """Return the given batch elements."""
        return FlowScores(*(each[rows] for each in vars(self).values()))

    def to(self, device: torch.device) -> "FlowScores":
        """Return the scores on another device."""
        return FlowScores(*(each.to(device) for each in vars(self).values()))

    @staticmethod
    def cat(parts: Sequence["FlowScores"], dim: int = 0) -> "FlowScores":
        """Concatenate scores along an axis, the batch's if not given."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return FlowScores(*(torch.cat(each, dim) for each in columns))


@dataclass(frozen=True)
class FlowPath:
    """Hold sampled denoising paths: all that an update needs besides the raw observations.

    `latents` are those before the first step and after each of the K; `scores` are of the policy that sampled.
    """

    latents: Float[Tensor, "s times h d"]
    stochastic: Bool[Tensor, "s k"]
    scores: FlowScores
    schedule: FlowSchedule

    @property
    def log_prob(self) -> Float[Tensor, "s k n a"]:
        """Return the log-density of every step under the policy that sampled, in nats."""
        return self.scores.log_prob

    @property
    def x0(self) -> Float[Tensor, "s h d"]:
        """Return the denoised latents, which `FlowPolicy.decode` reads."""
        return self.latents[:, -1]

    def __len__(self) -> int:
        return len(self.latents)

    def select(self, rows: Int[Tensor, " r"]) -> "FlowPath":
        """Return the given batch elements."""
        return FlowPath(self.latents[rows], self.stochastic[rows], self.scores.select(rows), self.schedule)

    def to(self, device: torch.device) -> "FlowPath":
        """Return the paths on another device."""
        return FlowPath(self.latents.to(device), self.stochastic.to(device), self.scores.to(device), self.schedule)

    @staticmethod
    def cat(paths: Sequence["FlowPath"]) -> "FlowPath":
        """Concatenate paths that were sampled with one schedule; ValueError if they were not."""
        # By identity, not by value: a schedule's kernel may have weights that are learned meanwhile.
        if any(path.schedule is not paths[0].schedule for path in paths):
            raise ValueError("paths of different schedules cannot be scored together; sample them with one schedule")
        return FlowPath(
            torch.cat([path.latents for path in paths]),
            torch.cat([path.stochastic for path in paths]),
            FlowScores.cat([path.scores for path in paths]),
            paths[0].schedule,
        )


def device_of(policy: FlowPolicy) -> torch.device:
    """Return the device of the policy's weights."""
    return next(iter(policy.parameters())).device


def select_obs(obs: Obs, rows: Int[Tensor, " r"]) -> dict[str, Tensor]:
    """Return the given batch elements of an observation."""
    return {name: tensor[rows.to(tensor.device)] for name, tensor in obs.items()}


def cat_obs(parts: Sequence[Obs]) -> dict[str, Tensor]:
    """Concatenate observations along the batch; ValueError if their names differ."""
    names = set(parts[0])
    if any(set(part) != names for part in parts):
        raise ValueError(f"observations must have the same names, got {[sorted(part) for part in parts]}")
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
