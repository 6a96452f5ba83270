"""Measure LIBERO's looks: what a frame costs in each, and how far it is from the one that is drawn as published.

    python -m benchmarks.speed.drawing --json benchmarks/results/speed/drawing.json --sheet docs/images/looks.webp

A moment is an official start after ten actions. Milliseconds are medians over the frames of the first task, by CPU time
of this process on one thread and by clock; the difference to `official` is the mean over pixels, channels and moments,
in grey levels. Suites that the JSON holds already are kept, and so are their rows of the sheet (in `--strips`).
"""

import os

# Of Mesa's software renderer; read when OpenGL is loaded.
os.environ.setdefault("LP_NUM_THREADS", "1")

import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import imageio.v3 as iio
import numpy as np
import tyro
from tqdm import tqdm

from prophet_gym.evaluation._report import machine, table, write_json
from prophet_gym.sims.libero._looks import LOOK_VERSIONS, drawn_model
from prophet_gym.sims.libero._rendering import Renderer
from prophet_gym.sims.libero.simulator import LiberoSimulator

CAMERAS = ("agentview", "robot0_eye_in_hand")
LOOKS = tuple(LOOK_VERSIONS)
SIZES = (128, 256)
MOVE = np.array([0.5, 0, -0.5, 0, 0, 0, -1.0])
"""Ahead and down, with the hand open: both cameras see the hand and what lies below it."""
SHOWN = 192


@dataclass(frozen=True)
class Args:
    suites: tuple[str, ...] = ("libero_object", "libero_spatial", "libero_goal", "libero_10")
    tasks: tuple[int, ...] = (0, 3, 5, 8)
    frames: int = 20
    """Frames per time, after two that are not counted."""
    json: Path | None = None
    sheet: Path | None = None
    """File of the sheet of images: a row per suite, a column per camera and look."""
    strips: Path = Path("outputs/looks")
    """Folder where the rows of the sheet are kept."""


def median_times(renderer: Renderer, data: Any, frames: int) -> dict[str, float]:
    """Return milliseconds a frame, of CPU and by clock."""
    cpu, clock = [], []
    for frame in range(frames + 2):
        before = time.process_time(), time.perf_counter()
        renderer.draw(data)
        if frame >= 2:
            cpu.append(1e3 * (time.process_time() - before[0]))
            clock.append(1e3 * (time.perf_counter() - before[1]))
    return {"cpu_ms": statistics.median(cpu), "clock_ms": statistics.median(clock), "least_cpu_ms": min(cpu)}


def begin(suite: str, task: int, look: str) -> LiberoSimulator:
    """Return a simulation in the moment that is drawn."""
    sim = LiberoSimulator(suite, task, look=look)
    sim.reset(official=0)
    for _ in range(10):
        sim.step(MOVE)
    return sim


def draw(sim: LiberoSimulator, look: str, frames: int) -> dict[tuple[str, int], tuple[np.ndarray, dict[str, float]]]:
    """Return this moment in a look by camera and size: the image, and times if there are frames to time."""
    drawn, found = drawn_model(look, sim.model), {}
    for camera in CAMERAS:
        for size in SIZES:
            renderer = Renderer(sim.model, drawn, camera=camera, size=size)
            times = median_times(renderer, sim.data, frames) if frames else {}
            found[camera, size] = renderer.draw(sim.data), times
            renderer.close()
    return found


def measure(args: Args, suite: str, bar: tqdm) -> tuple[dict[str, Any], np.ndarray]:
    """Return the figures of a suite by camera, look and size, and its row of the sheet."""
    figures: dict[str, Any] = {camera: {look: {} for look in LOOKS} for camera in CAMERAS}
    apart: dict[tuple[str, str, int], list[float]] = {}
    row = []
    for task in args.tasks:
        moments = {}
        # All but `light` are drawn from the official assets.
        for looks in (LOOKS[:1], LOOKS[1:]):
            sim = begin(suite, task, looks[-1])
            for look in looks:
                moments[look] = draw(sim, look, args.frames if task == args.tasks[0] else 0)
                bar.update()
            sim.close()
        for camera in CAMERAS:
            for look in LOOKS:
                for size in SIZES:
                    image, times = moments[look][camera, size]
                    away = np.abs(image.astype(float) - moments["official"][camera, size][0]).mean()
                    apart.setdefault((camera, look, size), []).append(float(away))
                    if times:
                        figures[camera][look][str(size)] = times
                if task == args.tasks[0]:
                    big = moments[look][camera, max(SIZES)][0]
                    row.append(cv2.resize(big, (SHOWN, SHOWN), interpolation=cv2.INTER_AREA))
    for (camera, look, size), values in apart.items():
        figures[camera][look][str(size)] |= {"apart": statistics.mean(values), "most_apart": max(values)}
    return figures, np.hstack(row)


def write_sheet(path: Path, rows: dict[str, np.ndarray]) -> None:
    """Stack the rows of the suites under the names of looks and cameras."""
    width = next(iter(rows.values())).shape[1]
    head = np.full((22, width, 3), 255, np.uint8)
    for column, (camera, look) in enumerate((camera, look) for camera in CAMERAS for look in LOOKS):
        text = f"{look}, {'wrist' if camera != CAMERAS[0] else camera}"
        place = (SHOWN * column + 4, 15)
        cv2.putText(head, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    parts = [head]
    for suite, row in rows.items():
        marked = np.ascontiguousarray(row)
        for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            place = (4, SHOWN - 7)
            cv2.putText(marked, suite, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, thickness, cv2.LINE_AA)
        parts.append(marked)
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, np.vstack(parts), quality=82)


def main(args: Args) -> None:
    report: dict[str, Any] = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    # What was measured otherwise is measured again.
    given = {"looks": LOOK_VERSIONS, "tasks": list(args.tasks), "frames": args.frames}
    if any(report.get(name) != value for name, value in given.items()):
        report = given | {"suites": {}}
    done = [suite for suite in report["suites"] if (args.strips / f"{suite}.png").exists()]
    total = len(args.suites) * len(args.tasks) * len(LOOKS)
    with tqdm(total=total, initial=len(done) * len(args.tasks) * len(LOOKS), desc="looks", unit="scene") as bar:
        for suite in args.suites:
            if suite in done:
                continue
            before = os.getloadavg()[0]
            figures, row = measure(args, suite, bar)
            args.strips.mkdir(parents=True, exist_ok=True)
            iio.imwrite(args.strips / f"{suite}.png", row)
            report["suites"][suite] = figures | {"load": before}
            write_json(args.json, report | {"machine": machine()})
    print(
        table(
            ["suite", "camera", "look", *(f"CPU ms at {size}" for size in SIZES), "ms by clock at 128", "apart"],
            [
                [
                    suite,
                    camera,
                    look,
                    *(f"{each[str(size)]['cpu_ms']:.1f}" for size in SIZES),
                    f"{each['128']['clock_ms']:.1f}",
                    f"{each['128']['apart']:.2f}",
                ]
                for suite in args.suites
                for camera in CAMERAS
                for look, each in report["suites"][suite][camera].items()
            ],
        )
    )
    if args.sheet:
        write_sheet(args.sheet, {suite: iio.imread(args.strips / f"{suite}.png") for suite in args.suites})


if __name__ == "__main__":
    main(tyro.cli(Args))
