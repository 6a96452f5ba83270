"""Say from measured seconds of each phase what a run would take on 1, 8, 64 or 512 GPUs, by simulating its events.

    python -m benchmarks.workers.scale --json benchmarks/results/workers/scale.json
    python -m benchmarks.workers.scale --group 40 --update 25 --weights 3 --gpus 1 2 8     # your own seconds

Groups of rollouts are made by workers, each on a GPU; updates by learners, which share the work evenly but for a part
that does not shrink (`serial`: the exchange of gradients, the optimizer's step). `together` lets all GPUs do both in
turns. `apart` gives some GPUs to the learners, as many as make the run fastest; with a staleness of s, workers begin
groups of an update when the update s before the last is done. Groups differ in length (episodes end early), so workers
wait for the slowest group of an update, and less so where they may run ahead.

With `--check`, the seconds of runs that `benchmarks.workers.scaling` measured stand beside what the simulation says.
"""

import heapq
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from prophet_gym.evaluation._report import table, write_json


@dataclass(frozen=True)
class Phases:
    """Hold the seconds of a run's phases.

    `group` is the mean of one group of rollouts on one worker, `spread` the standard deviation of its logarithm;
    `update` the gradient of all groups of an update on one learner, of which `serial` does not shrink with more of
    them; `weights` the sending of weights to a worker.
    """

    group: float
    update: float
    weights: float
    serial: float = 0.0
    spread: float = 0.3

    def learn(self, learners: int) -> float:
        """Return the seconds of an update by so many learners."""
        return self.serial + (self.update - self.serial) / learners


@dataclass(frozen=True)
class Plan:
    """Say how GPUs share the work: `learners` 0 means that all of them collect and learn in turns."""

    workers: int
    learners: int
    groups: int
    staleness: int = 0


@dataclass(frozen=True)
class Found:
    """Hold what a simulated run was like: seconds per update, and the fractions of time that GPUs worked."""

    seconds: float
    workers_busy: float
    learners_busy: float


def simulate(phases: Phases, plan: Plan, updates: int = 50, seed: int = 0) -> Found:
    """Simulate a run event by event.

    A worker that is free takes the next group whose update may begin; an update begins when its groups are there and
    the one before is done; a worker fetches weights before the first group of a new version.
    """
    lengths = _lengths(phases, seed)
    # Update u may use weights of version u - staleness: the number of updates that were done before its groups began.
    done = [0.0] * (updates + 1)
    free = [(0.0, number) for number in range(plan.workers)]
    version = [0] * plan.workers
    worked = learned = 0.0
    learn = phases.learn(plan.learners or plan.workers)
    for update in range(updates):
        allowed = done[max(0, update - plan.staleness)]
        ready = 0.0
        for _ in range(plan.groups):
            at, worker = heapq.heappop(free)
            begun = max(at, allowed)
            newest = max(0, update - plan.staleness)
            if version[worker] < newest:
                begun, version[worker] = begun + phases.weights, newest
            length = next(lengths)
            worked += length
            ready = max(ready, begun + length)
            heapq.heappush(free, (begun + length, worker))
        begun = max(ready, done[update])
        done[update + 1] = begun + learn
        learned += learn
        if not plan.learners:
            # The same GPUs: nobody collects while they learn.
            free = [(max(at, done[update + 1]), worker) for at, worker in free]
            heapq.heapify(free)
    total = done[updates]
    return Found(total / updates, worked / total / plan.workers, learned / total)


def _lengths(phases: Phases, seed: int) -> Iterator[float]:
    random = np.random.default_rng(seed)
    # So that the mean is `group` whatever the spread.
    centre = math.log(phases.group) - phases.spread**2 / 2
    while True:
        yield from random.lognormal(centre, phases.spread, 1024).tolist()


