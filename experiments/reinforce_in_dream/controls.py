"""Compare what costs no learning with what the arms learned."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from docs.blocks.common import markdown_table, part, points
from experiments.reinforce_in_dream.files import EVALUATIONS, RESULTS, read_lines
from experiments.reinforce_in_dream.protocol import LIBERO, SFT
from prophet_gym.estimates import paired_gain

FOLDER, LOGGED = RESULTS / "controls", RESULTS / "cpu"
CENTRE, EXPERTS = "cloned, from the centre of the noise", "cloned from the experts alone"
POLICIES = {
    EXPERTS: "experts_*.json",
    CENTRE: "cloned_centre.json",
    "learned by `fa-grpo-forward`, from the centre of the noise": "fa-grpo-s*_centre.json",
}
"""Compare with the cloned policy -> the reports of `prophrl evaluate --json`, one of each run."""
Start = tuple[int, int]
Outcomes = list[tuple[int, int, float]]
"""Task, start and success of each episode."""


def table() -> str:
    """Return success in LIBERO from the official states, and the gain over the cloned policy acting in either way."""
    command = (
        "`prophrl evaluate --policy small-k4 --policy-weights ... --env LIBERO-Object-v0 --tasks 3 5 --episodes 50 "
        "--json ...`"
    )
    cloned = logged(SFT)
    if not cloned:
        return f"Not measured yet: {command}."
    found = {"cloned": cloned, "learned by `fa-grpo-forward`": logged("fa-grpo-s")}
    found |= {name: reports(pattern) for name, pattern in POLICIES.items()}
    bases = [by_start(cloned[0]), *(by_start(run) for run in found[CENTRE])]
    header = ["policy", "runs", "success in LIBERO [Wilson 95%]", "gain over cloned, points [95%, paired]",
              f"gain over {CENTRE}"]  # fmt: skip
    rows = [[name, *row_of(runs, bases)] for name, runs in found.items()]
    return (
        f"{markdown_table(header, rows)}\n\n{command}, for the centre of the noise with `--initial-noise 0`; "
        "the reports are in `experiments/reinforce_in_dream/results/controls/`."
    )


def logged(run: str) -> list[Outcomes]:
    """Return the last point in LIBERO of the runs whose names begin so."""
    lines = [line for line in read_lines(LOGGED / EVALUATIONS) if line["world"] == LIBERO]
    chosen = [line for line in lines if line["run"] == run or line["run"].removeprefix(run).isdigit()]
    last = max((line["update"] for line in chosen), default=0)
    return [
        list(zip(line["task"], line["start"], line["success"], strict=True))
        for line in chosen
        if line["update"] == last
    ]


def reports(pattern: str) -> list[Outcomes]:
    """Return the outcomes in reports of `prophrl evaluate`."""
    return [
        [
            (each["task"], each["start"], each["success"])
            for each in json.loads(path.read_text(encoding="utf-8"))["episodes"]
        ]
        for path in sorted(FOLDER.glob(pattern))
    ]


def row_of(runs: Sequence[Outcomes], bases: Sequence[dict[Start, float]]) -> list[str]:
    """Return how many runs there are, their success, and its gain over each base but itself."""
    if not runs:
        return ["0", "not measured yet", "", ""]
    outcomes = [success for run in runs for _, _, success in run]
    starts = [by_start(run) for run in runs]
    gains = ["" if starts == [base] else gain(base, starts) for base in bases]
    return [str(len(runs)), part(int(sum(outcomes)), len(outcomes)), *gains, *[""] * (2 - len(gains))]


def gain(before: dict[Start, float], after: Sequence[dict[Start, float]]) -> str:
    """Return the paired gain in points."""
    outcomes = np.array([[run[start] for run in after] for start in after[0]])
    return points(asdict(paired_gain(np.array([[before[start]] for start in after[0]]), outcomes)))


def by_start(outcomes: Iterable[tuple[int, int, Any]]) -> dict[Start, float]:
    """Return the mean success by task and initial state."""
    found: dict[Start, list[float]] = defaultdict(list)
    for task, start, success in outcomes:
        found[task, start].append(float(success))
    return {start: float(np.mean(each)) for start, each in found.items()}
