"""A policy in LIBERO and in the dream from the same `train` starts, moment beside moment, as one picture.

    python docs/proof_sheet.py --weights outputs/proof_cpu_round1/rate-0.0001/snapshots/00008.safetensors \
        --cells 0:1 3:4 5:5 --picture docs/proof_round1.webp
"""

from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import tyro
from proof_video import film

from prophet_gym.sims.start_frames import TRAIN_SEED
from prophrl_algos.cli.common import make_env, make_policy

WORLDS = {"LIBERO-Object-v0": TRAIN_SEED, "Prophet-LIBERO-v0": 0}
"""Each world, and the number of its first `train` start."""


@dataclass(frozen=True)
class Args:
    """Draw it."""

    weights: Path
    picture: Path
    policy: str = "small-k4"
    cells: tuple[str, ...] = ("0:1", "3:4", "5:5")
    """Task and start."""
    moments: int = 6
    chunks: int = 24
    """The last moment, in chunks of eight frames; an episode that ended before stands still."""


def main(args: Args) -> None:
    policy = make_policy(args.policy, make_env("Prophet-LIBERO-v0", 1, starts="train"), args.weights)
    rows = []
    for cell in args.cells:
        task, start = map(int, cell.split(":"))
        for world, first in WORLDS.items():
            frames, done = film(policy, world, {"task": task, "start": first + start}, starts="train")
            moments = np.linspace(0, 8 * args.chunks, args.moments).astype(int).clip(max=len(frames) - 1)
            rows.append(np.concatenate(frames[moments], 1))
            print(f"task {task}, start {start}, {world}: {'success' if done else 'failure'}")
    iio.imwrite(args.picture, np.concatenate(rows), quality=85)


if __name__ == "__main__":
    main(tyro.cli(Args))
