"""Dream a scene: lower the open gripper, close it, lift it, and write the dream to a video.

    python examples/01_first_dream.py
    python examples/01_first_dream.py --tiny     # an untrained model, in a second: only shows that it runs

Expected output (the instruction is the task's, here that of --task 3):

    pick up the bbq sauce and place it in the basket
    15 chunks, 120 frames dreamt
    wrote outputs/first_dream.mp4
"""

from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import tyro

import prophet_gym  # noqa: F401 registers the ids


@dataclass(frozen=True)
class Args:
    """Dream one scene."""

    out: Path = Path("outputs/first_dream.mp4")
    task: int = 3
    """Task of libero_object."""
    seed: int = 0
    tiny: bool = False
    """An untrained tiny model instead of the bundled one."""


def tiny_env() -> gym.Env:
    """Build an untrained env: episodes of two chunks, 64x64 pixels."""
    from prophet_gym.envs import ProphetEnv
    from prophet_gym.prophet import tiny_prophet
    from prophet_gym.specs import InitialState

    start = InitialState(np.full((1, 64, 64, 3), 100, np.uint8), "pick up nothing", task=3)
    return ProphetEnv(tiny_prophet(), [start], max_episode_steps=2)


def chunk_of(direction: tuple[float, float, float], gripper: float) -> np.ndarray:
    """Repeat one action eight times: x, y, z in [-1, 1] (1 is 5 cm), no turning, gripper -1 open or +1 closed."""
    return np.tile(np.array([*direction, 0, 0, 0, gripper], np.float32), (8, 1))


def main(args: Args) -> None:
    """Run the example."""
    env = tiny_env() if args.tiny else gym.make("Prophet-LIBERO-v0")
    observation, info = env.reset(seed=args.seed, options={"task": args.task})
    print(info["instruction"])
    video = [observation["image"]]
    motion = [((0.1, 0, -0.4), -1.0)] * 6 + [((0, 0, 0), 1.0)] * 3 + [((0, 0, 0.4), 1.0)] * 6
    chunks = 0
    for direction, gripper in motion:
        _, _, terminated, truncated, info = env.step(chunk_of(direction, gripper))
        video.extend(info["frames"][: info["executed"]])
        chunks += 1
        if terminated or truncated:
            break
    env.close()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    imageio.mimwrite(args.out, video, fps=20, macro_block_size=2)
    print(f"{chunks} chunks, {len(video) - 1} frames dreamt\nwrote {args.out}")


if __name__ == "__main__":
    main(tyro.cli(Args))
