"""What a run's folder tells: metrics, settings, commands and machines, films; and runs of equal settings as one."""

import csv
import io
import json
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from prophet_gym import __version__
from prophet_gym._checks import shown
from prophet_gym._io.files import read_json, read_json_lines, read_text
from prophet_gym.cli.report._films import Films, read_films
from prophet_gym.cli.report._plot import Curve, Line, Points, bare
from prophet_gym.train._run_folder import ARGUMENTS, HISTORY, is_running

TABLES, COUNTER = ("metrics.csv", "sft.csv"), "update"
"""Files of metrics, and the column that counts."""
_SEEDS = ("seed", "out", "device", "num_envs", "loggers")
"""Settings in which runs of one curve may differ."""
_MOST_POINTS, _LEAST = 300, 20


@dataclass(frozen=True)
class Run:
    """Hold what a folder tells of a run; `notes` say what it does not tell."""

    folder: Path
    columns: Mapping[str, Points]
    history: Sequence[Mapping[str, Any]]
    arguments: Mapping[str, Any]
    films: Films | None
    notes: Sequence[str]
    running: bool

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Return the arguments by their dotted names."""
        return _flat(self.arguments)

    @property
    def planned(self) -> int | None:
        """Return the number of updates that the run is to have, if it says."""
        asked = self.settings.get("config.updates")
        return asked if isinstance(asked, int) else None


@dataclass(frozen=True)
class Group:
    """Hold runs that differ in nothing but their seeds, which are drawn as one curve; `rates` lie between 0 and 1."""

    label: str
    runs: Sequence[Run]
    style: int
    rates: Container[str] = ()

    def line(self, name: str) -> Line | None:
        """Return the curve of a metric, None if no run of the group has it.

        Over several runs it is their mean with a 95% t interval. For one run it is what was measured with the interval
        that the run logged beside it (`_low`, `_high`), or else the mean of neighbouring values with a 95% t interval.
        """
        found = [run.columns[name] for run in self.runs if name in run.columns]
        if not found:
            return None
        if len(self.runs) > 1:
            x = np.unique(np.concatenate([xs for xs, _ in found]))
            table = np.full((len(found), len(x)), np.nan)
            for row, (xs, ys) in zip(table, found, strict=True):
                row[np.searchsorted(x, xs)] = ys
            return self._drawn(name, x, t_interval(table), found)
        ((x, y),) = found
        ends = [self.runs[0].columns.get(name + end) for end in ("_low", "_high")]
        if all(end is not None and np.array_equal(end[0], x) for end in ends):
            low, high = (end[1] for end in ends if end is not None)
            return self._drawn(name, x, (y, low, high))
        if is_end(name, self.runs[0].columns):
            return self._drawn(name, x, bare(y))
        return self._drawn(name, x, smoothed(y), [(x, y)])

    def _drawn(self, name: str, x: np.ndarray, curve: Curve, faint: Sequence[Points] = ()) -> Line:
        y, low, high = curve
        if name in self.rates:  # the t interval does not know that a rate has ends
            low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
        thin = [(_thin(xs), _thin(ys)) for xs, ys in faint]
        return Line(self.label, _thin(x), _thin(y), _thin(low), _thin(high), thin, self.style)


def read_run(folder: Path, *, waiting: bool = False) -> Run:
    """Read a run; `waiting` says that one that goes on may have no metrics yet.

    Raises:
        ValueError: There is no run, it has no metrics, or a file of it is damaged.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} must be the folder of a run (its --out), and there is no such folder")
    running = is_running(folder)  # before the metrics: those of a run that has ended are then complete
    columns = _read_columns(folder)
    if not columns and not (running and waiting):
        raise ValueError(
            f"{folder} must hold the metrics of a run ({', '.join(TABLES)} or tensorboard/), and has none; "
            "give the --out of a training that has logged to one of them"
        )
    path, notes = folder / HISTORY, []
    history = read_json_lines(path) if path.is_file() else []
    if not history:
        notes.append("Commands, machine and version are not known: an earlier version began this run.")
    versions = {str(each.get("machine", {}).get("versions", {}).get("prophet-gym")) for each in history} - {__version__}
    if versions:
        notes.append(
            f"Written by version {', '.join(sorted(versions))}, read by {__version__}: what it knows is shown."
        )
    arguments = history[-1].get("arguments") if history else None
    if not isinstance(arguments, dict):
        arguments = read_json(folder / ARGUMENTS) if (folder / ARGUMENTS).is_file() else {}
        notes.append("Settings are incomplete." if arguments else "Settings are not known.")
    return Run(folder, columns, history, arguments, read_films(folder), notes, running)


def group_runs(runs: Sequence[Run], rates: Container[str] = ()) -> list[Group]:
    """Return the runs in groups of equal settings, seeds apart, in the order given; a run without settings is alone."""
    together: dict[str, list[Run]] = {}
    for run in runs:
        same = {name: value for name, value in run.settings.items() if name.split(".")[-1] not in _SEEDS}
        together.setdefault(json.dumps(same, sort_keys=True) if same else str(run.folder), []).append(run)
    labels = [_label([named(run, runs) for run in each]) for each in together.values()]
    return [Group(label, each, n, rates) for n, (label, each) in enumerate(zip(labels, together.values(), strict=True))]


