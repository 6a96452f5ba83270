"""Check that memory does not grow over many chunks with random resets.

    python benchmarks/soak.py --json benchmarks/results/soak.json     # 10,000 chunks of a tiny untrained Prophet
    python benchmarks/soak.py --checkpoint bundled --chunks 1300 --json benchmarks/results/soak_bundled.json

A chunk is one step of one row. Rows are reset at random by masks, and by success at random; the growth is of resident
memory from after a tenth of the chunks to the end. Before it is read, the C library is asked to give free pages back
(`malloc_trim`): otherwise it is the allocator that is measured, which keeps freed memory of the model's temporaries.
"""

import ctypes
import gc
import json
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tyro

from prophet_gym.envs import InitialStates, ProphetVectorEnv
from prophet_gym.rewards import FunctionReward
from prophet_gym.specs import InitialState
from prophet_gym.world_model import WorldModel


@dataclass(frozen=True)
class Args:
    checkpoint: str = "tiny"
    """`tiny` (untrained), or weights as in `gym.make`."""
    chunks: int = 10_000
    rows: int = 64
    seed: int = 0
    json: Path | None = None


def load(checkpoint: str) -> tuple[WorldModel, InitialStates]:
    if checkpoint == "tiny":
        from prophet_gym.prophet import tiny_prophet

        rng = np.random.default_rng(0)
        frames = rng.integers(0, 256, (8, 2, 64, 64, 3), dtype=np.uint8)
        return tiny_prophet(), InitialStates(
            InitialState(clip, "lift", index=index) for index, clip in enumerate(frames)
        )
    from prophet_gym.checkpoint import Checkpoint

    found = Checkpoint.named(checkpoint)
    return found.world_model(), found.initial_states("train")


def megabytes() -> float:
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss / 2**20


def soak(model: WorldModel, starts: InitialStates, chunks: int, rows: int, seed: int) -> dict[str, Any]:
    """Drive the env and watch its memory."""
    reward_model = FunctionReward(lambda video, _: float(int(video[-1].sum()) % 23 == 0), stride=4, max_frames=16)
    envs = ProphetVectorEnv(
        model, starts, rows, reward_model=reward_model, max_episode_steps=20, autoreset_mode="SameStep"
    )
    rng = np.random.default_rng(seed)
    envs.reset(seed=seed)
    done, resets = 0, 0
    watched: list[float] = []
    began = time.perf_counter()
    while done < chunks:
        envs.step(rng.uniform(-1, 1, envs.action_space.shape).astype(np.float32))
        done += rows
        mask = rng.random(rows) < 0.05
        if mask.any():
            envs.reset(options={"reset_mask": mask})
            resets += int(mask.sum())
        if not watched or done * 20 // chunks > len(watched):
            watched.append(megabytes())
    watched.append(megabytes())
    warm = watched[len(watched) // 10]
    return {
        "chunks": done,
        "rows": rows,
        "resets": resets,
        "rss_mb_warm": round(warm, 1),
        "rss_mb_end": round(watched[-1], 1),
        "rss_mb_peak": round(max(watched), 1),
        "rss_mb_highest_within_a_step": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1),
        "growth": round(watched[-1] / warm - 1, 4),
        "seconds": round(time.perf_counter() - began, 1),
    }


def main(args: Args) -> None:
    found = {"checkpoint": args.checkpoint, **soak(*load(args.checkpoint), args.chunks, args.rows, args.seed)}
    print(json.dumps(found, indent=2))
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found | {"args": asdict(args) | {"json": str(args.json)}}, indent=2) + "\n")
    if found["growth"] >= 0.05:
        raise SystemExit("resident memory grew by 5 % or more")


if __name__ == "__main__":
    main(tyro.cli(Args))
