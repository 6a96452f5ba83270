"""Train Stable-Baselines3's PPO in the dream to bring the gripper to a marked place, rewarded from pixels alone.

    python examples/03_reach_with_sb3.py --tiny     # an untrained model, in seconds: only shows that it runs
    python examples/03_reach_with_sb3.py --chunk-steps 30000

Every episode has a mark. PPO sees the last frame with the mark painted into it, and how far the mark is from where a
detector sees the gripper. Its two dimensions, sideways and forward, are held for a chunk. The reward is 1 at the mark,
0 a quarter of the image away. `experiments/reach_with_ppo` repeats this over seeds and in LIBERO.
Expected output of --tiny (the returns depend on the machine):

    4 sub-environments, 64 chunk-steps
    32 chunk-steps: mean return ...
    64 chunk-steps: mean return ...
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import torch
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor

from prophet_gym.envs import OneActionPerChunkVector, ProphetVectorEnv, View, ViewedVector
from prophet_gym.interop.sb3 import Sb3VecEnv
from prophet_gym.prophet import SmallProphet
from prophet_gym.prophet._action_frames import project
from prophet_gym.rewards import FindGripper, ReachReward, mark_of, reach_instruction
from prophet_gym.specs import InitialState

MARKED = ((0.2, 0.8), (0.27, 0.45))
"""Put marks here, right and down: within reach at the height of the start, above all objects."""
DIMS, REST = (1, 0), (0, 0, 0, 0, 0, 0, -1)
"""Chosen are y (right in the image) and x (towards the camera); nothing turns, the gripper is open."""
CHUNKS, SIZE = 8, 64


@dataclass(frozen=True)
class Args:
    """Train a policy."""

    chunk_steps: int = 30_000
    num_envs: int = 16
    seed: int = 0
    tiny: bool = False
    """An untrained tiny model instead of the bundled one."""


def finder(world: SmallProphet) -> FindGripper:
    """Build a detector that finds the gripper in single frames, dreamt or recorded, by the world model's own."""
    camera = torch.tensor(world.config.camera)
    return lambda frames: project(world.see_gripper(frames), camera)[:, :2]


def with_marks(starts: Iterable[InitialState], seed: int, copies: int = 1) -> list[InitialState]:
    """Return the initial states, each `copies` times with a mark of its own."""
    rng = np.random.default_rng(seed)
    low, high = np.transpose(MARKED)
    every = [start for start in starts for _ in range(copies)]
    return [replace(start, instruction=reach_instruction(rng.uniform(low, high))) for start in every]


class Marked(View):
    """Show the image with the mark in it, and the way from the gripper to the mark."""

    def __init__(self, find_gripper: FindGripper) -> None:
        self.find_gripper = find_gripper
        self.mark = np.zeros(2, np.float32)

    def space(self, spaces: Mapping[str, gym.Space]) -> gym.Space:
        """Return the space of a small image and of the way."""
        del spaces
        image = gym.spaces.Box(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
        return gym.spaces.Dict(image=image, way=gym.spaces.Box(-4, 4, (2,), dtype=np.float32))

    def begin(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
        """Read the mark of the episode."""
        self.mark = np.array(mark_of(info["instruction"]), np.float32)
        return self.extend(observation, info)

    def extend(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Paint and measure."""
        gripper = self.find_gripper(torch.from_numpy(observation["image"])[None])[0].numpy()
        image = cv2.resize(observation["image"], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        cv2.circle(image, tuple(int(place) for place in self.mark * SIZE), 2, (255, 0, 255), -1)
        return {"image": image, "way": np.clip(4 * (self.mark - gripper), -4, 4).astype(np.float32)}


def make(world: SmallProphet, starts: list[InitialState], num_envs: int) -> VecMonitor:
    """Build the dream as a VecEnv of Stable-Baselines3."""
    find_gripper = finder(world)
    options = {"max_episode_steps": CHUNKS, "autoreset_mode": "SameStep"}
    envs = ProphetVectorEnv(world, starts, num_envs, reward_model=ReachReward(find_gripper), **options)
    held = OneActionPerChunkVector(ViewedVector(envs, Marked(find_gripper)), DIMS, REST)
    return VecMonitor(Sb3VecEnv(held))


def learner(venv: VecMonitor, seed: int, steps: int = 512) -> PPO:
    """Build a PPO that is updated every `steps` chunk-steps."""
    return PPO(
        "MultiInputPolicy",
        venv,
        n_steps=steps // venv.num_envs,
        batch_size=min(128, steps),
        n_epochs=10,
        learning_rate=1e-3,
        gamma=0.8,
        gae_lambda=0.9,
        seed=seed,
        device="cpu",
        policy_kwargs={"log_std_init": -0.5, "features_extractor_kwargs": {"cnn_output_dim": 32}},
    )


class Report(BaseCallback):
    """Print the mean return of the newest episodes before every update."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        returns = [episode["r"] for episode in self.model.ep_info_buffer or []]
        print(f"{self.num_timesteps} chunk-steps: mean return {np.mean(returns):.3f}", flush=True)


def main(args: Args) -> None:
    """Run the example."""
    from prophet_gym.checkpoint import Checkpoint
    from prophet_gym.prophet import tiny_prophet

    if args.tiny:
        args = replace(args, num_envs=4, chunk_steps=64)
        world, starts = tiny_prophet(), [InitialState(np.full((1, 64, 64, 3), 100, np.uint8), "")]
    else:
        checkpoint = Checkpoint.named("bundled")
        world, starts = checkpoint.world_model(), checkpoint.initial_states("train")
    assert isinstance(world, SmallProphet)
    venv = make(world, with_marks(starts, args.seed, 4), args.num_envs)
    print(f"{args.num_envs} sub-environments, {args.chunk_steps} chunk-steps")
    learner(venv, args.seed, 32 if args.tiny else 512).learn(args.chunk_steps, Report())


if __name__ == "__main__":
    main(tyro.cli(Args))
