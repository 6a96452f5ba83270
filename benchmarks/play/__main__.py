"""Measure `prophet play` in a headless Chromium beside it: frames per second, and the time from an input to its frame.

    python -m benchmarks.play --json benchmarks/results/speed/play.json

Keys are pressed and let go of at random, as a driver does. A frame is late when its time has come and it is not there.
The load of the machine is measured with it: the browser draws without a GPU here, on the same cores as the model.
"""

import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import tyro

from benchmarks.speed.harness import recorded
from tests.browser import Page, chromium

READY = "document.querySelector('#say')?.textContent.includes('Press a key')"
SHOWN, LATE = (f"Number(document.querySelector('#views').dataset.{name} ?? 0)" for name in ("frames", "late"))
KEYS = ("KeyW", "KeyA", "KeyS", "KeyD", "KeyR", "KeyF")


@dataclass(frozen=True)
class Args:
    """Configure the benchmark."""

    world_model: str = "bundled"
    engine: str = "eager"
    seconds: float = 60.0
    """Measured, after ten that are not."""
    beside: bool = False
    """Show the simulator beside the dream."""
    json: Path | None = None


@contextmanager
def played(world_model: str, *options: str, width: int = 1100) -> Iterator[Page]:
    """Run `prophet play` and give its page in a browser, ready to be driven."""
    command = [sys.executable, "-m", "prophet_gym", "play", "--no-open", "--world-model", world_model, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = next(line for line in process.stdout if line.startswith("drive it at ")).split()[-1]
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, chromium(Path(folder)) as page:
            page.open(address, width)
            page.wait(READY, 120)
            yield page
    finally:
        process.terminate()
        process.wait()


def drive(page: Page, seconds: float) -> None:
    """Hold one key after the other for 0.2 to 1 s each."""
    chance, end = random.Random(0), time.monotonic() + seconds
    while time.monotonic() < end:
        key = chance.choice(KEYS)
        page.key(key, key[-1].lower(), down=True)
        time.sleep(chance.uniform(0.2, 1.0))
        page.key(key, key[-1].lower(), down=False)


def processor_seconds() -> dict[str, float]:
    """Return the processor time that the server and the browser have taken."""
    found = {"server": 0.0, "browser": 0.0}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            times, ours = process.cpu_times(), "prophet_gym" in process.cmdline()
            found["server" if ours else "browser"] += times.user + times.system
    return found


def milliseconds(page: Page, name: str) -> dict[str, float]:
    """Return quantiles of what the page has measured under a name."""
    found = page.value(f"performance.getEntriesByName('{name}').map((each) => each.duration)")
    cuts = statistics.quantiles(found, n=20)
    return {"median": round(statistics.median(found)), "p95": round(cuts[-1]), "count": len(found)}


def main(args: Args) -> None:
    options = ["--engine", args.engine, *(["--beside", "simulator"] if args.beside else [])]
    with recorded(args.json) as found, played(args.world_model, *options) as page:
        drive(page, 10)
        page.value("performance.clearMeasures()")
        shown, late, used, began = page.value(SHOWN), page.value(LATE), processor_seconds(), time.monotonic()
        drive(page, args.seconds)
        seconds, after = time.monotonic() - began, processor_seconds()
        shown, late = page.value(SHOWN) - shown, page.value(LATE) - late
        result: dict[str, Any] = {"seconds": round(seconds, 1), "frames": shown, "late": late}
        result["frames_per_second"] = round(shown / seconds, 2)
        result["cores"] = {name: round((after[name] - used[name]) / seconds, 2) for name in used}
        for name in ("input to frame", "chunk"):
            result[f"{name.replace(' ', '_')}_ms"] = milliseconds(page, name)
        found |= result | {"engine": args.engine, "beside": args.beside}
        print(result)


if __name__ == "__main__":
    main(tyro.cli(Args))
