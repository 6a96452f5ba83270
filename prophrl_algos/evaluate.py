"""How often a policy succeeds, with its interval and per task: in the dream or in the simulator."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from prophrl_algos.flow.policy import FlowPolicy
from prophrl_algos.flow.sampler import sample
from prophrl_algos.flow.schedule import FlowSchedule, no_step
from prophrl_algos.groups import random_number, require_autoreset_disabled
from prophrl_algos.preflight import require_chunk
from prophrl_algos.progress import Progress, silent
from prophrl_algos.rollout import entry, env_actions, require_reward, rows_of

START_KEYS = ("suite", "task", "start", "split", "instruction")


@runtime_checkable
class ChecksResets(Protocol):
    """An env that says beforehand what it would refuse."""

    def check_reset(self, options: Mapping[str, Any] | None) -> None:
        """Raise what `reset(options=options)` would raise, and change nothing."""
        ...


@dataclass(frozen=True)
class EpisodeResult:
    """One episode.

    Attributes:
        success: whether the task was done.
        returns: the sum of its judged rewards.
        scored: whether its end was judged.
        chunks: how long it took.
        start: what the env says of its start (task, start, instruction ...).
    """

    success: bool
    returns: float
    scored: bool
    chunks: int
    start: Mapping[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """What a policy did.

    Attributes:
        episodes: in the order of the cells that were asked for.
    """

    episodes: tuple[EpisodeResult, ...]

    @property
    def success(self) -> float:
        """Share of the judged episodes that succeeded; NaN if none was judged."""
        scored = [episode.success for episode in self.episodes if episode.scored]
        return sum(scored) / len(scored) if scored else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of `success`."""
        scored = [episode.success for episode in self.episodes if episode.scored]
        return wilson(sum(scored), len(scored))

    def per_task(self) -> dict[str, "Evaluation"]:
        """The episodes of each instruction."""
        names = sorted({str(episode.start.get("instruction", "")) for episode in self.episodes})
        return {
            name: Evaluation(tuple(e for e in self.episodes if str(e.start.get("instruction", "")) == name))
            for name in names
        }

    def metrics(self) -> dict[str, float]:
        """As `run` logs it."""
        low, high = self.interval
        scored = [episode for episode in self.episodes if episode.scored]
        returns = float(np.mean([episode.returns for episode in scored])) if scored else math.nan
        return {
            "success": self.success,
            "success_low": low,
            "success_high": high,
            "return": returns,
            "episodes": float(len(self.episodes)),
            "scored": float(len(scored)),
        }


