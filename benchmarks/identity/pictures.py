"""Draw what `benchmarks.identity` found: curves over the age of the dream, and the worst crops."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from prophet_gym._io.atomic import atomic_file

LINES = {
    "recorded": ("recorded", "black"),
    "autoencoder": ("recorded, through the autoencoder", "tab:blue"),
    "dream": ("dream", "tab:red"),
    "other_actions": ("dream, other actions", "tab:orange"),
    "another_object": ("recorded, another object carried", "tab:green"),
    "background": ("recorded background", "0.6"),
}
FEWEST = 5
"""Episodes that a point of a curve needs."""
SHOWN, OF_ONE = 24, 4
"""Crops on the sheet, and the most of one object."""


@dataclass(frozen=True)
class Worst:
    """Hold an episode's worst moment; chances of: its class as recorded, its class and the likeliest as dreamt."""

    name: str
    object: str
    seen_as: str
    age: int
    chances: tuple[float, ...]
    crops: tuple[UInt8[np.ndarray, "s s 3"], ...]


def draw_curves(report: Mapping[str, Any], path: Path, steps: Mapping[str, int]) -> None:
    """Draw probability and colour over the age of the dream and since the grasp, and the probability by object."""
    figure = Figure(figsize=(12, 8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = [("since_grasp", "true"), ("since_start", "true"), ("since_grasp", "colour")]
    titles = {"true": "probability of the true class", "colour": "distance to the recorded crop, CIE Lab"}
    axes = figure.subplots(2, 2).ravel()
    for axis, (age, score) in zip(axes, panels, strict=False):
        for condition, (label, colour) in LINES.items():
            points = [(int(at), found[condition][score]) for at, found in report[age].items() if condition in found]
            kept = [(at + steps[age] / 2, each) for at, each in points if each["episodes"] >= FEWEST]
            if kept:
                x = [at for at, _ in kept]
                axis.plot(x, [each["mean"] for _, each in kept], "o-", color=colour, label=label, ms=3)
                low, high = ([each[end] for _, each in kept] for end in ("low", "high"))
                axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set(xlabel=f"frames since the {age.split('_')[1]}", ylabel=titles[score])
        axis.set_ylim(0, 1.02 if score == "true" else None)
    figure.legend(*axes[2].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=9)
    objects = list(report["objects"])
    for shift, condition in ((-0.25, "recorded"), (0, "autoencoder"), (0.25, "dream")):
        found = [report["objects"][name][condition]["true"] for name in objects]
        mean, low, high = (np.array([each[key] for each in found]) for key in ("mean", "low", "high"))
        at = np.arange(len(objects)) + shift
        axes[3].barh(at, mean, 0.25, xerr=[mean - low, high - mean], color=LINES[condition][1], alpha=0.7)
    axes[3].set_yticks(range(len(objects)), [plain(name) for name in objects])
    axes[3].set(xlabel=titles["true"], xlim=(0, 1.02))
    axes[3].invert_yaxis()
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=90)


def draw_worst(found: Sequence[Worst], path: Path) -> None:
    """Draw recorded crops beside dreamt ones: the lowest probabilities, one an episode and a few an object."""
    counts: Counter[str] = Counter()
    chosen = []
    for each in sorted(found, key=lambda each: each.chances[1]):
        counts[each.object] += 1
        if counts[each.object] <= OF_ONE:
            chosen.append(each)
    figure = Figure(figsize=(13.5, 8.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        "Left as recorded, right as dreamt; probability of the object's class in both, then of the dream's likeliest"
    )
    for axis, each in zip(figure.subplots(4, 6).ravel(), [*chosen, *[None] * SHOWN][:SHOWN], strict=True):
        axis.axis("off")
        if each is None:
            continue
        gap = np.full((len(each.crops[0]), 1, 3), 255, np.uint8)
        axis.imshow(np.concatenate([each.crops[0], gap, each.crops[1]], axis=1), interpolation="bicubic")
        real, dreamt, best = each.chances
        became = "" if each.seen_as == each.object else f"\n{plain(each.seen_as)} {best:.2f}"
        axis.set_title(f"{plain(each.object)}, frame {each.age}\n{real:.2f}, dream {dreamt:.2f}{became}", fontsize=9)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=80)


def plain(name: str) -> str:
    """Return an object's name as people write it."""
    return name.removesuffix("_1").replace("_", " ")
