"""Measure what "Your robot, end to end" takes: seconds, memory and data of every command, and what comes out.

    .venv-vla/bin/python -m benchmarks.robot.arm --writer lerobot --out outputs/robot/my_set --episodes 120
    python -m benchmarks.robot.tutorial --data outputs/robot/my_set --json benchmarks/results/robot/tutorial.json

`--minutes` are those of the transformer's training.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from prophet_gym.evaluation._report import machine
from prophet_gym.train._run_folder import steps_done

STEPS = {"autoencoder": 300, "decoder": 200, "transformer": 1_000}


def measured(words: list[str]) -> dict[str, Any]:
    """Run a command of prophet; return its seconds, those of all cores, and its largest memory in MB."""
    print("prophet", *words, flush=True)
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "prophet_gym", *words])
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"prophet {' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "command": words[0],
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "memory_mb": round(used.ru_maxrss / 1024),
    }


def main() -> None:
    """Run the commands and write what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("outputs/robot/tutorial"))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    data, model = f"lerobot:{given.data}", given.out / "checkpoint"
    train = [
        "train", "--data", data, "--cameras", "up", "side", "--init-from", "bundled", "--out", str(given.out),
        "--held-out", "8", "--autoencoder-steps", str(STEPS["autoencoder"]), "--decoder-steps", str(STEPS["decoder"]),
        "--steps", str(STEPS["transformer"]), "--minutes", str(given.minutes), "--device", "cpu",
    ]  # fmt: skip
    of = ["--data", data, "--world-model", str(model)]
    stages = ("autoencoder", "decoder", "latents", "transformer", "checkpoint")
    runs = [
        measured(["inspect", data, "--json", "-"]),
        *({**measured([*train, "--stage", stage]), "stage": stage} for stage in stages),
        measured(["train-reward", *of, "--out", str(model / "success_head"), "--held-out", "0.3"]),
        measured(["evaluate", *of, "--horizons", "8", "64", "--card", "--device", "cpu"]),
    ]
    evaluation = json.loads((model / "evaluation.json").read_text())
    found = {
        "data": described(given.data),
        "runs": runs,
        "machine": machine(),
        "minutes": given.minutes,
        "steps": {**STEPS, "taken": steps_done(given.out, "transformer")},
        "evaluation": {name: evaluation[name] for name in ("episodes", "horizons")},
        "reward": json.loads((model / "success_head" / "metrics.json").read_text())["held_out"],
        "model_mb": round(sum(path.stat().st_size for path in model.glob("*/*.safetensors")) / 1e6, 1),
    }
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=2) + "\n")


def described(data: Path) -> dict[str, Any]:
    """Return how much data there is."""
    info = json.loads((data / "meta" / "info.json").read_text())
    size = sum(path.stat().st_size for path in data.rglob("*") if path.is_file())
    return {
        "episodes": info["total_episodes"],
        "frames": info["total_frames"],
        "minutes": round(info["total_frames"] / info["fps"] / 60, 2),
        "mb": round(size / 1e6, 1),
    }


if __name__ == "__main__":
    main()
