"""Tabulate what LIBERO's looks cost and change."""

from statistics import median

from docs.blocks.common import load, markdown_table, where

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
