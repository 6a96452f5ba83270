"""Film a policy before and after a run, in the run's env, from the same initial states."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import tyro
from gymnasium.vector import VectorEnv, VectorWrapper
from torch import nn

from prophet_gym.cli.report._films import Film, Films, write_films
from prophet_gym.cli.report._runs import Run
from prophet_gym.estimates import wilson
from prophrl_algos._named import WEIGHTS, make_policy, take_weights
from prophrl_algos.cli._train import Args
from prophrl_algos.evaluate import Evaluation, evaluate
from prophrl_algos.rollout._collect import EpisodeResult, entry

_SEED = 10**6
"""Seed of the episodes, that of a run's evaluations, which no training uses."""
_ROWS, _FIRST, _WORST = 8, 2, 2
"""Run so many episodes at once; show the first ones, and the worst of the others."""


class Recorder(VectorWrapper):
    """Keep what the sub-environments show: all frames where the env gives them, else what the policy sees."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self.waves: list[list[list[np.ndarray]]] = []

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Begin a film in every sub-environment."""
        observation, info = super().reset(**kwargs)
        self.waves.append([[image[None]] for image in self._images(observation)])
        return observation, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Add a chunk to the films."""
        observation, reward, terminated, truncated, info = super().step(actions)
        for row, image in enumerate(self._images(observation)):
            self.waves[-1][row].append(np.asarray(entry(info, "frames", row, default=image[None])))
        return observation, reward, terminated, truncated, info

    def film(self, episode: int, result: EpisodeResult) -> np.ndarray:
        """Return the frames of an episode of the latest evaluation, until it ended."""
        wave, row = divmod(episode, self.num_envs)
        return np.concatenate(self.waves[wave][row][: 1 + result.chunks])

    def _images(self, observation: Any) -> np.ndarray:
        images = np.asarray(observation["image"] if isinstance(observation, Mapping) else observation)
        if images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(
                f"films need observations of images, uint8 (n, height, width, 3), and this env gives {images.dtype} "
                f"{images.shape}; leave --films away"
            )
        return images


def film_run(run: Run, episodes: int, device: str) -> None:
    """Film episodes with the weights that a run began with and with those that it has; its folder keeps the films.

    Raises:
        ValueError: The run is none of `prophrl train`, has no weights yet, or does not say how it was begun.
    """
    newest = next((name for name in WEIGHTS if (run.folder / name).is_file()), None)
    words = shlex.split(str(run.history[-1].get("command", ""))) if run.history else []
    if newest is None or words[:2] != ["prophrl", "train"]:
        raise ValueError(
            f"films need a run of `prophrl train` that has weights and says how it was begun, and {run.folder} has "
            f"{newest or 'no weights'} and {' '.join(words[:2]) or 'no record of its command'}; leave --films away"
        )
    args = tyro.cli(Args, args=[*words[2:], "--device", device])
    ours = args.env.startswith(("Prophet-", "LIBERO-"))
    chosen = {"tasks": args.tasks, "engine": args.engine, "reward": args.reward, "render": "step" if ours else ""}
    env = Recorder(args.make_env(min(episodes, _ROWS), **chosen))
    policy = make_policy(args.policy, env, args.policy_weights, device, args.load.options(args.env))
    assert isinstance(policy, nn.Module)
    found, videos = {}, {}
    for label in ("before", "after"):
        if label == "after":
            take_weights(policy, run.folder)
        env.waves.clear()
        with torch.no_grad():
            found[label] = evaluate(policy, env, episodes, seed=_SEED)
        videos[label] = [env.film(number, each) for number, each in enumerate(found[label].episodes)]
    fps = float(env.metadata.get("render_fps", 20))
    env.close()
    films = [_film(number, kind, found, videos, fps) for number, kind in chosen_episodes(found["after"].episodes)]
    write_films(run.folder, films, _told(run, newest, args.env, found))


def chosen_episodes(episodes: Sequence[EpisodeResult]) -> list[tuple[int, str]]:
    """Return which episodes are shown and why: the first ones, which nobody chose, and the worst of the others."""
    rank = sorted(range(_FIRST, len(episodes)), key=lambda number: _badness(episodes[number]), reverse=True)
    first = [(number, "one of the first") for number in range(min(_FIRST, len(episodes)))]
    return first + [(number, "one of the worst after learning") for number in rank[:_WORST]]


def _badness(result: EpisodeResult) -> tuple[bool, float, float]:
    return not (result.success and result.scored), -result.returns, _uncertainty(result)


def _uncertainty(result: EpisodeResult) -> float:
    return float(np.mean(result.uncertainties)) if result.uncertainties else 0.0


def _outcome(result: EpisodeResult) -> str:
    return ("success" if result.success else "failure") if result.scored else "not scored"


def _film(
    number: int, kind: str, found: Mapping[str, Evaluation], videos: Mapping[str, list[np.ndarray]], fps: float
) -> Film:
    results = {label: each.episodes[number] for label, each in found.items()}
    outcomes = [f"{_outcome(each)} {label} learning" for label, each in results.items()]
    told = results["after"].instruction
    shown = {f"{label}: {_outcome(each)}": videos[label][number] for label, each in results.items()}
    return Film(shown, told, f"Episode {number}, {kind}: “{told}”. {' and '.join(outcomes).capitalize()}.", fps)


def _told(run: Run, newest: str, env: str, found: Mapping[str, Evaluation]) -> Films:
    """Return the table of all episodes, and the uncertainty along them."""
    rates = []
    for label, each in found.items():
        good = sum(result.success for result in each.scored)
        estimate = wilson(good, len(each.scored))
        rates.append(f"{label} {good}/{len(each.scored)} [{estimate.low:.0%}, {estimate.high:.0%}]")
    rows = [
        [str(number), before.instruction]
        + [cell for each in (before, after) for cell in (_outcome(each), f"{each.returns:.3g}", _unsure(each))]
        for number, (before, after) in enumerate(zip(*(each.episodes for each in found.values()), strict=True))
    ]
    columns = [f"{what} {label}" for label in found for what in ("outcome", "return", "uncertainty")]
    done = max(int(xs[-1]) + 1 for xs, _ in run.columns.values())
    return Films(
        f"The policy before learning and with the weights of {newest} (the run had {done} updates), in {env}, without "
        "exploration, from the same initial states and noise. Shown are the first episodes and the worst of the "
        f"others. Successes: {', '.join(rates)}.",
        {},
        ["episode", "instruction", *columns],
        rows,
        {label: curve for label, each in found.items() if (curve := _by_chunk(each))},
    )


def _unsure(result: EpisodeResult) -> str:
    return f"{_uncertainty(result):.3g}" if result.uncertainties else ""


def _by_chunk(evaluation: Evaluation) -> list[float]:
    """Return the mean uncertainty of each chunk, over the episodes that have it."""
    each = [result.uncertainties for result in evaluation.episodes]
    longest = max(map(len, each), default=0)
    return [float(np.mean([values[n] for values in each if len(values) > n])) for n in range(longest)]
