"""How good a policy becomes under judges of every recall and precision, on a bandit whose best answer is known.

    python benchmarks/reward_robustness.py --json benchmarks/results/reward_robustness.json

An action is one normal number; above `goal` it succeeds. The policy is the mean, learnt by group-normalised policy
gradient (as FA-GRPO's advantages are) from the degraded judge alone; it begins with a success rate of Phi(-goal). What
stays fixed while it learns is the judge's recall and false positive rate: its precision is that at the beginning.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import tyro

from prophet_gym.cli.report import machine, table, write_json
from prophet_gym.rewards.degraded import degrade
from prophet_gym.rewards.robustness import Cell, grid, study


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


def train(cell: Cell, seed: int, args: Args) -> float:
    """True success rate after training."""
    rng = np.random.default_rng(seed)
    mean = 0.0
    for _ in range(args.updates):
        actions = mean + rng.normal(size=(args.groups, args.group_size))
        truth = (actions > args.goal).ravel()
        paid = degrade(truth, cell.recall, cell.false_positive_rate, rng).reshape(actions.shape).astype(float)
        advantages = (paid - paid.mean(1, keepdims=True)) / (paid.std(1, keepdims=True) + 1e-6)
        mean += args.learning_rate * float((advantages * (actions - mean)).mean())
    return 1.0 - NormalDist(mean).cdf(args.goal)


def main(args: Args) -> None:
    start = 1.0 - NormalDist().cdf(args.goal)
    cells = grid(args.recalls, args.precisions, start)
    found = study(lambda cell, seed: train(cell, seed, args), cells, range(args.seeds), progress=True)
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
