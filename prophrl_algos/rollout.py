"""Groups of rollouts from a vector env: the same start and instruction G times, with the policy's noise fresh.

Any VectorEnv with action chunks does, the dream and LIBERO alike, with autoreset DISABLED: ended rows cost
nothing. What is stored is latents and raw observations, never contexts.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prophet_gym.errors import InvalidStartError
from prophrl_algos.flow.policy import FlowPath, FlowPolicy, Obs, cat_obs
from prophrl_algos.flow.sampler import sample
from prophrl_algos.flow.schedule import FlowSchedule
from prophrl_algos.groups import Begin, Draw, Keep, begin_by_seed, keep_all, random_number, refuse_official, require_env
from prophrl_algos.progress import Progress, silent

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Rollouts:
    """What was lived through: decisions (one action chunk each), and the rollouts they belong to.

    Attributes:
        obs: what the policy saw at each decision.
        path: how it denoised each chunk.
        mask: actions that were executed.
        trajectory: the rollout of each decision.
        returns: of each rollout; the sum of its judged rewards.
        success: of each rollout.
        scored: which rollouts have a verdict at their end.
        groups: the group of each rollout.
        frames: actions that the env ran, those of groups that were resampled included.
        started: groups that were begun.
        seconds: spent in `env`, in `policy`, and in all (`rollout`).
    """

    obs: Obs
    path: FlowPath
    mask: Bool[Tensor, "s n"]
    trajectory: Int[Tensor, " s"]
    returns: Float[Tensor, " b"]
    success: Bool[Tensor, " b"]
    scored: Bool[Tensor, " b"]
    groups: Int[Tensor, " b"]
    frames: int
    started: int
    seconds: Mapping[str, float]

    def frames_of(self, trajectories: Bool[Tensor, " b"]) -> int:
        """Executed actions of the given rollouts."""
        return int(self.mask[trajectories[self.trajectory]].sum())


def collect(
    policy: FlowPolicy,
    env: VectorEnv,
    schedule: FlowSchedule,
    *,
    groups: int,
    group_size: int,
    seed: int,
    begin: Begin = begin_by_seed,
    keep: Keep = keep_all,
    budget: int | None = None,
    first_group: int = 0,
    stride: int = 1,
    discount: float | int = 1.0,
    progress: Progress = silent,
) -> Rollouts:
    """Collect groups; a group that has ended makes room for the next while the others go on.

    Args:
        policy: acts, in float32 or under the caller's autocast, which the env is kept out of.
        env: its rows are split into `num_envs / group_size` places for groups.
        schedule: how chunks are sampled.
        groups: how many to keep.
        group_size: rollouts in a group.
        seed: of everything random here.
        begin: how rows begin.
        keep: which ended groups are kept.
        budget: groups that may be begun in all; the last ones are then kept as they come. `groups` if not given.
        first_group: number of the first group.
        stride: from one group's number to the next; several processes that share a seed count past each other.
        discount: the reward of chunk n, counted from 0, counts discount^n.
        progress: told the chunks that were run, and of how many at most.

    Raises:
        ValueError: the env's rows, autoreset mode or horizon do not fit, or it gave a reward that is not finite.
        InvalidStartError: a row starts from the set `official`.
    """
    require_env(env, groups, group_size, budget)
    began = time.perf_counter()
    rollout = _Rollout(policy, env, schedule, group_size, seed, begin, first_group, stride, discount)
    kept: list[int] = []
    limit = groups if budget is None else budget
    longest = getattr(env.unwrapped, "max_episode_steps", None)
    chunks, most = 0, None if longest is None else math.ceil(limit / rollout.places) * longest
    rollout.start(range(min(rollout.places, groups)))
    while rollout.running:
        free = []
        for place in rollout.step():
            group = rollout.finish(place)
            possible = len(kept) + len(rollout.running) + limit - rollout.started
            if keep(rollout.mean_success(group)) or possible < groups:
                kept.append(group)
            free.append(place)
        chunks += 1
        progress(f"rollouts, {len(kept)} of {groups} groups, chunk", chunks, most)
        wanted = min(groups - len(kept) - len(rollout.running), limit - rollout.started)
        if wanted > 0 and free:
            rollout.start(free[:wanted])
    return rollout.gather(sorted(kept), time.perf_counter() - began)


@dataclass
class _Fate:
    """What became of one rollout."""

    returns: float = 0.0
    success: bool = False
    scored: bool = False
    chunks: int = 0


@dataclass
class _Decisions:
    trajectory: Int[Tensor, " s"]
    obs: Obs
    path: FlowPath
    mask: Bool[Tensor, "s n"]


@dataclass
class _Rollout:
    """The mutable part of a collection."""

    policy: FlowPolicy
    env: VectorEnv
    schedule: FlowSchedule
    group_size: int
    seed: int
    begin: Begin
    first_group: int
    stride: int
    discount: float | int
    started: int = 0
    frames: int = 0
    running: dict[int, int] = field(default_factory=dict)
    clock: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = self.env.num_envs
        self.places = count // self.group_size
        self.live = np.zeros(count, dtype=np.bool_)
        self.trajectory = np.zeros(count, dtype=np.int64)
        self.instructions = [""] * count
        self.tasks: list[Any] = [None] * count
        self.generators = [torch.Generator() for _ in range(count)]
        self.fates: dict[int, _Fate] = {}
        self.decisions: list[_Decisions] = []
        self.observation: Any = None

    def start(self, places: Iterable[int]) -> None:
        """Begin the next groups in these places."""
        rows: list[int] = []
        members: list[int] = []
        for place in places:
            self.running[place] = self.started
            rows += self.rows_of(place)
            members += range(self.started * self.group_size, (self.started + 1) * self.group_size)
            self.started += 1
        groups = [self.first_group + member // self.group_size * self.stride for member in members]
        numbers = [g * self.group_size + m % self.group_size for g, m in zip(groups, members, strict=True)]
        draw = Draw(np.array(rows), groups, numbers)
        with _timed(self.clock, "env"), outside_autocast():
            self.observation, info = self.begin(self.env, draw, self.seed)
        refuse_official({entry(info, "split", row, default=None) for row in rows})
        for row, member, number in zip(rows, members, numbers, strict=True):
            self.live[row] = True
            self.trajectory[row] = member
            self.fates[member] = _Fate()
            self.instructions[row] = str(entry(info, "instruction", row, default=""))
            self.tasks[row] = entry(info, "task", row, default=None)
            self.generators[row].manual_seed(random_number(self.seed, 2, number))
        self.check_groups(rows)

    def check_groups(self, rows: Sequence[int]) -> None:
        for first in range(0, len(rows), self.group_size):
            texts = {self.instructions[row] for row in rows[first : first + self.group_size]}
            if len(texts) > 1:
                raise InvalidStartError(
                    f"rows of a group must share their start, but their instructions are {sorted(texts)}: the env "
                    "must start the same from the same seed, or give `begin` another way"
                )

    def step(self) -> list[int]:
        """One chunk in every live row; the places whose groups have ended with it."""
        rows = np.flatnonzero(self.live)
        with _timed(self.clock, "policy"):
            obs = self.policy.prepare(rows_of(self.observation, rows), [self.instructions[row] for row in rows])
            path = sample(self.policy, obs, self.schedule, [self.generators[row] for row in rows])
            actions = env_actions(self.policy.decode(path.x0, obs), self.env, rows)
        with _timed(self.clock, "env"), outside_autocast():
            self.observation, reward, terminated, truncated, info = self.env.step(actions)
        chunk = actions.shape[1]
        executed = np.array([int(entry(info, "executed", row, default=chunk)) for row in rows.tolist()])
        self.frames += int(executed.sum())
        mask = torch.from_numpy(np.arange(chunk) < executed[:, None])
        stored = {name: tensor.to(CPU) for name, tensor in obs.items()}
        numbers = torch.from_numpy(self.trajectory[rows])
        self.decisions.append(_Decisions(numbers, stored, path.to(CPU), mask))
        over = np.asarray(terminated, dtype=np.bool_) | np.asarray(truncated, dtype=np.bool_)
        for row in rows.tolist():
            self.note(row, float(reward[row]), info, terminated=bool(terminated[row]))
        self.live &= ~over
        return [place for place in self.running if not self.live[self.rows_of(place)].any()]

    def note(self, row: int, reward: float, info: Mapping[str, Any], *, terminated: bool) -> None:
        fate = self.fates[int(self.trajectory[row])]
        fate.scored = bool(entry(info, "scored", row, default=True))
        if fate.scored:
            require_reward(reward, row, self.tasks[row], self.instructions[row])
            fate.returns += self.discount**fate.chunks * reward
        fate.chunks += 1
        fate.success |= bool(entry(info, "success", row, default=terminated and reward > 0))

    def finish(self, place: int) -> int:
        """Free a place; the group that was in it."""
        return self.running.pop(place)

    def mean_success(self, group: int) -> float:
        """Over the group's judged rollouts; 0 if there is none."""
        scored = [fate.success for fate in self.fates_of(group) if fate.scored]
        return float(np.mean(scored)) if scored else 0.0

    def fates_of(self, group: int) -> list[_Fate]:
        return [self.fates[group * self.group_size + member] for member in range(self.group_size)]

    def rows_of(self, place: int) -> list[int]:
        return list(range(place * self.group_size, (place + 1) * self.group_size))

    def gather(self, kept: Sequence[int], seconds: float) -> Rollouts:
        """The kept groups, in their order."""
        fates = [fate for group in kept for fate in self.fates_of(group)]
        position = torch.full((self.started * self.group_size,), -1, dtype=torch.int64)
        for index, group in enumerate(kept):
            members = torch.arange(self.group_size)
            position[group * self.group_size + members] = index * self.group_size + members
        number = position[torch.cat([part.trajectory for part in self.decisions])]
        rows = torch.nonzero(number >= 0)[:, 0]
        obs = cat_obs([part.obs for part in self.decisions])
        return Rollouts(
            obs={name: tensor[rows] for name, tensor in obs.items()},
            path=FlowPath.cat([part.path for part in self.decisions]).select(rows),
            mask=torch.cat([part.mask for part in self.decisions])[rows],
            trajectory=number[rows],
            returns=torch.tensor([fate.returns for fate in fates], dtype=torch.float32),
            success=torch.tensor([fate.success for fate in fates], dtype=torch.bool),
            scored=torch.tensor([fate.scored for fate in fates], dtype=torch.bool),
            groups=torch.arange(len(kept)).repeat_interleave(self.group_size),
            frames=self.frames,
            started=self.started,
            seconds=self.clock | {"rollout": seconds},
        )