def named(run: Run, runs: Sequence[Run]) -> str:
    """Return a run's name among others: its folder's, with its parents as far as that is needed."""
    path = run.folder.resolve()
    for depth in range(1, len(path.parts)):
        name = "/".join(path.parts[-depth:])
        if sum(other.folder.resolve().parts[-depth:] == path.parts[-depth:] for other in runs) == 1:
            return name
    return str(path)


def differing(groups: Sequence[Group]) -> list[tuple[str, list[Any]]]:
    """Return the settings that are not the same in all groups, each with its values."""
    names = dict.fromkeys(
        name for group in groups for name in group.runs[0].settings if name.split(".")[-1] not in _SEEDS
    )
    table = [(name, [group.runs[0].settings.get(name, "") for group in groups]) for name in names]
    return [(name, row) for name, row in table if any(value != row[0] for value in row)]


def is_end(name: str, names: Container[str]) -> bool:
    """Return whether a metric is the end of another one's interval, which is drawn around that one."""
    return any(name.endswith(end) and name.removesuffix(end) in names for end in ("_low", "_high"))


def smoothed(values: Float[np.ndarray, " n"]) -> Curve:
    """Return the mean of each value with its neighbours, a tenth of all of them, and the ends of its 95% t interval.

    Fewer than `_LEAST` values stay as they are: neighbours would be too far away, or too few for an interval.
    """
    if len(values) < _LEAST:
        return bare(values)
    reach = max(2, len(values) // 20)
    # Windows at the ends are as long as the others, since an interval of two or three values says nothing.
    first = np.clip(np.arange(len(values)) - reach, 0, len(values) - 2 * reach - 1)
    return t_interval(values.astype(float)[first + np.arange(2 * reach + 1)[:, None]])


def t_interval(table: Float[np.ndarray, "k n"]) -> Curve:
    """Return mean and 95% t interval of each column's finite values; NaN ends where it has less than two."""
    from scipy.stats import t

    good = np.isfinite(table)
    count, values = good.sum(0), np.where(good, table, 0.0)
    mean = np.where(count > 0, values.sum(0) / np.maximum(count, 1), np.nan)
    squares = np.where(good, (table - mean) ** 2, 0.0).sum(0) if len(table) else mean
    freedom = np.maximum(count - 1, 1)
    half = np.where(count > 1, t.ppf(0.975, freedom) * np.sqrt(squares / freedom / np.maximum(count, 1)), np.nan)
    return mean, mean - half, mean + half


def _read_columns(folder: Path) -> dict[str, Points]:
    table = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    if table is not None:
        return _read_table(table)
    return _read_events(folder / "tensorboard")


def _read_table(path: Path) -> dict[str, Points]:
    advice = "restore it, or log to another folder"
    rows = list(csv.reader(io.StringIO(read_text(path))))
    if not rows or COUNTER not in rows[0]:
        raise ValueError(f"{path} must begin with the names of its columns, {COUNTER} among them; {advice}")
    header, found = rows[0], {name: ([], []) for name in rows[0] if name != COUNTER}
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise ValueError(f"line {number} of {path} must have {len(header)} values, has {len(row)}; {advice}")
        cells = dict(zip(header, row, strict=True))
        for name, cell in cells.items():
            try:
                value = float(cell or "nan")
            except ValueError:
                raise ValueError(
                    f"line {number} of {path}: {name} must be a number, got {shown(repr(cell))}; {advice}"
                ) from None
            if name != COUNTER and cell:
                found[name][0].append(float(cells[COUNTER]))
                found[name][1].append(value)
    return {name: (np.array(xs), np.array(ys)) for name, (xs, ys) in found.items() if xs}


def _read_events(folder: Path) -> dict[str, Points]:
    """Return TensorBoard's events, each under its path below the folder."""
    paths = sorted({path.parent for path in folder.rglob("events.out.tfevents.*")})
    if not paths:
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for path in paths:
        events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
        stage = path.relative_to(folder).as_posix()
        for name in events.Tags()["scalars"]:
            # A run that was killed logs some steps twice, with the same values.
            scalars = {event.step: event.value for event in events.Scalars(name)}
            x = np.array(sorted(scalars), float)
            found[name if stage == "." else f"{stage}/{name}"] = x, np.array([scalars[int(step)] for step in x], float)
    return found


def _thin(values: np.ndarray) -> np.ndarray:
    """Return no more of the values than a chart can show, evenly spread."""
    return values[np.linspace(0, len(values) - 1, min(len(values), _MOST_POINTS)).round().astype(int)]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, part in value.items():
        found |= _flat(part, f"{prefix}{name}.") if isinstance(part, Mapping) else {prefix + name: part}
    return found


def _label(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    same = [letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))]
    return f"{re.sub(r'[-_. /]+(s|seed)?[-_. /]*$', '', ''.join(same)) or names[0]} ({len(names)} runs)"
