"""Draws a proof's summary: `python docs/proof.py outputs/proof_short/logs` (`proof.png` there, or a second path).

Needs matplotlib. Left: success in the real simulator and in the dream along the runs; middle: where each arm ends, with
Wilson's intervals; right: how far the reward can be trusted along the runs.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

Points = Sequence[dict[str, Any]]
Value = Callable[[dict[str, Any]], float | None]


def draw(summary: dict[str, Any]) -> plt.Figure:
    """The three panels."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    colours = {arm: f"C{number}" for number, arm in enumerate(summary["arms"])}
    for arm, found in summary["arms"].items():
        curve = found["curve"]
        updates = [point["update"] for point in curve]
        plot(left, updates, [point["real"] for point in curve], colours[arm], arm)
        dreamt = [point["dream"]["success"] for point in curve]
        left.plot(updates, dreamt, ":", color=colours[arm], linewidth=1.2)
        line(right, curve, lambda p: p["dream_of_real"]["precision"], "-", colours[arm], arm)
        line(right, curve, lambda p: p["reward_on_real"]["precision"], ":", colours[arm], None)
    left.set(xlabel="update", ylabel="success", ylim=(0, 1), title="official starts: real (solid), dream (dotted)")
    right.set(xlabel="update", ylim=(0, 1.02), title="precision: dream of real (solid), reward on real (dotted)")
    ends = {"cloned": summary["sft"]} | {arm: f["final"] for arm, f in summary["arms"].items() if f["final"]}
    for place, (arm, end) in enumerate(ends.items()):
        spread = [[end["success"] - end["low"]], [end["high"] - end["success"]]]
        middle.barh(place, end["success"], color=colours.get(arm, "grey"), xerr=spread, capsize=3)
    middle.set_yticks(range(len(ends)), list(ends))
    middle.invert_yaxis()
    middle.set(xlim=(0, 1), title="real success at the end, Wilson 95%")
    left.legend(fontsize=8)
    return figure


def plot(axes: Any, updates: Sequence[int], rates: Points, colour: str, label: str) -> None:
    axes.plot(updates, [each["success"] for each in rates], "o-", color=colour, label=label, markersize=4)
    axes.fill_between(
        updates, [e["low"] for e in rates], [e["high"] for e in rates], color=colour, alpha=0.12, linewidth=0
    )


def line(axes: Any, curve: Points, value: Value, style: str, colour: str, label: str | None) -> None:
    known = [(point["update"], value(point)) for point in curve if value(point) is not None]
    axes.plot([update for update, _ in known], [each for _, each in known], style, color=colour, label=label)


if __name__ == "__main__":
    logs = Path(sys.argv[1])
    picture = Path(sys.argv[2]) if len(sys.argv) > 2 else logs / "proof.png"
    draw(json.loads((logs / "summary.json").read_text())).savefig(picture, dpi=110)
    print(f"wrote {picture}")
