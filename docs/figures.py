"""Puts measured numbers into the documents: `python docs/figures.py` (or `make figures`); `--check` only compares.

A document holds a block between `<!-- figures: NAME -->` and `<!-- /figures -->`; what stands there is made from the
JSON files of `benchmarks/results/`, the bundled checkpoint and the robots' files, never typed.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from prophet_gym.calibration import CARD_NAME, RATES, grouped, summary
from prophet_gym.cli.report import COLUMNS, CONDITIONS, interval
from prophet_gym.embodiments import EMBODIMENTS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CHECKPOINT = ROOT / "prophet_gym" / "checkpoints" / "libero_small"
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "model_cards" / "libero_small.md",
    ROOT / "docs" / "embodiments.md",
    ROOT / "docs" / "envs.md",
    ROOT / "docs" / "evaluation.md",
    ROOT / "docs" / "training.md",
    ROOT / "docs" / "algorithms.md",
    ROOT / "docs" / "libraries.md",
    ROOT / "docs" / "proof.md",
)
BLOCK = re.compile(r"(<!-- figures: (?P<name>[\w-]+) -->\n).*?(<!-- /figures -->)", re.DOTALL)


def load(name: str) -> dict[str, Any] | None:
    path = RESULTS / name
    return json.loads(path.read_text()) if path.is_file() else None


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def where(machine: dict[str, Any]) -> str:
    versions = machine["versions"]
    return f"{machine['cores']} cores ({machine['processor']}), torch {versions['torch']}"


def evaluation(name: str, command: str) -> str:
    report = load(name)
    if report is None:
        return f"Not measured yet: `{command}`."
    parts = [
        f"{report['episodes']} held-out episodes of `{report['suite']}` from {report['starts']} starts "
        f"({report['successes']} succeed), tasks {', '.join(map(str, report['tasks']))}, look `{report['look']}`, "
        f"open loop; mean over episodes [95% bootstrap interval]. Made by `{command}` on {where(report['machine'])}."
    ]
    for frames, found in report["horizons"].items():
        parts.append(horizon(frames, found))
    return "\n\n".join(parts)


def horizon(frames: str, found: dict[str, Any]) -> str:
    conditions = found["conditions"]
    names = [name for name in COLUMNS if any(name in metrics for metrics in conditions.values())]
    rows = [
        [label, *(interval(conditions[key].get(name), COLUMNS[name][1]) for name in names)]
        for key, label in CONDITIONS.items()
        if key in conditions
    ]
    shorter = f", {found['shorter']} shorter ones left out" if found["shorter"] else ""
    head = f"{frames} frames ({found['episodes']} episodes{shorter})"
    return markdown_table([head, *(COLUMNS[name][0] for name in names)], rows)


def margins() -> str:
    """What the dream gains, in one line per horizon: the README's summary."""
    command = "prophet evaluate --json benchmarks/results/evaluation.json"
    report = load("evaluation.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    header = [
        "open loop over",
        "dream, PSNR dB",
        "over copying the last frame, dB",
        "over other actions, dB",
        "EPE by copying's",
    ]
    rows = []
    for frames, found in report["horizons"].items():
        gains = found["margins"]
        rows.append([
            f"{frames} frames",
            interval(found["conditions"]["dream"]["psnr"], 2),
            interval(gains.get("psnr_over_copy"), 2),
            interval(gains.get("psnr_over_other_actions"), 2),
            interval(gains.get("epe_by_copy"), 2),
        ])  # fmt: skip
    return (
        f"{markdown_table(header, rows)}\n\n`{command}`; all metrics in the [model card](model_cards/libero_small.md)."
    )


def speed() -> str:
    command = "python benchmarks/small_env.py --json benchmarks/results/small_env.json"
    report = load("small_env.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    rows = [
        [f"dream, {count} at once", f"{measured['frames_per_second']:.0f}"]
        for count, measured in report["dream"].items()
        if count.isdigit()
    ]
    for look, drawings in report["real"].items():
        for name, processes in drawings.items():
            for count, measured in processes.items():
                how = f"real simulator, look `{look}`, drawn {name.replace('_', ' ')}, {count} process(es)"
                rows.append([how, f"{measured['frames_per_second']:.0f}"])
    return f"{markdown_table(['', 'frames/s'], rows)}\n\n`{command}` on {where(report['machine'])}."


