"""How often a policy succeeds, with its interval and per task, in the dream or in the simulator."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from prophet_gym.estimates import wilson
from prophrl_algos.flow import FlowPolicy, FlowSchedule, no_step, sample
from prophrl_algos.rollout import Progress
from prophrl_algos.rollout._collect import silent
from prophrl_algos.rollout._episodes import Outcome, env_actions, rows_of
from prophrl_algos.rollout._groups import random_number, require_autoreset_disabled, require_chunk

_START_KEYS = ("suite", "task", "start", "split", "instruction")


@runtime_checkable
class _ChecksResets(Protocol):
    """An env that can say beforehand which reset options it would refuse."""

    def check_reset(self, options: Mapping[str, Any] | None) -> None:
        """Raise what `reset(options=options)` would raise, and change nothing."""
        ...


@dataclass(frozen=True)
class EpisodeResult:
    """The result of one episode.

    Attributes:
        success: Whether the task was done.
        returns: Sum of its valid rewards.
        scored: Whether its end was scored.
        chunks: Number of action chunks it took.
        start: What the env says of its initial state (task, start, instruction ...).
    """

    success: bool
    returns: float
    scored: bool
    chunks: int
    start: Mapping[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """The results of a policy's episodes.

    Attributes:
        episodes: In the order of the cells that were asked for.
    """

    episodes: tuple[EpisodeResult, ...]

    @property
    def success(self) -> float:
        """Success rate over the scored episodes; NaN if none was scored."""
        scored = [episode.success for episode in self.episodes if episode.scored]
        return sum(scored) / len(scored) if scored else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of `success`; (0, 1) if no episode was scored."""
        scored = [episode.success for episode in self.episodes if episode.scored]
        return wilson(sum(scored), len(scored)).interval if scored else (0.0, 1.0)

    def per_task(self) -> dict[str, "Evaluation"]:
        """Return the episodes of each instruction."""
        names = sorted({str(episode.start.get("instruction", "")) for episode in self.episodes})
        return {
            name: Evaluation(tuple(e for e in self.episodes if str(e.start.get("instruction", "")) == name))
            for name in names
        }

    def metrics(self) -> dict[str, float]:
        """Return what `run` logs."""
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


def ode_schedule(policy: FlowPolicy, initial_noise: float | int = 1.0) -> FlowSchedule:
    """Return a schedule without noise on the way, from Gaussian noise times a factor.

    With factor 0 a policy always does the same; a flow that is not sharp yet can do better from the noise's centre.
    """
    return FlowSchedule.uniform(policy.spec.num_steps, 0.0, choose=no_step, initial_noise=initial_noise)


def noise_seed(seed: int, episode: int) -> int:
    """Return the seed of the policy's noise in an episode of `evaluate`."""
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
    """Run one episode per cell, as many at once as the env has sub-environments.

    Where the env can say so (`_ChecksResets`), a cell that it would refuse is refused before any episode is run.

    Args:
        policy: Policy in eval mode.
        env: With autoreset DISABLED; official starts are welcome here.
        cells: Reset options of each episode, for example `{"task": 3, "start": 7}`, all with the same names; or a
            number of episodes, whose initial states the seed draws.
        seed: Episode i has seed `seed + i` in the env, and noise of its own in the policy.
        schedule: How chunks are sampled; the ODE with the policy's own number of steps if not given.
        progress: Told how many episodes have ended.

    Raises:
        ValueError: The env or a cell does not fit, or the env gave a reward that is not finite.
    """
    require_autoreset_disabled(env)
    require_chunk(policy, env)
    schedule = schedule or ode_schedule(policy)
    asked: Sequence[Mapping[str, int]] = [{}] * cells if isinstance(cells, int) else cells
    if not asked or len({tuple(sorted(cell)) for cell in asked}) > 1:
        raise ValueError(f"there must be at least one cell, and all must have the same names, got {list(asked)[:3]}")
    # As many episodes at once as fit; the next wave begins when the last of this one has ended.
    waves = [
        {number: asked[number] for number in range(first, min(first + env.num_envs, len(asked)))}
        for first in range(0, len(asked), env.num_envs)
    ]
    if isinstance(env.unwrapped, _ChecksResets):
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
    starts = [{key: info[key][row] for key in _START_KEYS if key in info} for row in rows.tolist()]
    generators = [torch.Generator().manual_seed(noise_seed(seed, number)) for number in numbers]
    outcomes = [Outcome(start.get("task"), str(start.get("instruction", ""))) for start in starts]
    live = rows
    while len(live):
        obs = policy.prepare(rows_of(observation, live), [outcomes[row].instruction for row in live])
        path = sample(policy, obs, schedule, [generators[row] for row in live])
        actions = env_actions(policy.decode(path.x0, obs), env, live)
        observation, reward, terminated, truncated, info = env.step(actions)
        for row in live.tolist():
            outcomes[row].add(row, reward, terminated, info)
        live = live[~(np.asarray(terminated) | np.asarray(truncated))[live]]
        tell(len(rows) - len(live))
    return [
        EpisodeResult(found.success, found.returns, found.scored, found.chunks, start)
        for found, start in zip(outcomes, starts, strict=True)
    ]


def _reset(
    env: VectorEnv, cells: Mapping[int, Mapping[str, int]], seed: int, *, initial: bool
) -> tuple[Any, dict[str, Any]]:
    """Begin the cells in the first sub-environments; the others rest, as far as a first reset lets them."""
    seeds: Any = [seed + number for number in _padded(env, cells)]
    return env.reset(seed=seeds, options=_options(env, cells, initial=initial) or None)


def _padded(env: VectorEnv, cells: Mapping[int, Mapping[str, int]]) -> list[int]:
    """Return the episode of each sub-environment; those that are not needed have the first one's."""
    numbers = list(cells)
    return numbers + [numbers[0]] * (env.num_envs - len(numbers))


def _options(env: VectorEnv, cells: Mapping[int, Mapping[str, int]], *, initial: bool) -> dict[str, Any]:
    padded, numbers = _padded(env, cells), list(cells)
    options: dict[str, Any] = {name: [cells[number][name] for number in padded] for name in cells[numbers[0]]}
    # A first reset must begin every sub-environment, later ones only those that are needed.
    if not initial and len(numbers) < env.num_envs:
        options["reset_mask"] = np.arange(env.num_envs) < len(numbers)
    return options


def _tell(progress: Progress, before: int, total: int, ended: int) -> None:
    progress("episodes", before + ended, total)
