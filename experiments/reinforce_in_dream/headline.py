"""Blocks about the experiment in the pages outside of it."""

from typing import Any

from docs.blocks.common import ROOT, markdown_table, points, share, where
from experiments.reinforce_in_dream import controls as measured
from experiments.reinforce_in_dream.files import IMAGES, read_summary
from experiments.reinforce_in_dream.protocol import DREAM, LIBERO, SFT, label_of
from prophet_gym.estimates import wilson


def headline(size: str) -> str:
    """Return the figures and table of docs/evaluation.md: where each arm ends, beside what costs no learning."""
    summary = read_summary(size)
    arms = {} if summary is None else {arm: found for arm, found in summary["arms"].items() if found["final"]}
    if summary is None or not arms:
        return f"Not measured yet: `make reinforce-{size}`."
    tasks = ", ".join(map(str, summary["size"]["tasks"]))
    rows = [["cloned", share(summary["sft"]), "", ""], *controls()]
    rows += [
        [
            label_of(arm, found["about"]),
            share(found["final"]),
            points(found["final"]["gain"]),
            f"{found['runs']} of {found['about']['seeds']}",
        ]
        for arm, found in arms.items()
    ]
    waiting = [label_of(arm, found["about"]) for arm, found in summary["arms"].items() if not found["final"]]
    rest = f" Not run yet: {', '.join(waiting)}." if waiting else ""
    images = {
        IMAGES / f"{size}.png": "gains along the runs, success at the end, and how far the reward can be trusted",
        IMAGES / "video.webp": "one initial state before (above) and after learning; left LIBERO, right the dream",
    }
    return "\n\n".join([
        *(f"![{label}](../{path.relative_to(ROOT)})" for path, label in images.items() if path.is_file()),
        markdown_table(["arm", "success in LIBERO", "gain, points", "runs"], rows),
        f"In LIBERO, from the official states of tasks {tasks} of `libero_object`, after "
        f"{summary['size']['updates']} updates, [95% intervals].{rest} `make reinforce-{size}` on "
        f"{where(summary['machine'])}; "
        "[protocol, all tables and the search before](../experiments/reinforce_in_dream/README.md).",
    ])  # fmt: skip


def controls() -> list[list[str]]:
    """Return a row for each policy that learned nothing in any world, none while it is not measured."""
    cloned = measured.logged(SFT)
    names = {
        measured.CENTRE: "no learning: cloned, from the centre of the noise",
        measured.EXPERTS: "no learning: cloned from the experts alone",
    }
    rows = []
    for name, label in names.items():
        runs = measured.reports(measured.POLICIES[name])
        if not cloned or not runs:
            continue
        outcomes = [success for run in runs for _, _, success in run]
        low, high = wilson(int(sum(outcomes)), len(outcomes)).interval
        found = {"success": sum(outcomes) / len(outcomes), "low": low, "high": high}
        gained = measured.gain(measured.by_start(cloned[0]), [measured.by_start(run) for run in runs])
        rows.append([label, share(found), gained, f"{len(runs)} of {len(runs)}"])
    return rows


def price(size: str) -> str:
    """Return a sentence on what learning in the dream costs beside learning in the simulator."""
    summary = read_summary(size)
    seconds = {} if summary is None else {world: env_seconds(summary, world) for world in (DREAM, LIBERO)}
    if summary is None or not all(seconds.values()):
        return f"Not measured yet: `make reinforce-{size}`."
    cores = summary["machine"]["cores"]
    return (
        f"Today the dream saves steps of the simulator rather than time: in reinforcement learning on {cores} cores it "
        f"takes {seconds[DREAM]:.1f} s of the env per 1,000 frames, the simulator {seconds[LIBERO]:.1f}, which renders "
        f"one image a chunk there and needs no reward model (`make reinforce-{size}` on {where(summary['machine'])}; "
        "[all costs](../experiments/reinforce_in_dream/README.md#what-a-frame-costs))."
    )


def env_seconds(summary: dict[str, Any], world: str) -> float:
    """Return the env's seconds per 1,000 frames, over all runs that learned in a world; 0 without any."""
    arms = [each for each in summary["arms"].values() if each["runs"] and each["about"]["env"] == world]
    frames, seconds = (sum(each["runs"] * each["cost"][key] for each in arms) for key in ("frames", "seconds_env"))
    return 1000 * seconds / frames if frames else 0.0
