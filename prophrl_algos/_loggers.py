"""Where the metrics of a run go: CSV, JSON lines, TensorBoard, Weights & Biases, trackio, the terminal."""

import csv
import io
import json
import math
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from prophet_gym._checks import unknown_option
from prophet_gym._io.atomic import atomic_write
from prophrl_algos.trainer import Metrics


@runtime_checkable
class ShowsProgress(Protocol):
    """A logger that also shows how far an update has come."""

    def progress(self, stage: str, done: int, total: int | None) -> None:
        """Take a stage's progress, see `prophrl_algos.rollout.Progress`."""


@runtime_checkable
class Logger(Protocol):
    """Takes the metrics of each update; an update that is logged again (after a kill) replaces the earlier one."""

    def log(self, metrics: Metrics, update: int) -> None:
        """Take the metrics of an update."""

    def close(self) -> None:
        """Finish: nothing follows."""


class _FileLogger:
    """One row per update in a file that is always whole; rows that a killed run logged too far are dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        rows = self._read(path.read_text(encoding="utf-8")) if path.is_file() else ()
        self._rows: dict[int, Mapping[str, Any]] = {int(row["update"]): row for row in rows}

    def log(self, metrics: Metrics, update: int) -> None:
        """Write the whole file again, with this update as its last."""
        self._rows = {number: row for number, row in self._rows.items() if number < update}
        self._rows[update] = {"update": update, **metrics}
        atomic_write(self.path, self._text(list(self._rows.values())))

    def close(self) -> None:
        """Return at once: the file is whole already."""

    def _read(self, text: str) -> Iterable[Mapping[str, Any]]:
        raise NotImplementedError

    def _text(self, rows: Sequence[Mapping[str, Any]]) -> str:
        raise NotImplementedError


class CsvLogger(_FileLogger):
    """One line per update in a CSV file; columns appear when their metrics do."""

    def _read(self, text: str) -> Iterable[Mapping[str, Any]]:
        return csv.DictReader(io.StringIO(text))

    def _text(self, rows: Sequence[Mapping[str, Any]]) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


class JsonLinesLogger(_FileLogger):
    """One JSON object per update, with six significant digits, for scripts that draw and count."""

    def _read(self, text: str) -> Iterable[Mapping[str, Any]]:
        # Not splitlines, which also ends a line at characters that JSON leaves as they are.
        return [json.loads(line) for line in text.split("\n") if line]

    def _text(self, rows: Sequence[Mapping[str, Any]]) -> str:
        return "".join(json.dumps({name: _rounded(value) for name, value in row.items()}) + "\n" for row in rows)


def _rounded(value: Any) -> Any:
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None  # JSON has no NaN


@dataclass(frozen=True)
class _Sender:
    """TensorBoard, Weights & Biases or trackio once a run has begun.

    An update that is logged again after a kill has the same metrics: W&B keeps one of them, trackio both.
    """

    send: Callable[..., Any]
    close: Callable[[], Any]

    def log(self, metrics: Metrics, update: int) -> None:
        """Send the metrics."""
        self.send(dict(metrics), step=update)


class TerminalLogger:
    """A live line: progress, time left and the metrics that tell whether the policy learns.

    Between two updates it says what is being done and how long the rest will take at the pace so far. It draws once a
    second on a terminal, and every 30 seconds in a file.
    """

    SHOWN = ("return", "success", "ratio_max", "clipped_high", "kl", "evaluation/success")

    def __init__(self, updates: int, done: int = 0, *, every: float | int | None = None) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=updates, initial=done, unit="update", dynamic_ncols=True)
        self._shown: dict[str, str] = {}
        self._every = (1.0 if sys.stderr.isatty() else 30.0) if every is None else every
        self._drawn = time.monotonic()
        self._stage, self._began, self._first = "", 0.0, 0

    def progress(self, stage: str, done: int, total: int | None) -> None:
        """Say what is being done, and how long it will take at the pace so far."""
        now = time.monotonic()
        # The pace is that of one kind of work; "rollouts, 3 of 8 groups" and "rollouts, 4 of 8 groups" are one kind.
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
        """Show the metrics and move on."""
        self._shown |= {name: f"{metrics[name]:.3g}" for name in self.SHOWN if name in metrics}
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.set_description_str("", refresh=False)
        self._bar.update(update + 1 - self._bar.n)

    def close(self) -> None:
        """Leave the line."""
        self._bar.close()


_PROJECT, _RUN_NAME = "prophrl", "run_name"
LOGGERS = ("csv", "jsonl", "tensorboard", "wandb", "trackio", "terminal")
_PACKAGES = ("tensorboard", "wandb", "trackio")
"""Loggers that need the package of their name."""


def require_loggers(names: Iterable[str]) -> None:
    """Raise UnknownOptionError or ModuleNotFoundError where one of these loggers cannot be made, and make none."""
    for name in names:
        if name not in LOGGERS:
            raise unknown_option("logger", name, LOGGERS)
        if name in _PACKAGES and find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def make_logger(name: str, folder: Path, *, updates: int, done: int = 0) -> Logger:
    """Make the logger of a name in LOGGERS for the run of this folder, whose first `done` updates are done."""
    require_loggers([name])
    if name == "csv":
        return CsvLogger(folder / "metrics.csv")
    if name == "jsonl":
        return JsonLinesLogger(folder / "metrics.jsonl")
    if name == "tensorboard":
        return _tensorboard(folder / "tensorboard", done)
    if name == "wandb":
        import wandb  # pyright: ignore[reportMissingImports]

        name = run_name(folder)
        run = wandb.init(project=_PROJECT, id=name, name=name, dir=str(folder), resume="allow")
        # With a step given, a row would otherwise wait for the next one, and be lost in a kill.
        return _Sender(partial(run.log, commit=True), run.finish)
    if name == "trackio":
        import trackio  # pyright: ignore[reportMissingImports]

        trackio.init(project=_PROJECT, name=run_name(folder), resume="allow")
        return _Sender(trackio.log, trackio.finish)
    return TerminalLogger(updates, done)


def _tensorboard(folder: Path, done: int) -> Logger:
    from torch.utils.tensorboard import SummaryWriter

    # What the folder holds of later updates than these is hidden.
    writer = SummaryWriter(str(folder), purge_step=done)

    def send(metrics: Metrics, step: int) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return _Sender(send, writer.close)


def run_name(folder: Path) -> str:
    """Return a name that no other folder's run has, kept in the folder: a run that was killed resumes under it."""
    path = folder / _RUN_NAME
    if not path.is_file():
        atomic_write(path, f"{folder.resolve().name}-{uuid.uuid4().hex[:8]}")
    return path.read_text(encoding="utf-8")
