"""Improve the bundled cloned policy in the dream with FA-GRPO, and measure it there before and after.

    python examples/04_improve_in_the_dream.py            # some 20 minutes on two cores
    python examples/04_improve_in_the_dream.py --tiny     # untrained models, in seconds: only shows that it runs

The settings are those of experiments/reinforce_in_dream. Success in the dream is not the test; that is LIBERO, the
simulator:

    prophrl evaluate --policy small-k4 --policy-weights outputs/improved --env LIBERO-Object-v0 --tasks 3 --episodes 50

Expected output of --tiny (the numbers depend on the machine):

    before: 0% [0%, 66%] of 2 dreams
    update 1: success 0%, gradient norm ...
    update 2: success 0%, gradient norm ...
    after: 0% [0%, 66%] of 2 dreams
"""

from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import tyro

import prophet_gym  # noqa: F401 registers the ids
from prophrl_algos import LoadOptions, load_policy
from prophrl_algos.algorithms import FA_GRPO_FORWARD
from prophrl_algos.evaluate import evaluate
from prophrl_algos.rollout import Grouping, begin_from_starts
from prophrl_algos.trainer import Trainer, TrainerConfig
from prophrl_algos.vla import SmallVLA


@dataclass(frozen=True)
class Args:
    """Improve a policy."""

    weights: str = "SmallVLA-LIBERO-object-sft"
    """The bundled policy, or a folder that `prophrl sft --policy small` wrote."""
    out: Path = Path("outputs/improved")
    task: int = 3
    updates: int = 8
    groups: int = 8
    group_size: int = 8
    learning_rate: float = 5e-5
    seed: int = 0
    tiny: bool = False
    """Untrained tiny models instead of the bundled dream."""


def make(args: Args, num_envs: int) -> gym.vector.VectorEnv:
    """Build dreams from `train` states; an episode that ends waits for the others."""
    if not args.tiny:
        return gym.make_vec("Prophet-LIBERO-v0", num_envs=num_envs, tasks=[args.task], autoreset_mode="Disabled")
    from prophet_gym.envs import ProphetVectorEnv
    from prophet_gym.prophet import tiny_prophet
    from prophet_gym.rewards import FunctionReward
    from prophet_gym.specs import InitialState

    reward_model = FunctionReward(lambda video, _: float(int(video[-1].sum()) % 2), max_frames=1)
    starts = [InitialState(np.full((1, 64, 64, 3), 100, np.uint8), "pick up nothing", task=args.task)]
    return ProphetVectorEnv(
        tiny_prophet(), starts, num_envs, reward_model=reward_model, max_episode_steps=2, autoreset_mode="Disabled"
    )


def make_policy(args: Args) -> SmallVLA:
    """Load the policy with 4 denoising steps."""
    if args.tiny:
        return SmallVLA(num_steps=4, image_size=16, places=2, width=16, layers=1)
    policy = load_policy(args.weights, LoadOptions(num_steps=4, train="full"))
    assert isinstance(policy, SmallVLA)
    return policy


def report(when: str, policy: SmallVLA, args: Args) -> None:
    """Print the success without noise on the way, from initial states drawn by a seed that training does not use."""
    found = evaluate(policy, make(args, 2), 2 if args.tiny else 20, seed=10**6)
    low, high = found.interval
    print(f"{when}: {found.success:.0%} [{low:.0%}, {high:.0%}] of {len(found.episodes)} dreams")


def main(args: Args) -> None:
    """Run the example."""
    policy = make_policy(args).eval()
    config = TrainerConfig(
        updates=2 if args.tiny else args.updates,
        groups=1 if args.tiny else args.groups,
        group_size=2 if args.tiny else args.group_size,
        minibatches=4,
        noise_level=1.0,
        beta=0.25,
        seed=args.seed,
    )
    env = make(args, config.groups * config.group_size)
    trainer = Trainer(
        policy,
        torch.optim.AdamW(policy.parameters(), lr=args.learning_rate, betas=(0.9, 0.95)),
        env,
        config,
        algorithm=FA_GRPO_FORWARD,
        grouping=Grouping(begin_from_starts),
    )
    report("before", policy, args)
    for update in range(1, config.updates + 1):
        metrics = trainer.iterate()
        print(
            f"update {update}: success {metrics['success']:.0%}, gradient norm {metrics.get('gradient_norm', 0.0):.3g}"
        )
    report("after", policy, args)
    policy.save_pretrained(args.out)


if __name__ == "__main__":
    main(tyro.cli(Args))