def wilson(successes: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share; (0, 1) where nothing was counted.

    Example:
        >>> [round(bound, 3) for bound in wilson(8, 10)]
        [0.49, 0.943]
    """
    if count == 0:
        return 0.0, 1.0
    share, spread = successes / count, z**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def ode_schedule(policy: FlowPolicy, initial_noise: float | int = 1.0) -> FlowSchedule:
    """Paths without noise on the way, from Gaussian noise times a factor: with 0 a policy always does the same.

    A flow that is not sharp yet can do better from the centre of the noise than from all of it.
    """
    return FlowSchedule.uniform(policy.spec.num_steps, 0.0, choose=no_step, initial_noise=initial_noise)


def noise_seed(seed: int, episode: int) -> int:
    """Of the generator from which `evaluate` draws the policy's noise in an episode."""
    return random_number(seed, 3, episode)


def evaluate(
    policy: FlowPolicy,
    env: VectorEnv,
    cells: int | Sequence[Mapping[str, int]],
    *,
    seed: int = 0,
    schedule: FlowSchedule | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Run one episode per cell, as many at once as the env has rows.

    Where the env can say so (`ChecksResets`), a cell that it would refuse is refused before any episode is run.

    Args:
        policy: in eval mode.
        env: with autoreset DISABLED; official starts are welcome here.
        cells: reset options of each episode, e.g. `{"task": 3, "start": 7}`, all with the same names; or how many
            episodes with starts drawn by the seed.
        seed: episode i has seed `seed + i` in the env, and noise of its own in the policy.
        schedule: how chunks are sampled; the ODE with the policy's own number of steps if not given.
        progress: told how many episodes have ended.

    Raises:
        ValueError: the env or a cell does not fit, or the env gave a reward that is not finite.
    """
    require_autoreset_disabled(env)
    require_chunk(policy, env)
    schedule = schedule or ode_schedule(policy)
    asked: Sequence[Mapping[str, int]] = [{}] * cells if isinstance(cells, int) else cells
    if not asked or len({tuple(sorted(cell)) for cell in asked}) > 1:
        raise ValueError(f"there must be at least one cell, and all must have the same names, got {list(asked)[:3]}")
    waves = [
        {number: asked[number] for number in range(first, min(first + env.num_envs, len(asked)))}
        for first in range(0, len(asked), env.num_envs)
    ]
    if isinstance(env.unwrapped, ChecksResets):
        for wave in waves:
            env.unwrapped.check_reset(_options(env, wave, initial=wave is waves[0]))
    found: list[EpisodeResult] = []
    for wave in waves:
        tell = partial(_tell, progress, len(found), len(asked))
        found += _wave(policy, env, wave, seed, schedule, tell, initial=wave is waves[0])
    return Evaluation(tuple(found))


def _wave(
    policy: FlowPolicy,
    env: VectorEnv,
    cells: Mapping[int, Mapping[str, int]],
    seed: int,
    schedule: FlowSchedule,
    tell: Callable[[int], object],
    *,
    initial: bool,
) -> list[EpisodeResult]:
    numbers, rows = list(cells), np.arange(len(cells))
    observation, info = _reset(env, cells, seed, initial=initial)
    starts = [{key: info[key][row] for key in START_KEYS if key in info} for row in rows.tolist()]
    generators = [torch.Generator().manual_seed(noise_seed(seed, number)) for number in numbers]
    returns, chunks = np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
    success, scored = np.zeros(len(rows), dtype=np.bool_), np.zeros(len(rows), dtype=np.bool_)
    live = rows
    while len(live):
        obs = policy.prepare(rows_of(observation, live), [str(starts[row].get("instruction", "")) for row in live])
        path = sample(policy, obs, schedule, [generators[row] for row in live])
        actions = env_actions(policy.decode(path.x0, obs), env, live)
        observation, reward, terminated, truncated, info = env.step(actions)
        for row in live.tolist():
            scored[row] = bool(entry(info, "scored", row, default=True))
            if scored[row]:
                require_reward(
                    float(reward[row]), row, starts[row].get("task"), str(starts[row].get("instruction", ""))
                )
                returns[row] += float(reward[row])
            success[row] |= bool(entry(info, "success", row, default=terminated[row] and reward[row] > 0))
            chunks[row] += 1
        live = live[~(np.asarray(terminated) | np.asarray(truncated))[live]]
        tell(len(rows) - len(live))
    return [
        EpisodeResult(bool(success[row]), float(returns[row]), bool(scored[row]), int(chunks[row]), starts[row])
        for row in rows.tolist()
    ]


def _reset(
    env: VectorEnv, cells: Mapping[int, Mapping[str, int]], seed: int, *, initial: bool
) -> tuple[Any, dict[str, Any]]:
    """Begin the cells in the first rows; rows that are not needed rest, as far as a first reset lets them."""
    seeds: Any = [seed + number for number in _padded(env, cells)]
    return env.reset(seed=seeds, options=_options(env, cells, initial=initial) or None)


def _padded(env: VectorEnv, cells: Mapping[int, Mapping[str, int]]) -> list[int]:
    """Return the number of each row's episode; rows that are not needed have the first one's."""
    numbers = list(cells)
    return numbers + [numbers[0]] * (env.num_envs - len(numbers))


def _options(env: VectorEnv, cells: Mapping[int, Mapping[str, int]], *, initial: bool) -> dict[str, Any]:
    padded, numbers = _padded(env, cells), list(cells)
    options: dict[str, Any] = {name: [cells[number][name] for number in padded] for name in cells[numbers[0]]}
    if not initial and len(numbers) < env.num_envs:
        options["reset_mask"] = np.arange(env.num_envs) < len(numbers)
    return options


def _tell(progress: Progress, before: int, total: int, ended: int) -> None:
    progress("episodes", before + ended, total)
