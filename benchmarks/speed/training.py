"""Measure training beside the same training by an earlier commit: samples per second, and the loss that both end with.

    prophet collect --suite libero_object --tasks 0 3 5 --episodes 6 --out outputs/speed
    python -m benchmarks.speed.training --data outputs/speed --json benchmarks/results/speed/training.json

Each measurement is a process of its own, started in a checkout of its commit; commits take turns, and what is compared
is their ratio in this run. Every third episode is held out: on these, the weights that both end with are compared in
float32. The start of a process up to its first step in the env is measured too.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import nn

from benchmarks.speed.harness import ROOT, matmul_peak, recorded
from benchmarks.speed.step import checkout
from prophet_gym.data._latents import LatentEpisodes
from prophet_gym.data._recording import list_episodes
from prophet_gym.prophet import SmallProphet, small_transformer
from prophet_gym.prophet._autoencoder import FrameAutoencoder
from prophet_gym.prophet._gripper import tracker_loss
from prophet_gym.train._autoencoder import _crop_loss, encode_episodes, load_footage
from prophet_gym.train._dynamics import Dreams, dream_loss, new_tracker
from prophrl_algos._demonstrations import read_demonstrations
from prophrl_algos.vla import SmallVLA

ROWS = {"autoencoder": 32, "decoder": 32, "tracker": 128, "transformer": 16, "SmallVLA": 64}
"""Samples of a step, as the commands have them by default."""
CHILD = Path(__file__).with_name("training_child.py")
START = """
import sys, time
began = time.perf_counter()
import gymnasium as gym, prophet_gym
env = gym.make("Prophet-LIBERO-v0")
env.reset(seed=0)
env.step(env.action_space.sample())
print(time.perf_counter() - began, time.process_time())
"""


@dataclass(frozen=True)
class Args:
    """Configure the benchmark."""

    data: Path
    """A recording of `prophet collect`."""
    base: str = "f4e30db"
    """The earlier commit."""
    stages: tuple[str, ...] = tuple(ROWS)
    """Train these stages."""
    steps: tuple[int, ...] = (40, 40, 40, 12, 12)
    """Optimizer steps of each stage."""
    rounds: int = 2
    """Measurements of each."""
    json: Path | None = None
    """Write the numbers to this file; stages that it has and that are not measured now are kept."""


def split(data: Path, folder: Path) -> None:
    """Copy a recording into `folder/train` and `folder/held`, every third episode into the latter, with latents."""
    paths = list_episodes(data)
    prophet: Any = SmallProphet.from_pretrained(ROOT / "prophet_gym" / "checkpoints" / "libero_small")
    for name, kept in (("held", paths[::3]), ("train", [path for n, path in enumerate(paths) if n % 3])):
        for path in kept:
            (folder / name / path.parent.name).mkdir(parents=True, exist_ok=True)
            for source in (path, path.with_suffix(".mp4")):
                shutil.copy(source, folder / name / path.parent.name)
        shutil.copy(data / "meta.json", folder / name)
        encode_episodes(kept, prophet.autoencoder).save(folder / f"{name}.npz")


def train(tree: Path, stage: str, steps: int, folder: Path, *, counted: bool = False) -> dict[str, Any]:
    """Train in a process of its own, with the packages of this checkout; return its step times, FLOP, weights."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, CHILD, stage, str(steps), str(folder), str(out), str(int(counted))]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    subprocess.run(command, cwd=tree, env=environment, check=True, stderr=subprocess.DEVNULL)
    return torch.load(out / "found.pt", weights_only=True)


