"""What a proof's logs say, as `summary.json` beside them.

    python benchmarks/proof_report.py --logs outputs/proof_short/logs

Success with Wilson's 95% intervals; gains over the cloned policy paired by official state, with a bootstrap of states
and seeds, and McNemar's exact test for each seed; per task; the reward's precision and recall on LIBERO's episodes, and
how often a success in the dream is one in LIBERO from the same state; frames and seconds.
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
from proof_sizes import DREAM, SFT, label_of

from prophet_gym.cli.report import table
from prophrl_algos.evaluate import wilson
from prophrl_algos.paired import mcnemar, paired_gain

SUMMARY = "summary.json"
ALGORITHMS, SCALED = ("flow-grpo", "fa-grpo"), "+flowscale"
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


def by_start(line: Line) -> dict[tuple[int, int], float]:
    """(Task, start) -> mean success, in order."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for task, start, success in zip(line["task"], line["start"], line["success"], strict=True):
        found[task, start].append(success)
    return {key: float(np.mean(found[key])) for key in sorted(found)}


def gain_of(before: Line, after: Sequence[Line]) -> dict[str, float]:
    """What runs gained over the cloned policy from the starts that they had, which may be a part of its own.

    Raises:
        ValueError: the runs' starts differ, or the cloned policy lacks some.
    """
    cloned, runs = by_start(before), [by_start(line) for line in after]
    if any(run.keys() != runs[0].keys() or run.keys() - cloned.keys() for run in runs):
        raise ValueError("the cloned policy or a run was evaluated on other episodes; evaluate all by one protocol")
    first = np.array([[cloned[start]] for start in runs[0]])
    return asdict(paired_gain(first, np.array([list(run.values()) for run in runs]).T))


def compare(before: Line, after: Mapping[int, Line]) -> dict[str, Any]:
    """An arm's runs, by their seeds, against the cloned policy from the same starts."""
    lines = list(after.values())
    return {
        **rate(lines),
        "gain": gain_of(before, lines),
        "mcnemar": [mcnemar(*pairs_of(before, line, seed)) for seed, line in after.items()],
        "changed": [changed(*pairs_of(before, line, seed)) for seed, line in after.items()],
        "per_task": per_task(lines),
        "per_seed": [rate([line]) for line in lines],
    }


def pairs_of(before: Line, after: Line, part: int) -> tuple[np.ndarray, np.ndarray]:
    """A run's first episode of every start and one each of the cloned policy's: run n is paired with its n-th part, if
    it has one."""
    count = len(by_start(after))
    first = part * count % len(before["success"])
    chosen = slice(first, first + count)
    if any(before[key][chosen] != after[key][:count] for key in ("task", "start")):
        raise ValueError("the cloned policy was evaluated on other episodes; evaluate it with the same protocol")
    return np.array(before["success"][chosen], bool), np.array(after["success"][:count], bool)


def changed(before: np.ndarray, after: np.ndarray) -> dict[str, int]:
    """Of as many episodes, how many were gained and lost."""
    return {"episodes": len(after), "gained": int((after & ~before).sum()), "lost": int((before & ~after).sum())}


def effects(lines: Mapping[str, Sequence[Line]]) -> dict[str, dict[str, float]]:
    """The 2x2's two main effects, runs of one seed as pairs; nothing while not as many of each arm have ended."""
    square = {(algo, scaled): lines.get(f"{algo}{scaled}", ()) for algo in ALGORITHMS for scaled in ("", SCALED)}
    if len({len(runs) for runs in square.values()}) > 1 or not all(square.values()):
        return {}
    sides = {
        "FA-GRPO instead of Flow-GRPO": [[*square[algo, ""], *square[algo, SCALED]] for algo in ALGORITHMS],
        "FlowScale instead of none": [[line for algo in ALGORITHMS for line in square[algo, s]] for s in ("", SCALED)],
    }
    tables = {name: [np.array([list(by_start(x).values()) for x in side]).T for side in s] for name, s in sides.items()}
    changes = {name: after - before for name, (before, after) in tables.items()}
    return {name: asdict(paired_gain(np.zeros((len(each), 1)), each)) for name, each in changes.items()}


def agreement(said: Sequence[int], true: Sequence[int]) -> dict[str, Any]:
    """Precision and recall of a judge; None where there is nothing to divide by."""
    right = sum(bool(a and b) for a, b in zip(said, true, strict=True))
    return {
        "precision": right / sum(said) if sum(said) else None,
        "recall": right / sum(true) if sum(true) else None,
        "right": right,
        "said": sum(said),
        "successes": sum(true),
        "episodes": len(said),
    }


def watched(lines: Sequence[Line]) -> tuple[list[int], list[int]]:
    """What the judge saw, and what was, of the episodes that it watched."""
    pairs = [
        (saw, was) for line in lines for saw, was in zip(line["seen"], line["success"], strict=True) if saw is not None
    ]
    return [saw for saw, _ in pairs], [was for _, was in pairs]


def same_starts(dream: Line, real: Line) -> list[tuple[int, int]]:
    """Outcomes of the first episode of each start that both have, in the dream and in LIBERO."""
    said, true = first_of(dream), first_of(real)
    return [(said[start], true[start]) for start in said if start in true]


