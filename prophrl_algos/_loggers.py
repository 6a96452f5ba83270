"""Where the metrics of a run go: CSV, TensorBoard, Weights & Biases, trackio."""

import csv
import io
import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prophet_gym._checks import require_known
from prophet_gym._io.atomic import atomic_write
from prophrl_algos.trainer import Metrics


class Logger:
    """Take the metrics of each update; an update that is logged again (after a kill) replaces the earlier one."""

    def log(self, metrics: Metrics, update: int) -> None:
        """Take the metrics of an update."""
        raise NotImplementedError

    def close(self) -> None:
        """Finish: nothing follows."""


class CsvLogger(Logger):
    """Write a line per update to a CSV file that is always whole; drop lines that a killed run logged too far.

    Columns appear when their metrics do.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))) if path.is_file() else ()
        self._rows: dict[int, Mapping[str, Any]] = {int(row["update"]): row for row in rows}

    def log(self, metrics: Metrics, update: int) -> None:
        """Write the whole file again, with this update as its last."""
        self._rows = {number: row for number, row in self._rows.items() if number < update}
        self._rows[update] = {"update": update, **metrics}
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in self._rows.values() for name in row)))
        writer.writeheader()
        writer.writerows(self._rows.values())
        atomic_write(self.path, text.getvalue())


class _Sender(Logger):
    """TensorBoard, Weights & Biases or trackio once a run has begun.

    An update that is logged again after a kill has the same metrics: W&B keeps one of them, trackio both.
    """

    def __init__(self, send: Callable[..., Any], close: Callable[[], Any]) -> None:
        self._send, self.close = send, close

    def log(self, metrics: Metrics, update: int) -> None:
        """Send the metrics."""
        self._send(dict(metrics), step=update)


_PROJECT, _RUN_NAME = "prophrl", "run_name"
LOGGERS = ("csv", "tensorboard", "wandb", "trackio")
_PACKAGES = ("tensorboard", "wandb", "trackio")
"""Loggers that need the package of their name."""


def require_loggers(names: Iterable[str]) -> None:
    """Raise UnknownOptionError or ModuleNotFoundError where one of these loggers cannot be made, and make none."""
    for name in names:
        require_known("logger", name, LOGGERS)
        if name in _PACKAGES and find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def make_logger(name: str, folder: Path, *, done: int = 0) -> Logger:
    """Make the logger of a name in LOGGERS for the run of this folder, whose first `done` updates are done."""
    require_loggers([name])
    if name == "csv":
        return CsvLogger(folder / "metrics.csv")
    if name == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        # What the folder holds of later updates than these is hidden.
        writer = SummaryWriter(str(folder / "tensorboard"), purge_step=done)

        def send(metrics: Metrics, step: int) -> None:
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)
            writer.flush()

        return _Sender(send, writer.close)
    if name == "wandb":
        import wandb  # pyright: ignore[reportMissingImports]

        name = run_name(folder)
        run = wandb.init(project=_PROJECT, id=name, name=name, dir=str(folder), resume="allow")
        # With a step given, a row would otherwise wait for the next one, and be lost in a kill.
        return _Sender(partial(run.log, commit=True), run.finish)
    import trackio  # pyright: ignore[reportMissingImports]

    trackio.init(project=_PROJECT, name=run_name(folder), resume="allow")
    return _Sender(trackio.log, trackio.finish)


def run_name(folder: Path) -> str:
    """Return a name that no other folder's run has, kept in the folder: a run that was killed resumes under it."""
    path = folder / _RUN_NAME
    if not path.is_file():
        atomic_write(path, f"{folder.resolve().name}-{uuid.uuid4().hex[:8]}")
    return path.read_text(encoding="utf-8")
