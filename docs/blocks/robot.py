"""Make the block of figures about an env of one's own robot."""

from docs.blocks.common import load, markdown_table, where
from prophet_gym.evaluation._report import interval

_WORDS = {"train": "`prophet train`", "inspect": "`prophet inspect`", "evaluate": "`prophet evaluate`"}


def robot() -> str:
    """Return what each command took, and what came out."""
    found = load("robot/tutorial.json")
    if found is None:
        return "Not measured yet: `python -m benchmarks.robot.tutorial`."
    data, rows = found["data"], []
    for run in found["runs"]:
        name = _WORDS.get(run["command"], f"`prophet {run['command']}`")
        stage = f", {run['stage']}" if "stage" in run else ""
        rows.append(
            [name + stage, *(f"{run[key] / 60:.1f}" for key in ("seconds", "cpu_seconds")), str(run["memory_mb"])]
        )
    total = [f"{sum(run[key] for run in found['runs']) / 60:.1f}" for key in ("seconds", "cpu_seconds")]
    rows.append(["all", *total, str(max(run["memory_mb"] for run in found["runs"]))])
    conditions = {"dream": "dream", "other_actions": "other actions", "copy": "last frame copied"}
    conditions["autoencoder"] = "autoencoder alone"
    kinds = {"psnr": 1, "ssim": 3, "tssim": 3, "epe": 2}
    tables = []
    for frames, each in found["evaluation"]["horizons"].items():
        lines = [
            [label, *(interval(each["conditions"][key][kind], digits) for kind, digits in kinds.items())]
            for key, label in conditions.items()
        ]
        tables.append(markdown_table([f"{frames} frames", "PSNR dB", "SSIM", "tSSIM", "EPE px"], lines))
    last = [*found["evaluation"]["horizons"].values()][-1]["margins"]["psnr_over_copy"]
    reward, steps = found["reward"], found["steps"]
    spent = next(run["cpu_seconds"] for run in found["runs"] if run.get("stage") == "transformer")
    return "\n\n".join([
        f"{data['episodes']} episodes of the arm above, {data['minutes']:.1f} minutes of recording, {data['mb']:.1f} "
        f"MB as lerobot writes them; the model has {found['model_mb']:.1f} MB. On {where(found['machine'])}, one "
        "thread on a machine that "
        f"others used, so the processor's minutes count; the transformer took {steps['taken']} steps in the "
        f"{found['minutes']:g} minutes that it was given. The 8,000 that are the default would take "
        f"{8000 * spent / steps['taken'] / 3600:.1f} hours of the processor.",
        markdown_table(["command", "minutes", "processor's minutes", "memory, MB"], rows),
        f"{found['evaluation']['episodes']} episodes that training kept out; mean [95% interval] "
        "(`python -m benchmarks.robot.tutorial --json benchmarks/results/robot/tutorial.json`):",
        *tables,
        f"So short a training is {interval(last, 1)} dB over copying at the longest horizon; what a long one, or one "
        "with action frames, would give on this set was not measured. The success head finds "
        f"{reward['episode_recall']:.0%} of the successes among {reward['episodes']} episodes at a precision of "
        f"{reward['episode_precision']:.0%}.",
    ])  # fmt: skip
