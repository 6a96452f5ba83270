"""Measure CPU time from `import` to the first step, with the light imports of diffusers and without.

    python benchmarks/first_step.py --json benchmarks/results/first_step.json

Each run is a process of its own; the two kinds take turns, and what is compared is their ratio.
"""

import json
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

STEP = """
import time
import gymnasium as gym, prophet_gym
env = gym.make("Prophet-LIBERO-v0")
env.reset(seed=0)
env.step(env.action_space.sample())
print(time.process_time(), len(__import__("sys").modules))
"""
KINDS = {
    "light": STEP,
    "plain": "import diffusers.hooks\nfrom diffusers.models.autoencoders import autoencoder_kl_wan\n"
    "from diffusers.models.transformers import transformer_cosmos\n" + STEP,
}


@dataclass(frozen=True)
class Args:
    """Configure the benchmark."""

    runs: int = 3
    """Processes of each kind."""
    json: Path | None = None
    """Write the numbers to this file."""


def measure(code: str) -> tuple[float, int]:
    """Return the CPU seconds of a process up to its first step, and the modules that it has imported by then."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, modules = done.stdout.split()[-2:]
    return float(seconds), int(modules)


def main(args: Args) -> None:
    """Measure both kinds in turn and print their medians and ratio."""
    runs = {kind: [] for kind in KINDS}
    for _ in range(args.runs):
        for kind, code in KINDS.items():
            runs[kind].append(measure(code))
    seconds = {kind: statistics.median(run[0] for run in those) for kind, those in runs.items()}
    found = {
        "cpu_seconds": seconds,
        "modules": {kind: those[0][1] for kind, those in runs.items()},
        "light_by_plain": seconds["light"] / seconds["plain"],
        "runs": args.runs,
        "python": platform.python_version(),
    }
    for kind in KINDS:
        print(f"{kind}: {seconds[kind]:.1f} CPU s to the first step, {found['modules'][kind]} modules")
    print(f"ratio: {found['light_by_plain']:.2f}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Args))