@contextmanager
def _timed(clock: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    clock[name] = clock.get(name, 0.0) + time.perf_counter() - began


@contextmanager
def outside_autocast() -> Iterator[None]:
    """Let an env compute as it does without the caller's autocast, which is the policy's alone."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def require_reward(reward: float, row: int, task: object, instruction: str) -> None:
    """Raise ValueError for a reward that no learning and no mean can use."""
    if not math.isfinite(reward):
        raise ValueError(
            f"sub-environment {row} (task {task}, {instruction!r}) gave the reward {reward}: rewards must be finite "
            "numbers. Mend the env or its reward model; where it cannot tell, it may say info['scored'] = False"
        )


def entry(info: Mapping[str, Any], name: str, row: int, *, default: Any) -> Any:
    """What `info` says of a row; the default where it says nothing."""
    if name not in info or not info.get(f"_{name}", np.ones(row + 1, dtype=np.bool_))[row]:
        return default
    return info[name][row]


def env_actions(
    decoded: Float[Tensor, "b n a"], env: VectorEnv, rows: Int[np.ndarray, " b"]
) -> Float[np.ndarray, "r n a"]:
    """Decoded chunks in the given rows, clipped to the env's space; the other rows rest."""
    space = env.single_action_space
    shape = space.shape
    if shape is None or tuple(decoded.shape) != (len(rows), *shape):
        raise ValueError(
            f"the policy decodes to chunks (actions, numbers) of {tuple(decoded.shape[1:])}, the env takes {shape}: "
            "its decode must give the env's own commands"
        )
    low, high = getattr(space, "low", -1.0), getattr(space, "high", 1.0)
    actions = np.clip(np.zeros((env.num_envs, *shape), np.float32), low, high)
    actions[rows] = np.clip(decoded.detach().float().cpu().numpy(), low, high)
    return actions


def rows_of(observation: Any, rows: Int[np.ndarray, " r"]) -> Any:
    """The given rows of what an env observes: an array, or a mapping of arrays."""
    if isinstance(observation, Mapping):
        return {name: value[rows] for name, value in observation.items()}
    return observation[rows]
