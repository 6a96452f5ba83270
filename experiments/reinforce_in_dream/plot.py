"""Draw the summary of an experiment.

    python -m experiments.reinforce_in_dream.plot outputs/reinforce_short/logs

writes `curves.png` there, or to a second path; it needs matplotlib. Left: what each arm gained over the cloned policy
from the same initial states, along the runs; middle: where each arm ends, with Wilson's intervals; right: how far dream
and reward can be trusted along the runs.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from experiments.reinforce_in_dream.protocol import label_of

mpl.use("Agg")
import matplotlib.pyplot as plt

Points = Sequence[dict[str, Any]]
Value = Callable[[dict[str, Any]], float | None]


def draw(summary: dict[str, Any]) -> plt.Figure:
    """Draw the three panels.

    Raises:
        ValueError: The cloned policy is not evaluated yet.
    """
    if "sft" not in summary:
        raise ValueError("the cloned policy is not evaluated yet: run the experiment with --runs sft")
    mpl.rcParams["axes.titlesize"] = 9
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    names = {arm: label_of(arm, found["about"]) for arm, found in summary["arms"].items()}
    colors = {arm: f"C{number}" for number, arm in enumerate(summary["arms"])}
    for arm, found in summary["arms"].items():
        curve = found["curve"]
        if not curve:
            continue
        for world, style in (("libero", "-"), ("dream", ":")):
            line(
                left,
                curve,
                lambda p, w=world: gained(p, w),
                f"o{style}",
                colors[arm],
                names[arm] if world == "libero" else None,
            )
        intervals(left, curve, colors[arm], 0.1 * (list(colors).index(arm) - len(colors) // 2))
        line(right, curve, lambda p: p["dream_and_libero"]["precision"], "-", colors[arm], None)
        line(right, curve, lambda p: p["reward_in_libero"]["precision"], ":", colors[arm], None)
    left.axhline(0, color="grey", linewidth=0.8)
    left.set(
        xlabel="update",
        ylabel="points",
        title="gain over cloned, same states\nLIBERO (solid; bars: 95%), dream (dotted)",
    )
    right.set(
        xlabel="update",
        ylim=(0, 1.02),
        title="precision of dreamt success (solid),\nof the reward in LIBERO (dotted)",
    )
    ends = {"cloned": (summary["sft"], summary["sft"]["point"]["dream"])}
    ends |= {arm: (found["final"], found["dream"]) for arm, found in summary["arms"].items() if found["final"]}
    for place, (arm, (libero, dream)) in enumerate(ends.items()):
        spread = [[libero["success"] - libero["low"]], [libero["high"] - libero["success"]]]
        middle.barh(place, libero["success"], color=colors.get(arm, "grey"), xerr=spread, capsize=3)
        runs = [run["success"] for run in libero.get("per_seed", ())]
        middle.plot(runs, [place] * len(runs), "k.", markersize=4)
        if dream and dream["success"] is not None:
            middle.plot(dream["success"], place, "D", color="white", markeredgecolor="black", markersize=6)
    middle.set_yticks(range(len(ends)), [names.get(arm, arm).replace(" (", "\n(").replace(", ", ",\n") for arm in ends])
    middle.invert_yaxis()
    middle.set(xlim=(0, 1), title="success at the end: LIBERO (bars, Wilson 95%;\ndots: runs), dream (diamonds)")
    if any(found["curve"] for found in summary["arms"].values()):
        figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    return figure


def gained(point: dict[str, Any], world: str) -> float | None:
    """Return the gain in points; None without episodes of that world."""
    gain = point[f"{world}_gain"]
    return None if gain is None else 100 * gain["mean"]


def intervals(axes: Any, curve: Points, color: str, aside: float) -> None:
    """Draw the intervals of an arm's gains in LIBERO."""
    known = [point for point in curve if point["libero_gain"] and point["update"]]
    low, high = ([100 * point["libero_gain"][end] for point in known] for end in ("low", "high"))
    axes.vlines([point["update"] + aside for point in known], low, high, color=color, alpha=0.4, linewidth=2)


def line(axes: Any, curve: Points, value: Value, style: str, color: str, label: str | None) -> None:
    """Draw a curve through the points where it is known."""
    known = [(point["update"], value(point)) for point in curve if value(point) is not None]
    axes.plot(
        [update for update, _ in known], [each for _, each in known], style, color=color, label=label, markersize=3
    )


if __name__ == "__main__":
    logs = Path(sys.argv[1])
    image = Path(sys.argv[2]) if len(sys.argv) > 2 else logs / "curves.png"
    draw(json.loads((logs / "summary.json").read_text(encoding="utf-8"))).savefig(image, dpi=110)
    print(f"wrote {image}")
