"""The contract of a flow policy (a VLA seen as a velocity field), and a sampled path of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from prophrl_algos.flow.schedule import FlowSchedule

Obs = Mapping[str, Tensor]
"""What a policy reads, un-embedded, batch-leading: images stay uint8, texts are tokens."""


@dataclass(frozen=True)
class FlowSpec:
    """The sizes of a flow policy.

    Attributes:
        horizon: H, rows of the latent.
        latent_dim: D, columns of the latent, with padding.
        action_dim: A <= D, the columns that are scored.
        exec_steps: C <= H, the rows that are executed and scored.
        num_steps: K, denoising steps.
    """

    horizon: int
    latent_dim: int
    action_dim: int
    exec_steps: int
    num_steps: int

    def __post_init__(self) -> None:
        for name in ("horizon", "latent_dim", "action_dim", "exec_steps", "num_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.exec_steps > self.horizon:
            raise ValueError(
                f"exec_steps={self.exec_steps} must be at most horizon={self.horizon}: "
                "execute fewer actions of a chunk, or predict more"
            )
        if self.action_dim > self.latent_dim:
            raise ValueError(f"action_dim={self.action_dim} must be at most latent_dim={self.latent_dim}")


@runtime_checkable
class Context(Protocol):
    """What `encode` returns and `velocity` reads: a KV cache, hidden states ..., with rows."""

    def select(self, rows: Int[Tensor, " r"]) -> "Context":
        """The given rows, in the given order."""
        ...

    def repeat_interleave(self, repeats: int) -> "Context":
        """Every row `repeats` times, copies of a row side by side."""
        ...

    def detach(self) -> "Context":
        """The same numbers without their gradient."""
        ...


class TensorContext(dict[str, Tensor]):
    """A context of named, batch-leading tensors, for policies that need no more."""

    def select(self, rows: Int[Tensor, " r"]) -> "TensorContext":
        """The given rows, in the given order."""
        return TensorContext({name: tensor[rows.to(tensor.device)] for name, tensor in self.items()})

    def repeat_interleave(self, repeats: int) -> "TensorContext":
        """Every row `repeats` times, copies of a row side by side."""
        return TensorContext({name: tensor.repeat_interleave(repeats, 0) for name, tensor in self.items()})

    def detach(self) -> "TensorContext":
        """The same numbers without their gradient."""
        return TensorContext({name: tensor.detach() for name, tensor in self.items()})


@runtime_checkable
class FlowPolicy(Protocol):
    """A flow policy; an implementation is an `nn.Module`. t = 1 is noise, t = 0 the action, v = noise - action.

    Row i of every output depends on row i of the inputs only. `prophrl_algos.testing.check_flow_policy` says what
    an implementation gets wrong.
    """

    spec: FlowSpec

    def prepare(self, env_obs: Any, instructions: Sequence[str]) -> Obs:
        """Observations of an env, as it gives them, to policy tensors; no gradient."""
        ...

    def encode(self, obs: Obs, *, grad: bool) -> Context:
        """The prefix, once; recomputed at the update, never stored. Moves `obs` to the policy's device."""
        ...

    def velocity(self, ctx: Context, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        """v(x, t) in float32."""
        ...

    def decode(self, x0: Float[Tensor, "b h d"], obs: Obs) -> Float[Tensor, "b n a"]:
        """Latents to the env's command units: un-normalised, with its gripper sign. Outside the log-prob."""
        ...

    def sft_loss(
        self, obs: Obs, actions: Float[Tensor, "b h a"], *, generator: torch.Generator | None
    ) -> Float[Tensor, ""]:
        """The flow-matching loss on demonstrated actions in command units."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:  # noqa: FBT001, FBT002 nn.Module's own
        """As in `nn.Module`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """As in `nn.Module`."""
        ...


@dataclass(frozen=True)
class FlowScores:
    """What a policy says of the steps of a path, on executed actions and real dimensions; float32.

    Attributes:
        log_prob: log-density of every step in nats; 0 where std is 0.
        mean: of every step.
        std: of every step; 0 where it is deterministic.
    """

    log_prob: Float[Tensor, "s k n a"]
    mean: Float[Tensor, "s k n a"]
    std: Float[Tensor, "s k n a"]

    def select(self, rows: Int[Tensor, " r"]) -> "FlowScores":
        """The given rows."""
        return FlowScores(self.log_prob[rows], self.mean[rows], self.std[rows])

    def to(self, device: torch.device) -> "FlowScores":
        """On another device."""
        return FlowScores(self.log_prob.to(device), self.mean.to(device), self.std.to(device))

    @staticmethod
    def cat(parts: Sequence["FlowScores"]) -> "FlowScores":
        """The rows of all of them."""
        return FlowScores(*(torch.cat([getattr(p, name) for p in parts]) for name in ("log_prob", "mean", "std")))


@dataclass(frozen=True)
class FlowPath:
    """Sampled denoising paths: all that an update needs beside the raw observations.

    Attributes:
        latents: x before the first step, and after each of the K.
        stochastic: which steps were.
        scores: as the sampling policy saw the path.
        schedule: how it was sampled.
    """

    latents: Float[Tensor, "s times h d"]
    stochastic: Bool[Tensor, "s k"]
    scores: FlowScores
    schedule: FlowSchedule

    @property
    def log_prob(self) -> Float[Tensor, "s k n a"]:
        """Of the sampling policy, in nats."""
        return self.scores.log_prob

    @property
    def x0(self) -> Float[Tensor, "s h d"]:
        """The denoised latents, which `FlowPolicy.decode` reads."""
        return self.latents[:, -1]

    @property
    def after(self) -> Float[Tensor, "s k h d"]:
        """What the density of each step is of."""
        later = self.latents[:, 1:]
        return self.x0[:, None].expand_as(later) if self.schedule.to_end else later

    def __len__(self) -> int:
        return len(self.latents)

    def select(self, rows: Int[Tensor, " r"]) -> "FlowPath":
        """The given rows."""
        return FlowPath(self.latents[rows], self.stochastic[rows], self.scores.select(rows), self.schedule)

    def to(self, device: torch.device) -> "FlowPath":
        """On another device."""
        return FlowPath(self.latents.to(device), self.stochastic.to(device), self.scores.to(device), self.schedule)

    @staticmethod
    def cat(paths: Sequence["FlowPath"]) -> "FlowPath":
        """The rows of all of them; they were sampled with one schedule."""
        if any(path.schedule is not paths[0].schedule for path in paths):
            raise ValueError("paths of different schedules cannot be scored together; sample them with one schedule")
        return FlowPath(
            torch.cat([path.latents for path in paths]),
            torch.cat([path.stochastic for path in paths]),
            FlowScores.cat([path.scores for path in paths]),
            paths[0].schedule,
        )


def device_of(policy: FlowPolicy) -> torch.device:
    """Where the policy's weights lie."""
    return next(iter(policy.parameters())).device


def select_obs(obs: Obs, rows: Int[Tensor, " r"]) -> dict[str, Tensor]:
    """The given rows of an observation."""
    return {name: tensor[rows.to(tensor.device)] for name, tensor in obs.items()}


def cat_obs(parts: Sequence[Obs]) -> dict[str, Tensor]:
    """The rows of all of them; ValueError if their names differ."""
    names = set(parts[0])
    if any(set(part) != names for part in parts):
        raise ValueError(f"observations must have the same names, got {[sorted(part) for part in parts]}")
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
