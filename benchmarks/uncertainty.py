"""Measure how well a dream's uncertainty ranks its true error, on held-out episodes of the simulator.

    python benchmarks/uncertainty.py --json benchmarks/results/uncertainty.json

Every episode is dreamt from its first frame to its end under its own actions. For each chunk,
`info["uncertainty"]` stands beside the squared error of the dreamt frames; Spearman's rank correlation over all chunks,
with a 95% interval from resampling episodes. Beside it what needs no model: the age of the dream, and the correlation
among chunks of one age.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from jaxtyping import Float
from scipy.stats import spearmanr
from tqdm import tqdm

from prophet_gym.checkpoint import Checkpoint
from prophet_gym.data import Episode, list_episodes, read_episode
from prophet_gym.estimates import Estimate
from prophet_gym.evaluation._official import record_official
from prophet_gym.evaluation._report import as_json, machine, write_json
from prophet_gym.train._reward import auroc
from prophet_gym.world_model import WorldModel

RESAMPLES = 1000
SAME_AGE = 10
"""Chunks of one age that are needed to rank them."""


@dataclass(frozen=True)
class Args:
    """Correlate uncertainty with true error.

    Attributes:
        checkpoint: `bundled`, or a folder.
        data: a recording; without it the held-out episodes of `prophet evaluate` are used, and recorded if need be.
        episodes: at most so many.
        chunks: length of the dreams, at most.
        poor: PSNR in dB below which a chunk counts as poor.
        json: the report.
    """

    checkpoint: str = "bundled"
    data: Path | None = None
    episodes: int = 40
    chunks: int = 30
    poor: float = 25.0
    json: Path | None = None


def main(args: Args) -> None:
    """Dream, correlate, report."""
    checkpoint = Checkpoint.named(args.checkpoint)
    world_model = checkpoint.world_model()
    given = [] if args.data is None else list_episodes(args.data, evaluating=True)
    paths = record_official(checkpoint, args.episodes) if args.data is None else given[: args.episodes]
    dreams = [dream(world_model, read_episode(path), args.chunks) for path in tqdm(paths, desc="dream", unit="episode")]
    report = {
        "checkpoint": args.checkpoint,
        "episodes": len(dreams),
        "chunks": sum(len(rows) for rows in dreams),
        "poor_below_db": args.poor,
        **{
            name: interval(dreams, lambda rows, pick=pick: spearman(pick(rows), rows[:, 1]))
            for name, pick in {
                "spearman_uncertainty": lambda rows: rows[:, 0],
                "spearman_age": lambda rows: rows[:, 2],
            }.items()
        },
        "spearman_uncertainty_at_one_age": interval(dreams, spearman_at_one_age),
        "auroc_of_poor_chunks": interval(dreams, lambda rows: auroc(rows[:, 0], psnr(rows[:, 1]) < args.poor)),
        "share_of_poor_chunks": float((psnr(np.concatenate(dreams)[:, 1]) < args.poor).mean()),
        "uncertainty_quantiles": quantiles(np.concatenate(dreams)[:, 0]),
        "machine": machine(),
    }
    for name, value in report.items():
        print(f"{name}: {value}")
    write_json(args.json, report)


def dream(world_model: WorldModel, episode: Episode, chunks: int) -> Float[np.ndarray, "n 3"]:
    """Return uncertainty, mean squared error (grey levels) and age of every chunk."""
    size = world_model.chunk
    count = min(len(episode) // size, chunks)
    frames = torch.from_numpy(episode.frames()[: count * size + 1])
    actions = torch.from_numpy(episode.actions[: count * size].astype(np.float32))
    state = world_model.encode(frames[None, :1])
    generator = torch.Generator().manual_seed(0)
    rows = []
    for age in range(count):
        window = slice(age * size, (age + 1) * size)
        chunk = world_model.rollout(state, actions[None, window], generators=[generator])
        state = chunk.state
        if chunk.uncertainty is None:
            raise ValueError(f"{type(world_model).__name__} gives no uncertainty")
        error = (chunk.frames[0].float() - frames[window.start + 1 : window.stop + 1].float()).square().mean()
        rows.append([chunk.uncertainty.item(), error.item(), age])
    return np.array(rows)


def psnr(error: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return the PSNR in dB of mean squared errors in grey levels."""
    return 10 * np.log10(255**2 / np.maximum(error, 1e-6))


def spearman(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Rank correlation; NaN where either is constant."""
    found: Any = spearmanr(a, b) if np.ptp(a) and np.ptp(b) else None
    return float("nan") if found is None else float(found.statistic)


def spearman_at_one_age(rows: Float[np.ndarray, "n 3"]) -> float:
    """Return the mean over ages of the correlation among chunks of that age."""
    same = [rows[rows[:, 2] == age] for age in np.unique(rows[:, 2])]
    found = [spearman(part[:, 0], part[:, 1]) for part in same if len(part) >= SAME_AGE]
    return float(np.nanmean(found)) if found else float("nan")


def interval(
    dreams: list[np.ndarray], statistic: Callable[[Float[np.ndarray, "n 3"]], float]
) -> dict[str, float | int | None]:
    """Return the statistic over all chunks, with its 95% interval from resampling episodes."""
    rng = np.random.default_rng(0)
    picks = rng.integers(len(dreams), size=(RESAMPLES, len(dreams)))
    drawn = np.array([statistic(np.concatenate([dreams[i] for i in pick])) for pick in picks])
    known = drawn[~np.isnan(drawn)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
    return as_json(Estimate(statistic(np.concatenate(dreams)), float(low), float(high), len(dreams)))


def quantiles(values: Float[np.ndarray, " n"]) -> dict[str, float]:
    """Return where a threshold may lie."""
    return {f"{share:g}": round(float(np.quantile(values, share)), 4) for share in (0.05, 0.25, 0.5, 0.75, 0.9, 0.95)}


if __name__ == "__main__":
    main(tyro.cli(Args))
