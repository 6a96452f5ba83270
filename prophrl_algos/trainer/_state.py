"""What a process puts into a checkpoint that is its own: its randomness, its env and who collects for it."""

from collections.abc import Mapping
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from prophet_gym._io.processes._sharding import as_stored_in
from prophrl_algos.rollout import Collector


def own_state(env: VectorEnv, collector: Collector) -> dict[str, Any]:
    """Return the randomness, the env and the collector of this process."""
    own: dict[str, Any] = {"random": torch.get_rng_state(), "collector": collector.state_dict()}
    if torch.cuda.is_available():
        own["random_cuda"] = torch.cuda.get_rng_state_all()
    # A dream's wrappers may hold state too, for example of a random reward.
    if hasattr(env.unwrapped, "state_dict"):
        own["env"] = env.unwrapped.state_dict()  # pyright: ignore[reportAttributeAccessIssue]
    return own


def load_own_state(env: VectorEnv, collector: Collector, own: Mapping[str, Any]) -> None:
    """Continue with what `own_state` returned."""
    # The checkpoint was read onto the policy's device, and torch takes these states from the CPU alone.
    torch.set_rng_state(own["random"].cpu())
    if "random_cuda" in own and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([each.cpu() for each in own["random_cuda"]])
    if "env" in own:
        env.unwrapped.load_state_dict(own["env"])  # pyright: ignore[reportAttributeAccessIssue]
    collector.load_state_dict(own.get("collector", {}))


def fitted(state: Mapping[Any, Any], like: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a state dict whose whole tensors are sharded as those of the same name in `like`."""
    return {
        name: as_stored_in(like[name], each) if isinstance(each, Tensor) and name in like else each
        for name, each in state.items()
    }


def fitted_moments(state: Mapping[str, Any], parameters: list[Tensor]) -> dict[str, Any]:
    """Return the state of an optimizer, sharded as its parameters are."""
    found = {
        index: fitted(each, dict.fromkeys(each, parameters[int(index)]))
        for index, each in state.get("state", {}).items()
    }
    return {**state, "state": found}
