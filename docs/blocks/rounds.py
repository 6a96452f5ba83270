"""The cloned policy, and what was tried before the proof's arms: blocks of figures."""

from typing import Any

import numpy as np

from blocks.common import RESULTS, ROOT, json_lines, load, markdown_table
from blocks.proof import DREAM, REALITY, part, share
from prophet_gym.cli.report import interval
from prophrl_algos.paired import mcnemar

RATES = ("precision", "recall")


def cloned_policy() -> str:
    """What the bundled cloned policy is and how well it does."""
    folder = ROOT / "prophrl_algos" / "vla" / "SmallVLA-LIBERO-object-sft"
    command = (
        "python benchmarks/proof.py --size cpu --stage sft --out outputs/proof_cpu --logs benchmarks/results/proof_cpu"
    )
    path = RESULTS / "proof_cpu" / "tries.jsonl"
    if not (folder / "config.json").is_file() or not path.is_file():
        return f"Not measured yet: `{command}`."
    weights, tries = folder / "model.safetensors", json_lines(path)
    cloned = {line["world"]: line for line in tries if line["run"] == "sft"}
    rows = [
        ["file", f"{weights.stat().st_size / 1e6:.1f} MB, half precision"],
        ["optimiser steps of cloning", str(cloned[REALITY]["update"])],
        *(
            [f"{label}, `train` starts it was chosen on", counted(cloned[world]["success"])]
            for world, label in ((REALITY, "success in LIBERO"), (DREAM, "success in the bundled dream"))
        ),
    ]
    summary = load("proof_cpu/summary.json") or {}
    if "sft" in summary:
        rows.append(["success in LIBERO, official states", share(summary["sft"])])
        rows += [[f"task {task}", share(found)] for task, found in summary["sft"]["per_task"].items()]
    return markdown_table(["", "value"], rows)


def proof_round(name: str, file: str = "tries.jsonl") -> str:
    """What a round did to success on `train` starts, in LIBERO and in the dream that it learnt in."""
    path = RESULTS / name / file
    if not path.is_file():
        return "Not measured yet."
    found: dict[tuple[str, int], dict[str, str]] = {}
    for line in json_lines(path):
        found.setdefault((line["run"], line["update"]), {})[line["world"]] = counted(line["success"])
    worlds = {REALITY: "success in LIBERO [Wilson 95%]", DREAM: "success in the dream, same starts"}
    shown = [world for world in worlds if any(world in each for each in found.values())]
    rows = [[label_of(*key), *(each.get(world, "") for world in shown)] for key, each in found.items()]
    return markdown_table(["policy", *(worlds[world] for world in shown)], rows)


def per_task(log: str, run: str) -> str:
    """Of one policy that was tried, successes in each task in both worlds."""
    path = RESULTS / log
    if not path.is_file():
        return "Not measured yet."
    lines = [line for line in json_lines(path) if line["run"] == run]
    tasks = sorted(set(lines[0]["task"]))
    rows = []
    for line in lines:
        outcomes = {
            task: [s for s, t in zip(line["success"], line["task"], strict=True) if t == task] for task in tasks
        }
        rows.append(["LIBERO" if line["world"] == REALITY else "dream", *(counted(outcomes[task]) for task in tasks)])
    return markdown_table([run, *(f"task {task}" for task in tasks)], rows)


def paired(log: str, before: str, least: int = 100) -> str:
    """What policies of a round gained in LIBERO over another one, from as many starts as that one had."""
    path = RESULTS / log
    if not path.is_file():
        return "Not measured yet."
    found = {line["run"]: by_start(line) for line in json_lines(path) if line["world"] == REALITY}
    first, rows = found[before], []
    for run, outcomes in found.items():
        if run == before or len(outcomes) < least:
            continue
        gained = sum(outcomes[start] > first[start] for start in first)
        lost = sum(outcomes[start] < first[start] for start in first)
        was, now = (np.array([each[start] for start in first], bool) for each in (first, outcomes))
        rows.append([run, f"+{gained} -{lost} of {len(first)}", f"{mcnemar(was, now):.2g}"])
    return markdown_table([f"against: {before}", "starts gained, lost", "McNemar's p"], rows)


