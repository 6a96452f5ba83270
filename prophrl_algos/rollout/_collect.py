"""Groups of rollouts from a vector env: one initial state and instruction G times, with fresh noise of the policy.

Any VectorEnv with action chunks works, the dream and LIBERO alike, with autoreset DISABLED: ended sub-environments cost
nothing. Latents and raw observations are stored, never contexts.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from prophet_gym._io.progress import progress
from prophet_gym.errors import InvalidStartError
from prophrl_algos.flow import FlowPath, FlowPolicy, FlowSchedule, Obs, cat_obs, device_of, sample, select_obs
from prophrl_algos.rollout._groups import GroupPlan, random_number, refuse_official

CPU = torch.device("cpu")


@dataclass
class EpisodeResult:
    """Hold what has become of one episode so far.

    `returns` is the discounted sum of the valid rewards, `scored` is of the latest step, `start` is what the env
    says of the initial state (task, start, instruction ...), `uncertainties` what it says of each chunk, if it does.
    """

    success: bool = False
    returns: float = 0.0
    scored: bool = False
    chunks: int = 0
    start: Mapping[str, Any] = field(default_factory=dict)
    uncertainties: list[float] = field(default_factory=list)

    @property
    def instruction(self) -> str:
        """Return the task in words, empty if the env does not give it."""
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
        if (uncertainty := entry(info, "uncertainty", row, default=None)) is not None:
            self.uncertainties.append(float(uncertainty))
        # Envs from elsewhere say nothing of success; there it is to end by itself with a reward.
        self.success |= bool(entry(info, "success", row, default=ended and reward > 0))


@dataclass(frozen=True)
class Rollouts:
    """Hold action chunks, and the rollouts that they belong to.

    `trajectory` is the rollout of each chunk, `groups` the group of each rollout. `mask` has the actions that were
    executed; `returns` are discounted sums of the valid rewards, and `scored` the rollouts that were scored at their
    end. `frames` and `started` count the actions and groups that were replaced too; `seconds` are those spent in `env`,
    in `policy`, and in all (`rollout`). `numbers` has the number of each group within its update. The policy that acted
    had seen at most `staleness` updates less than the one that learns; `counts` are further metrics of who collected.
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
    numbers: tuple[int, ...] = ()
    staleness: int = 0
    counts: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def cat(parts: Sequence["Rollouts"]) -> "Rollouts":
        """Return the groups of all parts in the order of their numbers; chunks stay in the order of the parts."""
        counts = [len(part.returns) for part in parts]
        numbers = [number for part in parts for number in part.numbers]
        size = sum(counts) // len(numbers)
        ranked = torch.tensor(numbers).argsort()
        order = (ranked[:, None] * size + torch.arange(size)).flatten()
        offsets = [sum(counts[:index]) for index in range(len(parts))]
        trajectory = torch.cat([part.trajectory + offset for part, offset in zip(parts, offsets, strict=True)])
        names = dict.fromkeys(name for part in parts for name in part.seconds)
        return Rollouts(
            obs=cat_obs([part.obs for part in parts]),
            path=FlowPath.cat([part.path for part in parts]),
            mask=torch.cat([part.mask for part in parts]),
            trajectory=order.argsort()[trajectory],
            returns=torch.cat([part.returns for part in parts])[order],
            success=torch.cat([part.success for part in parts])[order],
            scored=torch.cat([part.scored for part in parts])[order],
            groups=torch.arange(len(numbers)).repeat_interleave(size),
            frames=sum(part.frames for part in parts),
            started=sum(part.started for part in parts),
            seconds={name: sum(part.seconds.get(name, 0.0) for part in parts) for name in names},
            numbers=tuple(sorted(numbers)),
            staleness=max(part.staleness for part in parts),
        )


