"""Measure what one Ray worker costs beside the same run without, and how long weights take to a worker.

    python -m benchmarks.workers.overhead --json benchmarks/results/workers/overhead.json

Both runs learn in the bundled dream and take turns, an update each; the first is not counted, and the weights must be
the same to the bit at the end. The overhead is what the learner waits for rollouts less what the worker takes for them,
by the rest of the update; the ratio of the two runs means something on machines that do nothing else. Weights of a size
are put into the object store, fetched by a worker and copied into its own.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro

from benchmarks.speed.harness import recorded
from benchmarks.workers.chaos import differences
from prophrl_algos.rollout import RayOptions, RayRollouts
from prophrl_algos.rollout._cluster import Cluster, packed, unpack
from prophrl_algos.trainer import Trainer, TrainerConfig


@dataclass(frozen=True)
class Args:
    """Configure the benchmark."""

    updates: int = 4
    """Updates that count."""
    groups: int = 2
    """Groups of an update."""
    group_size: int = 4
    """Rollouts of a group."""
    env: str = "Prophet-LIBERO-v0"
    """The dream."""
    reward: str = ""
    """Its reward; that of the bundled checkpoint if empty."""
    sizes: tuple[int, ...] = (8, 500)
    """Megabytes of the weights that are sent."""
    repeats: int = 5
    """Times that weights are sent; the median counts."""
    json: Path | None = None
    """Write the numbers to this file."""


def trainer_of(args: Args, rollouts: Any) -> Trainer:
    """Return a trainer in the bundled dream."""
    from prophrl_algos.cli._train import Args as Train
    from prophrl_algos.cli._train import make_trainer

    config = TrainerConfig(groups=args.groups, group_size=args.group_size, updates=args.updates + 1)
    chosen: Any = {"policy": "small-k4", "policy_weights": Path("SmallVLA-LIBERO-object-sft"), "tasks": (3,)}
    chosen |= {"env": args.env, "reward": args.reward, "engine": "eager", "device": "cpu"}
    return make_trainer(Train(config=config, rollouts=rollouts, **chosen))


def learn(args: Args) -> dict[str, Any]:
    """Return seconds per update of both runs, and how they end."""
    trainers = {name: trainer_of(args, name) for name in ("local", "ray")}
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    waits: list[float] = []
    metrics: dict[str, float] = {}
    for update in range(args.updates + 1):
        for name, trainer in trainers.items():
            began = time.perf_counter()
            metrics = trainer.iterate()
            if update:
                seconds[name].append(round(time.perf_counter() - began, 3))
            if update and name == "ray":
                waits.append(round(metrics["seconds_rollout"] - metrics["seconds_workers"], 4))
        print(f"update {update}: {seconds}", flush=True)
    states = [trainer.state_dict() for trainer in trainers.values()]
    assert isinstance(trainers["ray"].collector, RayRollouts)
    trainers["ray"].collector.close()
    return {
        "seconds_per_update": seconds,
        "seconds_of_overhead": waits,
        "overhead": round(sum(waits) / (sum(seconds["ray"]) - sum(waits)), 4),
        "median_update_by_the_local_one": round(median(seconds["ray"]) / median(seconds["local"]), 4),
        "seconds_weights": round(metrics["seconds_weights"], 4),
        "weights_differ": differences(*({name: each[name] for name in ("policy", "optimizer")} for each in states)),
        "weights_learned": bool(differences(states[0]["policy"], trainer_of(args, "local").state_dict()["policy"])),
    }


class Receiver:
    """Take weights into its own, as a worker does."""

    def __init__(self, size: int) -> None:
        self.own = {"weights": torch.zeros(size // 4)}

    def receive(self, weights: Any) -> float:
        """Return the sum of what came, so that all of it is read."""
        unpack(weights, self.own)
        return float(self.own["weights"].double().sum())


def transfer(megabytes: int, repeats: int) -> dict[str, float]:
    """Return the seconds that weights of a size take into the object store, and from there into a worker."""
    size = megabytes * 2**20
    weights = {"weights": torch.rand(size // 4)}
    cluster = Cluster(RayOptions(), 3 * size + 128 * 2**20)
    receiver = cluster.ray.remote(num_cpus=1)(Receiver).remote(size)
    cluster.ray.get(receiver.receive.remote({"weights": packed(torch.zeros(size // 4))}))
    puts, takes = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        sent = cluster.ray.put({name: packed(weight) for name, weight in weights.items()})
        puts.append(time.perf_counter() - began)
        began = time.perf_counter()
        assert cluster.ray.get(receiver.receive.remote(sent)) == float(weights["weights"].double().sum())
        takes.append(time.perf_counter() - began)
        del sent
    cluster.close()
    return {"megabytes": megabytes, "seconds_put": round(median(puts), 4), "seconds_take": round(median(takes), 4)}


def main(args: Args) -> None:
    torch.set_num_threads(1)
    with recorded(args.json) as found:
        found |= learn(args)
        found["transfer"] = [transfer(size, args.repeats) for size in args.sizes]
        print(found)
    if found["weights_differ"] or not found["weights_learned"] or found["overhead"] >= 0.1:
        raise SystemExit("one worker must learn what the local run learns, for less than a tenth more time")


if __name__ == "__main__":
    main(tyro.cli(Args))
