"""The proof: blocks of figures."""

import json
import sys
from typing import Any

from blocks.common import RESULTS, ROOT, load, markdown_table, where
from prophet_gym.cli.report import interval
from prophrl_algos.evaluate import wilson

REALITY = "LIBERO-Object-v0"
RATES = ("precision", "recall")


def share(found: dict[str, Any] | None) -> str:
    """A rate in per cent with its interval."""
    if found is None or found["success"] is None:
        return ""
    return f"{found['success']:.1%} [{found['low']:.1%}, {found['high']:.1%}]"


def proof_settings(size: str) -> str:
    """What the protocol of a size fixes."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from proof_sizes import SIZES
    finally:
        sys.path.pop(0)
    chosen = SIZES[size]
    about = {
        "tasks of libero_object": ", ".join(map(str, chosen.tasks)),
        "policy": f"`{chosen.policy}`",
        "cloning": cloning_of(chosen),
        "learning rates tried": ", ".join(f"{rate:g}" for rate in chosen.rates),
        "updates": str(chosen.updates),
        "rollouts in an update": f"{chosen.groups} groups of {chosen.group_size}",
        "optimiser steps in an update": f"{chosen.epochs * chosen.minibatches}",
        "noise level of rollouts": f"{chosen.noise_level:g}",
        "points of a curve": f"every {chosen.point_every} updates, {chosen.point_states} official states per task",
        "at the end": f"{chosen.final_states} official states per task, {chosen.repeats} real episode(s) per arm each",
        "real episodes that the reward watches": f"of {chosen.watched_states} states per task, in each run and point",
        "arms (runs)": "; ".join(f"{name} ({arm.seeds})" for name, arm in chosen.arms.items()),
    }
    return markdown_table(["", "value"], [[name, value] for name, value in about.items()])


def cloning_of(size: Any) -> str:
    """What a proof's policy is cloned from, and how long."""
    if size.cloned:
        return f"none: the bundled `{size.cloned}`"
    tasks = f"tasks {', '.join(map(str, size.sft_tasks))}" if size.sft_tasks else "all tasks"
    return f"experts in {tasks}; {size.sft_steps} steps of {size.sft_rows} chunks at {size.sft_rate:g}"


def cloned_policy() -> str:
    """What the bundled cloned policy is and how well it does."""
    folder = ROOT / "prophrl_algos" / "vla" / "SmallVLA-LIBERO-object-sft"
    command = (
        "python benchmarks/proof.py --size cpu --stage sft --out outputs/proof_cpu --logs benchmarks/results/proof_cpu"
    )
    path = RESULTS / "proof_cpu" / "tries.jsonl"
    if not (folder / "config.json").is_file() or not path.is_file():
        return f"Not measured yet: `{command}`."
    weights, tries = folder / "model.safetensors", [json.loads(line) for line in path.read_text().splitlines()]
    cloned = {line["world"]: line for line in tries if line["run"] == "sft"}
    rows = [
        ["file", f"{weights.stat().st_size / 1e6:.1f} MB, half precision"],
        ["optimiser steps of cloning", str(cloned[REALITY]["update"])],
        *(
            [f"{label}, `train` starts it was chosen on", counted(cloned[world]["success"])]
            for world, label in ((REALITY, "real success"), ("Prophet-LIBERO-v0", "success in the bundled dream"))
        ),
    ]
    summary = load("proof_cpu/summary.json") or {}
    if "sft" in summary:
        rows.append(["real success, official states", share(summary["sft"])])
        rows += [[f"task {task}", share(found)] for task, found in summary["sft"]["per_task"].items()]
    return markdown_table(["", "value"], rows)


def counted(outcomes: list[int]) -> str:
    """Successes of episodes, with Wilson's interval."""
    low, high = wilson(sum(outcomes), len(outcomes))
    return f"{sum(outcomes)}/{len(outcomes)} [{low:.0%}, {high:.0%}]"


def proof_round(name: str, file: str = "tries.jsonl") -> str:
    """What a round did to success on `train` starts, in reality and in the dream that it learnt in."""
    path = RESULTS / name / file
    if not path.is_file():
        return "Not measured yet."
    found: dict[tuple[str, int], dict[str, str]] = {}
    for line in map(json.loads, path.read_text().splitlines()):
        found.setdefault((line["run"], line["update"]), {})[line["world"]] = counted(line["success"])
    worlds = {REALITY: "real success [Wilson 95%]", "Prophet-LIBERO-v0": "success in the dream, same starts"}
    shown = [world for world in worlds if any(world in each for each in found.values())]
    rows = [[label_of(*key), *(each.get(world, "") for world in shown)] for key, each in found.items()]
    return markdown_table(["policy", *(worlds[world] for world in shown)], rows)


