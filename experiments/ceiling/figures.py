"""Tables of the ceiling, as blocks that `make figures` writes into the documents."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docs.blocks.common import markdown_table, part, points, where
from experiments.ceiling.causes import CAUSES
from experiments.ceiling.protocol import ARMS, Settings
from experiments.reinforce_in_dream.protocol import Arm

RESULTS = Path(__file__).parent / "results"
RUN = "python -m experiments.ceiling.run --stage {} --json experiments/ceiling/results/report.json"
FAILURES = (
    "python -m experiments.ceiling.failures --out outputs/ceiling --json experiments/ceiling/results/failures.json"
)

TOLD = {
    "moment": "seen at the decisive moment",
    "later": "seen only later, by what lies or is dragged",
    "stands": "seen only by the target that stands to the end",
}
"""Head a column for each way in which a sheet shows that an episode fails."""


def load(name: str) -> Any:
    """Return a result file, None where nothing is measured yet."""
    path = RESULTS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def rate(found: dict[str, Any]) -> str:
    """Return a rate with its interval, and out of how many."""
    return part(round(found["mean"] * found["episodes"]), found["episodes"])


def cloned() -> str:
    """Return the success of the clones that were tried."""
    report = load("report.json")
    if report is None:
        return f"Not measured yet: `{RUN.format('clone')}`."
    header = ["demonstrations of both tasks", "success from the official states [Wilson 95%]"]
    rows = [[count, rate(found)] for count, found in report["tried"].items()]
    tasks = ", ".join(f"task {task} {rate(found)}" for task, found in report["cloned"]["tasks"].items())
    return (
        f"{markdown_table(header, rows)}\n\nLearning begins from the clone of {report['demonstrations']}: {tasks}. "
        f"`{RUN.format('clone')}` on {where(report['machine'])}."
    )


def learned() -> str:
    """Return the curve of every arm that has begun."""
    report = load("report.json")
    if report is None or not report["arms"]:
        return f"Not measured yet: `{RUN.format('learn')}`."
    header = ["arm", "update", "success [Wilson 95%]", "gain, points [95%, paired]", "frames", "hours of learning"]
    rows = [
        [name, str(point["update"]), rate(point), points(point["gain"]), f"{point['frames']:,}", str(point["hours"])]
        for name, arm in report["arms"].items()
        for point in arm["points"]
    ]
    begun = "; ".join(
        f"`{name}` has done {arm['updates']} updates in {arm['hours']} h, with this success of its rollouts, update by "
        f"update: {', '.join(f'{share:.0%}' for share in arm['rollouts'])}"
        for name, arm in report["arms"].items()
    )
    table = f"{markdown_table(header, rows)}\n\n" if rows else ""
    return f"{table}{begun}. `{RUN.format('evaluate')}` on {where(report['machine'])}."


def failed() -> str:
    """Return the causes of the clone's failures."""
    report = load("failures.json")
    if report is None:
        return f"Not measured yet: `{FAILURES}`."
    total = sum(found["count"] for found in report["causes"].values())
    header = ["cause", "failures [Wilson 95% of the share]", "target in sight then", "shown by the camera", "meaning"]
    rows = [
        [name, part(found["count"], total), str(found["visible"]), str(found["shown"]), CAUSES[name]]
        for name, found in report["causes"].items()
    ]
    lengths = {name: f"{1000 * report['thresholds'][name]:.0f} mm" for name in ("NEAR", "LIFTED", "REACHED")}
    return (
        f"{markdown_table(header, rows)}\n\n{total} failures among {report['success']['episodes']} episodes; the "
        f"camera shows {rate(report['shown'])} of them. NEAR is {lengths['NEAR']}, lifted means by "
        f"{lengths['LIFTED']}, REACHED is {lengths['REACHED']}; shown means in sight and at least "
        f"{report['thresholds']['SHOWN']:.0f} pixels apart in the policy's image of {report['thresholds']['PIXELS']}. "
        f"`{FAILURES}` on {where(report['machine'])}."
    )


def looked() -> str:
    """Return what can be seen on the sheets, beside the computed causes."""
    report, seen = load("failures.json"), load("looked.json")
    if report is None or seen is None:
        return f"Nobody has looked yet: `{FAILURES}`."
    cause_of = {key(line): line["cause"] for line in report["episodes"] if not line["success"]}
    counts = Counter((cause_of[key(each)], each["told"]) for each in seen)
    rows = [[name, *(str(counts[name, told]) for told in TOLD)] for name in CAUSES if name in cause_of.values()]
    rows.append(["all", *(str(sum(each["told"] == told for each in seen)) for told in TOLD)])
    return markdown_table(["cause, computed", *TOLD.values()], rows)


def key(line: dict[str, Any]) -> tuple[int, int, int]:
    """Return which episode a line is about."""
    return line["task"], line["start"], line["repeat"]


def settings() -> str:
    """Return what the arms are."""

    def row(name: str, each: Settings) -> list[str]:
        arm: Arm = each.arm
        numbers = [f"{number:g}" for number in (arm.alpha, arm.noise_level, arm.beta, each.rate)]
        return [name, f"`{arm.algo}`", *numbers, "yes" if each.mixed else "no"]

    header = ["arm", "algorithm", "FlowScale's alpha", "noise level", "KL's weight", "learning rate", "groups replaced"]
    return markdown_table(header, [row(name, each) for name, each in ARMS.items()])


BLOCKS: dict[str, Callable[[], str]] = {
    "ceiling-cloned": cloned,
    "ceiling-learned": learned,
    "ceiling-failures": failed,
    "ceiling-looked": looked,
    "ceiling-settings": settings,
}
