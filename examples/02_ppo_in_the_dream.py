"""Train a policy with PPO from dreamt images, in one file as CleanRL does.

    python examples/02_ppo_in_the_dream.py --tiny     # an untrained model, in seconds: only shows that it runs
    python examples/02_ppo_in_the_dream.py --chunk-steps 30000 --num-envs 16

The reward is computed from generated frames alone: how bright the middle of the image is. Replace `reward_model` by
your own.

Expected output of --tiny (the rewards depend on the machine):

    4 sub-environments, 2 updates of 16 chunk-steps
    update 1: mean reward ...
    update 2: mean reward ...
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import nn

import prophet_gym  # noqa: F401 registers the ids
from prophet_gym.rewards import FunctionReward


@dataclass(frozen=True)
class Args:
    """Train a policy."""

    chunk_steps: int = 2048
    num_envs: int = 8
    horizon: int = 16
    """Chunks of each sub-environment between two updates."""
    learning_rate: float = 3e-4
    gamma: float = 0.95
    gae: float = 0.9
    clip: float = 0.2
    epochs: int = 4
    minibatches: int = 4
    seed: int = 0
    tiny: bool = False
    """An untrained tiny model instead of the bundled one."""


reward_model = FunctionReward(lambda video, _: float(video[-1, 48:80, 48:80].float().mean()) / 256, max_frames=1)


def make(args: Args) -> gym.vector.VectorEnv:
    """Build a dream whose ended episodes restart in the same step, so that no sub-environment ever waits."""
    from prophet_gym.checkpoint import Checkpoint
    from prophet_gym.envs import ProphetVectorEnv
    from prophet_gym.prophet import tiny_prophet
    from prophet_gym.specs import InitialState

    if args.tiny:
        world, starts = tiny_prophet(), [InitialState(np.full((1, 64, 64, 3), 100, np.uint8), "brighter")]
    else:
        checkpoint = Checkpoint.named("bundled")
        world, starts = checkpoint.world_model(), checkpoint.initial_states("train")
    return ProphetVectorEnv(
        world, starts, args.num_envs, reward_model=reward_model, max_episode_steps=8, autoreset_mode="SameStep"
    )


class Agent(nn.Module):
    """Map images to a Gaussian over one action, which is held for the whole chunk, and to a value."""

    def __init__(self, action_dim: int) -> None:
        super().__init__()
        convolutions = (nn.Conv2d(3, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU())
        pooled = (nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 128), nn.ReLU())
        self.body = nn.Sequential(*convolutions, *pooled)
        self.mean, self.value = nn.Linear(128, action_dim), nn.Linear(128, 1)
        self.log_std = nn.Parameter(torch.full((action_dim,), -1.0))
        nn.init.zeros_(self.mean.weight)

    def forward(self, images: torch.Tensor) -> tuple[torch.distributions.Normal, torch.Tensor]:
        """Return policy and value of uint8 images b h w 3."""
        hidden = self.body(images.permute(0, 3, 1, 2).float() / 255)
        return torch.distributions.Normal(self.mean(hidden), self.log_std.exp()), self.value(hidden)[:, 0]


def collect(envs: Any, agent: Agent, images: torch.Tensor, args: Args) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Dream `horizon` chunks in every sub-environment; return steps with their advantages, and the newest images."""
    steps: list[dict[str, torch.Tensor]] = []
    for _ in range(args.horizon):
        with torch.no_grad():
            policy, value = agent(images)
            action = policy.sample()
            chunk = action.clamp(-1, 1)[:, None].expand(envs.action_space.shape).numpy()
            observation, reward, terminated, truncated, info = envs.step(chunk)
            reward = torch.from_numpy(reward).float()
            ended = torch.from_numpy(terminated | truncated)
            for index in np.flatnonzero(truncated & ~terminated):  # a truncated episode would go on: bootstrap
                last = torch.from_numpy(info["final_obs"][index]["image"])[None]
                reward[index] += args.gamma * agent(last)[1][0]
        log_prob = policy.log_prob(action).sum(-1)
        steps.append(
            {"image": images, "action": action, "log_prob": log_prob, "reward": reward, "ended": ended, "value": value}
        )
        images = torch.from_numpy(observation["image"])
    with torch.no_grad():
        following = agent(images)[1]
    advantage = torch.zeros(args.num_envs)
    for step in reversed(steps):
        going = (~step["ended"]).float()
        delta = step["reward"] + args.gamma * going * following - step["value"]
        step["advantage"] = advantage = delta + args.gamma * args.gae * going * advantage
        following = step["value"]
    return {name: torch.cat([step[name] for step in steps]) for name in steps[0]}, images


def main(args: Args) -> None:
    """Run the example."""
    if args.tiny:
        args = Args(chunk_steps=128, num_envs=4, horizon=16, epochs=1, tiny=True)
    torch.manual_seed(args.seed)
    envs: Any = make(args)
    agent = Agent(envs.single_action_space.shape[1])
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate)
    images = torch.from_numpy(envs.reset(seed=args.seed)[0]["image"])
    updates = args.chunk_steps // (args.num_envs * args.horizon)
    print(f"{args.num_envs} sub-environments, {updates} updates of {args.horizon} chunk-steps")
    for update in range(1, updates + 1):
        batch, images = collect(envs, agent, images, args)
        size = len(batch["value"]) // args.minibatches
        for chosen in (part for _ in range(args.epochs) for part in torch.randperm(len(batch["value"])).split(size)):
            policy, value = agent(batch["image"][chosen])
            advantage = batch["advantage"][chosen]
            ratio = (policy.log_prob(batch["action"][chosen]).sum(-1) - batch["log_prob"][chosen]).exp()
            scaled = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            clipped = ratio.clamp(1 - args.clip, 1 + args.clip)
            surrogate = torch.min(ratio * scaled, clipped * scaled).mean()
            error = (value - advantage - batch["value"][chosen]).square().mean()
            loss = error / 2 - surrogate
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()
        print(f"update {update}: mean reward {batch['reward'].mean():.4f}")
    envs.close()


if __name__ == "__main__":
    main(tyro.cli(Args))
