"""Measure the success of the scripted experts in LIBERO, per task, from random placements.

    python benchmarks/experts.py --json benchmarks/results/experts.json

An episode counts when the task's own predicate holds for ten steps on end. Nothing is rendered. Tasks that the JSON
file already has, from as many episodes of the same seed, are not measured again: a run that was stopped is continued by
the same command.
"""

import json
import time
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tqdm import tqdm

from prophet_gym.estimates import wilson
from prophet_gym.evaluation._report import table, write_json
from prophet_gym.sims._recorder import record_views
from prophet_gym.sims.libero.simulator import LiberoSimulator

HELD = 10
"""Steps on end for which the predicate must hold."""


@dataclass(frozen=True)
class Args:
    suites: tuple[str, ...] = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
    tasks: tuple[int, ...] = tuple(range(LiberoSimulator.tasks))
    episodes: int = 20
    """Number of episodes of each task."""
    seed: int = 7777
    """Seed of placements and scripts; recordings are made with other seeds."""
    json: Path | None = None


def longest(success: np.ndarray) -> int:
    """Return for how many steps on end an episode was successful."""
    return max((len(list(run)) for held, run in groupby(success.tolist()) if held), default=0)


def measure(suite: str, task: int, episodes: int, seed: int, bar: tqdm) -> dict[str, Any]:
    """Run the episodes of one task."""
    sim = LiberoSimulator(suite, task)
    done, steps, failed, began = 0, [], [], time.perf_counter()
    for index in range(episodes):
        success = record_views(sim, index, seed, "expert", cameras=())[0].sim.success
        held = longest(success) >= HELD
        done += held
        steps += [int(np.argmax(success))] if held else []
        failed += [] if held else [index]
        bar.update()
    seconds = (time.perf_counter() - began) / episodes
    rate = wilson(done, episodes)
    found = {"suite": suite, "task": task, "instruction": sim.instruction, "successes": done, "episodes": episodes}
    found |= {"low": rate.low, "high": rate.high, "failed": failed, "seconds": round(seconds, 2)}
    sim.close()
    return found | {"steps_to_success": round(float(np.mean(steps)), 1) if steps else None}


def kept(args: Args) -> list[dict[str, Any]]:
    """Return what an earlier run with the same settings has measured."""
    if args.json is None or not args.json.exists():
        return []
    before = json.loads(args.json.read_text())
    rows = before["tasks"] if before.get("seed") == args.seed else []
    return [row for row in rows if all(row.get(name) == value for name, value in settings(row["suite"], args).items())]


def settings(suite: str, args: Args) -> dict[str, Any]:
    """Return what a task must have been measured with to count as measured."""
    return {"episodes": args.episodes, "script_version": LiberoSimulator.provenance(suite, "light")["script_version"]}


def main(args: Args) -> None:
    found = kept(args)
    have = {(row["suite"], row["task"]) for row in found}
    jobs = [(suite, task) for suite in args.suites for task in args.tasks if (suite, task) not in have]
    with tqdm(total=len(jobs) * args.episodes, desc="experts", unit="episode") as bar:
        for suite, task in jobs:
            found.append(measure(suite, task, args.episodes, args.seed, bar) | settings(suite, args))
            found.sort(key=lambda row: (row["suite"], row["task"]))
            write_json(args.json, {"seed": args.seed, "tasks": found})
    rows = []
    for row in found:
        done, rate = f"{row['successes']}/{row['episodes']}", f"{row['low']:.2f} - {row['high']:.2f}"
        rows.append([row["suite"], str(row["task"]), row["instruction"], done, rate, f"{row['seconds']:.1f}"])
    print(table(["suite", "task", "instruction", "done", "95%", "seconds"], rows))


if __name__ == "__main__":
    main(tyro.cli(Args))
