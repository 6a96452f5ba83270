"""Measure how good a policy becomes under rewards of every recall and precision, on a bandit of known best answer.

    python benchmarks/reward_robustness.py --json benchmarks/results/reward_robustness.json

An action is one normal number; above `goal` it succeeds. The policy is the mean, learnt by group-normalised policy
gradient (as FA-GRPO's advantages are) from the degraded reward alone; it begins with a success rate of Phi(-goal).
Recall and false-positive rate stay fixed while it learns: the precision is that at the beginning.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import tyro
from tqdm import tqdm

from prophet_gym.estimates import bootstrap
from prophet_gym.evaluation._report import machine, table, write_json
from prophet_gym.rewards import degrade, false_positive_rate


@dataclass(frozen=True)
class Args:
    recalls: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)
    precisions: tuple[float, ...] = (0.3, 0.5, 0.7, 0.9, 1.0)
    goal: float = 1.0
    updates: int = 100
    groups: int = 8
    group_size: int = 8
    learning_rate: float = 0.05
    seeds: int = 8
    json: Path | None = None


@dataclass(frozen=True)
class Cell:
    """Hold a reward of the grid, whose recall and false-positive rate stay fixed in a run."""

    recall: float
    precision: float
    false_positive_rate: float


def grid(recalls: Sequence[float], precisions: Sequence[float], successes: float) -> list[Cell]:
    """Return all cells that can exist at this success rate; with many successes, low precision is out of reach."""
    cells = []
    for recall in recalls:
        for precision in precisions:
            try:
                cells.append(Cell(recall, precision, false_positive_rate(recall, precision, successes)))
            except ValueError:
                if not (0 <= recall <= 1 and 0 < precision <= 1 and 0 < successes < 1):
                    raise
    return cells


def study(run: Callable[[Cell, int], float], cells: Sequence[Cell], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Run every cell with every seed; return its numbers, `outcomes` and their mean with a 95% bootstrap interval."""
    found = []
    for cell in tqdm(cells, desc="cells"):
        outcomes = [float(run(cell, seed)) for seed in seeds]
        estimate = bootstrap(np.array(outcomes))
        found.append(
            asdict(cell) | {"outcomes": outcomes, "mean": estimate.mean, "low": estimate.low, "high": estimate.high}
        )
    return found


def train(cell: Cell, seed: int, args: Args) -> float:
    """True success rate after training."""
    rng = np.random.default_rng(seed)
    mean = 0.0
    for _ in range(args.updates):
        actions = mean + rng.normal(size=(args.groups, args.group_size))
        truth = (actions > args.goal).ravel()
        reward = degrade(truth, cell.recall, cell.false_positive_rate, rng).reshape(actions.shape).astype(float)
        advantages = (reward - reward.mean(1, keepdims=True)) / (reward.std(1, keepdims=True) + 1e-6)
        mean += args.learning_rate * float((advantages * (actions - mean)).mean())
    return 1.0 - NormalDist(mean).cdf(args.goal)


def main(args: Args) -> None:
    start = 1.0 - NormalDist().cdf(args.goal)
    cells = grid(args.recalls, args.precisions, start)
    found = study(lambda cell, seed: train(cell, seed, args), cells, range(args.seeds))
    by_cell = {(row["recall"], row["precision"]): row for row in found}
    rows = []
    for recall in args.recalls:
        cells_of = [by_cell.get((recall, precision)) for precision in args.precisions]
        rows.append([f"recall {recall:g}", *("-" if row is None else f"{row['mean']:.2f}" for row in cells_of)])
    print(f"true success rate after {args.updates} updates, {start:.2f} at the beginning; columns: precision\n")
    print(table(["", *(f"{precision:g}" for precision in args.precisions)], rows))
    settings = {
        key: getattr(args, key) for key in ("goal", "updates", "groups", "group_size", "learning_rate", "seeds")
    }
    write_json(args.json, {"start": start, **settings, "cells": found, "machine": machine()})


if __name__ == "__main__":
    main(tyro.cli(Args))