def started(tree: Path) -> list[float]:
    """Return wall-clock and CPU seconds from a process's first import to its first step in the env."""
    done = subprocess.run(
        [sys.executable, "-c", START], cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [float(part) for part in done.stdout.split()[-2:]]


@torch.no_grad()
def validated(stage: str, weights: dict[str, torch.Tensor], folder: Path) -> float:
    """Return the loss in float32 on the held-out episodes, the same samples for all weights."""
    prophet: Any = SmallProphet.from_pretrained(ROOT / "prophet_gym" / "checkpoints" / "libero_small")
    generator = torch.Generator().manual_seed(0)
    if stage in ("autoencoder", "decoder"):
        model: Any = _loaded(FrameAutoencoder(), weights)
        footage = load_footage(list_episodes(folder / "held"), stride=3)
        return _crop_loss(footage, 256, "no")(model, 0, generator)[0].item()
    data = LatentEpisodes.load(folder / "held.npz")
    if stage == "tracker":
        model = _loaded(new_tracker(LatentEpisodes.load(folder / "train.npz"), prophet.config), weights)
        windows = data.draw(512, past=1, chunk=8, chunks=1, generator=generator)
        start, camera = windows.gripper[:, 0], torch.tensor(prophet.config.camera)
        told = windows.past_actions, windows.actions, windows.gripper[:, 1:], camera
        return tracker_loss(model, windows.past[:, -1], start, start, *told).item()
    if stage == "transformer":
        model = _loaded(small_transformer(), weights)
        dreams = Dreams.begin(data, prophet.tracker, 64, prophet.config.past_frames, generator)
        return dream_loss(model, prophet.tracker, data, prophet.config, dreams, generator)[0].item()
    policy = _loaded(SmallVLA(), weights)
    obs, actions = read_demonstrations(policy, [folder / "held"], modes=()).draw(256, generator)
    return policy.sft_loss(obs, actions, generator=generator).item()


def _loaded(model: nn.Module, weights: dict[str, torch.Tensor]) -> Any:
    model.load_state_dict(weights)
    return model.eval()


def compared(stage: str, steps: int, runs: dict[Path, list[dict[str, Any]]], folder: Path) -> dict[str, Any]:
    """Return samples per second of both, ratios by clock and by CPU time, and the losses that both end with."""
    rates, of_cpu = (
        [[ROWS[stage] / statistics.median(each[clock]) for each in done] for done in runs.values()]
        for clock in ("seconds", "cpu")
    )
    losses = [validated(stage, done[-1]["weights"], folder) for done in runs.values()]
    flop = train(ROOT, stage, 2, folder, counted=True)["flop"]
    return {
        "samples": ROWS[stage] * steps,
        "before": round(statistics.median(rates[0]), 1),
        "now": round(statistics.median(rates[1]), 1),
        "ratios": [round(b / a, 2) for a, b in zip(*rates, strict=True)],
        "cpu_ratios": [round(b / a, 2) for a, b in zip(*of_cpu, strict=True)],
        "losses": [round(loss, 5) for loss in losses],
        "gflop_a_sample": round(flop / ROWS[stage] / 1e9, 3),
        "gflops": [round(statistics.median(each) * flop / ROWS[stage] / 1e9, 1) for each in of_cpu],
    }


def main(args: Args) -> None:
    known = json.loads(args.json.read_text())["stages"] if args.json and args.json.exists() else {}
    with recorded(args.json) as found, checkout(args.base) as base, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        split(args.data, folder)
        found |= {"base": args.base, "bf16": bool(torch.cpu.get_capabilities().get("avx512_bf16")), "stages": known}
        starts = {tree: [started(tree) for _ in range(args.rounds + 1)][1:] for tree in (base, ROOT)}
        medians = [[round(statistics.median(part), 2) for part in zip(*runs, strict=True)] for runs in starts.values()]
        found["start"] = dict(zip(("before", "now"), medians, strict=True))
        for stage, steps in zip(args.stages, args.steps, strict=True):
            runs: dict[Path, list[dict[str, Any]]] = {base: [], ROOT: []}
            for _ in range(args.rounds):
                for tree, done in runs.items():
                    done.append(train(tree, stage, steps, folder))
            load = round(os.getloadavg()[0], 2)
            found["stages"][stage] = compared(stage, steps, runs, folder) | {"load": load}
            print(f"{stage}: {json.dumps(found['stages'][stage])}", flush=True)
        found["bf16_gflops"] = matmul_peak(kind="bfloat16")


if __name__ == "__main__":
    main(tyro.cli(Args))
