"""The index of a LeRobot data set, layouts v2 and v3: which episodes there are, and where their rows and videos lie.

Everything in it is checked before anything is done with it, and what is wrong is named by file, episode and column.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Any

from prophet_gym._checks import require_number
from prophet_gym._io.files import read_json, read_json_lines, refuse_pointer
from prophet_gym.data._episode import _choose
from prophet_gym.data._video import WITHIN

try:
    import pyarrow as pa
    from pyarrow import parquet
except ImportError as error:
    raise ImportError(
        "LeRobot data sets are parquet; install pyarrow: pip install 'prophet-gym[data]'", name=error.name
    ) from error

INFO = "meta/info.json"
_DIGITS = re.compile(r"(0?\d{1,2}d?)?")


@dataclass(frozen=True)
class Entry:
    """One line of a data set's index: where an episode's rows and images lie; several tasks are one instruction.

    `video` may be one of several episodes, and is None where the images lie in the rows. The episode runs in it from
    `offset` to `until`, where the index says so, and its last episode ends at `video_ends`; all in seconds.
    """

    number: int
    rows: int
    instruction: str
    data: Path
    video: Path | None
    offset: float = 0.0
    until: float | None = None
    video_ends: float | None = None


@dataclass(frozen=True)
class Line:
    """One line of an index file, and what messages call it."""

    values: Mapping[str, Any]
    where: str

    def whole(self, column: str, least: int = 0) -> int:
        """Return a whole number; pandas writes those of a column that had a gap as floats."""
        value = self.values.get(column)
        number = int(value) if isinstance(value, float) and value.is_integer() else value
        if not isinstance(number, int) or isinstance(number, bool) or not least <= number < 2**53:
            raise ValueError(f"{column} of {self.where} must be a whole number of at least {least}, is {value!r}")
        return number

    def seconds(self, column: str) -> float:
        return require_number(f"{column} of {self.where}", self.values.get(column), least=0)

    def tasks(self) -> str:
        """Return the tasks in words: a text is one task, several are joined."""
        value = self.values.get("tasks")
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"tasks of {self.where} must be a text or a list of texts, is {value!r}")
        return "; ".join(texts)


def read_info(root: Path) -> dict[str, Any]:
    """Read what a data set says of itself; ValueError for another layout, or one that does not say what is needed."""
    path = root / INFO
    if not path.exists():
        raise FileNotFoundError(f"{root} is no LeRobot data set (it has no {INFO}); give the folder that holds meta/")
    info = read_json(path)
    missing = [key for key in ("codebase_version", "fps", "features", "data_path") if not info.get(key)]
    if missing:
        raise ValueError(f"{path} must state codebase_version, fps, features, data_path; {', '.join(missing)} missing")
    if not str(info["codebase_version"]).startswith(("v2.", "v3.")):
        raise ValueError(f"{path} must be of layout v2 or v3, is {info['codebase_version']}; convert it with lerobot")
    fps, features = info["fps"], info["features"]
    if not isinstance(fps, int | float) or isinstance(fps, bool) or not 0 < fps < 1e6:
        raise ValueError(f"fps of {path} must be a number above 0 and below 1e+06, is {fps!r}")
    given = features.values() if isinstance(features, dict) else [None]
    if not all(isinstance(each, dict) and isinstance(each.get("dtype"), str) for each in given):
        raise ValueError(f"features of {path} must map names to features that each state their dtype")
    return info


def read_index(
    root: Path,
    info: Mapping[str, Any],
    video_key: str | None,
    episodes: Sequence[int] | None = None,
    without: Sequence[int] = (),
) -> tuple[list[Entry], list[int]]:
    """Read where the episodes lie: the entries to read, by number, and the numbers of all.

    `video_key` is the camera whose videos are read, None where the images lie in the rows. Nothing is read of the
    episodes `without`, so one that is damaged does no harm.
    """
    third = str(info["codebase_version"]).startswith("v3")
    path = root / "meta" / ("episodes" if third else "episodes.jsonl")
    if not path.exists():
        raise FileNotFoundError(f"layout {info['codebase_version']} needs {path}; fetch the data set again")
    found: dict[int, Line] = {}
    for line in _lines_v3(path, video_key) if third else [Line(each, str(path)) for each in read_json_lines(path)]:
        number = line.whole("episode_index")
        if number in found:
            raise ValueError(f"{path} must list every episode once, lists episode {number} twice")
        found[number] = replace(line, where=f"episode {number} in {line.where}")
    numbers = sorted(found)
    stated = Line(info, str(root / INFO)).whole("total_episodes") if "total_episodes" in info else len(numbers)
    if len(numbers) != stated:
        raise ValueError(f"{path} must list the {stated} episodes that {INFO} states, lists {len(numbers)}; fetch it")
    # Chosen before anything of an entry is read: a damaged episode can be left out.
    kept = _choose(str(root), numbers, episodes, without)
    read = _entry_v3 if third else _entry_v2
    entries = [read(root, info, found[number], video_key) for number in kept]
    if third and video_key:
        _require_apart(entries, float(info["fps"]))
        ends: dict[Path | None, float] = defaultdict(float)
        for line in found.values():
            # Episodes that are not read count, too, unless they are damaged.
            with suppress(ValueError):
                entry = _entry_v3(root, info, line, video_key)
                ends[entry.video] = max(ends[entry.video], entry.offset + entry.rows / info["fps"])
        entries = [replace(entry, video_ends=ends[entry.video]) for entry in entries]
    return entries, numbers


def _entry_v2(root: Path, info: Mapping[str, Any], line: Line, video_key: str | None) -> Entry:
    number = line.whole("episode_index")
    place = {"episode_index": number}
    if "episode_chunk" in _fields(info, "data_path") | (_fields(info, "video_path") if video_key else set()):
        place["episode_chunk"] = number // Line(info, str(root / INFO)).whole("chunks_size", least=1)
    video = None if video_key is None else _place(root, info, "video_path", {"video_key": video_key, **place})
    return Entry(number, line.whole("length"), line.tasks(), _place(root, info, "data_path", place), video)


def _lines_v3(folder: Path, video_key: str | None) -> Iterator[Line]:
    needed = ["episode_index", "length", "tasks", "data/chunk_index", "data/file_index"]
    if video_key:
        needed += [f"videos/{video_key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
    paths = sorted(folder.glob("chunk-*/file-*.parquet"))
    if not paths:
        raise FileNotFoundError(f"{folder} must hold chunk-*/file-*.parquet; fetch the data set again")
    for path in paths:
        with _whole(path):
            names = parquet.read_schema(path).names
            absent = [name for name in needed if name not in names]
            extra = [name for name in [f"videos/{video_key}/to_timestamp"] if name in names]
            columns = [] if absent else needed + extra
            rows = parquet.read_table(path, columns=columns, use_threads=False).to_pylist()
        if absent:
            raise ValueError(f"{path} must have the columns {', '.join(absent)}; convert the set with lerobot again")
        yield from (Line(row, str(path)) for row in rows)


def _entry_v3(root: Path, info: Mapping[str, Any], line: Line, video_key: str | None) -> Entry:
    place = {"chunk_index": line.whole("data/chunk_index"), "file_index": line.whole("data/file_index")}
    data = _place(root, info, "data_path", place)
    entry = Entry(line.whole("episode_index"), line.whole("length"), line.tasks(), data, video=None)
    if video_key is None:
        return entry
    own = f"videos/{video_key}/"
    place = {"chunk_index": line.whole(f"{own}chunk_index"), "file_index": line.whole(f"{own}file_index")}
    offset = line.seconds(f"{own}from_timestamp")
    stated = f"{own}to_timestamp" in line.values
    until = line.seconds(f"{own}to_timestamp") if stated else offset + entry.rows / info["fps"]
    if (until - offset) * info["fps"] < entry.rows - WITHIN:
        raise ValueError(
            f"{line.where} must have a frame for each of its {entry.rows} rows; from_timestamp {offset:.4f} s and "
            f"to_timestamp {until:.4f} s of {video_key} leave room for {(until - offset) * info['fps']:.3g}; leave "
            "this episode out or convert the data set again"
        )
    video = _place(root, info, "video_path", {"video_key": video_key, **place})
    return replace(entry, video=video, offset=offset, until=until)


def _require_apart(entries: Iterable[Entry], fps: float) -> None:
    """Raise ValueError where two episodes would be given the same frames."""
    for one, other in pairwise(sorted(entries, key=lambda entry: (str(entry.video), entry.offset))):
        if one.video == other.video and (other.offset - one.offset) * fps < one.rows - WITHIN:
            raise ValueError(
                f"episode {one.number} has {one.rows} rows, so its frames in {one.video} run from {one.offset:.4f} s "
                f"into those of episode {other.number}, which begins at {other.offset:.4f} s; leave one of the two out "
                "or convert the data set again"
            )


def _fields(info: Mapping[str, Any], key: str) -> set[str]:
    """Return the names of the fields of a pattern of paths."""
    pattern = info.get(key)
    try:
        parts = list(Formatter().parse(pattern))  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{key} of {INFO} must be a pattern of paths, is {pattern!r}") from error
    # A specification may ask for any number of letters, and a field for any attribute of a value.
    if not all(name is None or (not how and _DIGITS.fullmatch(spec or "")) for _, name, spec, how in parts):
        raise ValueError(f"{key} of {INFO} must be a pattern of paths with fields such as {{name:03d}}, is {pattern!r}")
    return {name for _, name, _, _ in parts if name is not None}


def _place(root: Path, info: Mapping[str, Any], key: str, values: Mapping[str, int | str]) -> Path:
    """Fill a pattern of paths; raise ValueError if it has other fields or leads out of the data set."""
    odd = sorted(_fields(info, key) - set(values))
    if odd:
        raise ValueError(f"{key} of {root / INFO} may name {', '.join(values)}, names {', '.join(odd) or 'nothing'}")
    try:
        filled = info[key].format(**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{key} of {root / INFO} must be a pattern of paths, is {info[key]!r} ({error})") from error
    path = PurePosixPath(filled)
    if path.is_absolute() or ".." in path.parts or "\0" in filled or max(map(len, path.parts), default=256) > 255:
        raise ValueError(f"{key} of {root / INFO} must lead to a file inside the data set, leads to {filled[:100]!r}")
    return root / path


@contextmanager
def _whole(path: Path, needs: str = "") -> Iterator[None]:
    """Raise ValueError where a file cannot be read; a damaged one may fail in any of arrow's ways."""
    refuse_pointer(path)
    try:
        yield
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(f"{path} must be a whole parquet file{needs}; fetch it again ({reason})") from error


def read_rows(path: Path, episode: int, columns: Iterable[str]) -> "pa.Table":
    """Read columns of one episode's rows."""
    names = list(columns)
    if not path.exists():
        raise FileNotFoundError(f"the data set's index names {path}, which is not there; fetch the data set again")
    with _whole(path, f" with {', '.join(names)}"):
        return parquet.read_table(path, columns=names, filters=[("episode_index", "==", episode)], use_threads=False)
