"""Summarize the logs of an experiment as `summary.json` beside them.

    python -m experiments.reinforce_in_dream.report --logs outputs/reinforce_short/logs

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

from experiments.reinforce_in_dream.files import CHOICE, EVALUATIONS, PROTOCOL, SUMMARY, learning_log, read_lines
from experiments.reinforce_in_dream.protocol import DREAM, SFT, label_of
from prophet_gym.estimates import mcnemar, paired_gain, wilson
from prophet_gym.evaluation._report import table

ALGORITHMS, SCALED = ("flow-grpo", "fa-grpo"), "+flowscale"
Line = Mapping[str, Any]


def bounds(successes: int, episodes: int) -> dict[str, float]:
    """Return Wilson's interval."""
    low, high = wilson(successes, episodes).interval
    return {"low": low, "high": high}


def rate(lines: Sequence[Line]) -> dict[str, Any]:
    """Return the success over all episodes of some lines."""
    outcomes = [outcome for line in lines for outcome in line["success"]]
    done = sum(outcomes)
    share = done / len(outcomes) if outcomes else None
    return {"successes": done, "episodes": len(outcomes), "success": share, **bounds(done, len(outcomes))}


def per_task(lines: Sequence[Line]) -> dict[str, dict[str, Any]]:
    """Return the success in each task."""
    tasks = sorted({task for line in lines for task in line["task"]})
    chosen = {
        task: [
            {"success": [s for s, t in zip(line["success"], line["task"], strict=True) if t == task]} for line in lines
        ]
        for task in tasks
    }
    return {str(task): rate(parts) for task, parts in chosen.items()}


def by_start(line: Line) -> dict[tuple[int, int], float]:
    """Return the mean success by task and initial state, in order."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for task, start, success in zip(line["task"], line["start"], line["success"], strict=True):
        found[task, start].append(success)
    return {key: float(np.mean(found[key])) for key in sorted(found)}


def gain_of(before: Line, after: Sequence[Line]) -> dict[str, float]:
    """Return what runs gained over the cloned policy from the states that they had, which may be a part of its own.

    Raises:
        ValueError: The runs' initial states differ, or the cloned policy lacks some.
    """
    cloned, runs = by_start(before), [by_start(line) for line in after]
    if any(run.keys() != runs[0].keys() or run.keys() - cloned.keys() for run in runs):
        raise ValueError("the cloned policy or a run was evaluated on other episodes; evaluate all by one protocol")
    first = np.array([[cloned[start]] for start in runs[0]])
    return asdict(paired_gain(first, np.array([list(run.values()) for run in runs]).T))


def compare(before: Line, after: Mapping[int, Line]) -> dict[str, Any]:
    """Compare an arm's runs, by their seeds, with the cloned policy from the same initial states."""
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
    """Pair a run's first episode of every initial state with one of the cloned policy's.

    Run n is paired with the n-th part of the cloned policy's episodes, if there is one.

    Raises:
        ValueError: They began from other states.
    """
    count = len(by_start(after))
    first = part * count % len(before["success"])
    chosen = slice(first, first + count)
    if any(before[key][chosen] != after[key][:count] for key in ("task", "start")):
        raise ValueError("the cloned policy was evaluated on other episodes; evaluate it with the same protocol")
    return np.array(before["success"][chosen], bool), np.array(after["success"][:count], bool)


def changed(before: np.ndarray, after: np.ndarray) -> dict[str, int]:
    """Count the episodes that were gained and lost."""
    return {"episodes": len(after), "gained": int((after & ~before).sum()), "lost": int((before & ~after).sum())}


def effects(lines: Mapping[str, Sequence[Line]]) -> dict[str, dict[str, float]]:
    """Return the 2x2's two main effects, runs of one seed as pairs; nothing while arms have ended unequally often."""
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


def agreement(predicted: Sequence[int], true: Sequence[int]) -> dict[str, Any]:
    """Return precision and recall of predicted successes; None where there is nothing to divide by."""
    right = sum(bool(a and b) for a, b in zip(predicted, true, strict=True))
    return {
        "precision": right / sum(predicted) if sum(predicted) else None,
        "recall": right / sum(true) if sum(true) else None,
        "true_positives": right,
        "positives": sum(predicted),
        "successes": sum(true),
        "episodes": len(predicted),
    }


