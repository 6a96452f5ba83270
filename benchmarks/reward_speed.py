"""Measure the time to score a batch of dreams beside the time to dream it, chunk by chunk, as the env does.

python benchmarks/reward_speed.py --json benchmarks/results/reward_speed.json
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from prophet_gym.checkpoint import Checkpoint
from prophet_gym.evaluation._report import machine, table, write_json


@dataclass(frozen=True)
class Args:
    checkpoint: str = "bundled"
    reward: str = "classifier"
    rows: int = 64
    chunks: int = 6
    """Measured, after one that is not counted."""
    device: str = "cpu"
    json: Path | None = None


def main(args: Args) -> None:
    checkpoint = Checkpoint.named(args.checkpoint)
    world_model = checkpoint.world_model(args.device)
    reward_model = checkpoint.reward_model(args.reward, args.device)
    if reward_model is None or reward_model.when != "chunk":
        raise ValueError(f"the reward model must be asked after every chunk, {args.reward!r} is not")
    starts = checkpoint.initial_states("train")
    chosen = [starts[row % len(starts)] for row in range(args.rows)]
    frames = torch.from_numpy(np.stack([start.frames[-1:] for start in chosen]))
    texts = [start.instruction for start in chosen]
    generators = [torch.Generator().manual_seed(row) for row in range(args.rows)]
    rng = np.random.default_rng(0)
    state, seen = world_model.encode(frames), frames
    dreaming, scoring = [], []
    for _ in range(args.chunks + 1):
        actions = rng.uniform(-1, 1, (args.rows, world_model.chunk, world_model.action_dim)).astype(np.float32)
        began = time.perf_counter()
        chunk = world_model.rollout(state, torch.from_numpy(actions), generators=generators)
        new = chunk.frames.cpu()
        dreaming.append(time.perf_counter() - began)
        state, seen = chunk.state, torch.cat([seen, new], dim=1)
        windows = list(seen[:, :: reward_model.stride][:, -reward_model.max_frames :])
        began = time.perf_counter()
        reward_model.score(windows, texts)
        scoring.append(time.perf_counter() - began)
    dream, scored = statistics.median(dreaming[1:]), statistics.median(scoring[1:])
    rows = [["dream", f"{dream:.3f}"], ["score", f"{scored:.3f}"], ["score / dream", f"{scored / dream:.3f}"]]
    print(table([f"{args.rows} dreams, one chunk", "s"], rows))
    report = {"rows": args.rows, "reward_model": args.reward, "dream_seconds": dream, "reward_model_seconds": scored}
    write_json(args.json, report | {"ratio": scored / dream, "device": args.device, "machine": machine()})


if __name__ == "__main__":
    main(tyro.cli(Args))
