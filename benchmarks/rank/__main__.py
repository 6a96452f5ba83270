"""Rank scripts of LIBERO, from experts to hopeless ones, in the bundled model's dream and in the simulator.

    python -m benchmarks.rank --out outputs/rank --json benchmarks/results/rank.json

It is `prophet rank` with these policies; give the same command again to continue it.
"""

from pathlib import Path

import tyro

from prophet_gym.cli._rank import Args, main

NOISES = (0, 0.1, 0.15, 0.2, 0.3, 0.4)
FAULTS = ("noisy", "offset", "drop", "abort", "slip", "random")
POLICIES = (*(f"script:expert?noise={noise}" for noise in NOISES), *(f"script:{fault}" for fault in FAULTS))


def run(out: Path = Path("outputs/rank"), episodes: int = 60, json: Path | None = None) -> None:
    """Run what is left, and write the results."""
    main(Args(policies=POLICIES, out=out, episodes=episodes, json=json, device="cpu"))


if __name__ == "__main__":
    tyro.cli(run)
