"""Measure the success of the scripted experts in LIBERO, per task, from random placements.

    python benchmarks/experts.py --json benchmarks/results/experts.json

An episode counts when the task is done at its last frame. Nothing is rendered.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import tyro
from tqdm import tqdm

from prophet_gym.evaluation._report import table, write_json
from prophet_gym.sims._recorder import record_episode
from prophet_gym.sims.libero.simulator import LiberoSimulator


@dataclass(frozen=True)
class Args:
    suite: str = "libero_object"
    tasks: int = 10
    resets: int = 20
    seed: int = 7777
    """Of placements and scripts; recordings are made with other seeds."""
    json: Path | None = None


def wilson(successes: int, tries: int) -> tuple[float, float]:
    """95% Wilson interval of a rate."""
    z, rate = 1.96, successes / tries
    centre = (rate + z * z / (2 * tries)) / (1 + z * z / tries)
    half = z * math.sqrt(rate * (1 - rate) / tries + z * z / (4 * tries * tries)) / (1 + z * z / tries)
    return centre - half, centre + half


def main(args: Args) -> None:
    rows, found = [], []
    with tqdm(total=args.tasks * args.resets, desc="experts", unit="episode") as bar:
        for task in range(args.tasks):
            sim = LiberoSimulator(args.suite, task)
            episodes = []
            for index in range(args.resets):
                episodes.append(record_episode(sim, index, args.seed, "expert", render=False)[0])
                bar.update()
            sim.close()
            done = sum(bool(episode.sim.success[-1]) for episode in episodes)
            low, high = wilson(done, args.resets)
            steps = sum(map(len, episodes)) / args.resets
            found.append({"task": task, "instruction": episodes[0].instruction, "successes": done, "mean_steps": steps})
            rows.append([str(task), episodes[0].instruction, f"{done}/{args.resets}", f"{low:.2f} - {high:.2f}"])
    print(table(["task", "instruction", "done", "95%"], rows))
    write_json(args.json, {"suite": args.suite, "resets": args.resets, "seed": args.seed, "tasks": found})


if __name__ == "__main__":
    main(tyro.cli(Args))