def first_of(line: Line) -> dict[tuple[int, int], int]:
    """(Task, start) -> the outcome of its first episode."""
    found: dict[tuple[int, int], int] = {}
    for task, start, success in zip(line["task"], line["start"], line["success"], strict=True):
        found.setdefault((task, start), success)
    return found


def point(
    update: int, cloned: Mapping[str, Line], real: Mapping[int, Line], dream: Mapping[int, Line]
) -> dict[str, Any]:
    """A point of a curve: both worlds, what the reward sees of LIBERO, what the dream says of it.

    Args:
        update: after which the runs were evaluated.
        cloned: world -> what the cloned policy did there.
        real: seed -> what a run did in LIBERO.
        dream: likewise in the dream.
    """
    pairs = [pair for seed in real.keys() & dream.keys() for pair in same_starts(dream[seed], real[seed])]
    found: dict[str, Any] = {"update": update}
    for name, before, after in (("real", cloned.get("real"), real), ("dream", cloned.get("dream"), dream)):
        lines = list(after.values())
        found[name] = rate(lines)
        found[f"{name}_gain"] = gain_of(before, lines) if before and lines else None
    found["reward_on_real"] = agreement(*watched(list(real.values())))
    found["dream_of_real"] = agreement([said for said, _ in pairs], [true for _, true in pairs])
    return found


def cost(paths: Sequence[Path]) -> dict[str, float]:
    """Frames and seconds of a run, averaged over seeds."""
    rows = [row for path in paths for row in read_lines(path)]
    names = ("frames", "seconds_env", "seconds_policy", "seconds_rollout", "seconds_update")
    total = {name: sum(row.get(name) or 0.0 for row in rows) / max(len(paths), 1) for name in names}
    seconds = total["seconds_rollout"] + total["seconds_update"]
    per = 1000 * total["seconds_env"] / total["frames"] if total["frames"] else None
    return total | {"seconds": seconds, "env_seconds_per_1000_frames": per}


def summarise(logs: Path) -> dict[str, Any]:
    """All that documents and pictures need; arms of which no run has ended have no `final`."""
    protocol = json.loads((logs / PROTOCOL).read_text())
    size = protocol["size"]
    lines = {(line["run"], line["update"], line["world"]): line for line in read_lines(logs / EVALUATIONS)}
    worlds, last = {"real": size["reality"], "dream": DREAM}, size["updates"]
    cloned = {name: lines[SFT, 0, world] for name, world in worlds.items() if (SFT, 0, world) in lines}
    summary: dict[str, Any] = {"size": size, "machine": protocol["machine"], "arms": {}}
    choice = logs / CHOICE
    summary["choice"] = json.loads(choice.read_text()) if choice.is_file() else None
    if "real" not in cloned:
        return summary
    first = point(0, cloned, *({0: cloned[name]} if name in cloned else {} for name in worlds))
    summary["sft"] = {**rate([cloned["real"]]), "per_task": per_task([cloned["real"]]), "point": first}
    ends: dict[str, dict[str, list[Line]]] = {name: {} for name in worlds}
    for arm, about in size["arms"].items():
        names = [f"{arm}-s{seed}" for seed in range(about["seeds"])]

        def of(update: int, world: str, names: Sequence[str] = names) -> dict[int, Line]:
            return {
                seed: lines[name, update, world] for seed, name in enumerate(names) if (name, update, world) in lines
            }

        updates = sorted({update for run, update, _ in lines if run in names})
        curve = [first] + [point(u, cloned, *(of(u, world) for world in worlds.values())) for u in updates]
        final = {name: of(last, world) for name, world in worlds.items()}
        for name, found in final.items():
            ends[name][arm] = list(found.values())
        begun = {name: path for name in names if (path := logs / f"learning_{name}.jsonl").is_file()}
        ended = [path for name, path in begun.items() if names.index(name) in final["real"]]
        summary["arms"][arm] = {
            "about": about,
            "begun": len(begun),
            "runs": len(final["real"]),
            "curve": curve if updates else [],
            "final": compare(cloned["real"], final["real"]) if final["real"] else None,
            "dream": compare(cloned["dream"], final["dream"]) if final["dream"] and "dream" in cloned else None,
            "cost": cost(ended),
        }
    summary["effects"] = {name: effects(found) for name, found in ends.items()}
    summary["seconds"] = {
        "learning": sum(found["runs"] * found["cost"]["seconds"] for found in summary["arms"].values()),
        "evaluation": sum(line["seconds"] for line in lines.values()),
    }
    return summary


def main(logs: Path) -> None:
    path = logs / SUMMARY
    summary = summarise(logs)
    path.write_text(json.dumps(summary, indent=1) + "\n")
    ends = {"cloned": summary.get("sft")} | {
        label_of(arm, found["about"]): found["final"] for arm, found in summary["arms"].items()
    }
    rows = [
        [name, f"{end['successes']}/{end['episodes']}", *(f"{end[key]:.0%}" for key in ("success", "low", "high"))]
        for name, end in ends.items()
        if end is not None
    ]
    print(table(["", "episodes in LIBERO", "success", "low", "high"], rows))
    print(f"wrote {path}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
