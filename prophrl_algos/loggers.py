"""Where the numbers of a run go: CSV, JSON lines, TensorBoard, Weights & Biases, trackio, the terminal."""

import csv
import io
import json
import math
import sys
import time
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from prophet_gym._io.atomic import atomic_write
from prophet_gym.errors import unknown_option
from prophrl_algos.metrics import Metrics


@runtime_checkable
class ShowsProgress(Protocol):
    """A logger that also shows how far an update has come."""

    def progress(self, stage: str, done: int, total: int | None) -> None:
        """Take a stage's progress, see `prophrl_algos.progress`."""
        ...


@runtime_checkable
class Logger(Protocol):
    """Takes the numbers of each update; an update that is logged again (after a kill) replaces the earlier one."""

    def log(self, metrics: Metrics, update: int) -> None:
        """Take the numbers of an update."""
        ...

    def close(self) -> None:
        """Nothing follows."""
        ...


class CsvLogger:
    """One line per update in a file that is always whole; columns appear when their numbers do."""

    def __init__(self, path: Path) -> None:
        """Go on with the file if it is there."""
        self.path = path
        self._rows: dict[int, dict[str, Any]] = {}
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    self._rows[int(row["update"])] = row

    def log(self, metrics: Metrics, update: int) -> None:
        """Write the file anew, without the updates that came after this one in a run that was killed."""
        self._rows = {number: row for number, row in self._rows.items() if number < update}
        self._rows[update] = {"update": update, **metrics}
        names = list(dict.fromkeys(name for row in self._rows.values() for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="")
        writer.writeheader()
        writer.writerows(self._rows.values())
        atomic_write(self.path, text.getvalue())

    def close(self) -> None:
        """The file is whole already."""


class JsonLinesLogger:
    """One JSON object per update in a file that is always whole, for scripts that draw and count."""

    def __init__(self, path: Path, digits: int = 6) -> None:
        """Go on with the file if it is there; numbers are written with so many significant digits."""
        self.path, self.digits = path, digits
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
        self._rows: dict[int, str] = {int(json.loads(line)["update"]): line for line in lines if line}

    def log(self, metrics: Metrics, update: int) -> None:
        """Write the file anew, without the updates that came after this one in a run that was killed."""
        self._rows = {number: row for number, row in self._rows.items() if number < update}
        numbers = {name: _finite(float(f"{value:.{self.digits}g}")) for name, value in metrics.items()}
        self._rows[update] = json.dumps({"update": update, **numbers})
        atomic_write(self.path, "".join(f"{row}\n" for row in self._rows.values()))

    def close(self) -> None:
        """The file is whole already."""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class TensorBoardLogger:
    """Event files in a folder."""

    def __init__(self, folder: Path, done: int = 0) -> None:
        """Go on after `done` updates; what the folder holds of later ones is hidden. Needs the extra `train`."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=done)

    def log(self, metrics: Metrics, update: int) -> None:
        """Write scalars."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, update)
        self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        self._writer.close()


class RunLogger:
    """Weights & Biases or trackio, whose interfaces are the same once a run has begun.

    An update that is logged again after a kill has the same numbers: W&B keeps one of them, trackio both.
    """

    def __init__(self, log: Callable[..., Any], finish: Callable[[], Any]) -> None:
        """Take the run's two functions."""
        self._log, self._finish = log, finish

    def log(self, metrics: Metrics, update: int) -> None:
        """Send the numbers."""
        self._log(dict(metrics), step=update)

    def close(self) -> None:
        """End the run."""
        self._finish()


class TerminalLogger:
    """A line that lives: progress, time left and the numbers that tell whether it learns.

    Between two updates it says what is being done, and from the time that the first parts of it took, how long the rest
    will take.
    """

    SHOWN = ("return", "success", "ratio_max", "clipped_high", "kl", "evaluation/success")

    def __init__(self, updates: int, done: int = 0, *, every: float | int | None = None) -> None:
        """Show `done` of `updates`.

        Args:
            updates: of the run.
            done: before this process.
            every: seconds between two redraws inside an update; 1 on a terminal and 30 in a file if not given.
        """
        from tqdm import tqdm

        self._bar = tqdm(total=updates, initial=done, unit="update", dynamic_ncols=True)
        self._shown: dict[str, str] = {}
        self._every = (1.0 if sys.stderr.isatty() else 30.0) if every is None else every
        self._drawn = time.monotonic()
        self._stage, self._began, self._first = "", 0.0, 0

    def progress(self, stage: str, done: int, total: int | None) -> None:
        """Say what is being done, and how long it will take at the pace so far."""
        now = time.monotonic()
        kind = stage.partition(",")[0]
        if kind != self._stage or done <= self._first:
            self._stage, self._began, self._first = kind, now, done
        if now - self._drawn < self._every:
            return
        self._drawn = now
        text = f"update {int(self._bar.n) + 1}: {stage} {done}" + ("" if total is None else f" of {total}")
        if total is not None and done > self._first:
            left = (now - self._began) / (done - self._first) * (total - done)
            text += f", {self._bar.format_interval(left)} left at most"
        self._bar.set_description_str(text)

    def log(self, metrics: Metrics, update: int) -> None:
        """Move on."""
        self._shown |= {name: f"{metrics[name]:.3g}" for name in self.SHOWN if name in metrics}
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.set_description_str("", refresh=False)
        self._bar.update(update + 1 - self._bar.n)

    def close(self) -> None:
        """Leave the line."""
        self._bar.close()


PROJECT, RUN_NAME = "prophrl", "run_name"
LOGGERS = ("csv", "jsonl", "tensorboard", "wandb", "trackio", "terminal")
PACKAGES = ("tensorboard", "wandb", "trackio")
"""Loggers that need the package of their name."""


def require_loggers(names: Iterable[str]) -> None:
    """Raise what `make_logger` would raise for one of these names, and make none.

    Raises:
        UnknownOptionError: there is no such logger.
        ModuleNotFoundError: its library is not installed.
    """
    for name in names:
        if name not in LOGGERS:
            raise unknown_option("logger", name, LOGGERS)
        if name in PACKAGES and find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def make_logger(name: str, folder: Path, *, updates: int, done: int = 0) -> Logger:
    """The logger of a name in LOGGERS for the run of this folder, of which `done` updates are done.

    Raises:
        UnknownOptionError: there is no such logger.
        ImportError: its library is not installed.
    """
    if name == "csv":
        return CsvLogger(folder / "metrics.csv")
    if name == "jsonl":
        return JsonLinesLogger(folder / "metrics.jsonl")
    if name == "tensorboard":
        return TensorBoardLogger(folder / "tensorboard", done)
    if name == "wandb":
        import wandb  # pyright: ignore[reportMissingImports]

        name = run_name(folder)
        run = wandb.init(project=PROJECT, id=name, name=name, dir=str(folder), resume="allow")
        # With a step given, a row would otherwise wait for the next one, and be lost in a kill.
        return RunLogger(partial(run.log, commit=True), run.finish)
    if name == "trackio":
        import trackio  # pyright: ignore[reportMissingImports]

        trackio.init(project=PROJECT, name=run_name(folder), resume="allow")
        return RunLogger(trackio.log, trackio.finish)
    if name == "terminal":
        return TerminalLogger(updates, done)
    raise unknown_option("logger", name, LOGGERS)


def run_name(folder: Path) -> str:
    """A name that no other folder's run has, kept in the folder: a run that was killed goes on under it."""
    path = folder / RUN_NAME
    if not path.is_file():
        atomic_write(path, f"{folder.resolve().name}-{uuid.uuid4().hex[:8]}")
    return path.read_text(encoding="utf-8")
