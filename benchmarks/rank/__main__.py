"""Rank policies of LIBERO in the bundled model's dream and in the simulator.

    python -m benchmarks.rank --out outputs/rank --json benchmarks/results/rank.json
    python -m benchmarks.rank --which flow --out outputs/rank_flow --json benchmarks/results/rank_flow.json

It is `prophet rank` with these policies: twelve scripts on all tasks, from an expert to hopeless ones; the same scripts
that never look (`blind`); or the bundled flow policy at several noises beside scripts, on the two tasks that it knows.
The same command continues it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from prophet_gym.cli import _rank as rank

NOISES = (0, 0.1, 0.15, 0.2, 0.3, 0.4)
FAULTS = ("noisy", "offset", "drop", "abort", "slip", "random")
CLONED = "prophrl_algos.acting:flow?policy=small-k4&weights=SmallVLA-LIBERO-object-sft"
POLICIES = {
    "scripts": (*(f"script:expert?noise={noise}" for noise in NOISES), *(f"script:{fault}" for fault in FAULTS)),
    "blind": (
        *(f"script:expert?noise={noise}&seen=0" for noise in NOISES),
        *(f"script:{fault}?seen=0" for fault in FAULTS),
    ),
    "flow": (
        *(f"{CLONED}&initial_noise={noise}" for noise in (0, 1, 1.5)),
        *(f"{CLONED}&noise_level={noise}" for noise in (0.3, 0.6, 1, 1.5)),
        *(f"script:expert?noise={noise}" for noise in (0, 0.2, 0.3)),
        *("script:offset", "script:slip"),
    ),
}


@dataclass(frozen=True)
class Args:
    which: Literal["scripts", "blind", "flow"] = "scripts"
    out: Path = Path("outputs/rank")
    episodes: int = 60
    control: int = 20
    json: Path | None = None


def main(args: Args) -> None:
    """Run what is left, and write the results."""
    tasks = (3, 5) if args.which == "flow" else ()
    policies = POLICIES[args.which]
    asked = {"out": args.out, "episodes": args.episodes, "control": args.control, "json": args.json, "device": "cpu"}
    rank.main(rank.Args(policies=policies, tasks=tasks, **asked))


if __name__ == "__main__":
    main(tyro.cli(Args))
