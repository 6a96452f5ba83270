"""Rank policies of LIBERO in the bundled model's dream and in the simulator.

    python -m benchmarks.rank --out outputs/rank --json benchmarks/results/rank.json
    python -m benchmarks.rank --which learned --control 20 --out outputs/rank_learned \
        --json benchmarks/results/dream/rank_learned.json

It is `prophet rank` with these policies: twelve scripts on all tasks, from an expert to hopeless ones; the same scripts
that never look (`blind`); or, on tasks 3 and 5, policies that learned: from `experiments/ceiling`, which comes first,
the clone and snapshots of learning in the simulator, two that were cloned for fewer steps, the bundled policy at
several noises, and scripts beside them. The same command continues it. Fewer steps (150 and 400) of cloning are

    prophrl sft --policy small-k4 --data outputs/ceiling/experts --tasks 3 5 --config.batch-size 32 \
        --config.learning-rate 1e-3 --config.steps 150 --out outputs/ceiling/early-150
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from prophet_gym.cli import _rank as rank

NOISES = (0, 0.1, 0.15, 0.2, 0.3, 0.4)
FAULTS = ("noisy", "offset", "drop", "abort", "slip", "random")
FLOW = "prophrl_algos.acting:flow?policy=small-k4&weights="
CEILING = "outputs/ceiling"
POLICIES = {
    "scripts": (*(f"script:expert?noise={noise}" for noise in NOISES), *(f"script:{fault}" for fault in FAULTS)),
    "blind": (
        *(f"script:expert?noise={noise}&seen=0" for noise in NOISES),
        *(f"script:{fault}?seen=0" for fault in FAULTS),
    ),
    "learned": (
        *(f"script:expert?noise={noise}" for noise in (0, 0.2, 0.3)),
        *(f"script:{fault}" for fault in ("offset", "drop", "slip")),
        *(
            f"{FLOW}SmallVLA-LIBERO-object-sft&{noise}"
            for noise in ("initial_noise=0", "noise_level=0", "noise_level=1")
        ),
        *(f"{FLOW}{CEILING}/early-{steps}" for steps in (150, 400)),
        f"{FLOW}{CEILING}/clone-100/snapshots/02000.safetensors",
        *(f"{FLOW}{CEILING}/forward-s0/snapshots/{update:05d}.safetensors" for update in (2, 5, 10)),
    ),
}


@dataclass(frozen=True)
class Args:
    which: Literal["scripts", "blind", "learned"] = "scripts"
    out: Path = Path("outputs/rank")
    episodes: int = 60
    control: int = 20
    json: Path | None = None


def main(args: Args) -> None:
    """Run what is left, and write the results."""
    tasks = (3, 5) if args.which == "learned" else ()
    policies = POLICIES[args.which]
    asked = {"out": args.out, "episodes": args.episodes, "control": args.control, "json": args.json, "device": "cpu"}
    rank.main(rank.Args(policies=policies, tasks=tasks, **asked))


if __name__ == "__main__":
    main(tyro.cli(Args))