def checkpoint() -> str:
    if not (CHECKPOINT / "prophet.json").is_file():
        return "No checkpoint is bundled yet."
    config = json.loads((CHECKPOINT / "prophet.json").read_text())
    rows = [[f"`{name}`", f"{value}"] for name, value in config.items() if name not in ("camera", "hold")]
    rows += [
        [f"`{path.relative_to(CHECKPOINT)}`", f"{path.stat().st_size / 1e6:.2f} MB, {numbers_in(path):,} numbers"]
        for path in sorted(CHECKPOINT.rglob("*.safetensors"))
    ]
    return markdown_table(["", "value"], rows)


def instruments() -> str:
    """What the success head and the object reader err by on held-out real episodes."""
    rows = []
    for name in ("success_head", "object_reader"):
        path = CHECKPOINT / name / "metrics.json"
        if path.is_file():
            found = json.loads(path.read_text())["held_out"]
            rows += [[f"`{name}`, {key.replace('_', ' ')}", f"{value:.4g}"] for key, value in found.items()]
    commands = (
        "`prophet train-reward`, `prophet objects`, each with `--data` and `--out` as in "
        "[training](../docs/training.md)."
    )
    return f"{markdown_table(['held-out real episodes', 'value'], rows)}\n\n{commands}"


def dual_conditioning() -> str:
    """Which conditioning is worth what, a row per arm and horizon."""
    command = "python benchmarks/dual_conditioning.py --json benchmarks/results/dual_conditioning.json"
    report = load("dual_conditioning.json")
    if report is None:
        return f"Not measured yet: `{command}` (its first lines say how the data is recorded)."
    head = (
        f"Task {', '.join(map(str, report['tasks']))} of `{report['suite']}`: {report['train_episodes']} training "
        f"episodes, {report['steps']} steps of {report['rows']} chunks an arm, {report['held_out_episodes']} held-out "
        "episodes from official starts, open loop; mean over episodes [95% bootstrap interval]. "
        f"Made by `{command}` on {where(report['machine'])}."
    )
    labels = {
        "both": "action frames and history",
        "no_action_frames": "history only",
        "no_history": "action frames only",
        "neither": "neither",
    }
    return f"{head}\n\n{compared({labels[arm]: found['horizons'] for arm, found in report['arms'].items()})}"


def doubt() -> str:
    """How well doubt ranks the true error."""
    command = "python benchmarks/doubt.py --json benchmarks/results/doubt.json"
    report = load("doubt.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    labels = {
        "spearman_doubt": "rank correlation (Spearman) of doubt and true error",
        "spearman_doubt_at_one_age": "the same among chunks of one age",
        "spearman_age": "rank correlation of age and true error",
        "auroc_of_poor_chunks": f"AUROC of doubt for chunks below {report['poor_below_db']:g} dB",
    }
    rows = [[label, interval(report[key], 2)] for key, label in labels.items()]
    rows += [
        [f"doubt below which {float(share):.0%} of the chunks lie", f"{value:.3f}"]
        for share, value in report["doubt_quantiles"].items()
        if float(share) >= 0.5
    ]
    head = (
        f"{report['chunks']} chunks of {report['episodes']} held-out episodes from official starts, dreamt from the "
        f"first frame; {report['share_of_poor_chunks']:.0%} of them are below {report['poor_below_db']:g} dB. Made by "
        f"`{command}`."
    )
    return f"{head}\n\n{markdown_table(['', 'value [95% interval over episodes]'], rows)}"


def env_costs() -> str:
    """What the env adds to the model: ratios within one run."""
    refill, tiny, bundled = (load(name) for name in ("refill.json", "soak.json", "soak_bundled.json"))
    if refill is None or tiny is None or bundled is None:
        return "Not measured yet: `benchmarks/refill.py`, `benchmarks/soak.py`."
    rows = [
        ["useful share of the generated chunks, with a queue", f"{refill['refill']['useful_fraction']:.3f}"],
        ["the same in lockstep", f"{refill['lockstep']['useful_fraction']:.3f}"],
        ["env code outside the model, share of a step (median)", f"{refill['step']['env_share_median']:.2%}"],
        [f"growth of memory over {tiny['chunks']:,} chunks of a tiny model", f"{tiny['growth']:.2%}"],
        [
            f"most memory that {bundled['rows']} rows of the bundled model took, MB, libraries included",
            f"{bundled['rss_mb_highest_within_a_step']:.0f}",
        ],
    ]
    commands = (
        "`python benchmarks/refill.py --json benchmarks/results/refill.json` (episodes of uneven length), "
        "`python benchmarks/soak.py --json benchmarks/results/soak.json`, the last line with `--checkpoint bundled "
        "--chunks 1300 --json benchmarks/results/soak_bundled.json`"
    )
    return f"{markdown_table(['', 'value'], rows)}\n\n{commands}."


