"""Measure a step of the env of `prophet serve` beside the same step of a local env, and what clients gain together.

    python -m benchmarks.remote --json benchmarks/results/speed/remote.json

The server is a process of its own on this machine. Both envs take the same steps in turns, so that a ratio is one of
neighbours in time; images are compared, which are equal to the bit where one client fills the batch. Then so many
clients of one sub-environment each step at the same time, one after the other, and as one client of so many, in turns.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.speed.harness import recorded
from prophet_gym.factory import make_vector_env
from prophet_gym.serve import RemoteProphetVectorEnv
from prophet_gym.serve._batching import RECENT

ROUNDS = 3


@dataclass(frozen=True)
class Args:
    """Configure the benchmark."""

    checkpoint: str = "bundled"
    device: str = "cpu"
    rows: tuple[int, ...] = (1, 4, 16)
    """Sub-environments of one client."""
    steps: int = 12
    """Measured in each env, after one that is not counted."""
    clients: int = 8
    """Clients of one sub-environment each."""
    json: Path | None = None


@contextmanager
def server(args: Args) -> Iterator[str]:
    """Run `prophet serve`; give its address. The token is in the environment."""
    with tempfile.TemporaryDirectory() as folder:
        token = Path(folder) / "token"
        command = [sys.executable, "-m", "prophet_gym", "serve", "--world-model", args.checkpoint, "--port", "0"]
        command += ["--device", args.device, "--token-file", str(token)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            url = process.stdout.readline().split(" at ")[-1].strip()
            os.environ["PROPHET_TOKEN"] = token.read_text()
            yield url
        finally:
            process.terminate()
            process.wait()


def actions_of(envs: Any, steps: int) -> np.ndarray:
    shape = (steps, *envs.action_space.shape)
    return np.random.default_rng(0).uniform(-0.3, 0.3, shape).astype(np.float32)


def beside(args: Args, url: str, rows: int, render: str) -> dict[str, Any]:
    """Step both envs in turns; return the times, and how far the images differ."""
    options = {"render": render, "max_episode_steps": None}
    local = make_vector_env(rows, weights=args.checkpoint, device=args.device, **options)
    remote = RemoteProphetVectorEnv(url, rows, **options)
    local.reset(seed=0), remote.reset(seed=0)
    times: dict[str, list[float]] = {"local": [], "remote": [], "way": []}
    apart = 0
    for action in actions_of(local, args.steps + 1):
        seen = {}
        for name, envs in (("local", local), ("remote", remote)):
            began = time.perf_counter()
            seen[name] = envs.step(action)[0]["image"].astype(int)
            times[name].append(1000 * (time.perf_counter() - began))
        times["way"].append(times["remote"][-1] - remote.served["ms"])
        apart = max(apart, int(np.abs(seen["local"] - seen["remote"]).max()))
    remote.close()
    ratios = [there / here for here, there in zip(times["local"][1:], times["remote"][1:], strict=True)]
    found = {f"{name}_ms": round(statistics.median(each[1:]), 2) for name, each in times.items()}
    quarters = statistics.quantiles(ratios, n=4)
    return found | {
        "ratio": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(quarters[0], 3), round(quarters[2], 3)],
        "largest_difference": apart,
    }


def together(args: Args, url: str) -> dict[str, Any]:
    """Return chunks per second of clients that step at the same time, one after the other, and as one client."""
    options: dict[str, Any] = {"render": "chunk", "max_episode_steps": None}
    clients = [RemoteProphetVectorEnv(url, 1, **options) for _ in range(args.clients)]
    one = RemoteProphetVectorEnv(url, args.clients, **options)
    for envs in (*clients, one):
        envs.reset(seed=0)
    batches: list[int] = []
    means: list[float] = []
    rates: dict[str, list[float]] = {"together": [], "in_turn": [], "one_client": []}

    def play(envs: RemoteProphetVectorEnv) -> None:
        for action in actions_of(envs, args.steps // ROUNDS):
            envs.step(action)
            batches.append(envs.served["batch"])

    with ThreadPoolExecutor(args.clients) as threads:
        # The three take turns, so that a ratio is one of neighbours in time.
        for name in ("together", "in_turn", "one_client") * ROUNDS:
            time.sleep(1.5 * RECENT)  # nobody is waited for any more
            batches.clear()
            began = time.perf_counter()
            if name == "together":
                list(threads.map(play, clients))
            else:
                list(map(play, clients if name == "in_turn" else [one]))
            chunks = args.clients * (args.steps // ROUNDS)
            rates[name].append(chunks / (time.perf_counter() - began))
            means += [statistics.mean(batches)] if name == "together" else []
    for envs in (*clients, one):
        envs.close()
    found = {f"{name}_chunks_per_s": round(statistics.median(each), 2) for name, each in rates.items()}
    gains = [each / alone for each, alone in zip(rates["together"], rates["in_turn"], strict=True)]
    found |= {"gain": round(statistics.median(gains), 2), "mean_batch": round(statistics.mean(means), 2)}
    return {"clients": args.clients, "gains": [round(each, 2) for each in gains]} | found


def main(args: Args) -> None:
    with recorded(args.json) as found, server(args) as url:
        for render in ("chunk", "step"):
            found[render] = {str(rows): beside(args, url, rows, render) for rows in args.rows}
            for rows, each in found[render].items():
                print(f"render={render}, {rows} sub-environments: {each}", flush=True)
        found["clients"] = together(args, url)
        print(found["clients"], flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args))
