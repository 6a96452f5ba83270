"""Measure what the env costs inside `prophrl train`, in dreams and in LIBERO on the same cores: seconds a 1,000 frames.

    python -m benchmarks.speed.learning --json benchmarks/results/speed/learning.json

Both run the same updates of the bundled policy, and take turns; the simulator draws once per chunk in the look `light`,
in a process for each core, and needs no reward model. The first update of each is not counted.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.speed.harness import recorded


@dataclass(frozen=True)
class Args:
    """Configure the benchmark."""

    groups: int = 2
    """Groups of an update."""
    group_size: int = 8
    """Rollouts of a group."""
    updates: int = 3
    """Updates that count."""
    tasks: tuple[int, ...] = (3,)
    """Tasks of LIBERO-Object."""
    engine: str = "auto"
    """Run the dream's transformer with this engine."""
    json: Path | None = None
    """Write the numbers to this file."""


def trainer_of(args: Args, world: str, out: Path) -> Any:
    """Return a trainer in dreams or in the simulator."""
    from prophrl_algos._named import make_env
    from prophrl_algos.cli._train import Args as Train
    from prophrl_algos.cli._train import make_trainer
    from prophrl_algos.trainer import TrainerConfig

    rows = args.groups * args.group_size
    config = TrainerConfig(groups=args.groups, group_size=args.group_size, updates=args.updates + 1)
    options: Any = {"policy": "small", "policy_weights": Path("SmallVLA-LIBERO-object-sft"), "tasks": args.tasks}
    given = Train(env=world, engine=args.engine, config=config, out=out, device="cpu", **options)
    if world.startswith("Prophet"):
        return make_trainer(given)
    workers = {"workers": os.cpu_count() or 1}
    return make_trainer(given, lambda _: make_env(world, rows, starts="train", tasks=args.tasks, options=workers))


def main(args: Args) -> None:
    with recorded(args.json) as found, tempfile.TemporaryDirectory() as scratch:
        torch.manual_seed(0)
        worlds = {"dream": "Prophet-LIBERO-v0", "simulator": "LIBERO-Object-v0"}
        trainers = {name: trainer_of(args, world, Path(scratch) / name) for name, world in worlds.items()}
        costs: dict[str, list[dict[str, float]]] = {name: [] for name in worlds}
        for update in range(args.updates + 1):
            for name, trainer in trainers.items():
                metrics = trainer.iterate()
                cost = {
                    key: round(1000 * seconds / metrics["frames"], 3)
                    for key, seconds in metrics.items()
                    if key.startswith("seconds_")
                }
                print(f"update {update}, {name}: {metrics['frames']:.0f} frames, {cost}", flush=True)
                if update:
                    costs[name].append({"frames": metrics["frames"], **cost})
        for name, each in costs.items():
            frames = sum(cost["frames"] for cost in each)
            found[name] = {
                "frames": frames,
                **{
                    key: round(sum(cost[key] * cost["frames"] for cost in each) / frames, 3)
                    for key in each[0]
                    if key != "frames"
                },
            }
        found["env_of_the_dream_by_the_simulators"] = round(
            found["dream"]["seconds_env"] / found["simulator"]["seconds_env"], 3
        )
        print(found)
        for trainer in trainers.values():
            trainer.env.close()


if __name__ == "__main__":
    main(tyro.cli(Args))
