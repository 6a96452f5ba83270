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
from gymnasium.vector import VectorEnv, VectorWrapper
from jaxtyping import Bool, Float
from tqdm import tqdm

from prophet_gym.estimates import bootstrap
from prophet_gym.evaluation._report import machine, table, write_json


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


def degrade(
    truth: Bool[np.ndarray, " n"],
    recall: float | Float[np.ndarray, " n"],
    false_positive_rate: float | Float[np.ndarray, " n"],
    rng: np.random.Generator,
) -> Bool[np.ndarray, " n"]:
    """Draw outputs: True for a success with probability `recall`, for a failure with `false_positive_rate`."""
    for name, rate in (("recall", recall), ("false_positive_rate", false_positive_rate)):
        rates = np.asarray(rate)
        if rates.dtype.kind not in "iuf" or not np.all((rates >= 0) & (rates <= 1)):
            raise ValueError(f"{name} must be in [0, 1], got {rate}")
    return rng.random(len(truth)) < np.where(truth, recall, false_positive_rate)


def false_positive_rate(recall: float, precision: float, successes: float) -> float:
    """Return the false-positive rate that gives a precision, which depends on how often the policy succeeds."""
    if not (0 <= recall <= 1 and 0 < precision <= 1 and 0 < successes < 1):
        raise ValueError(
            "recall must be in [0, 1], precision in (0, 1], successes in (0, 1), "
            f"got {recall}, {precision}, {successes}"
        )
    rate = recall * successes * (1 - precision) / (precision * (1 - successes))
    if rate > 1:
        raise ValueError(
            f"with {successes:.0%} successes a reward model of recall {recall} has a precision of at least "
            f"{precision_of(recall, 1.0, successes):.3f}, asked for {precision}"
        )
    return rate


def precision_of(recall: float, false_positives: float, successes: float) -> float:
    """Return the precision that follows from the rates; NaN where nothing is ever rewarded."""
    rewarded = recall * successes + false_positives * (1 - successes)
    return recall * successes / rewarded if rewarded > 0 else float("nan")


class DegradedOracle(VectorWrapper):
    """Wrap an env whose reward of 1.0 is the truth (the simulator, or a toy), and make it wrong at given rates.

    An episode is scored once, when it ends: a success is rewarded 1.0 with probability `recall`, an episode that was
    cut off with probability `false_positive_rate`; every other step gets 0. `info["success"]` becomes what is rewarded
    and `info["true_success"]` is what happened. Sub-environments whose own reward was not scored stay as they are.
    """

    def __init__(self, env: VectorEnv, *, recall: float, false_positive_rate: float, seed: int = 0) -> None:
        """Wrap a vector env of arrays; `seed` is that of the errors until the first seeded reset."""
        super().__init__(env)
        if getattr(env.unwrapped, "gives_tensors", False):
            raise ValueError("DegradedOracle works on arrays, and this env gives tensors: wrap a ProphetVectorEnv")
        degrade(np.zeros(0, bool), recall, false_positive_rate, np.random.default_rng(0))
        self.recall, self.false_positive_rate = recall, false_positive_rate
        self._rng = np.random.default_rng(seed)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the env; a seed for every sub-environment also restarts the errors."""
        found = self.env.reset(seed=seed, options=options)
        seeds = np.atleast_1d(np.array(seed, dtype=object)).tolist()
        if all(each is not None for each in seeds):
            # the env draws from the same seeds, so the errors need a stream of their own
            self._rng = np.random.default_rng([*map(int, seeds), 1])
        return found

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step the env and replace its reward by the degraded one."""
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        ended = terminated | truncated
        truth = np.asarray(rewards >= 1.0)
        called = degrade(truth, self.recall, self.false_positive_rate, self._rng) & ended
        info = {**info, "true_success": truth & ended, "_true_success": np.ones(self.num_envs, bool)}
        every = known = np.ones(self.num_envs, bool)
        # Where the env resets in the same step, `final_info` tells of the episodes that ended.
        for told in (info, info.get("final_info", {})):
            if "scored" in told:
                known = np.where(told.get("_scored", every), told["scored"], known)
            if "success" in told:
                told["success"] = np.where(told.get("_success", every), called, told["success"])
        return observations, np.where(known, called.astype(np.float64), 0.0), terminated, truncated, info


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