def best(phases: Phases, gpus: int, groups: int, staleness: int) -> tuple[Plan, Found]:
    """Return how to share GPUs so that an update takes the least time: in turns, or some for learning alone."""
    shares = {max(1, round(gpus * part)) for part in (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4)}
    plans = [Plan(gpus - share, share, groups, staleness) for share in sorted(shares) if share < gpus]
    plans += [] if staleness else [Plan(gpus, 0, groups)]
    plans = plans or [Plan(gpus, 0, groups)]  # one GPU can only take turns
    found = [(plan, simulate(phases, plan)) for plan in plans]
    return min(found, key=lambda pair: pair[1].seconds)


@dataclass(frozen=True)
class Args:
    """Simulate a run on more GPUs than there are."""

    group: float = 40.0  # Seconds of a group of rollouts on one GPU.
    update: float = 60.0  # Seconds of an update's gradient on one GPU.
    serial: float = 2.0  # Seconds of an update that more learners do not shorten.
    weights: float = 2.0  # Seconds of sending weights to a worker.
    spread: float = 0.3  # Standard deviation of the logarithm of a group's seconds.
    groups: int = 64  # Groups per update.
    gpus: tuple[int, ...] = (1, 8, 64, 512)
    staleness: tuple[int, ...] = (0, 1, 2)
    check: Path | None = None  # JSON of measured runs to compare with, as `benchmarks.workers.scaling` writes it.
    json: Path | None = None


def predicted(phases: Phases, gpus: Sequence[int], groups: int, staleness: Sequence[int]) -> list[dict[str, Any]]:
    """Return a row for each number of GPUs and staleness."""
    rows = []
    alone = simulate(phases, Plan(1, 0, groups)).seconds
    for number in gpus:
        for stale in staleness:
            plan, found = best(phases, number, groups, stale)
            rows.append(
                {
                    "gpus": number,
                    "staleness": stale,
                    **{key: value for key, value in asdict(plan).items() if key in ("workers", "learners")},
                    **{key: round(value, 3) for key, value in asdict(found).items()},
                    "speed_up": round(alone / found.seconds, 1),
                }
            )
    return rows


HEADER = ["GPUs, staleness", "collect", "learn", "s per update", "speed-up", "collecting", "learning"]


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return the columns of `HEADER`; the last two are the parts of the time that GPUs collect and learners learn."""
    return [
        f"{row['gpus']}, {row['staleness']}",
        str(row["workers"]),
        str(row["learners"] or "in turns"),
        f"{row['seconds']:.1f}",
        f"{row['speed_up']:.1f}",
        f"{row['workers_busy']:.0%}",
        f"{row['learners_busy']:.0%}",
    ]


def main(args: Args) -> None:
    """Print the table, and write it if asked."""
    phases = Phases(args.group, args.update, args.weights, args.serial, args.spread)
    rows = predicted(phases, args.gpus, args.groups, args.staleness)
    report: dict[str, Any] = {"phases": asdict(phases), "groups": args.groups, "predicted": rows}
    print(table(HEADER, [cells(row) for row in rows]))
    if args.check is not None:
        report["checked"] = checked(json.loads(args.check.read_text()))
        for run in report["checked"]:
            seconds = f"{run['measured']:.2f} s per update measured, {run['simulated']:.2f} simulated"
            print(f"{run['workers']} workers, staleness {run['staleness']}: {seconds}")
    write_json(args.json, report)


def checked(measured: Any) -> list[dict[str, Any]]:
    """Return measured runs beside what the simulation says of the seconds of their phases."""
    found = []
    for run in measured["runs"]:
        phases = Phases(**run["phases"])
        plan = Plan(run["workers"], 1, run["groups"], run["staleness"])
        found.append(
            {
                **{name: run[name] for name in ("workers", "groups", "staleness")},
                "measured": run["seconds"],
                "simulated": round(simulate(phases, plan, run["updates"]).seconds, 3),
            }
        )
    return found


if __name__ == "__main__":
    main(tyro.cli(Args))
