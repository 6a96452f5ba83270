"""The proof: blocks of figures."""

import sys
from dataclasses import asdict
from typing import Any

from blocks.common import ROOT, load, markdown_table, where
from prophrl_algos.evaluate import wilson

REALITY, DREAM = "LIBERO-Object-v0", "Prophet-LIBERO-v0"


def share(found: dict[str, Any] | None) -> str:
    """A rate in per cent with its interval."""
    if found is None or found["success"] is None:
        return ""
    return f"{found['success']:.1%} [{found['low']:.1%}, {found['high']:.1%}]"


def protocol() -> Any:
    """Return the module that fixes the experiment: `benchmarks/proof_sizes.py`."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import proof_sizes
    finally:
        sys.path.pop(0)
    return proof_sizes


def sizes() -> dict[str, Any]:
    """Return the experiment's sizes by name."""
    return protocol().SIZES


def label_of(name: str, found: dict[str, Any]) -> str:
    """Return what an arm of a summary is called."""
    return protocol().label_of(name, found["about"])


def forward_settings() -> str:
    """With what the proof runs each algorithm that scores the denoising, as options of `prophrl train`."""
    from prophrl_algos.cli.common import NUM_STEPS

    rows = []
    for size in (sizes()["cpu"], sizes()["full"]):
        for arm in ("fa-grpo", "flow-grpo"):
            about = size.arms[arm]
            rows.append([
                f"`{about.algo}`",
                str(NUM_STEPS[size.policy]),
                *(f"{value:g}" for value in (*about.clip, about.beta, about.noise_level, size.rates[-1])),
                str(size.epochs * size.minibatches),
            ])  # fmt: skip
    header = ["`--algo`", "denoising steps K", "`--config.clip-low`", "`--config.clip-high`", "`--config.beta`",
              "`--config.noise-level`", "`--learning-rate`", "`--config.minibatches`"]  # fmt: skip
    return markdown_table(header, rows)


def proof_settings(size: str) -> str:
    """What the protocol of a size fixes."""
    chosen = sizes()[size]
    about = {
        "tasks of libero_object": ", ".join(map(str, chosen.tasks)),
        "policy": f"`{chosen.policy}`",
        "cloning": cloning_of(chosen),
        "learning rates tried": ", ".join(f"{rate:g}" for rate in chosen.rates),
        "updates": str(chosen.updates),
        "rollouts in an update": f"{chosen.groups} groups of {chosen.group_size}",
        "optimiser steps in an update": f"{chosen.epochs * chosen.minibatches}",
        "points of a curve": f"every {chosen.point_every} updates, {chosen.point_states} episodes per task and arm",
        "at the end": f"{chosen.final_states} official states per task, {chosen.repeats} in LIBERO per arm",
        "what the reward watches": f"LIBERO, {chosen.watched_states} states per task, in each run and point",
        "arms: algorithm, FlowScale's alpha, clip, noise level, KL's weight (runs; their names)": "; ".join(
            settings_of(name, arm) for name, arm in chosen.arms.items()
        ),
    }
    return markdown_table(["", "value"], [[name, value] for name, value in about.items()])


def settings_of(name: str, arm: Any) -> str:
    """Return what an arm's runs have in common, and what they are called."""
    low, high = arm.clip
    return (
        f"{protocol().label_of(name, asdict(arm))}: `{arm.algo}`, {arm.alpha:g}, {low:g}/{high:g}, "
        f"{arm.noise_level:g}, {arm.beta:g} ({arm.seeds}; `{name}-s0` ...)"
    )


def cloning_of(size: Any) -> str:
    """What a proof's policy is cloned from, and how long."""
    if size.cloned:
        return f"none: the bundled `{size.cloned}`"
    tasks = f"tasks {', '.join(map(str, size.sft_tasks))}" if size.sft_tasks else "all tasks"
    shown = " and ".join(["experts", *(f"`{mode}`" for mode in size.sft_failing)])
    return f"{shown} in {tasks}; {size.sft_steps} steps of {size.sft_rows} chunks at {size.sft_rate:g}"


def points(gain: dict[str, float] | None) -> str:
    """A gain in points with its interval."""
    return "" if gain is None else f"{100 * gain['mean']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"


def part(right: int, of: int) -> str:
    """A share with what it is of, and Wilson's interval."""
    if not of:
        return "0/0"
    low, high = wilson(right, of)
    return f"{right}/{of} [{low:.0%}, {high:.0%}]"


def proof_price(size: str) -> str:
    """What a frame costs in either world, and how many of the simulator's the dream replaced."""
    summary = load(f"proof_{size}/summary.json")
    learnt = [] if summary is None else [each for each in summary["arms"].values() if each["runs"]]
    rows = []
    for world, label in ((DREAM, "dream"), (REALITY, "LIBERO")):
        arms = [each for each in learnt if each["about"]["env"] == world]
        if not arms:
            continue
        total = {
            key: sum(each["runs"] * each["cost"][key] for each in arms) for key in ("frames", "seconds_env", "seconds")
        }
        rows.append([
            label,
            str(sum(each["runs"] for each in arms)),
            f"{total['frames']:,.0f}",
            *(f"{1000 * total[key] / total['frames']:.2f}" for key in ("seconds_env", "seconds")),
        ])  # fmt: skip
    header = ["learnt in", "runs", "frames in all", "s of the env per 1,000 frames", "s in all per 1,000 frames"]
    return markdown_table(header, rows) if rows else "Not measured yet."


