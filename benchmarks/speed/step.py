"""Measure a step of the env as RL takes it, beside the same step of an earlier commit, and whether both dream the same.

    python -m benchmarks.speed.step --json benchmarks/results/speed/step.json

Each measurement is a process of its own, started in a checkout of its commit; commits take turns, and what is compared
is their ratio in this run. Steps are those of the bundled model with its success head, without a horizon, under random
actions. `--beside 1` keeps a core busy with something else, beside which this checkout alone is measured.
"""

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.speed.harness import ROOT, recorded

STEPS = """
import json, sys, time
import gymnasium as gym, numpy as np, prophet_gym
rows, seconds, options, out = int(sys.argv[1]), float(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4]
envs = gym.make_vec("Prophet-LIBERO-v0", num_envs=rows, max_episode_steps=None, **options)
rng = np.random.default_rng(0)
envs.reset(seed=0)
times, images, rewards = [], [], []
while len(times) < 4 or sum(times[1:]) < seconds:
    actions = rng.uniform(-0.3, 0.3, envs.action_space.shape).astype(np.float32)
    began = time.perf_counter()
    observation, reward, *_ = envs.step(actions)
    times.append(time.perf_counter() - began)
    if len(times) <= 4:
        images.append(observation["image"])
        rewards.append(reward)
np.savez(out, images=np.stack(images), rewards=np.stack(rewards), times=np.array(times[1:]))
"""


@dataclass(frozen=True)
class Args:
    """Configure the benchmark."""

    base: str = "f4e30db"
    """The earlier commit."""
    rows: tuple[int, ...] = (1, 16, 64)
    """Sub-environments at once."""
    seconds: float = 8.0
    """Time of each measurement, after one step that is not counted."""
    rounds: int = 3
    """Measurements of each."""
    beside: int = 0
    """Other processes that keep a core busy meanwhile."""
    options: str = '{"render": "chunk", "engine": "auto"}'
    """Arguments of `gym.make_vec` in this checkout, as JSON."""
    json: Path | None = None
    """Write the numbers to this file."""


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """Give a worktree of a commit, which is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", tree, commit], cwd=ROOT, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep so many processes computing."""
    processes = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()


def _spin() -> None:
    while True:
        pass


def run(tree: Path, rows: int, seconds: float, options: str, out: Path) -> dict[str, np.ndarray]:
    """Step in a process of its own, with the packages of this checkout."""
    command = [sys.executable, "-c", STEPS, str(rows), str(seconds), options, str(out)]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    subprocess.run(command, cwd=tree, env=environment, check=True, stderr=subprocess.DEVNULL)
    with np.load(out) as found:
        return dict(found)


def compared(before: list[dict[str, np.ndarray]], now: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Return how long both take, their ratio, and how far their dreams lie apart; without `before`, the time alone."""
    if not before:
        return {"now_ms": round(statistics.median(1000 * float(np.median(each["times"])) for each in now), 1)}
    medians = [[1000 * float(np.median(each["times"])) for each in runs] for runs in (before, now)]
    images = [runs[0]["images"].astype(int) for runs in (before, now)]
    return {
        "before_ms": round(statistics.median(medians[0]), 1),
        "now_ms": round(statistics.median(medians[1]), 1),
        "ratio": round(statistics.median(medians[0]) / statistics.median(medians[1]), 2),
        "ratios": [round(a / b, 2) for a, b in zip(*medians, strict=True)],
        "largest_difference": int(abs(images[0] - images[1]).max()),
        "same_rewards": bool((before[0]["rewards"] == now[0]["rewards"]).all()),
    }


def main(args: Args) -> None:
    json.loads(args.options)
    with recorded(args.json) as found, checkout(args.base) as base, tempfile.TemporaryDirectory() as scratch:
        found |= {"base": args.base, "options": args.options, "beside": args.beside}
        for rows in args.rows:
            runs: dict[Path, list[dict[str, np.ndarray]]] = {base: [], ROOT: []}
            for _ in range(args.rounds):
                for tree, done in runs.items():
                    if args.beside and tree == base:
                        continue
                    with busy(args.beside):
                        options = "{}" if tree == base else args.options
                        done.append(run(tree, rows, args.seconds, options, Path(scratch) / "steps.npz"))
            found[str(rows)] = compared(runs[base], runs[ROOT])
            print(f"{rows:3} sub-environments: {found[str(rows)]}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args))
