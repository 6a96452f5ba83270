"""Measure how often a policy succeeds, with an interval and per task, in the dream or in the simulator."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from prophet_gym._io.progress import progress
from prophet_gym.estimates import wilson
from prophrl_algos.flow import FlowPolicy, FlowSchedule
from prophrl_algos.rollout._collect import EpisodeResult, act
from prophrl_algos.rollout._groups import random_number, require_autoreset_disabled, require_chunk

_START_KEYS = ("suite", "task", "start", "split", "instruction")


@dataclass(frozen=True)
class Evaluation:
    """Hold the results of a policy's episodes, in the order given to `evaluate`."""

    episodes: tuple[EpisodeResult, ...]

    @property
    def scored(self) -> list[EpisodeResult]:
        """Return the episodes whose end was scored."""
        return [episode for episode in self.episodes if episode.scored]

    @property
    def success(self) -> float:
        """Return the success rate over the scored episodes; NaN if none was scored."""
        return sum(each.success for each in self.scored) / len(self.scored) if self.scored else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Return Wilson's 95% interval of `success`; (0, 1) if no episode was scored."""
        successes = [each.success for each in self.scored]
        return wilson(sum(successes), len(successes)).interval if successes else (0.0, 1.0)

    def per_task(self) -> dict[str, "Evaluation"]:
        """Return the episodes of each instruction."""
        names = sorted({episode.instruction for episode in self.episodes})
        return {name: Evaluation(tuple(e for e in self.episodes if e.instruction == name)) for name in names}

    def metrics(self) -> dict[str, float]:
        """Return what `run` logs."""
        low, high = self.interval
        unsure = [value for each in self.episodes for value in each.uncertainties]
        return {
            "success": self.success,
            "success_low": low,
            "success_high": high,
            "return": float(np.mean([each.returns for each in self.scored])) if self.scored else math.nan,
            "episodes": float(len(self.episodes)),
            "scored": float(len(self.scored)),
        } | ({"uncertainty": float(np.mean(unsure))} if unsure else {})


def noise_seed(seed: int, episode: int) -> int:
    """Return the seed of the policy's noise in an episode of `evaluate`."""
    return random_number(seed, 3, episode)


def evaluate(
    policy: FlowPolicy,
    env: VectorEnv,
    episodes: int | Sequence[Mapping[str, int]],
    *,
    seed: int = 0,
    schedule: FlowSchedule | None = None,
    numbers: Sequence[int] | None = None,
) -> Evaluation:
    """Run episodes in all sub-environments of the env at once.

    If the env has `check_reset`, the reset options of all episodes are checked before any episode is run.

    Args:
        policy: Policy in eval mode.
        env: Vector env with autoreset DISABLED; official initial states are allowed here.
        episodes: Reset options of each episode, for example `{"task": 3, "start": 7}`, all with the same keys; or a
            number of episodes, whose initial states the seed draws.
        seed: Episode i has seed `seed + i` in the env, and its own noise in the policy.
        schedule: How chunks are sampled; by default the ODE with the policy's own number of steps.
        numbers: Numbers of the episodes to run, of those that are asked for; all by default. Processes share them out.

    Raises:
        ValueError: The env or an episode does not fit, or the env gave a reward that is not finite.
    """
    require_autoreset_disabled(env)
    require_chunk(policy, env)
    schedule = schedule or FlowSchedule(policy.spec.num_steps, 0.0)
    asked: Sequence[Mapping[str, int]] = [{}] * episodes if isinstance(episodes, int) else episodes
    if not asked or len({tuple(sorted(each)) for each in asked}) > 1:
        raise ValueError(
            f"there must be at least one episode, and all must have the same reset options, got {list(asked)[:3]}"
        )
    chosen = range(len(asked)) if numbers is None else numbers
    waves = _waves(env, asked, chosen, seed)
    if (check := getattr(env.unwrapped, "check_reset", None)) is not None:
        for _, reset in waves:
            check(reset["options"])
    found: list[EpisodeResult] = []
    with progress(None, "evaluation", total=len(chosen), unit="episode", passing=True) as bar:
        for numbers, reset in waves:
            rows = np.arange(len(numbers))
            observation, info = env.reset(**reset)
            starts = [{key: info[key][row] for key in _START_KEYS if key in info} for row in rows.tolist()]
            generators = [torch.Generator().manual_seed(noise_seed(seed, number)) for number in numbers]
            results = [EpisodeResult(start=start) for start in starts]
            instructions = [each.instruction for each in results]
            while len(rows):
                _, _, actions = act(policy, env, observation, rows, instructions, schedule, generators)
                observation, reward, terminated, truncated, info = env.step(actions)
                for row in rows.tolist():
                    results[row].add(row, reward, terminated, info)
                going = rows[~(np.asarray(terminated) | np.asarray(truncated))[rows]]
                bar.set_postfix_str(f"chunk {max(results[row].chunks for row in rows.tolist())}", refresh=False)
                bar.update(len(rows) - len(going))
                rows = going
            found += results
    return Evaluation(tuple(found))


def _waves(
    env: VectorEnv, episodes: Sequence[Mapping[str, int]], chosen: Sequence[int], seed: int
) -> list[tuple[Sequence[int], dict[str, Any]]]:
    """Return as many episodes at once as fit, each wave with the arguments of the reset that begins it."""
    waves = []
    for first in range(0, len(chosen), env.num_envs):
        numbers = chosen[first : first + env.num_envs]
        # A sub-environment that is not needed gets the first one's episode, and rests.
        padded = [*numbers, *[numbers[0]] * (env.num_envs - len(numbers))]
        options: dict[str, Any] = {name: [episodes[number][name] for number in padded] for name in episodes[0]}
        # A first reset must begin every sub-environment, later ones only those that are needed.
        if first and len(numbers) < env.num_envs:
            options["reset_mask"] = np.arange(env.num_envs) < len(numbers)
        waves.append((numbers, {"seed": [seed + number for number in padded], "options": options or None}))
    return waves
