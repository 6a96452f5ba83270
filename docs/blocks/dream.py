"""The world model, its env and the robots: blocks of figures."""

import json
import math
from pathlib import Path
from typing import Any

from docs.blocks.common import CHECKPOINT, ROOT, load, markdown_table, where
from prophet_gym._io.header import read_header
from prophet_gym.embodiments import EMBODIMENTS
from prophet_gym.evaluation._report import COLUMNS, CONDITIONS, interval


def evaluation(name: str, command: str) -> str:
    """Return all metrics of an evaluation, a table per horizon."""
    report = load(name)
    if report is None:
        return f"Not measured yet: `{command}`."
    parts = [
        f"{report['episodes']} held-out episodes of `{report['suite']}` from {report['starts']} states "
        f"({report['successes']} succeed), tasks {', '.join(map(str, report['tasks']))}, look `{report['look']}`, "
        f"open loop; mean over episodes [95% bootstrap interval]. Made by `{command}` on {where(report['machine'])}."
    ]
    for frames, found in report["horizons"].items():
        parts.append(horizon(frames, found))
    return "\n\n".join(parts)


def horizon(frames: str, found: dict[str, Any]) -> str:
    """Return the table of one horizon: conditions by metrics."""
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
    """Return what the dream gains, in one line per horizon."""
    command = "prophet evaluate --json benchmarks/results/dream/evaluation.json"
    report = load("dream/evaluation.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    header = [
        "open loop over",
        "dream, PSNR dB",
        "over copying the last frame, dB",
        "over other actions, dB",
        "EPE relative to copying",
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
    more = "all metrics in the [model card](../model_cards/libero_small.md)"
    return f"{markdown_table(header, rows)}\n\n`{command}`; {more}."


def speed() -> str:
    """Return frames per second of the dream and of the simulator."""
    command = "python -m benchmarks.small_env --json benchmarks/results/small_env.json"
    report = load("small_env.json")
    if report is None or "own" not in report:
        return f"Not measured yet: `{command}`."
    kinds = {"every_frame": "every frame, engine `eager`", "as_rl_steps": '`render="chunk"`, engine `auto`'}
    rows = [
        [f"dream, {kinds[kind]}, {count} at once", f"{measured['frames_per_second']:.0f}"]
        for kind, dreams in report["dream"].items()
        for count, measured in dreams.items()
        if count.isdigit()
    ]
    for look, drawings in report["libero"].items():
        for name, processes in drawings.items():
            for count, measured in processes.items():
                how = f"LIBERO, look `{look.split()[0]}`, {look.split()[1]} pixels, drawn {name.replace('_', ' ')}"
                rows.append([f"{how}, {count} process(es)", f"{measured['frames_per_second']:.0f}"])
    for how, processes in report["own"].items():
        for count, measured in processes.items():
            name = f"LIBERO's own `OffScreenRenderEnv`, {how}, {count} process(es)"
            rows.append([name, f"{measured['frames_per_second']:.0f}"])
    return f"{markdown_table(['', 'frames/s'], rows)}\n\n`{command}` on {where(report['machine'])}."


def checkpoint() -> str:
    """Return the config of the bundled checkpoint and the size of its files."""
    if not (CHECKPOINT / "prophet.json").is_file():
        return "No checkpoint is bundled yet."
    config = read_header(CHECKPOINT).config
    rows = [[f"`{name}`", f"{value}"] for name, value in config.items() if name not in ("camera", "no_op")]
    rows += [
        [f"`{path.relative_to(CHECKPOINT)}`", f"{path.stat().st_size / 1e6:.2f} MB, {numbers_in(path):,} weights"]
        for path in sorted(CHECKPOINT.rglob("*.safetensors"))
    ]
    return markdown_table(["", "value"], rows)


def instruments() -> str:
    """Return the errors of the success head and the object reader on held-out recorded episodes."""
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
    return f"{markdown_table(['held-out episodes of LIBERO', 'value'], rows)}\n\n{commands}"


def dual_conditioning() -> str:
    """Return what each conditioning is worth, a line per arm and horizon."""
    command = "python benchmarks/dual_conditioning.py --json benchmarks/results/dual_conditioning.json"
    report = load("dual_conditioning.json")
    if report is None:
        return f"Not measured yet: `{command}` (its first lines say how to record the data)."
    head = (
        f"Task {', '.join(map(str, report['tasks']))} of `{report['suite']}`: {report['train_episodes']} training "
        f"episodes, {report['steps']} steps of {report['rows']} chunks an arm, {report['held_out_episodes']} held-out "
        "episodes from official states, open loop; mean over episodes [95% bootstrap interval]. "
        f"Made by `{command}` on {where(report['machine'])}."
    )
    labels = {
        "both": "action frames and history",
        "no_action_frames": "history only",
        "no_history": "action frames only",
        "neither": "neither",
    }
    return f"{head}\n\n{compared({labels[arm]: found['horizons'] for arm, found in report['arms'].items()})}"


def uncertainty() -> str:
    """Return how well the uncertainty ranks the true error."""
    command = "python benchmarks/uncertainty.py --json benchmarks/results/uncertainty.json"
    report = load("uncertainty.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    labels = {
        "spearman_uncertainty": "rank correlation (Spearman) of uncertainty and true error",
        "spearman_uncertainty_at_one_age": "the same among chunks of one age",
        "spearman_age": "rank correlation of age and true error",
        "auroc_of_poor_chunks": f"AUROC of the uncertainty for chunks below {report['poor_below_db']:g} dB",
    }
    rows = [[label, interval(report[key], 2)] for key, label in labels.items()]
    rows += [
        [f"uncertainty below which {float(share):.0%} of the chunks lie", f"{value:.3f}"]
        for share, value in report["uncertainty_quantiles"].items()
        if float(share) >= 0.5
    ]
    head = (
        f"{report['chunks']} chunks of {report['episodes']} held-out episodes from official states, dreamt from "
        f"the first frame; {report['share_of_poor_chunks']:.0%} of them are below {report['poor_below_db']:g} dB. "
        f"Made by `{command}`."
    )
    return f"{head}\n\n{markdown_table(['', 'value [95% interval over episodes]'], rows)}"


def env_costs() -> str:
    """Return what the env adds to the model, as ratios within one run."""
    refill, tiny, bundled = (load(name) for name in ("refill.json", "soak.json", "soak_bundled.json"))
    if refill is None or tiny is None or bundled is None:
        return "Not measured yet: `benchmarks/refill.py`, `benchmarks/soak.py`."
    saved = 1 - refill["refill"]["seconds"] / refill["lockstep"]["seconds"]
    rows = [
        [
            "fraction of sub-environment steps that generate a chunk, with a queue",
            f"{refill['refill']['useful_fraction']:.3f}",
        ],
        ["the same if all sub-environments are reset together", f"{refill['lockstep']['useful_fraction']:.3f}"],
        ["time that the queue saves over lockstep, same episodes", f"{saved:.0%}"],
        ["env code outside the model, fraction of a step (median)", f"{refill['step']['env_share_median']:.2%}"],
        [f"memory growth over {tiny['chunks']:,} chunks of a tiny model", f"{tiny['growth']:.2%}"],
        [
            f"peak memory of {bundled['rows']} sub-environments of the bundled model, MB, libraries included",
            f"{bundled['rss_mb_highest_within_a_step']:.0f}",
        ],
    ]
    commands = (
        "The rows about the queue: `python benchmarks/refill.py --json benchmarks/results/refill.json`, with episodes "
        "of uneven length; about memory: "
        "`python benchmarks/soak.py --json benchmarks/results/soak.json`, for the last row with `--checkpoint bundled "
        "--chunks 1300 --json benchmarks/results/soak_bundled.json`"
    )
    return (
        f"{markdown_table(['', 'value'], rows)}\n\nAn ended episode generates nothing, so waiting costs little, and "
        f"the queue saves less time than these fractions suggest. {commands}."
    )


def few_shot() -> str:
    """Compare the bundled checkpoint in a new scene: as it is, adapted, and with a transformer trained from scratch."""
    files = {
        "bundled, not adapted": "dream/few_shot_unadapted.json",
        "adapted with LoRA": "dream/few_shot_lora.json",
        "trained from scratch": "dream/few_shot_scratch.json",
    }
    reports = {label: load(name) for label, name in files.items()}
    found = {label: report for label, report in reports.items() if report is not None}
    if len(found) < len(files):
        return "Not measured yet: the commands above."
    one = next(iter(found.values()))
    head = (
        f"{one['episodes']} held-out episodes of `{one['suite']}` (random initial states of another seed), open loop; "
        f"mean over episodes [95% bootstrap interval], on {where(one['machine'])}."
    )
    said = adapters_against(found["adapted with LoRA"]["horizons"], found["trained from scratch"]["horizons"])
    return f"{head}\n\n{said}\n\n{compared({label: report['horizons'] for label, report in found.items()})}"


def distilled() -> str:
    """Compare one step of the bundled weights, four of them, and one of the student that learnt from the four."""
    files = {
        "bundled, 1 step": "dream/distilled_one.json",
        "the same, 4 steps: the teacher": "dream/distilled_teacher.json",
        "student, 1 step": "dream/distilled_student.json",
    }
    reports = {label: report for label, name in files.items() if (report := load(name)) is not None}
    if len(reports) < 2:
        return "Not measured yet: the commands above."
    one = reports.get("bundled, 1 step") or next(iter(reports.values()))
    head = (
        f"{one['episodes']} episodes of `{one['suite']}` from {one['starts']} initial states, open loop; mean over "
        f"episodes [95% bootstrap interval], on {where(one['machine'])}."
    )
    missing = ", ".join(label for label in files if label not in reports)
    head += f" Not measured yet: {missing}." if missing else ""
    return f"{head}\n\n{compared({label: report['horizons'] for label, report in reports.items()})}"


def adapters_against(adapted: dict[str, Any], scratch: dict[str, Any]) -> str:
    """Return in a sentence what adapters gain over training from scratch, and over copying at the longest horizon."""
    lora, new = (
        {frames: each["conditions"]["dream"]["psnr"]["mean"] for frames, each in arm.items()}
        for arm in (adapted, scratch)
    )
    gains = [f"{round(lora[frames] - new[frames], 2) + 0.0:+.2f} dB over {frames} frames" for frames in lora]
    longest = list(adapted)[-1]
    margin = adapted[longest]["margins"]["psnr_over_copy"]
    even = [frames for frames in lora if abs(lora[frames] - new[frames]) < 0.05]
    equal = f"; so the two are equal over {', '.join(even)} frames" if even else ""
    uncertainty = ", an interval that holds 0" if margin["low"] < 0 < margin["high"] else ""
    return (
        f"PSNR of LoRA against training from scratch: {', '.join(gains)}{equal}. Over {longest} frames LoRA beats "
        f"copying the last frame by {interval(margin, 2)} dB{uncertainty}."
    )


def compared(arms: dict[str, dict[str, Any]]) -> str:
    """Return a table per horizon: arms by PSNR, EPE, the gain over copying and the price of other actions."""
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
            "EPE relative to copying",
        ]
        tables.append(markdown_table(header, rows))
    return "\n\n".join(tables)