def scored(lines: Sequence[Line]) -> tuple[list[int], list[int]]:
    """Return whether the reward model rewarded the episodes that it scored, and whether they succeeded."""
    pairs = [
        (rewarded, success)
        for line in lines
        for rewarded, success in zip(line["rewarded"], line["success"], strict=True)
        if rewarded is not None
    ]
    return [rewarded for rewarded, _ in pairs], [success for _, success in pairs]


def same_starts(dream: Line, libero: Line) -> list[tuple[int, int]]:
    """Return the outcomes of the first episode of each state that both have, in the dream and in LIBERO."""
    dreamt, true = first_of(dream), first_of(libero)
    return [(dreamt[start], true[start]) for start in dreamt if start in true]


def first_of(line: Line) -> dict[tuple[int, int], int]:
    """Return the outcome of the first episode by task and initial state."""
    found: dict[tuple[int, int], int] = {}
    for task, start, success in zip(line["task"], line["start"], line["success"], strict=True):
        found.setdefault((task, start), success)
    return found


def point(
    update: int, cloned: Mapping[str, Line], libero: Mapping[int, Line], dream: Mapping[int, Line]
) -> dict[str, Any]:
    """Return a point of a curve: both worlds, how the reward model scores LIBERO, and what the dream predicts of it.

    Args:
        update: After which the runs were evaluated.
        cloned: World -> what the cloned policy did there.
        libero: Seed -> what a run did in LIBERO.
        dream: Seed -> what a run did in the dream.
    """
    pairs = [pair for seed in libero.keys() & dream.keys() for pair in same_starts(dream[seed], libero[seed])]
    found: dict[str, Any] = {"update": update}
    for name, before, after in (("libero", cloned.get("libero"), libero), ("dream", cloned.get("dream"), dream)):
        lines = list(after.values())
        found[name] = rate(lines)
        found[f"{name}_gain"] = gain_of(before, lines) if before and lines else None
    found["reward_in_libero"] = agreement(*scored(list(libero.values())))
    found["dream_and_libero"] = agreement([dreamt for dreamt, _ in pairs], [true for _, true in pairs])
    return found


def cost(paths: Sequence[Path]) -> dict[str, float]:
    """Return frames and seconds of a run, averaged over seeds."""
    rows = [row for path in paths for row in read_lines(path)]
    names = ("frames", "seconds_env", "seconds_policy", "seconds_rollout", "seconds_update")
    total = {name: sum(row.get(name) or 0.0 for row in rows) / max(len(paths), 1) for name in names}
    seconds = total["seconds_rollout"] + total["seconds_update"]
    per = 1000 * total["seconds_env"] / total["frames"] if total["frames"] else None
    return total | {"seconds": seconds, "env_seconds_per_1000_frames": per}


def summarise(logs: Path) -> dict[str, Any]:
    """Summarize everything that documents and figures need; an arm without an ended run has no `final`."""
    protocol = json.loads((logs / PROTOCOL).read_text(encoding="utf-8"))
    size = protocol["size"]
    lines = {(line["run"], line["update"], line["world"]): line for line in read_lines(logs / EVALUATIONS)}
    worlds, last = {"libero": size["libero"], "dream": DREAM}, size["updates"]
    cloned = {name: lines[SFT, 0, world] for name, world in worlds.items() if (SFT, 0, world) in lines}
    summary: dict[str, Any] = {"size": size, "machine": protocol["machine"], "arms": {}}
    choice = logs / CHOICE
    summary["choice"] = json.loads(choice.read_text(encoding="utf-8")) if choice.is_file() else None
    if "libero" not in cloned:
        return summary
    first = point(0, cloned, *({0: cloned[name]} if name in cloned else {} for name in worlds))
    summary["sft"] = {**rate([cloned["libero"]]), "per_task": per_task([cloned["libero"]]), "point": first}
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
        begun = {name: path for name in names if (path := learning_log(logs, name)).is_file()}
        ended = [path for name, path in begun.items() if names.index(name) in final["libero"]]
        summary["arms"][arm] = {
            "about": about,
            "begun": len(begun),
            "runs": len(final["libero"]),
            "curve": curve if updates else [],
            "final": compare(cloned["libero"], final["libero"]) if final["libero"] else None,
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
    """Write the summary and print where the arms ended."""
    path = logs / SUMMARY
    summary = summarise(logs)
    path.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
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
