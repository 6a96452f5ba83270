"""Measure what the trainer costs beside what it cannot avoid: the policy's own passes, and the env.

    python -m benchmarks.algos --json benchmarks/results/algos.json

*Update*: CPU seconds of one `Trainer.update` over those of encoding and of the same batched velocity calls with their
backward pass, no loss, no optimizer; in float32 without a reference (bfloat16 and a reference add a forward pass each).
*Bookkeeping*: of a rollout in the dream, the time that is neither the env's nor the policy's, over the env's. One
thread; the least of several repetitions, in turns.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from benchmarks.toys import BanditVectorEnv, TinyFlowPolicy
from prophrl_algos._named import make_env
from prophrl_algos.algorithms import FA_GRPO, FlowScale
from prophrl_algos.flow import FlowSchedule, FlowSpec, rescore, select_obs
from prophrl_algos.rollout import Grouping, GroupPlan, Rollouts, begin_from_starts, collect
from prophrl_algos.trainer import Trainer, TrainerConfig

SPEC = FlowSpec(horizon=8, latent_dim=7, action_dim=7, exec_steps=8, num_steps=10)


@dataclass(frozen=True)
class Args:
    hidden: int = 1024
    """Width of the policy whose update is measured."""
    groups: int = 8
    updates: int = 30
    """Repeat an update so often."""
    repeats: int = 5
    """Repeat a rollout so often."""
    env: str = "Prophet-LIBERO-v0"
    env_rows: int = 8
    chunks: int = 3
    """Length of the episodes in the dream."""
    json: Path | None = None


def least(repeats: int, *runs: Callable[[], object], clock: Callable[[], float] = time.process_time) -> list[float]:
    """Return the least time of several calls that take turns; the first round is not counted."""
    times: list[list[float]] = []
    for _ in range(repeats + 1):
        times.append([])
        for run in runs:
            began = clock()
            run()
            times[-1].append(clock() - began)
    return [min(each) for each in zip(*times[1:], strict=True)]


def bare(trainer: Trainer, rollouts: Rollouts) -> None:
    """Run an update's velocity calls, forward and backward, and nothing else."""
    policy = trainer.policy
    for rows in torch.arange(len(rollouts.path)).split(trainer.config.microbatch):
        path, obs = rollouts.path.select(rows), select_obs(rollouts.obs, rows)
        context = policy.encode(obs, grad=True).repeat_interleave(SPEC.num_steps)
        times = path.schedule.times[:-1].repeat(len(rows))
        policy.velocity(context, path.latents[:, :-1].flatten(0, 1), times).sum().backward()
    trainer.optimizer.zero_grad()


def update_cost(args: Args) -> dict[str, float]:
    policy = TinyFlowPolicy(SPEC, hidden=args.hidden)
    env = BanditVectorEnv(8 * args.groups, target=(0.2,) * 7, width=3.0, chunk=8)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.0)
    config = TrainerConfig(groups=args.groups, group_size=8, beta=0.0)
    trainer = Trainer(policy, optimizer, env, config, algorithm=FA_GRPO, flowscale=FlowScale())
    rollouts = collect(policy, env, trainer.schedule(), GroupPlan(args.groups, 8), seed=0)
    alone, scored, whole = least(
        args.updates,
        lambda: bare(trainer, rollouts),
        lambda: rescore(policy, rollouts.obs, rollouts.path).log_prob.sum().backward(),
        lambda: trainer.update(rollouts),
    )
    return {
        "weights": sum(weight.numel() for weight in policy.parameters()),
        "chunks": len(rollouts.path),
        "bare_seconds": alone,
        "rescore_seconds": scored,
        "update_seconds": whole,
        "update_by_bare": whole / alone,
    }


def bookkeeping(args: Args) -> dict[str, float]:
    env = make_env(args.env, args.env_rows, starts="train", options={"max_episode_steps": args.chunks})
    policy = TinyFlowPolicy(SPEC, hidden=128)
    schedule = FlowSchedule(SPEC.num_steps)
    found = []
    for seed in range(args.repeats + 1):
        rollouts = collect(policy, env, schedule, GroupPlan(1, args.env_rows, Grouping(begin_from_starts)), seed=seed)
        seconds = rollouts.seconds
        found.append((seconds["env"], seconds["policy"], seconds["rollout"] - seconds["env"] - seconds["policy"]))
    env_seconds, policy_seconds, rest = min(found[1:], key=lambda each: sum(each))
    return {
        "rows": args.env_rows,
        "chunks": args.chunks,
        "env_seconds": env_seconds,
        "policy_seconds": policy_seconds,
        "bookkeeping_seconds": rest,
        "bookkeeping_by_env": rest / env_seconds,
    }


def main(args: Args) -> None:
    from prophet_gym.evaluation._report import machine, write_json

    torch.set_num_threads(1)
    update = update_cost(args)
    print(f"an update costs {update['update_by_bare']:.2f} times its bare forward and backward passes")
    rollout = bookkeeping(args)
    print(f"bookkeeping of a rollout takes {rollout['bookkeeping_by_env']:.2%} of the env's time")
    write_json(args.json, {"update": update, "rollout": rollout, "machine": machine()})


if __name__ == "__main__":
    main(tyro.cli(Args))
