"""Train on some arms, adapt to another one, and compare on its test episodes.

    python -m experiments.other_arms.run --json experiments/other_arms/results.json

All models go through the same stages in as many steps; they differ in what they begin with, and in whether they see
where actions take the tool. Stages resume, and what is done already takes no time, so that `--models` of several
processes can share the work before one of them compares.
"""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prophet_gym._io.atomic import atomic_file
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.estimates import bootstrap
from prophet_gym.evaluation import evaluate_open_loop
from prophet_gym.evaluation._report import as_json, machine, summarise, write_json
from prophet_gym.train._robot import kept_out

THIRD = "UR5e"
CAMERAS = ("agentview", "frontview")


@dataclass(frozen=True)
class Model:
    """Say what a model begins with, whether it sees action frames, and whether it takes the steps of both trainings."""

    arms: tuple[str, ...] = ()
    frames: bool = True
    longer: bool = False


MODELS = {
    "two_arms": Model(("Panda", "Sawyer")),
    "two_arms_no_frames": Model(("Panda", "Sawyer"), frames=False),
    "panda": Model(("Panda",)),
    "panda_no_frames": Model(("Panda",), frames=False),
    "sawyer": Model(("Sawyer",)),
    "nothing": Model(),
    "nothing_no_frames": Model(frames=False),
    "nothing_longer": Model(longer=True),
}
"""Name each model; the last is a control that `--models` may leave out."""
PAIRS = {
    "two arms over Panda": ("two_arms", "panda"),
    "two arms over Sawyer": ("two_arms", "sawyer"),
    "two arms over nothing": ("two_arms", "nothing"),
    "Panda over nothing": ("panda", "nothing"),
    "two arms over nothing, as many steps in all": ("two_arms", "nothing_longer"),
    "two arms over Panda, no action frames": ("two_arms_no_frames", "panda_no_frames"),
    "two arms over nothing, no action frames": ("two_arms_no_frames", "nothing_no_frames"),
    "action frames, two arms": ("two_arms", "two_arms_no_frames"),
    "action frames, Panda": ("panda", "panda_no_frames"),
    "action frames, nothing": ("nothing", "nothing_no_frames"),
}
"""Compare the first model's dreams with the second's, episode by episode."""


def prophet(*words: str) -> None:
    """Run a command of prophet; SystemExit where it fails."""
    print("prophet", *words, flush=True)
    if subprocess.run([sys.executable, "-m", "prophet_gym", *words], check=False).returncode:
        raise SystemExit(f"prophet {' '.join(words)} failed")