def same_commands() -> str:
    """How often the dream of what a policy did in reality ends as reality did."""
    command = (
        "prophet calibrate --data outputs/policy_both --episodes 60 --checkpoint outputs/refresh/checkpoint "
        "--out benchmarks/results/proof_same_commands.json"
    )
    report = load("proof_same_commands.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    rows = [
        [label, str(found["count"]), str(found["successes"]), *(interval(found[key], 2) for key in RATES)]
        for source, label in (("real", "the episode itself"), ("dream", "the dream of its commands"))
        for found in (report[source]["episodes"],)
    ]
    header = ["the success head on", "episodes", "really successful", "precision [95%]", "recall [95%]"]
    return f"{markdown_table(header, rows)}\n\n`{command}`"


def proof_gap() -> str:
    """What the cloned policy makes of dreamt pictures, by the dream's age."""
    report = load("proof_gap.json")
    if report is None:
        return "Not measured yet: `python benchmarks/proof_gap.py --json benchmarks/results/proof_gap.json`."
    rows = [
        [
            name,
            age,
            str(group["moments"]),
            *(f"{group[f'{what}_px_real']:.1f} -> {group[f'{what}_px_dream']:.1f}" for what in ("gripper", "target")),
            f"{group['commands']:.0%}",
        ]
        for name, ages in report["dreams"].items()
        for age, group in ages.items()
    ]
    header = [
        "policy, dream",
        "chunks dreamt",
        "moments",
        "gripper off by, px",
        "target off by, px",
        "commands differ by",
    ]
    return (
        f"{markdown_table(header, rows)}\n\nRecorded episodes of the policy, reality -> dream of the same "
        "commands (`benchmarks/proof_gap.py`), medians over the moments at which it acts; the last column is the mean "
        "difference of the commands that the two pictures make it give, as a share of the commands."
    )


def proof_explore() -> str:
    """Success of policies while they sample with noise."""
    path = RESULTS / "proof_explore.jsonl"
    if not path.is_file():
        return "Not measured yet: `python benchmarks/proof_explore.py --log benchmarks/results/proof_explore.jsonl`."
    rows = []
    for line in map(json.loads, path.read_text().splitlines()):
        low, high = wilson(line["successes"], line["episodes"])
        rows.append([
            line["policy"],
            "real" if line["world"] == REALITY else "dream",
            f"`{line['algo']}`",
            f"{line['noise']:g}",
            f"{line['successes']}/{line['episodes']} [{low:.0%}, {high:.0%}]",
            f"{line['mixed_groups']}/{line['groups']}",
        ])  # fmt: skip
    header = ["policy", "world", "algorithm", "noise level", "success [Wilson 95%]", "groups with both outcomes"]
    return markdown_table(header, rows)


def proof_belief() -> str:
    """How much of what a dream made a policy believe was true."""
    command = (
        "python benchmarks/proof_belief.py --recordings DREAM RECORDING --json benchmarks/results/proof_belief.json"
    )
    report = load("proof_belief.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    rows = [
        [
            name,
            str(found["episodes"]),
            str(found["real"]),
            str(found["believed"]),
            f"{found['precision']:.2f} [{found['low']:.2f}, {found['high']:.2f}]",
        ]
        for name, found in report["dreams"].items()
    ]
    header = ["dream", "episodes", "really successful", "failures that it took for success", "precision [Wilson 95%]"]
    return f"{markdown_table(header, rows)}\n\n`{command}`"


def label_of(run: str, update: int) -> str:
    """A policy of a round in words."""
    if run == "sft":
        return "cloned"
    return f"after {update} updates at learning rate {run.removeprefix('rate-')}" if run.startswith("rate-") else run


