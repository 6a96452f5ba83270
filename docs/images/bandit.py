"""Draw `bandit.png` from the result of `benchmarks/bandit.py`: `python docs/images/bandit.py` (needs matplotlib)."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "bandit.json"
IMAGE = Path(__file__).with_suffix(".png")


def draw(report: dict[str, Any]) -> plt.Figure:
    """Learning curves on the left, the gradient of each flow step on the right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, found in report["curves"].items():
        points = found["curve"]
        style = "--" if "1 step" in name else "-"
        line = left.plot(found["updates"], [p["mean"] for p in points], style, label=name, linewidth=1.5)[0]
        low, high = [p["low"] for p in points], [p["high"] for p in points]
        left.fill_between(found["updates"], low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    left.axhline(0.9, color="grey", linewidth=0.8, linestyle=":")
    left.set(xlabel="update", ylabel="mean reward (optimum 1)", title="bandit: 10 seeds, 95% intervals")
    left.legend(fontsize=8)
    for name, found in report["gradient"].items():
        right.plot(
            range(len(found["norms"])), found["norms"], "o-", label=f"{name}: {found['spread']:.1f}", markersize=4
        )
    right.set(
        xlabel="flow step (0 is noisiest)", ylabel="mean ||dl_k/dv||", yscale="log", title="gradient of each flow step"
    )
    right.legend(title="FlowScale: greatest over least", fontsize=8)
    return figure


if __name__ == "__main__":
    draw(json.loads(RESULT.read_text())).savefig(IMAGE, dpi=110)
