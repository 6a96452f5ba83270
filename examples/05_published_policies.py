"""Improve a published policy in the dream: FA-GRPO with FlowScale on its own network.

    python examples/05_published_policies.py --policy lerobot/pi05_libero_finetuned --train lora --device cuda \
        --reward success --chunks 30 --groups 8 --group-size 8 --updates 100 --learning-rate 5e-6
    python examples/05_published_policies.py           # the small policy of this package, on a CPU
    python examples/05_published_policies.py --tiny    # in a tiny dream too, in seconds

No published checkpoint was ever run here: the first command is how it would be. `--policy` takes what `load_policy`
takes: Pi0, Pi0.5, SmolVLA, VLA-Adapter or OpenVLA-OFT in a folder or on the Hub. Pi0.5 and SmolVLA need lerobot's
networks. `python -m benchmarks.policy_memory` says how much memory the full sizes take.

Expected output of --tiny (the numbers depend on the machine):

    SmallVLA: 3484647 weights, 2613127 of them trained in 69 tensors
    update 1: success 50%, return 0.5, ratio 1.000 to 1.000, gradient norm ...
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import tyro

import prophet_gym  # noqa: F401 registers the ids
from prophrl_algos import LoadOptions, load_policy
from prophrl_algos.algorithms import FlowScale
from prophrl_algos.rollout import Grouping, begin_from_starts
from prophrl_algos.trainer import Trainer, TrainerConfig


@dataclass(frozen=True)
class Args:
    """Improve a published policy."""

    policy: str = "SmallVLA-LIBERO-object-sft"
    """A folder, a Hub repository, or a name that is bundled with the package."""
    train: Literal["expert", "lora", "full"] = "expert"
    """Train these weights of the policy."""
    out: Path = Path("outputs/published.pt")
    """Weights after the last update; none are written with --tiny."""
    task: int = 3
    reward: str = "classifier?reward=relative"
    """The reward; the change of the classifier's probability differs even between rollouts that all fail."""
    chunks: int = 2
    """Chunks of eight actions in an episode; whole tasks need 30."""
    updates: int = 1
    groups: int = 1
    group_size: int = 2
    learning_rate: float = 1e-4
    device: str = "cpu"
    seed: int = 0
    tiny: bool = False
    """A tiny untrained dream instead of the bundled one."""


def make_env(args: Args) -> gym.vector.VectorEnv:
    """Build short dreams of the bundled model, or of a tiny one."""
    num_envs = args.groups * args.group_size
    if not args.tiny:
        made = {"tasks": [args.task], "reward": args.reward, "max_episode_steps": args.chunks, "device": args.device}
        return gym.make_vec("Prophet-LIBERO-v0", num_envs=num_envs, autoreset_mode="Disabled", **made)
    from prophet_gym.envs import ProphetVectorEnv
    from prophet_gym.prophet import tiny_prophet
    from prophet_gym.rewards import FunctionReward
    from prophet_gym.specs import InitialState

    tosses = iter(range(10**6))
    reward_model = FunctionReward(lambda *_: float(next(tosses) % 2), max_frames=1)
    starts = [InitialState(np.full((1, 64, 64, 3), 100, np.uint8), "pick up nothing", task=args.task)]
    return ProphetVectorEnv(
        tiny_prophet(),
        starts,
        num_envs,
        reward_model=reward_model,
        max_episode_steps=args.chunks,
        autoreset_mode="Disabled",
    )


def make_policy(args: Args) -> Any:
    """Load a policy that executes the dream's eight actions."""
    options = LoadOptions(train=args.train, exec_steps=8, num_steps=4, without_state="mean")
    return load_policy(args.policy, options, device=args.device)


def main(args: Args) -> None:
    """Run the example."""
    try:
        policy = make_policy(args)
    except ImportError as error:
        raise SystemExit(f"what {args.policy} needs is not installed: {error}") from error
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    count = sum(weight.numel() for weight in policy.parameters())
    print(
        f"{type(policy).__name__}: {count} weights, {sum(weight.numel() for weight in trained)} of them trained in "
        f"{len(trained)} tensors"
    )
    env = make_env(args)
    trainer = Trainer(
        policy,
        torch.optim.AdamW(trained, lr=args.learning_rate, betas=(0.9, 0.95)),
        env,
        TrainerConfig(
            updates=args.updates,
            groups=args.groups,
            group_size=args.group_size,
            microbatch=2,
            beta=0.01 if args.train == "lora" else 0.0,
            seed=args.seed,
        ),
        flowscale=FlowScale(),
        grouping=Grouping(begin_from_starts),
    )
    for update in range(1, args.updates + 1):
        found = trainer.iterate()
        print(
            f"update {update}: success {found['success']:.0%}, return {found['return']:.2g}, "
            f"ratio {found.get('ratio_min', 1.0):.3f} to {found.get('ratio_max', 1.0):.3f}, "
            f"gradient norm {found.get('gradient_norm', 0.0):.3g}"
        )
    if not args.tiny:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"policy": policy.state_dict()}, args.out)


if __name__ == "__main__":
    main(tyro.cli(Args))
