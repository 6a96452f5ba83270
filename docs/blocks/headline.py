"""What the README says of the experiment: blocks of figures."""

from typing import Any

from blocks import controls as measured
from blocks.common import ROOT, load, markdown_table, where
from blocks.proof import DREAM, REALITY, label_of, points, share
from prophrl_algos.evaluate import wilson


def headline(size: str) -> str:
    """Return the README's pictures and table: where each arm ends, beside what costs no learning."""
    summary = load(f"proof_{size}/summary.json")
    arms = {} if summary is None else {arm: found for arm, found in summary["arms"].items() if found["final"]}
    if summary is None or not arms:
        return f"Not measured yet: `make proof-{size}`."
    tasks = ", ".join(map(str, summary["size"]["tasks"]))
    rows = [["cloned", share(summary["sft"]), "", ""], *controls()]
    rows += [
        [
            label_of(arm, found),
            share(found["final"]),
            points(found["final"]["gain"]),
            f"{found['runs']} of {found['about']['seeds']}",
        ]
        for arm, found in arms.items()
    ]
    waiting = [label_of(arm, found) for arm, found in summary["arms"].items() if not found["final"]]
    rest = f" Not run yet: {', '.join(waiting)}." if waiting else ""
    pictures = {
        f"docs/proof_{size}.png": "gains along the runs, success at the end, and how far the reward can be trusted",
        "docs/proof.webp": "one start before (above) and after learning in the dream; left LIBERO, right the dream",
    }
    return "\n\n".join([
        *(f"![{label}]({path})" for path, label in pictures.items() if (ROOT / path).is_file()),
        markdown_table(["arm", "success in LIBERO", "gain, points", "runs"], rows),
        f"In LIBERO, from the official states of tasks {tasks} of `libero_object`, after "
        f"{summary['size']['updates']} updates, [95% intervals].{rest} "
        f"`make proof-{size}` on {where(summary['machine'])}; [protocol, tables and what went before](docs/proof.md).",
    ])  # fmt: skip


def controls() -> list[list[str]]:
    """Return a row for each policy that learnt nothing in any world, none while it is not measured."""
    cloned = measured.logged("sft")
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
        low, high = wilson(int(sum(outcomes)), len(outcomes))
        found = {"success": sum(outcomes) / len(outcomes), "low": low, "high": high}
        gained = measured.gain(measured.by_start(cloned[0]), [measured.by_start(run) for run in runs])
        rows.append([label, share(found), gained, f"{len(runs)} of {len(runs)}"])
    return rows


def price(size: str) -> str:
    """Return a sentence on what learning in the dream costs beside learning in the simulator."""
    summary = load(f"proof_{size}/summary.json")
    seconds = {} if summary is None else {world: env_seconds(summary, world) for world in (DREAM, REALITY)}
    if summary is None or not all(seconds.values()):
        return f"Not measured yet: `make proof-{size}`."
    cores = summary["machine"]["cores"]
    return (
        f"Today the dream saves steps of the simulator rather than time: in reinforcement learning on {cores} cores it "
        f"takes {seconds[DREAM]:.1f} s of the env per 1,000 frames, the simulator {seconds[REALITY]:.1f}, which draws "
        f"one image a chunk there and needs no reward model (`make proof-{size}` on {where(summary['machine'])}; "
        "[all costs](docs/proof.md#what-a-frame-costs))."
    )


def env_seconds(summary: dict[str, Any], world: str) -> float:
    """Return the env's seconds per 1,000 frames, over all runs that learnt in a world; 0 without any."""
    arms = [each for each in summary["arms"].values() if each["runs"] and each["about"]["env"] == world]
    frames, seconds = (sum(each["runs"] * each["cost"][key] for each in arms) for key in ("frames", "seconds_env"))
    return 1000 * seconds / frames if frames else 0.0