def headline(size: str) -> str:
    """For the README: the pictures, and where each arm ends."""
    summary = load(f"proof_{size}/summary.json")
    arms = {} if summary is None else {arm: found for arm, found in summary["arms"].items() if found["final"]}
    if summary is None or not arms:
        return "Not measured yet: `make proof`."
    cloned = summary["sft"]
    ends = [f"cloned {share(cloned)}"] + [f"{arm} {share(found['final'])}" for arm, found in arms.items()]
    gains = {arm: found["final"]["gain"] for arm, found in arms.items()}
    apart = [f"{arm} {points(gain)}" for arm, gain in gains.items() if gain["low"] > 0 or gain["high"] < 0]
    said = f"Gains that are apart from zero: {'; '.join(apart)} points." if apart else "No gain is apart from zero."
    tasks = ", ".join(map(str, summary["size"]["tasks"]))
    pictures = {
        f"docs/proof_{size}.png": "success along the runs, at the end, and how far the reward can be trusted",
        "docs/proof.webp": "one start before and after learning in the dream, in reality and in the dream",
    }
    return "\n\n".join([
        *(f"![{label}]({path})" for path, label in pictures.items() if (ROOT / path).is_file()),
        f"Success in the real simulator from the official states of tasks {tasks} of `libero_object`, after "
        f"{summary['size']['updates']} updates: {'; '.join(ends)}. {said} "
        f"`make proof-{size}` on {where(summary['machine'])}; [protocol, tables and what went before](docs/proof.md).",
    ])  # fmt: skip


def points(gain: dict[str, float]) -> str:
    """A gain in points with its interval."""
    return f"{100 * gain['mean']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"


def proof_price(size: str) -> str:
    """What a frame costs in either world, and how many of the simulator's the dream replaced."""
    summary = load(f"proof_{size}/summary.json")
    learnt = [] if summary is None else [each for each in summary["arms"].values() if each["cost"]["frames"]]
    if not learnt:
        return "Not measured yet."
    rows = []
    for world, label in (("Prophet-LIBERO-v0", "dream"), (REALITY, "real simulator")):
        costs = [each["cost"] | {"runs": each["runs"]} for each in learnt if each["about"]["env"] == world]
        if not costs:
            continue
        frames = sum(cost["runs"] * cost["frames"] for cost in costs)
        seconds = {
            key: sum(cost["runs"] * cost[key] for cost in costs) for key in ("seconds_env", "seconds_policy", "seconds")
        }
        rows.append([
            label,
            str(sum(cost["runs"] for cost in costs)),
            f"{frames:,.0f}",
            f"{1000 * seconds['seconds_env'] / frames:.2f}",
            f"{1000 * seconds['seconds'] / frames:.2f}",
        ])  # fmt: skip
    header = ["learnt in", "runs", "frames in all", "s of the env per 1,000 frames", "s in all per 1,000 frames"]
    return markdown_table(header, rows)


def proof(size: str) -> str:
    """Where each arm ends in the real simulator, what it gained, what the reward was worth, what it cost."""
    command = (
        f"python benchmarks/proof.py --size {size} --out outputs/proof_{size} --logs benchmarks/results/proof_{size}"
    )
    summary = load(f"proof_{size}/summary.json")
    if summary is None or "sft" not in summary:
        return f"Not measured yet: `{command}`."
    cloned = summary["sft"]
    rows = [["cloned", "", share(cloned), "", "", "", "", ""]]
    for name, found in summary["arms"].items():
        end = found["final"]
        if end is None:
            continue
        gain, last, cost = end["gain"], found["curve"][-1], found["cost"]
        trust = [last["dream_of_real"]["precision"], last["reward_on_real"]["precision"]]
        rows.append([
            name,
            str(found["seeds"]),
            share(end),
            points(gain),
            ", ".join(f"{p:.2g}" for p in end["mcnemar"]),
            *("" if value is None else f"{value:.2f}" for value in trust),
            f"{cost['frames']:,.0f}; {cost['seconds'] / 60:.0f} min",
        ])  # fmt: skip
    header = [
        "arm",
        "runs",
        "real success [Wilson 95%]",
        "gain, points [95%, paired]",
        "McNemar p, each run",
        "dreamt successes that are real",
        "rewarded real episodes that are right",
        "frames; time of a run",
    ]
    tasks = [["cloned", *(share(each) for each in cloned["per_task"].values())]] + [
        [name, *(share(each) for each in found["final"]["per_task"].values())]
        for name, found in summary["arms"].items()
        if found["final"] is not None
    ]
    label = "**Short version: one task and one arm, too few runs to compare algorithms.** " if size == "short" else ""
    return "\n\n".join([
        f"{label}`{command}` on {where(summary['machine'])}.",
        markdown_table(header, rows),
        markdown_table(["real success", *(f"task {task}" for task in cloned["per_task"])], tasks),
        *([f"![curves](proof_{size}.png)"] if (ROOT / "docs" / f"proof_{size}.png").is_file() else []),
    ])  # fmt: skip
