"""Groups of rollouts from a vector env: one initial state and instruction G times, with fresh noise of the policy.

Any VectorEnv with action chunks works, the dream and LIBERO alike, with autoreset DISABLED: ended sub-environments cost
nothing. Latents and raw observations are stored, never contexts.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prophet_gym.errors import InvalidStartError
from prophrl_algos.flow import FlowPath, FlowPolicy, FlowSchedule, Obs, cat_obs, sample
from prophrl_algos.rollout._episodes import Outcome, entry, env_actions, outside_autocast, rows_of
from prophrl_algos.rollout._groups import Draw, GroupPlan, random_number, refuse_official

CPU = torch.device("cpu")

Progress = Callable[[str, int, int | None], object]
"""`progress(stage, done, total)`, for example `progress("rollouts, chunk", 12, 30)`.

The total is the most that there may be, since episodes can end sooner; None where there is no bound.
"""


def silent(stage: str, done: int, total: int | None) -> None:
    """Tell nobody."""
    del stage, done, total


@dataclass(frozen=True)
class Rollouts:
    """Decisions (one action chunk each), and the rollouts they belong to.

    Attributes:
        obs: What the policy saw at each decision.
        path: How it denoised each chunk.
        mask: Actions that were executed.
        trajectory: Index of the rollout of each decision.
        returns: Return of each rollout: the discounted sum of its valid rewards.
        success: Whether each rollout succeeded.
        scored: Which rollouts were scored at their end.
        groups: Index of the group of each rollout.
        frames: Actions that the env ran, including those of groups that were replaced.
        started: Number of groups that were begun.
        seconds: Time spent in `env`, in `policy`, and in all (`rollout`).
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
        """Return the number of executed actions of the given rollouts."""
        return int(self.mask[trajectories[self.trajectory]].sum())


