"""How much of what a dream makes a policy believe is true.

    prophrl record --weights POLICY --dream CHECKPOINT --task 0,3,5 --episodes 120 --out outputs/policy_dreaming
    python benchmarks/proof_belief.py --recordings refreshed outputs/policy_dreaming \
        --json benchmarks/results/proof_belief.json

In such a recording a policy acted on the dream's pictures and the simulator executed its commands, until the judge
of the dream saw success. A dream of commands that were given in LIBERO says less: there the policy sees a failed grasp
and tries again, so nothing asks what the dream would have made of going on.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from prophet_gym.cli.report import machine, table, write_json
from prophet_gym.data.recording import META, list_episodes, read_episode
from prophet_gym.sims.recorder import MAX_STEPS
from prophrl_algos.evaluate import wilson


@dataclass(frozen=True)
class Args:
    """Count."""

    recordings: dict[str, Path]
    """Name of a dream -> what `prophrl record --dream` wrote."""
    json: Path | None = None


def beliefs(folder: Path) -> dict[str, Any]:
    """Successes in LIBERO, and failures that the dream took for success, of a recording.

    Raises:
        ValueError: the policy saw LIBERO in it.
    """
    episodes = [read_episode(path) for path in list_episodes(folder, evaluating=True)]
    about = ", ".join(json.loads((folder / META).read_text())["mixture"])
    if "in the dream of" not in about:
        raise ValueError(f"{folder} must be a recording of `prophrl record --dream`, it is of {about}")
    real = sum(bool(each.success[-1]) for each in episodes)
    believed = sum(not each.success[-1] and len(each.actions) < MAX_STEPS for each in episodes)
    low, high = wilson(real, real + believed)
    return {
        "episodes": len(episodes),
        "frames": sum(len(each.actions) for each in episodes),
        "real": real,
        "believed": believed,
        "precision": real / max(real + believed, 1),
        "low": low,
        "high": high,
    }


def rows(found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    return [
        [name, str(each["episodes"]), str(each["real"]), str(each["believed"]), f"{each['precision']:.2f}"]
        for name, each in found.items()
    ]


def main(args: Args) -> None:
    found = {name: beliefs(folder) for name, folder in args.recordings.items()}
    print(table(["dream", "episodes", "really successful", "failures it took for success", "precision"], rows(found)))
    if args.json is not None:
        write_json(args.json, {"machine": machine(), "dreams": found})


if __name__ == "__main__":
    main(tyro.cli(Args))
