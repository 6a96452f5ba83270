"""Write the logs of runs as folders that `prophrl report` reads, each with its metrics, settings, machine and command.

    python -m experiments.run_folders --out outputs/reported
    prophrl report outputs/reported/fa-grpo-s2                       # one run
    prophrl report outputs/reported/fa-grpo-s? outputs/reported/flow-grpo-s?     # two arms of three seeds each

Films need weights, which the logs do not have.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from experiments.reinforce_in_dream.files import EVALUATIONS, PROTOCOL, RESULTS, read_lines
from experiments.reinforce_in_dream.protocol import DREAM, SFT
from prophet_gym._io.atomic import atomic_write
from prophet_gym.estimates import wilson
from prophet_gym.train._run_folder import HISTORY

RENAMED = {"judged": "scored"}
"""Metrics of earlier versions, under their names of today."""


@dataclass(frozen=True)
class Args:
    """Configure the command."""

    out: Path
    logs: Path = RESULTS / "cpu"


def rows_of(learning: Sequence[Mapping[str, Any]], evaluated: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Return the metrics by update: what the learner logged, and the evaluations after that many updates."""
    rows: dict[int, dict[str, float]] = {}
    for line in learning:
        rows[line["update"]] = {RENAMED.get(name, name): value for name, value in line.items()}
    for line in evaluated:
        world = "evaluation" if line["world"] == DREAM else "evaluation/simulator"
        episodes = len(line["success"])
        rate = wilson(sum(line["success"]), episodes)
        found = {"success": rate.mean, "success_low": rate.low, "success_high": rate.high, "episodes": episodes}
        row = rows.setdefault(line["update"], {"update": line["update"]})
        row |= {f"{world}/{name}": value for name, value in found.items()}
    return [rows[update] for update in sorted(rows)]


def write_run(folder: Path, rows: Sequence[Mapping[str, float]], begun: Mapping[str, Any]) -> None:
    """Write a run's folder: `metrics.csv` and `history.jsonl`."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), restval="")
    table.writeheader()
    table.writerows(rows)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "metrics.csv", text.getvalue())
    atomic_write(folder / HISTORY, json.dumps(begun) + "\n")


def main(args: Args) -> None:
    """Write a folder for each run of the logs."""
    protocol = json.loads((args.logs / PROTOCOL).read_text(encoding="utf-8"))
    size, evaluations = protocol["size"], read_lines(args.logs / EVALUATIONS)
    shared = {name: value for name, value in size.items() if name not in ("arms", "files", "cloned")}
    for path in sorted((args.logs / "learning").glob("*/s*.jsonl")):
        arm, seed = path.parent.name, int(path.stem[1:])
        name = f"{arm}-s{seed}"
        begun = {
            "command": f"python -m experiments.reinforce_in_dream.run --size {args.logs.name} --runs sft {name}",
            "arguments": size["arms"].get(arm, {}) | {"config": shared | {"seed": seed}},
            "machine": protocol["machine"],
        }
        evaluated = [line for line in evaluations if line["run"] in (name, SFT)]
        write_run(args.out / name, rows_of(read_lines(path), evaluated), begun)
        print(args.out / name)


if __name__ == "__main__":
    main(tyro.cli(Args))