def few_shot() -> str:
    """The bundled checkpoint in a new scene: as it is, adapted, and a transformer trained from scratch."""
    files = {
        "bundled, not adapted": "few_shot_unadapted.json",
        "adapted with LoRA": "few_shot_lora.json",
        "trained from scratch": "few_shot_scratch.json",
    }
    reports = {label: load(name) for label, name in files.items()}
    found = {label: report for label, report in reports.items() if report is not None}
    if len(found) < len(files):
        return "Not measured yet: the commands above."
    one = next(iter(found.values()))
    head = (
        f"{one['episodes']} held-out episodes of `{one['suite']}` (random starts of another seed), open loop; "
        f"mean over episodes [95% bootstrap interval], on {where(one['machine'])}."
    )
    return f"{head}\n\n{compared({label: report['horizons'] for label, report in found.items()})}"


def compared(arms: dict[str, dict[str, Any]]) -> str:
    """A table per horizon: arms by PSNR, EPE, the gain over copying and the price of other actions."""
    tables = []
    for frames in next(iter(arms.values())):
        rows = []
        for label, horizons in arms.items():
            dream, gains = horizons[frames]["conditions"]["dream"], horizons[frames]["margins"]
            rows.append([
                label,
                interval(dream["psnr"], 2),
                interval(gains.get("psnr_over_copy"), 2),
                interval(gains.get("psnr_over_other_actions"), 2),
                interval(dream["epe"], 3),
                interval(gains.get("epe_by_copy"), 2),
            ])  # fmt: skip
        header = [
            f"{frames} frames",
            "PSNR dB",
            "over copying, dB",
            "over other actions, dB",
            "EPE px",
            "EPE by copying's",
        ]
        tables.append(markdown_table(header, rows))
    return "\n\n".join(tables)


def numbers_in(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, "pt") as weights:
        names = weights.keys()
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in names)


def picture() -> str:
    command = "prophet demo --moving-picture docs/demo.webp"
    if not (ROOT / "docs" / "demo.webp").is_file():
        return f"No picture yet: `{command}` makes it."
    return (
        "![a real LIBERO episode, its dream, and the dream under other actions](docs/demo.webp)\n\n"
        "*Left: the real simulator. Middle: the dream, from the first frame alone, under the same commands. Right: the "
        f"same dream under another episode's commands. Made by `{command}`.*"
    )


def robots() -> str:
    header = ["robot", "hardware", "a command", "gripper open, closed", "commands/s", "frames", "calibrated cameras"]
    rows = [
        [
            f"`{robot.name}`",
            robot.robot,
            f"{robot.action_spec.dim} numbers: {robot.commands}",
            f"{robot.gripper.open:g}, {robot.gripper.closed:g}",
            "not published" if robot.control_hz is None else f"{robot.control_hz:g}",
            "x".join(map(str, robot.frame_size)),
            robot.calibration,
        ]
        for _, robot in sorted(EMBODIMENTS.items())
    ]
    return markdown_table(header, rows)


def commands() -> str:
    rows = [
        [f"`{robot.name}`", *(f"`{number}`" if number else "" for number in (name, unit)), f"{low:g} .. {high:g}"]
        for _, robot in sorted(EMBODIMENTS.items())
        for name, unit, (low, high) in zip(
            robot.action_spec.names, robot.action_spec.units, robot.action_spec.bounds, strict=True
        )
    ]
    return markdown_table(["robot", "number", "unit", "bounds"], rows)


def sources() -> str:
    return "\n".join(f"- `{name}`: {'; '.join(robot.sources)}." for name, robot in sorted(EMBODIMENTS.items()))


