"""One step of a policy in a vector env, and what becomes of its episodes; collecting and evaluating share it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from prophrl_algos.flow import FlowPath, FlowPolicy, FlowSchedule, Obs, sample


@dataclass
class EpisodeResult:
    """What has become of one episode so far.

    `returns` is the discounted sum of the valid rewards, `scored` is of the latest step, and `start` is what the env
    says of the initial state (task, start, instruction ...).
    """

    success: bool = False
    returns: float = 0.0
    scored: bool = False
    chunks: int = 0
    start: Mapping[str, Any] = field(default_factory=dict)

    @property
    def instruction(self) -> str:
        """The task in words; empty where the env does not say it."""
        return str(self.start.get("instruction", ""))

    def add(
        self, row: int, rewards: ArrayLike, terminated: ArrayLike, info: Mapping[str, Any], discount: float | int = 1.0
    ) -> None:
        """Take in the step of a sub-environment; ValueError if its reward is not finite."""
        reward, ended = float(np.asarray(rewards)[row]), bool(np.asarray(terminated)[row])
        self.scored = bool(entry(info, "scored", row, default=True))
        if self.scored:
            if not math.isfinite(reward):
                raise ValueError(
                    f"sub-environment {row} (task {self.start.get('task')}, {self.instruction!r}) gave the reward "
                    f"{reward}: rewards must be finite numbers. Mend the env or its reward model; where it cannot "
                    "tell, it may say info['scored'] = False"
                )
            self.returns += discount**self.chunks * reward
        self.chunks += 1
        # Envs from elsewhere say nothing of success; there it is to end by itself with a reward.
        self.success |= bool(entry(info, "success", row, default=ended and reward > 0))


@contextmanager
def outside_autocast() -> Iterator[None]:
    """Let an env compute as it does without the caller's autocast, which is the policy's alone."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def entry(info: Mapping[str, Any], name: str, row: int, *, default: Any) -> Any:
    """Return what `info` says of a sub-environment; the default where it says nothing."""
    if name not in info or not info.get(f"_{name}", np.ones(row + 1, dtype=np.bool_))[row]:
        return default
    return info[name][row]


def act(
    policy: FlowPolicy,
    env: VectorEnv,
    observation: Any,
    rows: Int[np.ndarray, " r"],
    instructions: Sequence[str],
    schedule: FlowSchedule,
    generators: Sequence[torch.Generator],
) -> tuple[Obs, FlowPath, np.ndarray]:
    """Return what the policy sees in these sub-environments, the paths it samples, and actions for the whole env."""
    mapped = isinstance(observation, Mapping)
    seen = {name: value[rows] for name, value in observation.items()} if mapped else observation[rows]
    obs = policy.prepare(seen, [instructions[row] for row in rows])
    path = sample(policy, obs, schedule, [generators[row] for row in rows])
    return obs, path, env_actions(policy.decode(path.x0, obs), env, rows)


def env_actions(
    decoded: Float[Tensor, "b n a"], env: VectorEnv, rows: Int[np.ndarray, " b"]
) -> Float[np.ndarray, "r n a"]:
    """Return an action for every sub-environment: decoded chunks clipped to the space, zeros where none is decoded."""
    space = env.single_action_space
    shape = space.shape
    if shape is None or tuple(decoded.shape) != (len(rows), *shape):
        raise ValueError(
            f"the policy decodes to chunks (actions, dimensions) of {tuple(decoded.shape[1:])}, the env takes {shape}: "
            "its decode must give the env's own actions"
        )
    low, high = getattr(space, "low", -1.0), getattr(space, "high", 1.0)
    actions = np.clip(np.zeros((env.num_envs, *shape), np.float32), low, high)
    actions[rows] = np.clip(decoded.detach().float().cpu().numpy(), low, high)
    return actions
