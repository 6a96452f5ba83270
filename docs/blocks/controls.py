"""What costs no learning, beside what the proof's arms learnt: a block of figures."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from blocks.common import RESULTS, json_lines, markdown_table
from blocks.proof import REALITY, part, points
from prophrl_algos.paired import paired_gain

FOLDER, CLONED = RESULTS / "proof_controls", RESULTS / "proof_cpu" / "evaluations.jsonl"
POLICIES = {
    "cloned from the experts alone": "experts_*.json",
    "cloned, from the centre of the noise": "cloned_centre.json",
    "learnt by `fa-grpo`, from the centre of the noise": "fa-grpo-s*_centre.json",
}
"""What is compared with the cloned policy -> the reports of `prophrl evaluate --json`, one of each run."""
Start = tuple[int, int]


def proof_controls() -> str:
    """Real success from the official states, and the gain over the cloned policy from the same."""
    command = (
        "`prophrl evaluate --policy small-k4 --weights ... --env LIBERO-Object-v0 --tasks 3 5 --episodes 50 --json ...`"
    )
    logged = json_lines(CLONED) if CLONED.is_file() else []
    lines = [line for line in logged if (line["run"], line["world"]) == ("sft", REALITY)]
    if not lines:
        return f"Not measured yet: {command}."
    cloned = by_start(zip(lines[0]["task"], lines[0]["start"], lines[0]["success"], strict=True))
    rows = [["cloned", part(sum(lines[0]["success"]), len(lines[0]["success"])), ""]]
    rows += [[name, *compared(cloned, sorted(FOLDER.glob(pattern)))] for name, pattern in POLICIES.items()]
    table = markdown_table(["policy", "real success [Wilson 95%]", "gain over cloned, points [95%, paired]"], rows)
    return f"{table}\n\n{command}; the reports are in `benchmarks/results/proof_controls/`."


def compared(cloned: dict[Start, float], reports: Sequence[Any]) -> tuple[str, str]:
    """Success over all reports, and what it is above the cloned policy's."""
    if not reports:
        return "not measured yet", ""
    episodes = [json.loads(path.read_text())["episodes"] for path in reports]
    runs = [by_start((each["task"], each["start"], each["success"]) for each in run) for run in episodes]
    before = np.array([[cloned[start]] for start in runs[0]])
    after = np.array([[run[start] for run in runs] for start in runs[0]])
    outcomes = [each["success"] for run in episodes for each in run]
    return part(sum(outcomes), len(outcomes)), points(asdict(paired_gain(before, after)))


def by_start(outcomes: Iterable[tuple[int, int, float]]) -> dict[Start, float]:
    """(Task, start) -> mean success."""
    found: dict[Start, list[float]] = defaultdict(list)
    for task, start, success in outcomes:
        found[task, start].append(float(success))
    return {start: float(np.mean(each)) for start, each in found.items()}
