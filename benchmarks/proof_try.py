"""A policy on the `train` starts that a proof chooses by, in LIBERO and in any dream: to find out what goes wrong.

    python benchmarks/proof_try.py --name sft --weights outputs/proof_cpu/sft/snapshots/01500.safetensors \
        --dream outputs/refresh/checkpoint --log benchmarks/results/proof_cpu_round2/tries.jsonl

With `--shuffle BEFORE` the weights differ from those of BEFORE by as much as the given ones do, but in no direction
that was learnt: each tensor's differences are shuffled. If that does no harm, it is what was learnt that did.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
import tyro
from proof_episodes import episodes_of, train_cells
from proof_files import Place, add_line, columns
from proof_sizes import SIZES, WORLDS
from safetensors.torch import load_file, save_file
from torch import Tensor

from prophrl_algos.evaluate import wilson


@dataclass(frozen=True)
class Args:
    """Try a policy and log how it did."""

    name: str
    """Of the policy in the log."""
    weights: Path
    log: Path
    update: int = 0
    worlds: tuple[Literal["libero", "dream"], ...] = ("libero", "dream")
    dream: str = ""
    """The checkpoint that dreams; the bundled one if not given."""
    size: Literal["short", "cpu", "full"] = "cpu"
    tasks: tuple[int, ...] = ()
    """Those that the policy was cloned in if not given."""
    starts: tuple[int, int] | None = None
    """Which of the `train` starts: from, and up to but not with; those that the protocol chooses by if not given."""
    initial_noise: float = 1.0
    """Factor on the noise that each chunk is denoised from."""
    shuffle: Path | None = None
    """Weights that these were learnt from."""
    workers: int = 1
    """Processes of the simulator."""


def shuffled(before: dict[str, Tensor], after: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """As far from `before` as `after` is, tensor by tensor, in a random direction."""
    generator = torch.Generator().manual_seed(seed)
    moved = {}
    for name, start in before.items():
        change = (after[name].float() - start.float()).flatten()
        moved[name] = start.float() + change[torch.randperm(len(change), generator=generator)].view_as(start)
    return moved


def main(args: Args) -> None:
    size = SIZES[args.size]
    tasks = args.tasks or size.sft_tasks or size.tasks
    place = Place(size, (), Path(), Path(), workers=args.workers, dream=args.dream)
    with TemporaryDirectory() as folder:
        weights = args.weights
        if args.shuffle is not None:
            weights = Path(folder) / "shuffled.safetensors"
            save_file(shuffled(load_file(args.shuffle), load_file(args.weights)), weights)
        for world in args.worlds:
            cells = train_cells(size, WORLDS[world], tasks, range(*(args.starts or (0, 0))))
            found = episodes_of(place, weights, WORLDS[world], "train", cells, seed=7, initial_noise=args.initial_noise)
            add_line(args.log, {"run": args.name, "update": args.update, "world": WORLDS[world]} | columns(found))
            done = sum(each["success"] for each in found)
            low, high = wilson(done, len(found))
            tasks = {t: sum(each["success"] for each in found if each["task"] == t) for t in tasks}
            print(f"{args.name}, {world}: {done}/{len(found)} [{low:.0%}, {high:.0%}]; by task {tasks}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args))
