"""Measure what stale rollouts gain in time and cost in reward, on a bandit whose rollouts and updates are slow.

    python -m benchmarks.workers.staleness --json benchmarks/results/workers/staleness.json

Rollouts wait `--delay` seconds, updates `--learning` seconds, so that workers and learner have time to save; nothing
heavy is computed. Runs have the same seeds, but the clock decides which policy acts where rollouts may be stale.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.speed.harness import recorded
from benchmarks.workers.toy import make, trainer_of
from prophrl_algos.rollout import RayOptions, RayRollouts
from prophrl_algos.trainer import TrainerConfig


@dataclass(frozen=True)
class Args:
    """Configure the benchmark."""

    staleness: tuple[int, ...] = (0, 1, 2)
    """Updates that rollouts may lag behind."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the runs."""
    updates: int = 60
    """Updates of a run."""
    delay: float = 0.2
    """Seconds of a rollout."""
    learning: float = 0.4
    """Seconds of an update, beside its own."""
    json: Path | None = None
    """Write the numbers to this file."""


def learn(args: Args, staleness: int, seed: int) -> list[dict[str, float]]:
    """Return seconds since the first update, return and staleness of every update."""
    config = TrainerConfig(groups=4, group_size=4, beta=0.0, updates=args.updates, seed=seed)
    trainer = trainer_of(config, RayOptions(workers=2, max_staleness=staleness), partial(make, args.delay))
    curve, began = [], 0.0
    assert isinstance(trainer.collector, RayRollouts)
    with trainer.collector:
        for update in range(args.updates):
            metrics = trainer.iterate()
            # The first waits until there are workers.
            began = began or time.perf_counter()
            seconds = round(time.perf_counter() - began, 2)
            curve.append({"seconds": seconds, "return": round(metrics["return"], 4), "staleness": metrics["staleness"]})
            time.sleep(args.learning if update else 0)
    return curve


def summary(curves: Sequence[Sequence[dict[str, float]]]) -> dict[str, Any]:
    """Return the means over runs: seconds, staleness, and the return of the last quarter of the updates."""
    last = [point["return"] for curve in curves for point in curve[-len(curve) // 4 :]]
    stale = [point["staleness"] for curve in curves for point in curve[1:]]
    return {
        "seconds": round(sum(curve[-1]["seconds"] for curve in curves) / len(curves), 2),
        "staleness": round(sum(stale) / len(stale), 3),
        "return_at_the_end": round(sum(last) / len(last), 4),
    }


def main(args: Args) -> None:
    torch.set_num_threads(1)
    with recorded(args.json) as found:
        found["runs"] = {}
        for staleness in args.staleness:
            curves = [learn(args, staleness, seed) for seed in args.seeds]
            found["runs"][str(staleness)] = summary(curves) | {"curves": curves}
            print(staleness, summary(curves), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args))
