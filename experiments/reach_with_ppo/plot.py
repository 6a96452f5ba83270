"""Draw the results of reaching: `python -m experiments.reach_with_ppo.plot` (needs matplotlib)."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

RESULT = Path(__file__).parent / "results" / "reach.json"
IMAGE = Path(__file__).parent / "images" / "reach.png"
ARMS = {"random": "random actions", "still": "no action", "ppo": "PPO, learned in the dream"}


def draw(report: dict[str, Any]) -> plt.Figure:
    """Draw learning curves on the left, returns in both worlds on the right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    curve = report["curves"]
    line = left.plot(curve["chunk_steps"], [p["mean"] for p in curve["over_seeds"]], label="PPO, mean of the seeds")[0]
    low, high = ([point[end] for point in curve["over_seeds"]] for end in ("low", "high"))
    left.fill_between(curve["chunk_steps"], low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    for run in curve["seeds"]:
        left.plot(curve["chunk_steps"], run, color=line.get_color(), linewidth=0.5)
    for arm, style in (("random", ":"), ("still", "--")):
        left.axhline(report["scores"]["dream"][arm]["return"]["mean"], color="grey", linestyle=style, label=ARMS[arm])
    left.set(
        xlabel="chunk-steps in the dream",
        ylabel=f"return of {report['settings']['chunks']} chunks",
        title=f"reach in the dream: {len(curve['seeds'])} seeds, 95% interval over seeds",
    )
    left.legend(fontsize=8)
    worlds = {name: found for name, found in report["scores"].items() if found is not None}
    for number, (arm, label) in enumerate(ARMS.items()):
        points = [found[arm]["return"] for found in worlds.values()]
        errors = [[p["mean"] - p["low"] for p in points], [p["high"] - p["mean"] for p in points]]
        places = [place + 0.27 * (number - 1) for place in range(len(worlds))]
        right.bar(places, [p["mean"] for p in points], 0.25, yerr=errors, label=label)
    labels = {"dream": "dream", "libero": "LIBERO"}
    right.set_xticks(range(len(worlds)), [labels[name] for name in worlds])
    right.set(ylabel="return", title="the same reward model in both worlds,\n95% interval over states")
    right.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3)
    return figure


if __name__ == "__main__":
    draw(json.loads(RESULT.read_text(encoding="utf-8"))).savefig(IMAGE, dpi=110)
