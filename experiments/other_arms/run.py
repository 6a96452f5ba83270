"""Train on two arms or one, adapt to a third, and compare on its test episodes.

    python -m experiments.other_arms.run --steps 4000 --adapt-steps 1500 --json experiments/other_arms/results.json

Every model goes through the same stages in as many steps; they differ in what they begin with (two arms, one, nothing),
and in whether the model sees where actions take the tool. Stages resume, and what is done already takes no time.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from prophet_gym.evaluation._report import machine

BEGINNINGS = {"two arms": ("Panda", "Sawyer"), "one arm": ("Panda",), "nothing": ()}
THIRD = "UR5e"
CAMERAS = ("agentview", "frontview")


def prophet(*words: str) -> None:
    """Run a command of prophet; SystemExit where it fails."""
    print("prophet", *words, flush=True)
    if subprocess.run([sys.executable, "-m", "prophet_gym", *words], check=False).returncode:
        raise SystemExit(f"prophet {' '.join(words)} failed")


def train(
    given: argparse.Namespace, sets: list[str], out: Path, steps: int, begin: Path | None, *, frames: bool
) -> Path:
    """Train a model on some sets and return its checkpoint."""
    calibrated = given.recorded / THIRD
    words = ["train", "--data", *(f"lerobot:{given.sets / name}" for name in sets), "--cameras", *CAMERAS]
    words += ["--size", "96", "96", "--autoencoder-steps", str(steps), "--decoder-steps", str(steps // 4)]
    words += ["--steps", str(steps), "--single-until", "0.45", "--device", "cpu", "--out", str(out)]
    words += ["--init-from", str(begin)] if begin else []
    tool = ["--urdf", str(calibrated / "tool.urdf"), "--tool-link", "tool"]
    prophet(*words, *([*tool, "--calibration", str(calibrated / "cameras.json")] if frames else []))
    return out / "checkpoint"


def main() -> None:
    """Train, adapt and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recorded", type=Path, default=Path("outputs/arms/recorded"))
    parser.add_argument("--sets", type=Path, default=Path("outputs/arms/sets"))
    parser.add_argument("--out", type=Path, default=Path("outputs/arms/models"))
    parser.add_argument("--steps", type=int, default=4000, help="steps of each stage before the third arm")
    parser.add_argument("--adapt-steps", type=int, default=1500, help="steps of each stage on the third arm")
    parser.add_argument("--horizons", type=int, nargs="+", default=[8, 64, 160])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    episodes = json.loads((given.sets / f"{THIRD}_test" / "meta" / "info.json").read_text())["total_episodes"]
    chosen = f"lerobot:{given.sets / f'{THIRD}_test'},episodes={'+'.join(map(str, range(episodes)))}"
    results: dict[str, Any] = {}
    for beginning, arms in BEGINNINGS.items():
        for frames in (True, False):
            name = f"{beginning.replace(' ', '_')}{'' if frames else '_no_frames'}"
            sets = [f"{arm}_train" for arm in arms]
            first = train(given, sets, given.out / f"{name}_before", given.steps, None, frames=frames) if arms else None
            model = train(given, [f"{THIRD}_train"], given.out / name, given.adapt_steps, first, frames=frames)
            found = given.out / f"{name}.json"
            horizons = list(map(str, given.horizons))
            prophet(
                "evaluate", "--data", chosen, "--world-model", str(model), "--horizons", *horizons, "--json", str(found)
            )
            results[name] = json.loads(found.read_text())
    errors = {path.parent.name: json.loads(path.read_text()) for path in given.recorded.glob("*/pixel_errors.json")}
    report = {"models": results, "pixel_errors": errors, "steps": given.steps, "adapt_steps": given.adapt_steps}
    if given.json:
        given.json.write_text(json.dumps(report | {"machine": machine()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