def collect(policy: FlowPolicy, env: VectorEnv, schedule: FlowSchedule, plan: GroupPlan, *, seed: int) -> Rollouts:
    """Collect groups of rollouts; when a group ends, the next begins while the others continue.

    `num_envs / group_size` groups run at once. The policy acts in float32 or under the caller's autocast, which does
    not affect the env.

    Raises:
        ValueError: The env's size, autoreset mode or horizon does not fit, or it gave a reward that is not finite.
        InvalidStartError: A rollout starts from the split `official`.
    """
    plan.check(env)
    began = time.perf_counter()
    rollout = _Rollout(policy, env, schedule, plan, seed)
    kept: list[int] = []
    longest = getattr(env.unwrapped, "max_episode_steps", None)
    # The most that there may be, since episodes can end sooner.
    most = None if longest is None else math.ceil(plan.limit / rollout.places) * longest
    with progress(None, "rollouts", total=most, unit="chunk", passing=True) as bar:
        rollout.start(range(min(rollout.places, plan.groups)))
        while rollout.running:
            free = []
            for place in rollout.step():
                group = rollout.running.pop(place)
                # A group is kept whatever it is once too few can still be begun to reject it.
                possible = len(kept) + len(rollout.running) + plan.limit - rollout.started
                success = float(np.mean([each.success for each in rollout.group(group) if each.scored] or [0]))
                if plan.grouping.keep[0] <= success <= plan.grouping.keep[1] or possible < plan.groups:
                    kept.append(group)
                free.append(place)
            bar.update()
            wanted = min(plan.groups - len(kept) - len(rollout.running), plan.limit - rollout.started)
            if wanted > 0 and free:
                rollout.start(free[:wanted])
    # In the order they were begun, not ended, so that a batch does not depend on which episodes are long.
    return rollout.gather(sorted(kept), time.perf_counter() - began)


@dataclass
class _Rollout:
    """Hold the mutable part of a collection; a rollout's number is its index in `episodes`."""

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
    chunks: list[tuple[Tensor, Obs, FlowPath, Tensor]] = field(default_factory=list)
    observation: Any = None

    def __post_init__(self) -> None:
        count, self.group_size = self.env.num_envs, self.plan.group_size
        self.places = count // self.group_size
        # The caller's autocast is the policy's alone.
        self.outside_autocast = torch.autocast(device_of(self.policy).type, enabled=False)
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
        groups = [self.plan.number(group) for group in begun for _ in range(size)]
        numbers = [group * size + index % size for index, group in enumerate(groups)]
        with _timed(self.clock, "env"), self.outside_autocast:
            self.observation, info = self.plan.grouping.begin(self.env, rows, groups, numbers, self.seed)
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
        with _timed(self.clock, "env"), self.outside_autocast:
            self.observation, reward, terminated, truncated, info = self.env.step(actions)
        chunk = actions.shape[1]
        executed = np.array([int(entry(info, "executed", row, default=chunk)) for row in rows.tolist()])
        self.frames += int(executed.sum())
        # An episode may end inside a chunk: what the env did not run must not be learned from.
        mask = torch.from_numpy(np.arange(chunk) < executed[:, None])
        # A round's images would fill a GPU; they go back a microbatch at a time.
        stored = {name: tensor.to(CPU) for name, tensor in obs.items()}
        self.chunks.append((torch.from_numpy(self.trajectory[rows]), stored, path.to(CPU), mask))
        for row in rows.tolist():
            self.episodes[self.trajectory[row]].add(row, reward, terminated, info, self.plan.grouping.discount)
        self.live &= ~(np.asarray(terminated, dtype=np.bool_) | np.asarray(truncated, dtype=np.bool_))
        alive = np.any(self.live.reshape(self.places, -1), axis=1)
        return [place for place in self.running if not alive[place]]

    def group(self, number: int) -> list[EpisodeResult]:
        """Return the episodes of a group."""
        return self.episodes[number * self.group_size : (number + 1) * self.group_size]

    def gather(self, kept: Sequence[int], seconds: float) -> Rollouts:
        """Return the kept groups, in the given order."""
        episodes = [each for group in kept for each in self.group(group)]
        # From a rollout's number to its index among the kept ones; -1 for rollouts of replaced groups.
        position = torch.full((self.started, self.group_size), -1, dtype=torch.int64)
        position[list(kept)] = torch.arange(len(episodes)).view(-1, self.group_size)
        trajectory, obs, paths, masks = zip(*self.chunks, strict=True)
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
            numbers=tuple(self.plan.number(group) for group in kept),
        )


@contextmanager
def _timed(clock: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    clock[name] = clock.get(name, 0.0) + time.perf_counter() - began


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
    obs = policy.prepare(seen, [instructions[row] for row in map(int, rows)])
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
