"""Tables of reaching, as blocks that `make figures` writes into the documents."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docs.blocks.common import ROOT, markdown_table, where
from prophet_gym.evaluation._report import interval

FOLDER = Path(__file__).parent
RUN = "python -m experiments.reach_with_ppo.run --chunk-steps {} --json experiments/reach_with_ppo/results/reach.json"


def load(name: str) -> dict[str, Any] | None:
    """Return a result file, None where nothing is measured yet."""
    path = FOLDER / "results" / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def headline() -> str:
    """Return the outcome as a figure and a sentence."""
    report = load("reach.json")
    if report is None or report["scores"]["libero"] is None:
        return f"Not measured yet: `{RUN.format(15_360)}`."
    libero, settings = report["scores"]["libero"], report["settings"]
    image = (FOLDER / "images" / "reach.png").relative_to(ROOT)
    return (
        f"![learning curves in the dream, scores in both worlds](../{image})\n\n"
        f"In LIBERO the gripper ends {interval(libero['ppo']['gripper_cm'], 1)} cm from its target, "
        f"with random actions {interval(libero['random']['gripper_cm'], 1)} cm: {settings['seeds']} seeds of "
        f"{settings['chunk_steps']:,} chunk-steps in the dream, {settings['episodes']} official states. "
        f"`{RUN.format(settings['chunk_steps'])}` on {where(report['machine'])}."
    )


def reach() -> str:
    """Return PPO's reach in the dream and in LIBERO."""
    report = load("reach.json")
    if report is None:
        return f"Not measured yet: `{RUN.format(15_360)}`."
    settings, worlds = report["settings"], {"dream": "dream", "libero": "LIBERO"}
    command = RUN.format(settings["chunk_steps"])
    arms = {"random": "random actions", "still": "no action", "ppo": "PPO, mean of its seeds"}
    rows = [
        [
            f"{world}, {label}",
            interval(found[arm]["return"], 2),
            interval(found[arm]["scored_px"], 1),
            interval(found[arm]["gripper_cm"], 1),
        ]
        for name, world in worlds.items()
        if (found := report["scores"][name]) is not None
        for arm, label in arms.items()
    ]
    gains = [
        f"In {world.replace('dream', 'the dream')} PPO's return is {interval(found['return_over_random'], 2)} above "
        f"random actions' and "
        f"{interval(found['return_over_still'], 2)} above no action's (paired by state); over seeds it is "
        f"{interval(found['over_seeds']['return'], 2)}."
        for name, world in worlds.items()
        if (found := report["scores"][name]) is not None
    ]
    header = ["", f"return of {settings['chunks']} chunks", "scored distance at the end, px", "the gripper's, cm"]
    head = (
        f"{settings['seeds']} seeds of {settings['chunk_steps']:,} chunk-steps "
        f"({report['curves']['chunk_steps_per_second']:g} a second), {settings['episodes']} official states a policy; "
        f"mean [95% interval: bootstrap over states, Student's t over seeds]. Made by `{command}` on "
        f"{where(report['machine'])}."
    )
    image = "![learning curves and scores](../experiments/reach_with_ppo/images/reach.png)\n\n"
    return f"{image}{head}\n\n{markdown_table(header, rows)}\n\n{' '.join(gains)}"


def gripper_error() -> str:
    """Return how well recorded frames show the gripper."""
    folder = "experiments/reach_with_ppo"
    command = f"python -m experiments.reach_with_ppo.gripper_error --json {folder}/results/gripper_error.json"
    report = load("gripper_error.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    rows = [
        [f"{label} of the distance to the true gripper", f"{report[f'px_{share}']:.2f}", f"{report[f'mm_{share}']:.1f}"]
        for share, label in {50: "median", 90: "90th percentile", 99: "99th percentile"}.items()
    ]
    return (
        f"{markdown_table(['', 'pixels of 128', 'mm in space'], rows)}\n\nCorrelation with the truth: "
        f"{report['correlation_right']:.4f} sideways, {report['correlation_down']:.4f} downwards. "
        f"{report['frames']} frames of {report['episodes']} held-out episodes from official states, each frame on its "
        f"own: `{command}` on {where(report['machine'])}."
    )


BLOCKS: dict[str, Callable[[], str]] = {
    "reach": reach,
    "reach-headline": headline,
    "reach-gripper": gripper_error,
}
"""Names of blocks -> what fills them."""
