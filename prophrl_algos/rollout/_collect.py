"""Groups of rollouts from a vector env: one initial state and instruction G times, with fresh noise of the policy.

Any VectorEnv with action chunks works, the dream and LIBERO alike, with autoreset DISABLED: ended sub-environments cost
nothing. Latents and raw observations are stored, never contexts.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prophet_gym.errors import InvalidStartError
from prophrl_algos.flow import FlowPath, FlowPolicy, FlowSchedule, Obs, cat_obs, select_obs
from prophrl_algos.rollout._episodes import EpisodeResult, act, entry, outside_autocast
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

    `trajectory` is the rollout of each decision, `groups` the group of each rollout. `mask` has the actions that were
    executed; `returns` are discounted sums of the valid rewards, and `scored` the rollouts that were scored at their
    end. `frames` and `started` count the actions and groups that were replaced too; `seconds` are those spent in `env`,
    in `policy`, and in all (`rollout`).
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
class _Rollout:
    """The mutable part of a collection; a rollout's number is its index in `episodes`."""

    policy: FlowPolicy
    env: VectorEnv
    schedule: FlowSchedule
    plan: GroupPlan
    seed: int
    started: int = 0
    frames: int = 0
    running: dict[int, int] = field(default_factory=dict)
    clock: dict[str, float] = field(default_factory=dict)
    episodes: list[EpisodeResult] = field(default_factory=list)
    decisions: list[tuple[Tensor, Obs, FlowPath, Tensor]] = field(default_factory=list)
    observation: Any = None

    def __post_init__(self) -> None:
        count, self.group_size = self.env.num_envs, self.plan.group_size
        self.places = count // self.group_size
        self.live = np.zeros(count, dtype=np.bool_)
        self.trajectory = np.zeros(count, dtype=np.int64)
        self.instructions = [""] * count
        self.generators = [torch.Generator() for _ in range(count)]

    def start(self, places: Sequence[int]) -> None:
        """Begin the next groups in these places; InvalidStartError if the env does not begin a group alike."""
        size = self.group_size
        rows = [place * size + member for place in places for member in range(size)]
        begun = range(self.started, self.started + len(places))
        self.running |= dict(zip(places, begun, strict=True))
        self.started += len(places)
        # Numbered across processes, so that a group's seed does not depend on how many share the work.
        groups = [self.plan.first + group * self.plan.stride for group in begun for _ in range(size)]
        numbers = [group * size + index % size for index, group in enumerate(groups)]
        with _timed(self.clock, "env"), outside_autocast():
            draw = Draw(np.array(rows), groups, numbers)
            self.observation, info = self.plan.grouping.begin(self.env, draw, self.seed)
        refuse_official({entry(info, "split", row, default=None) for row in rows})
        self.live[rows] = True
        self.trajectory[rows] = np.arange(len(self.episodes), len(self.episodes) + len(rows))
        for row, number in zip(rows, numbers, strict=True):
            self.instructions[row] = str(entry(info, "instruction", row, default=""))
            start = {"task": entry(info, "task", row, default=None), "instruction": self.instructions[row]}
            self.episodes.append(EpisodeResult(start=start))
            self.generators[row].manual_seed(random_number(self.seed, 2, number))
        for place in places:
            texts = set(self.instructions[place * size : (place + 1) * size])
            if len(texts) > 1:
                raise InvalidStartError(
                    f"rollouts of a group must share their initial state, but their instructions are {sorted(texts)}: "
                    "the env must start the same from the same seed, or give `begin` another way"
                )

    def step(self) -> list[int]:
        """Run one chunk in every live sub-environment and return the places whose groups have ended with it."""
        rows = np.flatnonzero(self.live)
        with _timed(self.clock, "policy"):
            obs, path, actions = act(
                self.policy, self.env, self.observation, rows, self.instructions, self.schedule, self.generators
            )
        with _timed(self.clock, "env"), outside_autocast():
            self.observation, reward, terminated, truncated, info = self.env.step(actions)
        chunk = actions.shape[1]
        executed = np.array([int(entry(info, "executed", row, default=chunk)) for row in rows.tolist()])
        self.frames += int(executed.sum())
        # An episode may end inside a chunk: what the env did not run must not be learned from.
        mask = torch.from_numpy(np.arange(chunk) < executed[:, None])
        # A round's images would fill a GPU; they go back a microbatch at a time.
        stored = {name: tensor.to(CPU) for name, tensor in obs.items()}
        self.decisions.append((torch.from_numpy(self.trajectory[rows]), stored, path.to(CPU), mask))
        for row in rows.tolist():
            self.episodes[self.trajectory[row]].add(row, reward, terminated, info, self.plan.grouping.discount)
        self.live &= ~(np.asarray(terminated, dtype=np.bool_) | np.asarray(truncated, dtype=np.bool_))
        alive = self.live.reshape(self.places, -1).any(1)
        return [place for place in self.running if not alive[place]]

    def group(self, number: int) -> list[EpisodeResult]:
        """Return the episodes of a group."""
        return self.episodes[number * self.group_size : (number + 1) * self.group_size]

    def mean_success(self, group: int) -> float:
        """Return the mean over the group's scored rollouts; 0 if there are none."""
        return float(np.mean([each.success for each in self.group(group) if each.scored] or [0]))

    def gather(self, kept: Sequence[int], seconds: float) -> Rollouts:
        """Return the kept groups, in the given order."""
        episodes = [each for group in kept for each in self.group(group)]
        # From a rollout's number to its index among the kept ones; -1 for rollouts of replaced groups.
        position = torch.full((self.started, self.group_size), -1, dtype=torch.int64)
        position[list(kept)] = torch.arange(len(episodes)).view(-1, self.group_size)
        trajectory, obs, paths, masks = zip(*self.decisions, strict=True)
        number = position.flatten()[torch.cat(trajectory)]
        rows = torch.nonzero(number >= 0)[:, 0]
        return Rollouts(
            obs=select_obs(cat_obs(obs), rows),
            path=FlowPath.cat(paths).select(rows),
            mask=torch.cat(masks)[rows],
            trajectory=number[rows],
            returns=torch.tensor([each.returns for each in episodes], dtype=torch.float32),
            success=torch.tensor([each.success for each in episodes], dtype=torch.bool),
            scored=torch.tensor([each.scored for each in episodes], dtype=torch.bool),
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
