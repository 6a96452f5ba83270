"""Measure what action frames and history are worth on one LIBERO task, as in the paper's Table 3.

    prophet collect --suite libero_object --tasks 3 --episodes 100 --seed 2 --out outputs/one_task
    prophet collect --suite libero_object --tasks 3 --episodes 30 --starts official --out outputs/one_task_official
    python benchmarks/dual_conditioning.py --data outputs/one_task --held-out outputs/one_task_official \
        --out outputs/dual_conditioning --json benchmarks/results/dual_conditioning.json

Four transformers of the bundled size learn from the same clips in the same order for as many steps: with and without
the drawn gripper path, with and without the frames before the given ones. Autoencoder and gripper tracker are the
bundled ones; every arm reads the commands and the gripper's path as numbers. Arms resume, and may run in several
processes (`--arms ...`); the report holds those that are done.
"""

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from prophet_gym.checkpoint import Checkpoint
from prophet_gym.data import list_episodes, read_episode
from prophet_gym.data._latents import LatentEpisodes
from prophet_gym.evaluation import evaluate_open_loop
from prophet_gym.evaluation._report import evaluation_tables, machine, summarise, write_json
from prophet_gym.prophet import SmallConfig, SmallProphet, small_transformer
from prophet_gym.prophet._autoencoder import FrameAutoencoder
from prophet_gym.train._autoencoder import encode_episodes
from prophet_gym.train._dynamics import Rehearsal, train_transformer
from prophet_gym.train._fit import FitConfig

ARMS: dict[str, dict[str, Any]] = {
    "both": {},
    "no_action_frames": {"action_frames": None},
    "no_history": {"history_order": None},
    "neither": {"action_frames": None, "history_order": None},
}


@dataclass(frozen=True)
class Args:
    """Train and score the arms.

    Attributes:
        data: training episodes of one task.
        held_out: episodes to score on.
        out: folder for training states.
        json: the report.
        arms: those to train now.
        steps: optimizer steps of each arm.
        rows: chunks per step.
        horizons: frames to predict.
        device: cpu or cuda.
    """

    data: Path
    held_out: Path
    out: Path
    json: Path | None = None
    arms: tuple[str, ...] = field(default_factory=lambda: tuple(ARMS))
    steps: int = 2000
    rows: int = 16
    horizons: tuple[int, ...] = (8, 64, 160)
    device: str = "cpu"


def main(args: Args) -> None:
    """Train the arms that are asked for, then report all that are done."""
    unknown = sorted(set(args.arms) - set(ARMS))
    if unknown:
        raise ValueError(f"arms must be among {', '.join(ARMS)}, got {', '.join(unknown)}")
    base = SmallProphet.from_pretrained(Checkpoint.named("bundled").folder)
    args.out.mkdir(parents=True, exist_ok=True)
    latents = args.out / "latents.npz"
    if not latents.exists():
        assert isinstance(base.autoencoder, FrameAutoencoder)
        encode_episodes(list_episodes(args.data), base.autoencoder).save(latents)
    for arm in args.arms:
        if not (args.out / arm / "report.json").exists():
            score(train(base, LatentEpisodes.load(latents), arm, args), arm, args)
    done = {
        arm: json.loads((args.out / arm / "report.json").read_text())
        for arm in ARMS
        if (args.out / arm / "report.json").exists()
    }
    for arm, report in done.items():
        print(f"\n{arm}\n{evaluation_tables(report['horizons'])}")
    meta = json.loads((args.data / "meta.json").read_text())
    own = {"suite": meta["suite"], "tasks": meta["tasks"], "train_episodes": len(list_episodes(args.data))}
    held_out = len(list_episodes(args.held_out, evaluating=True))
    sizes = {"held_out_episodes": held_out, "steps": args.steps, "rows": args.rows}
    write_json(args.json, {**own, **sizes, "machine": machine(), "arms": done})


def train(base: SmallProphet, data: LatentEpisodes, arm: str, args: Args) -> SmallProphet:
    """Train one arm's transformer; the rest of the world model is the bundled one's."""
    assert isinstance(base.config, SmallConfig)
    assert base.tracker is not None
    torch.manual_seed(0)
    transformer = small_transformer(**ARMS[arm]).to(torch.device(args.device))
    schedule = FitConfig(args.steps, learning_rate=1e-3, ema=0.995)
    rehearsal = Rehearsal(args.rows, chunks=2, single_until=0.7)
    average = train_transformer(transformer, base.tracker, data, base.config, args.out / arm, schedule, rehearsal)
    return SmallProphet(average.to(torch.device("cpu")), base.autoencoder, base.tracker, replace(base.config))


def score(prophet: SmallProphet, arm: str, args: Args) -> None:
    """Dream the held-out episodes and write the arm's report."""
    episodes = [read_episode(path) for path in list_episodes(args.held_out, evaluating=True)]
    began = time.perf_counter()
    scores = evaluate_open_loop(prophet, episodes, args.horizons, spacing=64, progress=True)
    report = {"horizons": summarise(scores, len(episodes)), "seconds": round(time.perf_counter() - began, 1)}
    write_json(args.out / arm / "report.json", report)


if __name__ == "__main__":
    main(tyro.cli(Args))
