"""Measure seconds per update with one, two and four Ray workers, for the simulation of larger runs to be checked by.

    python -m benchmarks.workers.scaling --json benchmarks/results/workers/scaling.json
    python -m benchmarks.workers.scale --check benchmarks/results/workers/scaling.json

Groups of rollouts and updates take a known time without computing (they sleep), so four workers fit on two cores; all
else is the real run of a tiny policy: queue, weights, object store, gradient. Its seconds are measured by a run of one
worker that never sleeps.
"""

import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import tyro

from benchmarks.speed.harness import recorded
from benchmarks.workers.scale import Phases
from benchmarks.workers.toy import make, trainer_of
from prophrl_algos.rollout import RayOptions, RayRollouts
from prophrl_algos.trainer import TrainerConfig


@dataclass(frozen=True)
class Args:
    """Configure the benchmark."""

    workers: tuple[int, ...] = (1, 2, 4)
    """Numbers of workers."""
    staleness: tuple[int, ...] = (0, 1)
    """Updates that rollouts may lag behind."""
    groups: int = 8
    """Groups of an update."""
    updates: int = 12
    """Updates of a run."""
    delay: float = 0.5
    """Seconds that a group sleeps."""
    learning: float = 1.0
    """Seconds that an update sleeps."""
    json: Path | None = None
    """Write the numbers to this file."""


def seconds_per_update(args: Args, workers: int, staleness: int, delay: float, learning: float) -> float:
    """Run and return the mean seconds of an update, without the first, which waits until there are workers."""
    config = TrainerConfig(groups=args.groups, group_size=4, beta=0.0, updates=args.updates + 1)
    trainer = trainer_of(config, RayOptions(workers=workers, max_staleness=staleness), partial(make, delay))
    assert isinstance(trainer.collector, RayRollouts)
    began = 0.0
    with trainer.collector:
        for _ in range(args.updates + 1):
            trainer.iterate()
            time.sleep(learning)
            began = began or time.perf_counter()
        return (time.perf_counter() - began) / args.updates


def main(args: Args) -> None:
    torch.set_num_threads(1)
    with recorded(args.json) as found:
        rest = seconds_per_update(args, 1, 0, 0.0, 0.0)
        # What is not slept is shared out over the groups: it is mostly theirs.
        phases = Phases(args.delay + rest / args.groups, args.learning, weights=0.0, spread=0.0)
        found["seconds_of_nothing"], found["runs"] = round(rest, 4), []
        for workers in args.workers:
            for staleness in args.staleness:
                seconds = seconds_per_update(args, workers, staleness, args.delay, args.learning)
                run = {"workers": workers, "staleness": staleness, "groups": args.groups, "updates": args.updates}
                found["runs"].append(run | {"seconds": round(seconds, 4), "phases": asdict(phases)})
                print(found["runs"][-1], flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args))