def proof(size: str) -> str:
    """Where each arm ends in both worlds, what it gained, how far dream and reward are right, what it cost."""
    command = (
        f"python benchmarks/proof.py --size {size} --out outputs/proof_{size} --logs benchmarks/results/proof_{size}"
    )
    summary = load(f"proof_{size}/summary.json")
    if summary is None or "sft" not in summary:
        return f"Not measured yet: `{command}`."
    label = "**Short version: one task and one arm, too few runs to compare algorithms.** " if size == "short" else ""
    effects = [
        [name, points(summary["effects"]["real"][name]), points(found)]
        for name, found in summary["effects"]["dream"].items()
        if name in summary["effects"]["real"]
    ]
    return "\n\n".join([
        f"{label}`{command}` on {where(summary['machine'])}.",
        *([f"![curves](proof_{size}.png)"] if (ROOT / "docs" / f"proof_{size}.png").is_file() else []),
        ends_of(summary),
        *([markdown_table(["effect in the 2x2, points [95%]", "in LIBERO", "in the dream"], effects)] * bool(effects)),
        tasks_of(summary),
        trust_of(summary),
        time_of(summary),
    ])  # fmt: skip


def time_of(summary: dict[str, Any]) -> str:
    """How long learning and evaluation took, without what may run beside them."""
    learning, evaluation = (summary["seconds"][part] / 60 for part in ("learning", "evaluation"))
    return f"The runs that ended learnt for {learning:.0f} minutes in all; evaluation took {evaluation:.0f}."


def ends(folder: str) -> str:
    """Where the arms of a proof that was ended have got to."""
    summary = load(f"{folder}/summary.json")
    return "Not measured yet." if summary is None else ends_of(summary)


def ends_of(summary: dict[str, Any]) -> str:
    """Success and gain of every arm in both worlds."""
    cloned = summary["sft"]
    rows = [["cloned", "", share(cloned), "", "", share(cloned["point"]["dream"]), "", ""]]
    for name, found in summary["arms"].items():
        label, runs = label_of(name, found), f"{found['runs']} of {found['about']['seeds']}"
        if found["final"] is None:
            rows.append([label, f"{runs}, {found['begun']} begun", *[""] * 6])
            continue
        end, dream, cost = found["final"], found["dream"], found["cost"]
        rows.append([
            label,
            runs,
            share(end),
            points(end["gain"]),
            changes_of(end),
            share(dream),
            points(dream and dream["gain"]),
            f"{cost['frames']:,.0f}; {cost['seconds'] / 60:.0f} min",
        ])  # fmt: skip
    header = ["arm", "runs", "success in LIBERO [Wilson 95%]", "gain, points [95%, paired]",
              "episodes gained, lost; McNemar's p, each run", "success in the dream", "gain there",
              "frames; time of a run"]  # fmt: skip
    return markdown_table(header, rows)


def changes_of(end: dict[str, Any]) -> str:
    """Of each run, episodes gained and lost in LIBERO."""
    runs = zip(end["changed"], end["mcnemar"], strict=True)
    return ", ".join(f"+{changed['gained']} -{changed['lost']}; {p:.2g}" for changed, p in runs)


def tasks_of(summary: dict[str, Any]) -> str:
    """Success in LIBERO in each task."""
    ends = {"cloned": summary["sft"]}
    ends |= {label_of(arm, found): found["final"] for arm, found in summary["arms"].items()}
    rows = [[name, *(share(each) for each in end["per_task"].values())] for name, end in ends.items() if end]
    return markdown_table(["success in LIBERO", *(f"task {task}" for task in summary["sft"]["per_task"])], rows)


def trust_of(summary: dict[str, Any]) -> str:
    """How far the dream and the reward are right about the policy at the end of each arm."""
    ends = {"cloned": summary["sft"]["point"]}
    ends |= {label_of(arm, found): found["curve"][-1] for arm, found in summary["arms"].items() if found["final"]}
    rows = []
    for name, end in ends.items():
        dream, reward = end["dream_of_real"], end["reward_on_real"]
        alarms = reward["said"] - reward["right"]
        rows.append([
            name,
            part(dream["right"], dream["said"]),
            part(dream["successes"] - dream["right"], dream["episodes"] - dream["said"]),
            part(reward["right"], reward["said"]),
            part(reward["right"], reward["successes"]),
            part(alarms, reward["episodes"] - reward["successes"]),
        ])  # fmt: skip
    header = ["arm", "starts of dreamt success that succeed in LIBERO", "starts of dreamt failure that do",
              "rewarded episodes in LIBERO that succeed",
              "successes in LIBERO that are rewarded", "failures there that are rewarded"]  # fmt: skip
    return markdown_table(header, rows)
