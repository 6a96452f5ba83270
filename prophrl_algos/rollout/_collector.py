"""Who collects the rollouts of an update: this process, or one that is made like it elsewhere."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor, nn

from prophrl_algos.flow import FlowPolicy, FlowSchedule, device_of
from prophrl_algos.rollout._collect import Rollouts, collect
from prophrl_algos.rollout._groups import GroupPlan, random_number


@runtime_checkable
class Collector(Protocol):
    """Declare what collects the rollouts of an update for a trainer."""

    def collect(self, plan: GroupPlan, *, seed: int, update: int) -> Rollouts:
        """Return the groups of a plan for an update, numbered from 0, of a run with this seed."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as tensors and plain data."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`."""
        ...


@dataclass(frozen=True)
class LocalRollouts:
    """Collect in this process.

    Attributes:
        policy: The policy that acts.
        env: The env that it acts in.
        schedule: How paths are sampled.
        autocast: Precision of the policy's velocities; None is that of its weights.
    """

    policy: FlowPolicy
    env: VectorEnv
    schedule: FlowSchedule
    autocast: torch.dtype | None = None

    def collect(self, plan: GroupPlan, *, seed: int, update: int) -> Rollouts:
        """Return the groups of a plan for an update of a run with this seed."""
        low = self.autocast is not None
        with torch.autocast(device_of(self.policy).type, dtype=self.autocast) if low else nullcontext():
            return collect(self.policy, self.env, self.schedule, plan, seed=random_number(seed, 10, update))

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: a collection is a function of its arguments."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Ignore the state, also that of workers elsewhere: a run may be continued without them."""

    def modules(self) -> dict[str, nn.Module]:
        """Return the networks that collecting runs, by name."""
        env = self.env.unwrapped
        parts = {"policy": self.policy, "kernel": self.schedule.kernel}
        parts |= {name: getattr(env, name, None) for name in ("world_model", "reward_model")}
        return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}

    def weights(self, *, learnt: bool = True) -> dict[str, Tensor]:
        """Return the weights of policy and kernel that are learnt, or those that are not, by name."""
        return {
            f"{name}.{key}": weight
            for name, module in self.modules().items()
            if name in ("policy", "kernel")
            for key, weight in module.named_parameters()
            if weight.requires_grad == learnt
        }


@contextmanager
def offloaded(modules: Sequence[nn.Module], optimizer: torch.optim.Optimizer | None = None) -> Iterator[None]:
    """Keep networks and the state of their optimizer on the CPU inside; parameters stay the same objects."""
    homes = [next((weight.device for weight in module.parameters()), torch.device("cpu")) for module in modules]
    state = {} if optimizer is None else optimizer.state
    kept = [(entry, name, value.device) for entry in state.values() for name, value in _tensors(entry)]
    for module in modules:
        module.to("cpu")
    for entry, name, _ in kept:
        entry[name] = entry[name].to("cpu")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        yield
    finally:
        for module, home in zip(modules, homes, strict=True):
            module.to(home)
        for entry, name, home in kept:
            entry[name] = entry[name].to(home)


def _tensors(entry: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    return [(name, value) for name, value in entry.items() if isinstance(value, Tensor)]
