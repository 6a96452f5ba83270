"""What exploring costs: success of a policy while it samples with noise, as in the rollouts that it learns from.

    python benchmarks/proof_explore.py --weights outputs/proof_cpu/sft/snapshots/01500.safetensors \
        --log benchmarks/results/proof_explore.jsonl

Episodes of `train` starts, in groups that share one, under each algorithm's kernel and noise level. Level 0 is how it
acts when it is evaluated. Where success falls far below that, what is learnt from is not what the policy does.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from proof_files import Place, add_line, read_policy
from proof_sizes import SIZES, WORLDS

from prophrl_algos.cli.common import begin_of, make_algorithm, make_env
from prophrl_algos.evaluate import wilson
from prophrl_algos.flow.schedule import FlowSchedule
from prophrl_algos.rollout import collect


@dataclass(frozen=True)
class Args:
    """Count successes under noise and log them, a line for each algorithm and noise level."""

    weights: Path
    log: Path
    name: str = "cloned"
    """Of the policy in the log."""
    algo: tuple[str, ...] = ("fa-grpo", "fa-grpo-cps")
    noise: tuple[float, ...] = (0.0, 0.2, 0.5)
    world: Literal["libero", "dream"] = "libero"
    tasks: tuple[int, ...] = ()
    """Those that the arms learn in if not given."""
    groups: int = 6
    group_size: int = 8
    size: Literal["short", "cpu", "full"] = "cpu"
    seed: int = 77
    workers: int = 2
    """Processes of the simulator."""


def explore(args: Args, algo: str, noise: float) -> dict[str, Any]:
    """Successes of one algorithm's sampling at one noise level."""
    place = Place(SIZES[args.size], (), Path(), Path(), workers=args.workers)
    policy = read_policy(place, args.weights)
    algorithm = make_algorithm(algo, policy.spec)
    options = {"workers": args.workers} if args.world == "libero" else None
    rows = 2 * args.group_size
    env = make_env(WORLDS[args.world], rows, starts="train", tasks=args.tasks or place.size.tasks, options=options)
    schedule = FlowSchedule.uniform(policy.spec.num_steps, noise, kernel=algorithm.kernel, choose=algorithm.choose)
    began = time.perf_counter()
    found = collect(
        policy,
        env,
        schedule,
        groups=args.groups,
        group_size=args.group_size,
        seed=args.seed,
        begin=begin_of(env),
    )
    env.close()
    mixed = torch.stack([found.success[found.groups == group].float() for group in range(args.groups)]).mean(1)
    return {
        "policy": args.name,
        "algo": algo,
        "noise": noise,
        "world": WORLDS[args.world],
        "successes": int(found.success.sum()),
        "episodes": len(found.success),
        "mixed_groups": int(((mixed > 0) & (mixed < 1)).sum()),
        "groups": args.groups,
        "seconds": round(time.perf_counter() - began, 1),
    }


def main(args: Args) -> None:
    for algo in args.algo:
        for noise in args.noise:
            line = explore(args, algo, noise)
            add_line(args.log, line)
            low, high = wilson(line["successes"], line["episodes"])
            print(
                f"{algo}, noise {noise:g}: {line['successes']}/{line['episodes']} [{low:.0%}, {high:.0%}]", flush=True
            )


if __name__ == "__main__":
    main(tyro.cli(Args))