def numbers_in(path: Path) -> int:
    """Return how many weights a file holds."""
    from safetensors import safe_open

    with safe_open(path, "pt") as weights:
        names = weights.keys()
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in names)


def image() -> str:
    """Return the README's video with its caption."""
    command = "prophet demo --animation docs/images/demo.webp"
    if not (ROOT / "docs" / "images" / "demo.webp").is_file():
        return f"No image yet: `{command}` makes it."
    return (
        "![an episode of LIBERO, its dream, and the dream under other actions](docs/images/demo.webp)\n\n"
        "*Left: LIBERO. Middle: the dream, from the first frame alone, under the same actions. Right: the same dream "
        "under another episode's actions. What still goes wrong: the bottle blurs while the gripper carries it, and "
        "fades away in the basket, where LIBERO still shows its cap; on the right a small box loses its colour once "
        "the arm has passed. This is the best of the four bundled episodes; in another (`prophet demo --tasks 0`) a "
        "can vanishes in the gripper and comes back orange. Made by "
        f"`{command}`.*"
    )


def robots() -> str:
    """Return the robots that the package knows."""
    header = ["robot", "dimensions of an action", "gripper open, closed", "actions/s", "frames", "calibrated cameras"]
    rows = [
        [
            f"`{robot.name}`",
            str(robot.action_spec.dim),
            f"{robot.gripper.open:g}, {robot.gripper.closed:g}",
            "not published" if robot.control_hz is None else f"{robot.control_hz:g}",
            "x".join(map(str, robot.frame_size)),
            robot.calibration,
        ]
        for _, robot in sorted(EMBODIMENTS.items())
    ]
    return markdown_table(header, rows)


def actions() -> str:
    """Return each dimension of each robot's action."""
    rows = [
        [f"`{robot.name}`", *(f"`{number}`" if number else "" for number in (name, unit)), f"{low:g} .. {high:g}"]
        for _, robot in sorted(EMBODIMENTS.items())
        for name, unit, (low, high) in zip(
            robot.action_spec.names, robot.action_spec.units, robot.action_spec.bounds, strict=True
        )
    ]
    return markdown_table(["robot", "dimension", "unit", "bounds"], rows)
