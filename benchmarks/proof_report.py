"""What a proof's logs say, as `summary.json` beside them.

    python benchmarks/proof_report.py --logs outputs/proof_short/logs

Success with Wilson's 95% intervals; gains over the cloned policy paired by official state, with a bootstrap of states
and seeds, and McNemar's exact test for each seed; per task; the reward's precision and recall on real episodes, and how
often a success in the dream is one in reality from the same state; frames and seconds.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from proof_files import CHOICE, EVALUATIONS, PROTOCOL, read_lines
from proof_sizes import DREAM, SFT

from prophet_gym.cli.report import table
from prophrl_algos.evaluate import wilson
from prophrl_algos.paired import mcnemar, paired_gain

SUMMARY = "summary.json"
Line = Mapping[str, Any]


def bounds(successes: int, episodes: int) -> dict[str, float]:
    low, high = wilson(successes, episodes)
    return {"low": low, "high": high}


def rate(lines: Sequence[Line]) -> dict[str, Any]:
    """Success over all episodes of some lines."""
    outcomes = [outcome for line in lines for outcome in line["success"]]
    done = sum(outcomes)
    share = done / len(outcomes) if outcomes else None
    return {"successes": done, "episodes": len(outcomes), "success": share, **bounds(done, len(outcomes))}


def per_task(lines: Sequence[Line]) -> dict[str, dict[str, Any]]:
    tasks = sorted({task for line in lines for task in line["task"]})
    chosen = {
        task: [
            {"success": [s for s, t in zip(line["success"], line["task"], strict=True) if t == task]} for line in lines
        ]
        for task in tasks
    }
    return {str(task): rate(parts) for task, parts in chosen.items()}


def by_start(line: Line) -> np.ndarray:
    """Mean success of each start, in the order of (task, start)."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for task, start, success in zip(line["task"], line["start"], line["success"], strict=True):
        found[task, start].append(success)
    return np.array([np.mean(found[key]) for key in sorted(found)])


def compare(before: Line, after: Sequence[Line]) -> dict[str, Any]:
    """A policy's seeds against the cloned policy from the same starts, which may have had more episodes of each.

    Raises:
        ValueError: the starts are not the same.
    """
    for line in after:
        if any(line[key] != before[key][: len(line[key])] for key in ("task", "start")):
            raise ValueError("the cloned policy was evaluated on other episodes; evaluate it with the same protocol")
    gain = paired_gain(by_start(before)[:, None], np.stack([by_start(line) for line in after], 1))
    return {
        **rate(after),
        "gain": asdict(gain),
        "mcnemar": [mcnemar_of(before["success"], line["success"]) for line in after],
        "per_task": per_task(after),
        "per_seed": [rate([line]) for line in after],
    }


def mcnemar_of(before: Sequence[int], after: Sequence[int]) -> float:
    """Over the episodes that both have."""
    return mcnemar(np.array(before[: len(after)], bool), np.array(after, bool))


def agreement(said: Sequence[int], true: Sequence[int]) -> dict[str, Any]:
    """Precision and recall of a judge; None where there is nothing to divide by."""
    right = sum(bool(a and b) for a, b in zip(said, true, strict=True))
    return {
        "precision": right / sum(said) if sum(said) else None,
        "recall": right / sum(true) if sum(true) else None,
        "said": sum(said),
        "successes": sum(true),
    }


def watched(lines: Sequence[Line]) -> tuple[list[int], list[int]]:
    """What the judge saw, and what was, of the episodes that it watched."""
    pairs = [
        (saw, was) for line in lines for saw, was in zip(line["seen"], line["success"], strict=True) if saw is not None
    ]
    return [saw for saw, _ in pairs], [was for _, was in pairs]


def same_starts(dream: Line, real: Line) -> list[tuple[int, int]]:
    """Outcomes of the first episode of each start that both have, in the dream and in reality."""
    said, true = first_of(dream), first_of(real)
    return [(said[start], true[start]) for start in said if start in true]


def first_of(line: Line) -> dict[tuple[int, int], int]:
    """(Task, start) -> the outcome of its first episode."""
    found: dict[tuple[int, int], int] = {}
    for task, start, success in zip(line["task"], line["start"], line["success"], strict=True):
        found.setdefault((task, start), success)
    return found


def point(update: int, real: Sequence[Line], dream: Sequence[Line]) -> dict[str, Any]:
    """A point of a curve: both worlds, what the reward sees of reality, what the dream says of it."""
    pairs = [pair for one, other in zip(dream, real, strict=False) for pair in same_starts(one, other)]
    return {
        "update": update,
        "real": rate(real),
        "dream": rate(dream),
        "reward_on_real": agreement(*watched(real)),
        "dream_of_real": agreement([said for said, _ in pairs], [true for _, true in pairs]),
    }


def cost(paths: Sequence[Path]) -> dict[str, float]:
    """Frames and seconds of a run, averaged over seeds."""
    rows = [row for path in paths for row in read_lines(path)]
    names = ("frames", "seconds_env", "seconds_policy", "seconds_rollout", "seconds_update")
    total = {name: sum(row.get(name) or 0.0 for row in rows) / max(len(paths), 1) for name in names}
    seconds = total["seconds_rollout"] + total["seconds_update"]
    per = 1000 * total["seconds_env"] / total["frames"] if total["frames"] else None
    return total | {"seconds": seconds, "env_seconds_per_1000_frames": per}


def summarise(logs: Path) -> dict[str, Any]:
    """All that documents and pictures need; arms that have not ended have a curve and no `final`."""
    protocol = json.loads((logs / PROTOCOL).read_text())
    size = protocol["size"]
    lines = {(line["run"], line["update"], line["world"]): line for line in read_lines(logs / EVALUATIONS)}
    real, last = size["reality"], size["updates"]
    cloned = lines.get((SFT, 0, real))
    summary: dict[str, Any] = {"size": size, "machine": protocol["machine"], "arms": {}}
    choice = logs / CHOICE
    summary["choice"] = json.loads(choice.read_text()) if choice.is_file() else None
    if cloned is None:
        return summary
    first = point(0, [cloned], [lines[key] for key in [(SFT, 0, DREAM)] if key in lines])
    summary["sft"] = {**rate([cloned]), "per_task": per_task([cloned]), "point": first}
    for arm, about in size["arms"].items():
        names = [f"{arm}-s{seed}" for seed in range(about["seeds"])]
        updates = sorted({update for run, update, _ in lines if run in names})
        curve = [first] + [
            point(u, *([lines[n, u, w] for n in names if (n, u, w) in lines] for w in (real, DREAM))) for u in updates
        ]
        ended = [lines[name, last, real] for name in names if (name, last, real) in lines]
        begun = [path for name in names if (path := logs / f"learning_{name}.jsonl").is_file()]
        summary["arms"][arm] = {
            "about": about,
            "runs": len(begun),
            "seeds": len(ended),
            "curve": curve if updates else [],
            "final": compare(cloned, ended) if ended else None,
            "cost": cost(begun),
        }
    return summary


def main(logs: Path) -> None:
    path = logs / SUMMARY
    summary = summarise(logs)
    path.write_text(json.dumps(summary, indent=1) + "\n")
    ends = {"cloned": summary.get("sft")} | {arm: found["final"] for arm, found in summary["arms"].items()}
    rows = [
        [name, f"{end['successes']}/{end['episodes']}", *(f"{end[key]:.0%}" for key in ("success", "low", "high"))]
        for name, end in ends.items()
        if end is not None
    ]
    print(table(["", "real episodes", "success", "low", "high"], rows))
    print(f"wrote {path}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