def train(
    given: argparse.Namespace, arms: tuple[str, ...], out: Path, steps: int, begin: Path | None, *, frames: bool
) -> Path:
    """Train a model on some arms and return its checkpoint."""
    calibrated = given.recorded / THIRD
    words = ["train", "--data", *(f"lerobot:{given.sets / arm}_train" for arm in arms), "--cameras", *CAMERAS]
    words += ["--size", "64", "64", "--autoencoder-steps", str(steps), "--decoder-steps", str(steps * 3 // 8)]
    words += ["--steps", str(steps), "--warmup", "100", "--single-until", "0.45", "--device", "cpu", "--out", str(out)]
    words += ["--init-from", str(begin)] if begin else []
    tool = ["--urdf", str(calibrated / "tool.urdf"), "--tool-link", "tool"]
    words += [*tool, "--calibration", str(calibrated / "cameras.json")] if frames else []
    twin = out.with_name(out.name.replace("_no_frames", ""))
    if twin == out:
        prophet(*words)
    else:
        # The autoencoder sees no actions: it would be the same, to the bit.
        _lend(twin, out)
        for stage in ("transformer", "checkpoint"):
            prophet(*words, "--stage", stage)
    return out / "checkpoint"


def _lend(lender: Path, out: Path) -> None:
    """Copy a finished autoencoder and its latents into a run's folder; SystemExit where they are not finished."""
    if (out / "latents.npz").exists():
        return
    if not (lender / "latents.npz").exists():
        raise SystemExit(f"{lender} has no latents yet: train the model with action frames first")
    out.mkdir(parents=True, exist_ok=True)
    settings = json.loads((lender / "arguments.json").read_text())
    (out / "arguments.json").write_text(json.dumps({"latents": settings["latents"]}))
    shutil.copytree(lender / "autoencoder", out / "autoencoder", dirs_exist_ok=True)
    shutil.copy(lender / "latents.npz", out / "latents.npz")


def dreamt(given: argparse.Namespace, name: str) -> dict[int, Any]:
    """Return the scores of a model's dreams of the test episodes: [horizon][condition][metric] of each episode.

    A model that is not there yet is trained, and what was scored is kept beside it.
    """
    path = given.out / f"{name}.npz"
    if not path.exists():
        model, before = MODELS[name], None
        if model.arms:
            before = train(given, model.arms, given.out / f"before_{name}", given.steps, None, frames=model.frames)
        steps = given.adapt_steps + (given.steps if model.longer else 0)
        folder = train(given, (THIRD,), given.out / name, steps, before, frames=model.frames)
        checkpoint = Checkpoint.named(str(folder))
        chosen = f"lerobot:{given.sets / THIRD}_test,episodes={'+'.join(map(str, range(given.episodes)))}"
        episodes = kept_out(chosen, checkpoint, given.episodes)
        found = evaluate_open_loop(checkpoint.world_model("cpu"), episodes, given.horizons, spacing=48, progress=True)
        flat = {
            f"{horizon}/{condition}/{metric}": values
            for horizon, conditions in found.items()
            for condition, metrics in conditions.items()
            for metric, values in metrics.items()
        }
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **flat)  # pyright: ignore[reportArgumentType]
    scores: dict[int, Any] = {}
    for key, values in np.load(path).items():
        horizon, condition, metric = key.split("/")
        scores.setdefault(int(horizon), {}).setdefault(condition, {})[metric] = values
    return scores


def report(given: argparse.Namespace, scores: dict[str, dict[int, Any]]) -> dict[str, Any]:
    """Return the models' scores, the paired differences of their dreams' PSNR, and the errors of the calibration."""
    episodes = len(next(iter(scores.values()))[given.horizons[0]]["dream"]["psnr"])
    pairs: dict[str, Any] = {}
    errors = given.recorded.glob("*/pixel_errors.json")
    for label, (one, other) in PAIRS.items():
        if not {one, other} <= scores.keys():
            continue
        pairs[label] = {
            str(horizon): as_json(
                bootstrap(*(scores[name][horizon]["dream"]["psnr"] for name in (one, other)), statistic=np.subtract)
            )
            for horizon in given.horizons
        }
    return {
        "models": {name: summarise(found, episodes) for name, found in scores.items()},
        "pairs_psnr": pairs,
        "pixel_errors": {path.parent.name: json.loads(path.read_text()) for path in sorted(errors)},
        "episodes": episodes,
        "steps": given.steps,
        "adapt_steps": given.adapt_steps,
        "machine": machine(),
    }


def main() -> None:
    """Train, adapt and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recorded", type=Path, default=Path("outputs/arms/recorded"))
    parser.add_argument("--sets", type=Path, default=Path("outputs/arms/sets"))
    parser.add_argument("--out", type=Path, default=Path("outputs/arms/models"))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS], help="models to train and score")
    parser.add_argument("--steps", type=int, default=600, help="steps of the transformer before the third arm")
    parser.add_argument("--adapt-steps", type=int, default=300, help="steps of the transformer on the third arm")
    parser.add_argument("--episodes", type=int, default=40, help="test episodes")
    parser.add_argument("--horizons", type=int, nargs="+", default=[8, 64, 160])
    parser.add_argument("--json", type=Path, help="write the comparison of all models")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    scores = {name: dreamt(given, name) for name in given.models}
    if given.json:
        write_json(given.json, report(given, scores))


if __name__ == "__main__":
    main()