def by_start(line: dict[str, Any]) -> dict[tuple[int, int], int]:
    """(Task, start) -> success."""
    return {(t, s): done for t, s, done in zip(line["task"], line["start"], line["success"], strict=True)}


def rollouts(log: str) -> str:
    """Success of what a run learnt from."""
    path = RESULTS / log
    if not path.is_file():
        return "Not measured yet."
    lines = json_lines(path)
    shares = ", ".join(f"{line['success']:.0%}" for line in lines)
    moved = ", ".join(f"{line['kl']:.2g}" for line in lines if "kl" in line)
    return (
        f"Successful among the rollouts of each of its updates: {shares}; KL to the cloned policy: {moved} "
        f"(`benchmarks/results/{log}`)."
    )


def label_of(run: str, update: int) -> str:
    """A policy of a round in words."""
    if run == "sft":
        return "cloned"
    return f"after {update} updates at learning rate {run.removeprefix('rate-')}" if run.startswith("rate-") else run


def counted(outcomes: list[int]) -> str:
    """Successes of episodes, with Wilson's interval."""
    return part(sum(outcomes), len(outcomes))


def same_commands() -> str:
    """How often the dream of what a policy did in LIBERO ends as it did there."""
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
    header = ["the success head on", "episodes", "successful in LIBERO", "precision [95%]", "recall [95%]"]
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
        f"{markdown_table(header, rows)}\n\nRecorded episodes of the policy, LIBERO -> dream of the same "
        "commands (`benchmarks/proof_gap.py`), medians over the moments at which it acts; the last column is the mean "
        "difference of the commands that the two pictures make it give, as a share of the commands."
    )


def proof_explore(*policies: str) -> str:
    """Success of policies while they sample with noise."""
    path = RESULTS / "proof_explore.jsonl"
    if not path.is_file():
        return "Not measured yet: `python benchmarks/proof_explore.py --log benchmarks/results/proof_explore.jsonl`."
    rows = []
    for line in json_lines(path):
        if line["policy"] not in policies:
            continue
        rows.append([
            *[line["policy"]] * (len(policies) > 1),
            "LIBERO" if line["world"] == REALITY else "dream",
            f"`{line['algo']}`",
            f"{line['noise']:g}",
            part(line["successes"], line["episodes"]),
            f"{line['mixed_groups']}/{line['groups']}",
        ])  # fmt: skip
    header = ["policy"] * (len(policies) > 1) + ["world", "algorithm", "noise level"]
    header += ["success [Wilson 95%]", "groups with both outcomes"]
    return markdown_table(header, rows)


def proof_belief(file: str = "proof_belief.json") -> str:
    """How much of what a dream made a policy believe was true."""
    command = f"python benchmarks/proof_belief.py --recordings DREAM RECORDING --json benchmarks/results/{file}"
    report = load(file)
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
    header = [
        "dream",
        "episodes",
        "successful in LIBERO",
        "failures that it took for success",
        "precision [Wilson 95%]",
    ]
    return f"{markdown_table(header, rows)}\n\n`{command}`"


def proof_closing() -> str:
    """Where a hand closes, and how far trackers have strayed by then."""
    report = load("proof_closing.json")
    if report is None:
        return "Not measured yet: `benchmarks/proof_closing.py`."
    rows = [
        [name, what, *(f"{sizes[axis]:.1f}" for axis in ("depth", "across", "height")), f"{sizes['correlation']:.2f}"]
        for name, found in report["recordings"].items()
        for what, sizes in {
            **{f"hand to target at {each['count']} closings: {k}": each for k, each in found["closings"].items()},
            **{f"tracker to hand at the first closing: {k}": each for k, each in found["strayed"].items()},
        }.items()
        if "depth" in sizes
    ]
    return markdown_table(
        ["episodes of", "median size, mm", "depth", "across", "height", "correlation of depth and height"], rows
    )


def proof_faults() -> str:
    """How a policy's episodes in LIBERO end."""
    report = load("proof_faults.json")
    if report is None:
        return "Not measured yet: `benchmarks/proof_faults.py`."
    rows = [
        [name, *(part(count, sum(counts.values())) for count in counts.values())]
        for name, counts in report["recordings"].items()
    ]
    ends = next(iter(report["recordings"].values()))
    return markdown_table(["episodes in LIBERO of [Wilson 95%]", *ends], rows)
