"""Measure frames per second of the dream and of the simulator, on one machine in one run.

    python -m benchmarks.small_env --json benchmarks/results/small_env.json

Both are driven through their vector envs with the same random actions; a frame is one action (1/20 s of the scene).
Every number is `rows * 8 / median time of a step`, after one step that is not counted. The dream shows every frame by
PyTorch, as `gym.make` does unless told otherwise, or what RL looks at by the fastest engine, as `prophrl` does. The
simulator is measured on one core and on all (one process per row), drawing every frame or only the last of every chunk
of eight; and as LIBERO's own `OffScreenRenderEnv`, which draws every frame, as its users run it.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.speed.harness import recorded

DREAMS = {"every_frame": {}, "as_rl_steps": {"render": "chunk", "engine": "auto"}}
OWN = """
import os, sys, time
import numpy as np
from prophet_gym.sims.libero.simulator import LiberoSimulator
task, size, cameras, seconds = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(","), float(sys.argv[4])
LiberoSimulator.require("official")
from libero.libero import benchmark
from libero.libero.envs import OffScreenRenderEnv
sys.modules["robosuite"].macros = sys.modules["robosuite.macros"]
bddl = benchmark.get_benchmark("libero_object")().get_task_bddl_file_path(task)
env = OffScreenRenderEnv(
    bddl_file_name=bddl, camera_heights=size, camera_widths=size, camera_names=cameras, ignore_done=True
)
env.seed(0)
env.reset()
rng = np.random.default_rng(0)
times = []
while len(times) < 9 or sum(times[1:]) < seconds:
    action = rng.uniform(-0.3, 0.3, 7)
    began = time.perf_counter()
    env.step(action)
    times.append(time.perf_counter() - began)
print("rate", 1 / np.median(times[1:]), flush=True)
os._exit(0)  # robosuite's contexts complain when they are collected at the end
"""
"""LIBERO's own env in a process of its own."""


@dataclass(frozen=True)
class Args:
    """Configure the benchmark."""

    checkpoint: str = "bundled"
    """World model."""
    rows: tuple[int, ...] = (1, 4, 16)
    """Dreams at once."""
    looks: tuple[str, ...] = ("light", "official")
    """Looks of the simulator; none skips it."""
    sizes: tuple[int, ...] = (128, 256)
    """Sides of the simulator's frames, in pixels."""
    seconds: float = 10.0
    """Time for each number."""
    device: str = "cpu"
    """Compute dreams on this device."""
    task: int = 3
    """Task of LIBERO-Object."""
    json: Path | None = None
    """Write the numbers to this file."""


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


def dream(args: Args, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rates of dreams, by their number at once."""
    from prophet_gym.checkpoint import Checkpoint
    from prophet_gym.factory import make_vector_env

    reward = "success" if (Checkpoint.named(args.checkpoint).folder / "success_head").is_dir() else None
    found: dict[str, Any] = {"reward": reward, "options": dict(options)}
    for rows in args.rows:
        envs = make_vector_env(
            rows, weights=args.checkpoint, reward=reward, device=args.device, max_episode_steps=None, **options
        )
        found[str(rows)] = measure(envs, args.seconds, {})
        envs.close()
        report("dream", f"{rows} rows {dict(options) or ''}", found[str(rows)])
    return found


def simulator(args: Args, look: str, size: int) -> dict[str, Any]:
    """Return the rates of our simulator, by what is drawn and by the number of processes."""
    from prophet_gym.sims.env import SimulatorVectorEnv

    found: dict[str, Any] = {}
    for name, render in (("every_frame", "step"), ("once_per_chunk", "chunk")):
        found[name] = {}
        for workers in sorted({1, os.cpu_count() or 1}):
            envs = SimulatorVectorEnv(
                "libero_object", workers, look=look, size=size, render=render, max_episode_steps=None,
                workers=0 if workers == 1 else workers,
            )  # fmt: skip
            found[name][str(workers)] = measure(envs, args.seconds, {"task": args.task})
            envs.close()
            report(f"{look}, {size}", f"{name.replace('_', ' ')}, {workers} processes", found[name][str(workers)])
    return found


def own_env(args: Args, size: int, cameras: Sequence[str]) -> dict[str, Any]:
    """Return the rates of LIBERO's own env, all processes together, by their number."""
    found = {}
    for count in sorted({1, os.cpu_count() or 1}):
        command = [sys.executable, "-c", OWN, str(args.task), str(size), ",".join(cameras), str(args.seconds)]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
        rates = [float(process.communicate()[0].split("rate")[-1]) for process in running]
        found[str(count)] = {"frames_per_second": round(sum(rates), 2)}
        report(f"own, {size}", f"{len(cameras)} camera(s), {count} processes", found[str(count)])
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
    with recorded(args.json) as found:
        found |= {"checkpoint": args.checkpoint, "device": args.device}
        found["dream"] = {name: dream(args, options) for name, options in DREAMS.items()}
        found["libero"] = {f"{look} {size}": simulator(args, look, size) for look in args.looks for size in args.sizes}
        if args.looks:
            cameras = ("agentview", "robot0_eye_in_hand")
            found["own"] = {
                f"{size}, {count} camera(s)": own_env(args, size, cameras[:count])
                for size in args.sizes
                for count in (1, 2)
            }
        found["ratios"] = {name: ratios(found["dream"][name], found["libero"], args.rows) for name in found["dream"]}
        for name, ratio in found["ratios"]["as_rl_steps"].items():
            print(f"dream as RL steps by simulator ({name}): {ratio:.2f}")


if __name__ == "__main__":
    main(tyro.cli(Args))
