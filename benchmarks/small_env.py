"""Measure frames per second of the dream and of the simulator, on one machine in one run.

    python benchmarks/small_env.py --json benchmarks/results/small_env.json

Both are driven through their vector envs with the same random commands; a frame is one action (1/20 s of the scene).
Every number is `rows * 8 / median time of a step`, after one step that is not counted. The simulator is measured
on one core and on all (one process per row), drawing every frame or only the last of every chunk of eight.
"""

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro


@dataclass(frozen=True)
class Args:
    checkpoint: str = "bundled"
    rows: tuple[int, ...] = (1, 4, 16)
    """Dreams at once."""
    looks: tuple[str, ...] = ("light",)
    """Looks of the simulator; none skips it."""
    seconds: float = 10.0
    """Time for each number."""
    device: str = "cpu"
    task: int = 3
    json: Path | None = None


def measure(envs: Any, seconds: float, reset: Mapping[str, Any]) -> dict[str, float]:
    """Step an env with random commands until the time is over, at least three times."""
    rng = np.random.default_rng(0)
    envs.reset(seed=0, options=dict(reset))
    actions = rng.uniform(-0.3, 0.3, envs.action_space.shape).astype(np.float32)
    envs.step(actions)
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        actions = rng.uniform(-0.3, 0.3, envs.action_space.shape).astype(np.float32)
        began = time.perf_counter()
        envs.step(actions)
        times.append(time.perf_counter() - began)
    frames = envs.num_envs * envs.single_action_space.shape[0]
    return {
        "frames_per_second": round(frames / statistics.median(times), 2),
        "step_ms": round(1000 * statistics.median(times), 2),
        "fastest_step_ms": round(1000 * min(times), 2),
        "steps": len(times),
    }


def dream(args: Args) -> dict[str, Any]:
    from prophet_gym.checkpoint import Checkpoint
    from prophet_gym.factory import make_vector_env

    reward = "success" if (Checkpoint.named(args.checkpoint).folder / "success_head").is_dir() else None
    found: dict[str, Any] = {"judge": reward}
    for rows in args.rows:
        envs = make_vector_env(rows, weights=args.checkpoint, reward=reward, device=args.device, max_episode_steps=None)
        found[str(rows)] = measure(envs, args.seconds, {})
        envs.close()
        report("dream", f"{rows} rows", found[str(rows)])
    return found


def simulator(args: Args, look: str) -> dict[str, Any]:
    from prophet_gym.sims.env import SimulatorVectorEnv

    cores = os.cpu_count() or 1
    found: dict[str, Any] = {}
    for name, render in (("every_frame", "step"), ("once_per_chunk", "chunk")):
        found[name] = {}
        for workers in sorted({1, cores}):
            envs = SimulatorVectorEnv(
                "libero_object", workers, look=look, render=render, max_episode_steps=None,
                workers=0 if workers == 1 else workers,
            )  # fmt: skip
            found[name][str(workers)] = measure(envs, args.seconds, {"task": args.task})
            envs.close()
            report(f"simulator, {look}", f"{name.replace('_', ' ')}, {workers} processes", found[name][str(workers)])
    return found


def ratios(dreams: Mapping[str, Any], simulated: Mapping[str, Any], rows: Sequence[int]) -> dict[str, float]:
    """Return the dream's rate by the best rate of the simulator, per look, drawing and number of dreams."""
    found = {}
    for look, drawings in simulated.items():
        for name, processes in drawings.items():
            best = max(measured["frames_per_second"] for measured in processes.values())
            for count in rows:
                found[f"{look}, {name}, {count} rows"] = round(dreams[str(count)]["frames_per_second"] / best, 2)
    return found


def report(what: str, how: str, measured: Mapping[str, float]) -> None:
    print(f"{what:<12}  {how:<28}  {measured['frames_per_second']:8.1f} frames/s", flush=True)


def main(args: Args) -> None:
    import torch

    from prophet_gym.evaluation._report import machine, write_json

    load_before = os.getloadavg()[0]
    dreams = dream(args)
    simulated = {look: simulator(args, look) for look in args.looks}
    by = ratios(dreams, simulated, args.rows)
    for name, ratio in by.items():
        print(f"dream by simulator ({name}): {ratio:.2f}")
    write_json(
        args.json,
        {
            "checkpoint": args.checkpoint,
            "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else args.device,
            "threads": torch.get_num_threads(),
            "load_before": round(load_before, 2),
            "dream": dreams,
            "libero": simulated,
            "ratios": by,
            "machine": machine(),
        },
    )


if __name__ == "__main__":
    main(tyro.cli(Args))