def bandit() -> str:
    """How every algorithm does on the bandit, and what one optimiser step makes of the difference."""
    command = "python benchmarks/bandit.py --json benchmarks/results/bandit.json"
    report = load("bandit.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    settings = report["settings"]
    updates = next(iter(report["curves"].values()))["updates"]
    rows = [
        [
            name,
            *(f"{point['mean']:.3f} [{point['low']:.3f}, {point['high']:.3f}]" for point in found["curve"][1:]),
            f"{min(found['final']):.3f}",
            f"{found['seeds_at_90_percent']} of {len(found['final'])}",
        ]
        for name, found in report["curves"].items()
    ]
    header = ["mean reward after", *(f"{update} updates" for update in updates[1:]), "worst seed", "seeds at 0.9"]
    return (
        f"{markdown_table(header, rows)}\n\nMean over {settings['seeds']} seeds [95% bootstrap interval]; "
        f"{settings['rollouts']} pulls and {settings['epochs']} optimiser steps an update, K = "
        f"{settings['flow_steps']}, AdamW at {settings['learning_rate']:g}; the optimum is 1. `{command}` on "
        f"{where(report['machine'])}.\n\nOn policy, FA-GRPO's gradient and K times Flow-GRPO's differ by at most "
        f"{max(report['one_step_identity']):.1e} of their norm."
    )


def gradient_spread() -> str:
    """Greatest over least gradient of a flow step."""
    report = load("bandit.json")
    if report is None:
        return "Not measured yet: `python benchmarks/bandit.py --json benchmarks/results/bandit.json`."
    rows = [[name, f"{found['spread']:.1f}"] for name, found in report["gradient"].items()]
    return markdown_table(["FlowScale", "gradient of a flow step, greatest by least (K = 10)"], rows)


def algorithm_cost() -> str:
    command = "python benchmarks/algos.py --json benchmarks/results/algos.json"
    report = load("algos.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    update, rollout = report["update"], report["rollout"]
    rows = [
        ["an update, by the same forward and backward passes alone", f"{update['update_by_bare']:.2f}"],
        ["bookkeeping of a rollout in the dream, by the env's time", f"{rollout['bookkeeping_by_env']:.2%}"],
    ]
    about = f"{update['weights']:,} weights, {update['decisions']} decisions"
    return f"{markdown_table(['', 'ratio'], rows)}\n\n{about}; `{command}` on {where(report['machine'])}."


def calibration() -> str:
    """How far the checkpoint's judge is to be trusted."""
    command = "prophet calibrate --out prophet_gym/checkpoints/libero_small/calibration.json"
    path = CHECKPOINT / CARD_NAME
    if not path.is_file():
        return f"Not measured yet: `{command}`."
    card = json.loads(path.read_text())
    tables = [markdown_table(["source", "judged", "precision", "recall", "false positive rate"], summary(card))]
    for source in ("real", "dream"):
        for group, label in (("by_age", "frames since the start"), ("by_policy", "who acted"), ("by_task", "task")):
            tables.append(
                markdown_table([f"{source}: {label}", "verdicts", *RATES.values()], grouped(card, source, group))
            )
    return "\n\n".join([*(table for table in tables if table), f"`{command}` on {where(card['machine'])}."])


def reach() -> str:
    """PPO's reach in the dream and in the real simulator."""
    command = "python benchmarks/reach.py --json benchmarks/results/reach.json"
    report = load("reach.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    settings, worlds = report["settings"], {"dream": "dream", "real": "real simulator"}
    arms = {"random": "random actions", "still": "no action", "ppo": "PPO, mean of its seeds"}
    rows = [
        [
            f"{world}, {label}",
            interval(found[arm]["return"], 2),
            interval(found[arm]["judged_px"], 1),
            interval(found[arm]["gripper_cm"], 1),
        ]
        for name, world in worlds.items()
        if (found := report["scores"][name]) is not None
        for arm, label in arms.items()
    ]
    gains = [
        f"In the {world} PPO's return is {interval(found['return_over_random'], 2)} above random actions' and "
        f"{interval(found['return_over_still'], 2)} above no action's (paired by start); over seeds it is "
        f"{interval(found['over_seeds']['return'], 2)}."
        for name, world in worlds.items()
        if (found := report["scores"][name]) is not None
    ]
    header = ["", f"return of {settings['chunks']} chunks", "judged distance at the end, px", "the gripper's, cm"]
    head = (
        f"{settings['seeds']} seeds of {settings['chunk_steps']:,} chunk-steps "
        f"({report['curves']['chunk_steps_per_second']:g} a second), {settings['episodes']} official starts a policy; "
        f"mean [95% interval: bootstrap over starts, Student's t over seeds]. Made by `{command}` on "
        f"{where(report['machine'])}."
    )
    picture = "![learning curves and scores](reach.png)\n\n" if (ROOT / "docs" / "reach.png").is_file() else ""
    return f"{picture}{head}\n\n{markdown_table(header, rows)}\n\n{' '.join(gains)}"


def reach_judge() -> str:
    """What the judge of reaching sees on real frames."""
    command = "python benchmarks/reach_judge.py --json benchmarks/results/reach_judge.json"
    report = load("reach_judge.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    rows = [
        [f"{label} of the distance to the true gripper", f"{report[f'px_{share}']:.2f}", f"{report[f'mm_{share}']:.1f}"]
        for share, label in {50: "median", 90: "90th percentile", 99: "99th percentile"}.items()
    ]
    return (
        f"{markdown_table(['', 'pixels of 128', 'mm in space'], rows)}\n\nCorrelation with the truth: "
        f"{report['correlation_right']:.4f} sideways, {report['correlation_down']:.4f} downwards. "
        f"{report['frames']} frames of {report['episodes']} held-out episodes from official starts, each frame on its "
        f"own: `{command}` on {where(report['machine'])}."
    )


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
        "cloning": f"{chosen.sft_steps} steps of {chosen.sft_rows} demonstrations, a snapshot every {chosen.sft_every}",
        "learning rates tried": ", ".join(f"{rate:g}" for rate in chosen.rates),
        "updates": str(chosen.updates),
        "rollouts in an update": f"{chosen.groups} groups of {chosen.group_size}",
        "optimiser steps in an update": f"{chosen.epochs * chosen.minibatches}",
        "points of a curve": f"every {chosen.point_every} updates, {chosen.point_states} official states per task",
        "at the end": f"{chosen.final_states} official states per task, {chosen.repeats} episode(s) each",
        "arms (runs)": "; ".join(f"{name} ({arm.seeds})" for name, arm in chosen.arms.items()),
    }
    return markdown_table(["", "value"], [[name, value] for name, value in about.items()])


def proof(size: str) -> str:
    """Where each arm ends in the real simulator, what it gained, what the reward was worth, what it cost."""
    command = f"python benchmarks/proof.py --size {size} --out outputs/proof_{size}"
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
            f"{100 * gain['mean']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]",
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


BLOCKS: dict[str, Callable[[], str]] = {
    "picture": picture,
    "margins": margins,
    "speed": speed,
    "checkpoint": checkpoint,
    "instruments": instruments,
    "dual-conditioning": dual_conditioning,
    "few-shot": few_shot,
    "doubt": doubt,
    "env-costs": env_costs,
    "calibration": calibration,
    "robots": robots,
    "commands": commands,
    "sources": sources,
    "bandit": bandit,
    "gradient-spread": gradient_spread,
    "algorithm-cost": algorithm_cost,
    "reach": reach,
    "reach-judge": reach_judge,
    **{f"proof-{size}": partial(proof, size) for size in ("short", "cpu", "full")},
    **{f"proof-settings-{size}": partial(proof_settings, size) for size in ("short", "cpu", "full")},
    "evaluation": lambda: evaluation("evaluation.json", "prophet evaluate --json benchmarks/results/evaluation.json"),
    "evaluation-plain": lambda: evaluation(
        "evaluation_plain.json", "prophet evaluate --look plain --json benchmarks/results/evaluation_plain.json"
    ),
}


def filled(text: str) -> str:
    """The document with every block made anew.

    Raises:
        ValueError: for a block of an unknown name.
    """

    def fill(block: re.Match[str]) -> str:
        if block["name"] not in BLOCKS:
            raise ValueError(f"no figures named {block['name']!r}; there are {', '.join(BLOCKS)}")
        return f"{block[1]}{BLOCKS[block['name']]()}\n{block[3]}"

    return BLOCK.sub(fill, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a document is out of date")
    check = parser.parse_args().check
    old = [path for path in DOCUMENTS if filled(path.read_text()) != path.read_text()]
    for path in old:
        print(f"{path.relative_to(ROOT)} {'is out of date: run make figures' if check else 'filled'}")
        if not check:
            path.write_text(filled(path.read_text()))
    sys.exit(bool(check and old))


if __name__ == "__main__":
    main()