def collect(
    policy: FlowPolicy,
    env: VectorEnv,
    schedule: FlowSchedule,
    plan: GroupPlan,
    *,
    seed: int,
    progress: Progress = silent,
) -> Rollouts:
    """Collect groups of rollouts; a group that has ended makes room for the next while the others continue.

    Args:
        policy: Acts, in float32 or under the caller's autocast, which the env is kept out of.
        env: Its sub-environments are split into `num_envs / group_size` places for groups.
        schedule: How chunks are sampled.
        plan: Which groups, and how they begin and end.
        seed: Seed of everything random here.
        progress: Told the chunks that were run, and of how many at most.

    Raises:
        ValueError: The env's size, autoreset mode or horizon does not fit, or it gave a reward that is not finite.
        InvalidStartError: A rollout starts from the split `official`.
    """
    plan.check(env)
    began = time.perf_counter()
    rollout = _Rollout(policy, env, schedule, plan, seed)
    kept: list[int] = []
    longest = getattr(env.unwrapped, "max_episode_steps", None)
    chunks, most = 0, None if longest is None else math.ceil(plan.limit / rollout.places) * longest
    rollout.start(range(min(rollout.places, plan.groups)))
    while rollout.running:
        free = []
        for place in rollout.step():
            group = rollout.running.pop(place)
            # A group is kept whatever it is once too few can still be begun to reject it.
            possible = len(kept) + len(rollout.running) + plan.limit - rollout.started
            if plan.grouping.keep(rollout.mean_success(group)) or possible < plan.groups:
                kept.append(group)
            free.append(place)
        chunks += 1
        progress(f"rollouts, {len(kept)} of {plan.groups} groups, chunk", chunks, most)
        wanted = min(plan.groups - len(kept) - len(rollout.running), plan.limit - rollout.started)
        if wanted > 0 and free:
            rollout.start(free[:wanted])
    # In the order they were begun, not ended, so that a batch does not depend on which episodes are long.
    return rollout.gather(sorted(kept), time.perf_counter() - began)


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
    plan: GroupPlan
    seed: int
    started: int = 0
    frames: int = 0
    running: dict[int, int] = field(default_factory=dict)
    clock: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count, self.group_size = self.env.num_envs, self.plan.group_size
        self.places = count // self.group_size
        self.live = np.zeros(count, dtype=np.bool_)
        self.trajectory = np.zeros(count, dtype=np.int64)
        self.instructions = [""] * count
        self.generators = [torch.Generator() for _ in range(count)]
        self.outcomes: dict[int, Outcome] = {}
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
        # Numbered across processes, so that a group's seed does not depend on how many share the work.
        groups = [self.plan.first + member // self.group_size * self.plan.stride for member in members]
        numbers = [g * self.group_size + m % self.group_size for g, m in zip(groups, members, strict=True)]
        draw = Draw(np.array(rows), groups, numbers)
        with _timed(self.clock, "env"), outside_autocast():
            self.observation, info = self.plan.grouping.begin(self.env, draw, self.seed)
        refuse_official({entry(info, "split", row, default=None) for row in rows})
        for row, member, number in zip(rows, members, numbers, strict=True):
            self.live[row] = True
            self.trajectory[row] = member
            self.instructions[row] = str(entry(info, "instruction", row, default=""))
            self.outcomes[member] = Outcome(entry(info, "task", row, default=None), self.instructions[row])
            self.generators[row].manual_seed(random_number(self.seed, 2, number))
        self.check_groups(rows)

    def check_groups(self, rows: Sequence[int]) -> None:
        """Raise InvalidStartError where the members of a group were given different instructions."""
        for first in range(0, len(rows), self.group_size):
            texts = {self.instructions[row] for row in rows[first : first + self.group_size]}
            if len(texts) > 1:
                raise InvalidStartError(
                    f"rollouts of a group must share their initial state, but their instructions are {sorted(texts)}: "
                    "the env must start the same from the same seed, or give `begin` another way"
                )

    def step(self) -> list[int]:
        """Run one chunk in every live sub-environment and return the places whose groups have ended with it."""
        rows = np.flatnonzero(self.live)
        with _timed(self.clock, "policy"):
            instructions = [self.instructions[row] for row in rows]
            obs = self.policy.prepare(rows_of(self.observation, rows), instructions)
            path = sample(self.policy, obs, self.schedule, [self.generators[row] for row in rows])
            actions = env_actions(self.policy.decode(path.x0, obs), self.env, rows)
        with _timed(self.clock, "env"), outside_autocast():
            self.observation, reward, terminated, truncated, info = self.env.step(actions)
        chunk = actions.shape[1]
        executed = np.array([int(entry(info, "executed", row, default=chunk)) for row in rows.tolist()])
        self.frames += int(executed.sum())
        # An episode may end inside a chunk: what the env did not run must not be learned from.
        mask = torch.from_numpy(np.arange(chunk) < executed[:, None])
        # A round's images would fill a GPU; they go back a microbatch at a time.
        stored = {name: tensor.to(CPU) for name, tensor in obs.items()}
        numbers = torch.from_numpy(self.trajectory[rows])
        self.decisions.append(_Decisions(numbers, stored, path.to(CPU), mask))
        for row in rows.tolist():
            outcome = self.outcomes[int(self.trajectory[row])]
            outcome.add(row, reward, terminated, info, discount=self.plan.grouping.discount)
        self.live &= ~(np.asarray(terminated, dtype=np.bool_) | np.asarray(truncated, dtype=np.bool_))
        return [place for place in self.running if not self.live[self.rows_of(place)].any()]

    def mean_success(self, group: int) -> float:
        """Return the mean over the group's scored rollouts; 0 if there are none."""
        scored = [each.success for each in self.outcomes_of(group) if each.scored]
        return float(np.mean(scored)) if scored else 0.0

    def outcomes_of(self, group: int) -> list[Outcome]:
        return [self.outcomes[group * self.group_size + member] for member in range(self.group_size)]

    def rows_of(self, place: int) -> list[int]:
        return list(range(place * self.group_size, (place + 1) * self.group_size))

    def gather(self, kept: Sequence[int], seconds: float) -> Rollouts:
        """Return the kept groups, in the given order."""
        outcomes = [each for group in kept for each in self.outcomes_of(group)]
        # From a rollout's number to its index among the kept ones; -1 for rollouts of replaced groups.
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
            returns=torch.tensor([each.returns for each in outcomes], dtype=torch.float32),
            success=torch.tensor([each.success for each in outcomes], dtype=torch.bool),
            scored=torch.tensor([each.scored for each in outcomes], dtype=torch.bool),
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
