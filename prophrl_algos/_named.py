"""Policies, environments and algorithms by name, as the commands take them."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import VectorEnv
from torch import nn

from prophet_gym._checks import imported, require_known, unknown_option
from prophet_gym._io.tensor_files import read_tensors, unwrapped
from prophet_gym.errors import MissingWeightsError
from prophrl_algos._checkpoint import newest, read_policy
from prophrl_algos.algorithms import ALGORITHMS, Algorithm
from prophrl_algos.flow import FlowPolicy, FlowSpec
from prophrl_algos.vla import SmallVLA
from prophrl_algos.vla._base import PublishedPolicy
from prophrl_algos.vla._load import BUNDLED, LoadOptions, load_policy
from prophrl_algos.vla.io._weights import CONFIG, has_weights, load_strictly, read_safetensors

WEIGHTS = ("best.pt", "last.pt", "sft.pt")
_log = logging.getLogger(__name__)
NUM_STEPS = {"small": 10, "small-k4": 4}
"""Names of the small VLA, each with its denoising steps; weights serve all. A folder of such a name is `./NAME`."""


def make_algorithm(name: str, spec: FlowSpec) -> Algorithm:
    """Return the algorithm of a name, or `package.module:NAME`: an Algorithm, or a function from a FlowSpec to one."""
    if name in ALGORITHMS:
        return ALGORITHMS[name].sized(spec)
    if ":" not in name:
        raise unknown_option("algorithm", name, [*ALGORITHMS, "package.module:function"])
    found = imported("algorithm", name)
    if isinstance(found, Algorithm):
        return found.sized(spec)
    try:
        made = found(spec)
    except TypeError as error:
        raise ValueError(f"{name} must be an Algorithm, or a function from a FlowSpec to one: {error}") from error
    if not isinstance(made, Algorithm):
        raise ValueError(f"{name} must give an Algorithm, it gave {type(made).__name__}")
    return made


def make_env(
    name: str,
    num_envs: int,
    *,
    starts: str,
    tasks: Sequence[int] = (),
    device: str = "cpu",
    world_model: str = "",
    engine: str = "eager",
    reward: str = "",
    options: Mapping[str, Any] | None = None,
) -> VectorEnv:
    """Make a vector env of a registered id with autoreset DISABLED, and all tasks if none are given.

    An id may follow the module that registers it, as in `my_envs:Mine-v0`. `world_model` is a checkpoint, the bundled
    one if empty; `engine` runs it, and `reward` names a reward model, the checkpoint's if empty. `options` are more
    keyword arguments of the environment.
    """
    import prophet_gym  # noqa: F401 registers the ids

    module, _, name = name.rpartition(":")
    if module:
        imported("environment", module)
    require_known("environment", name, gym.registry)
    chosen: dict[str, Any] = {"tasks": list(tasks)} if tasks else {}
    if name.startswith(("LIBERO-", "Prophet-")):
        chosen["render"] = "chunk"  # nobody looks at the other frames
    if name.startswith("Prophet-"):
        chosen |= {"device": device, "engine": engine} | ({"reward": reward} if reward else {})
        chosen |= {"weights": world_model} if world_model else {}
    elif given := world_model or reward:
        raise ValueError(
            f"{name} has no world model and scores by itself, so it takes no {given!r}: give a Prophet-* id, or leave "
            "it out"
        )
    chosen |= options or {}
    return gym.make_vec(name, num_envs=num_envs, starts=starts, autoreset_mode="Disabled", **chosen)


def make_policy(
    policy: str, env: VectorEnv, weights: Path | None, device: str = "cpu", options: LoadOptions | None = None
) -> FlowPolicy:
    """Make a policy by name, with the weights of a run if they are given.

    A policy is `small` (10 denoising steps), `small-k4` (4), what `load_policy` reads (a folder, a bundled name, a Hub
    repository), or `package.module:function`, a function from the env to a `FlowPolicy`. Weights are a folder that
    `prophrl train` or `prophrl sft` wrote, one of its files, or a safetensors file; for `small` also what `load_policy`
    reads.
    """
    made: Any
    if is_published(policy):
        made = load_policy(policy, options)
    elif policy in NUM_STEPS and weights is not None and (str(weights) in BUNDLED or (weights / CONFIG).is_file()):
        made, weights = load_policy(weights, LoadOptions(num_steps=NUM_STEPS[policy], train="full")), None
    elif policy in NUM_STEPS:
        assert env.single_action_space.shape is not None
        actions, dimensions = env.single_action_space.shape
        made = SmallVLA(actions, dimensions, NUM_STEPS[policy])
    elif ":" in policy:
        made = imported("policy", policy)(env)
    else:
        known = [*NUM_STEPS, *BUNDLED, "package.module:function", "the path of a folder", "owner/repo"]
        raise unknown_option("policy", policy, known)
    if not isinstance(made, nn.Module):
        raise ValueError(f"a policy must be an nn.Module that obeys FlowPolicy, {policy} gave {type(made).__name__}")
    if weights is not None:
        take_weights(made, weights)
    return made.to(device).eval()  # pyright: ignore[reportReturnType] checked against the protocol by the trainer


def is_published(policy: str) -> bool:
    """Tell whether a policy is named by a folder, a repository or a bundled name, not by one of ours or a function."""
    return policy not in NUM_STEPS and (
        policy in BUNDLED or Path(policy).is_dir() or ("/" in policy and ":" not in policy)
    )


def warn_untrained(policy: str, weights: Path | None) -> None:
    """Warn where a policy of this package begins with random weights, which is rarely what was meant."""
    if policy in NUM_STEPS and weights is None:
        _log.warning(
            "--policy %s without --policy-weights is untrained: give weights of `prophrl sft`, or %s",
            policy,
            ", ".join(BUNDLED),
        )


def take_weights(policy: nn.Module, path: Path) -> None:
    """Load the weights of `read_weights` into a policy; a published one takes them whatever was trained of it."""
    state = read_weights(path)
    if isinstance(policy, PublishedPolicy):
        policy.load_weights(state, source=path)
    else:
        load_strictly(policy, state, source=path)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a run (best, else last, else cloned), of a saved policy, or of a safetensors file."""
    if has_weights(path):
        return read_safetensors(path)
    found = path if path.is_file() else next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    # Weights that are sharded are in a folder.
    found = found or newest(path)
    if found is None:
        raise MissingWeightsError(f"{path} holds none of {', '.join(WEIGHTS)}; pass the folder of a run or its file")
    if found.suffix == ".safetensors":
        return unwrapped(read_tensors(found))
    return read_policy(found)
