"""Tabulate what LIBERO's looks cost and change, and what its scripts achieve."""

from statistics import median

from docs.blocks.common import load, markdown_table, part, where

NAMES = {"agentview": "agentview", "robot0_eye_in_hand": "wrist"}


def looks() -> str:
    """Return milliseconds a frame and the difference to `official`, by suite, camera and look, and the sheet."""
    files = "--json benchmarks/results/speed/drawing.json --sheet docs/images/looks.webp"
    command = f"python -m benchmarks.speed.drawing {files}"
    report = load("speed/drawing.json")
    if report is None or not report["suites"]:
        return f"Not measured yet: `{command}`."
    rows = []
    for suite, cameras in report["suites"].items():
        for camera, name in NAMES.items():
            for look, found in cameras[camera].items():
                small, large = found["128"], found["256"]
                times = [f"{small['cpu_ms']:.1f}", f"{large['cpu_ms']:.1f}"]
                apart = "" if look == "official" else f"{small['apart']:.1f} ({small['most_apart']:.1f})"
                rows.append([f"`{suite}`", name, f"`{look}`", *times, apart])
    header = ["suite", "camera", "look", "CPU ms, 128 pixels", "CPU ms, 256 pixels", "grey levels from `official`"]
    loads = median(each["load"] for each in report["suites"].values())
    return (
        f"{markdown_table(header, rows)}\n\nMilliseconds are those of one thread, medians over {report['frames']} "
        f"frames of task {report['tasks'][0]}, beside other work (a load of {loads:.0f}); differences are means over "
        f"128x128 images of tasks {', '.join(map(str, report['tasks']))}, in brackets the largest of a task. "
        f"`{command}` on {where(report['machine'])}.\n\n"
        "![every suite and camera in each look](images/looks.webp)"
    )


def policies() -> str:
    """Return how often the bundled policy succeeds in each look, and in perturbed scenes."""
    command = (
        "prophrl evaluate --policy small-k4 --policy-weights SmallVLA-LIBERO-object-sft --tasks 3 5 --episodes 25 "
        "--env ENV --look LOOK --json benchmarks/results/looks/NAME.json"
    )
    names = {
        "light": ("LIBERO-Object-v0", "light"),
        "light-v2": ("LIBERO-Object-v0", "light-v2"),
        "official": ("LIBERO-Object-v0", "official"),
        "pro-object": ("LIBERO-PRO-Object-Object-v0", "light"),
        "pro-swap": ("LIBERO-PRO-Object-Swap-v0", "light"),
    }
    reports = {name: load(f"looks/{name}.json") for name in names}
    rows, measured = [], [(*names[name], report) for name, report in reports.items() if report is not None]
    for env, look, report in measured:
        done = [episode["success"] for episode in report["episodes"]]
        rows.append([f"`{env}`", f"`{look}`", part(sum(done), len(done))])
    if not rows:
        return f"Not measured yet: `{command}`."
    return (
        f"{markdown_table(['env', 'look', 'successes [95% of the share]'], rows)}\n\nTasks 3 and 5, from their "
        f"first 25 official states each. `{command}` on {where(measured[0][2]['machine'])}."
    )


def experts() -> str:
    """Return how often the scripted experts succeed in each of the forty tasks."""
    command = "python benchmarks/experts.py --episodes 20 --json benchmarks/results/experts.json"
    report = load("experts.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    tasks = report["tasks"]
    rows = []
    for row in tasks:
        steps = "-" if row["steps_to_success"] is None else f"{row['steps_to_success']:.0f}"
        done = part(row["successes"], row["episodes"])
        rows.append([f"`{row['suite']}` {row['task']}", row["instruction"], done, f"{row['seconds']:.1f}", steps])
    shares = [row["successes"] / row["episodes"] for row in tasks]
    good, fair = (sum(share >= least for share in shares) for least in (0.9, 0.7))
    return (
        f"{markdown_table(['task', 'instruction', 'done [95%]', 'seconds', 'steps'], rows)}\n\n{good} of {len(tasks)} "
        f"tasks reach 90% and {fair} reach 70%, from random placements (seed {report['seed']}). An episode counts when "
        f"the task's own predicate holds for ten steps on end; seconds are those of an episode that is not drawn, "
        f"steps those to success. `{command}`."
    )
