"""LeRobot data sets, layouts v2 (a file per episode) and v3 (many episodes in a file): parquet rows, mp4 or PNG frames.

Layouts: github.com/huggingface/lerobot, `lerobot/datasets/utils.py` and `lerobot_dataset.py` of 0.3.3 (v2.1) and 0.4.4
(v3.0). A row holds a frame and the action after it; the outcome of an episode's last action was not recorded, so that
action is left out here. Everything in an index is checked before anything is done with it, and what is wrong is named
by file, episode and column.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, UInt8

from prophet_gym._checks import require_known, require_number
from prophet_gym._io.files import read_json, read_json_lines, reading, refuse_pointer
from prophet_gym.data._episode import Episode, _choose
from prophet_gym.data._reading import (
    ORIENT,
    SUCCESS,
    ToolReading,
    cameras_of,
    decode_images,
    finite,
    success_of,
    upright,
)
from prophet_gym.data._video import WITHIN, decode_frames, frame_times

INFO = "meta/info.json"
_FIELD = re.compile(r"\{([^{}:]*)(?::(0?\d{1,2})d?)?\}")
"""A field of a pattern of paths. `str.format` would also take any number of letters, and any attribute of a value."""


@dataclass(frozen=True)
class _Entry:
    """Hold a line of a data set's index: where an episode's rows and images lie. Several tasks are one instruction.

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
class _Line:
    """Hold a line of an index file, and what messages call it."""

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


class LeRobotSource:
    """Read a LeRobot data set from disk; `huggingface_hub.snapshot_download(..., repo_type="dataset")` fetches one.

    Args:
        root: Its folder, the one that holds `meta/info.json`.
        camera: The feature to read as frames, e.g. `observation.images.agentview`.
        action: The feature to read as actions.
        orient: How to turn the images upright, see `ORIENT`. LIBERO data sets made for OpenVLA and openpi are mirrored:
            `columns_reversed`.
        tools: Which features give the poses of the tools, and in which form.
        calibration: The camera's matrix, one for all episodes or one for each by number; NaN if not known.
        episodes: Numbers of the episodes to read; by default all.
        without: Numbers of episodes to leave out.
        tolerance: Largest distance of a time stamp from the stated frame rate, in frames, below 0.5; recordings of
            real robots may need 0.3.

    Raises:
        FileNotFoundError: A file of the index is missing.
        ValueError: The layout has another version, the index contradicts itself, or a file is truncated.
        UnknownOptionError: There is no such camera, action feature, state feature or episode.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        camera: str,
        *,
        action: str = "action",
        orient: str = "as_stored",
        tools: ToolReading | None = None,
        calibration: Float[np.ndarray, "*_ 3 4"] | None = None,
        episodes: Sequence[int] | None = None,
        without: Sequence[int] = (),
        tolerance: float | int = 0.1,
    ):
        self.root = Path(root)
        self.tolerance = require_number("tolerance", tolerance, above=0)
        # From half a frame on, the row before or after would be as near.
        if self.tolerance >= WITHIN:
            raise ValueError(f"tolerance must be below {WITHIN} of a frame, got {tolerance}")
        info = _read_info(self.root)
        features = self.features = info["features"]
        cameras = _cameras(features)
        self.states = () if tools is None else tools.columns
        asked = [("camera", camera, cameras), ("action feature", action, features), ("orient", orient, ORIENT)]
        for kind, name, known in [*asked, *(("state feature", state, features) for state in self.states)]:
            require_known(kind, name, known)
        self.camera, self.action, self.orient = camera, action, orient
        self.success = next((name for name in SUCCESS if name in features), None)
        self.tools = tools
        self.fps = float(info["fps"])
        self.robot = str(info.get("robot_type") or "unknown")
        video_key = camera if cameras[camera]["dtype"] == "video" else None
        self.entries, numbers = _read_index(self.root, info, video_key, episodes, without)
        self.cameras = dict(zip(numbers, cameras_of(calibration, len(numbers)), strict=True))

    def __len__(self) -> int:
        return len(self.entries)

    def steps(self, index: int) -> int:
        """Return the number of actions of episode `index` with a frame before and after."""
        return max(self.entries[index].rows - 1, 0)

    def numbers(self, index: int, column: str) -> Float64[np.ndarray, "f n"]:
        """Read a column's numbers in every row of episode `index`."""
        entry = self.entries[index]
        return _column(_read_rows(entry.data, entry.number, [column]), column, f"episode {entry.number} of {self.root}")

    def episode(self, index: int) -> Episode:
        """Read the actions and tool poses of episode `index`; ValueError if they contradict the index."""
        entry = self.entries[index]
        name = f"episode {entry.number} of {self.root}"
        told = [] if self.success is None else [self.success]
        columns = list(dict.fromkeys([self.action, "timestamp", *self.states, *told]))
        table = _read_rows(entry.data, entry.number, columns)
        if len(table) != entry.rows:
            raise ValueError(f"{name} must have {entry.rows} rows, has {len(table)} in {entry.data}; fetch it again")
        times = _column(table, "timestamp", name)[:, 0]
        late = np.abs(times - times[0] - np.arange(len(times)) / self.fps) if len(times) else np.zeros(1)
        if late.max() > self.tolerance / self.fps:
            step = float(np.median(np.diff(times)))
            raise ValueError(
                f"{name} must have {self.fps:g} rows a second, as {INFO} states; its timestamps are {step:.4f} s apart "
                f"and up to {late.max():.4f} s off, {late.max() * self.fps:.2g} of a frame; correct {INFO}, record the "
                f"set again or allow more than tolerance={self.tolerance:g}"
            )
        # As lerobot has it: a row shows the frame of its own time stamp.
        video = partial(_read_video, entry, self.fps, float(times[0]) if len(times) else 0.0, self.orient)
        states = [_column(table, column, name) for column in self.states]
        return Episode(
            name=name,
            actions=_column(table, self.action, name)[: self.steps(index)].astype(np.float32),
            instruction=entry.instruction,
            fps=self.fps,
            robot=self.robot,
            read=video if entry.video else partial(_read_stored, entry, self.camera, self.orient),
            tools=None if self.tools is None else self.tools.read(np.hstack(states), name),
            camera=self.cameras[entry.number],
            success=success_of(_column(table, told[0], name)[:, 0] > 0.5) if told else None,
        )


def camera_features(root: Path) -> list[str]:
    """Return the names of the features that are images, in the order of the data set."""
    return list(_cameras(_read_info(root)["features"]))


def _cameras(features: Mapping[str, Any]) -> dict[str, Any]:
    return {name: feature for name, feature in features.items() if feature["dtype"] in ("video", "image")}


def _column(table: Any, column: str, name: str) -> Float64[np.ndarray, "f n"]:
    """Return a column's numbers, as many in each row."""
    with reading(f"{column} of {name} must be as many numbers in each row", "leave it out"):
        values = np.asarray(table[column].to_pylist())
        wide = values.reshape(len(table), -1) if len(table) else np.zeros((0, 1))
        if wide.dtype.kind not in "fiub" or not wide.shape[1]:
            raise ValueError(f"they are {wide.dtype} {values.shape}")
    return finite(f"{column} of {name}", wide.astype(np.float64))


def _read_video(
    entry: _Entry, fps: float, begin: float, orient: str, start: int, stop: int
) -> UInt8[np.ndarray, "f h w 3"]:
    assert entry.video is not None
    last = frame_times(entry.video)[-1]
    if entry.video_ends is not None and (entry.video_ends - last) * fps > 1 + WITHIN:
        raise ValueError(
            f"{entry.video} must last until {entry.video_ends:.4f} s, where its last episode ends, and its last frame "
            f"is shown at {last:.4f} s; there is no telling which episode lacks a frame: fetch or convert the data set "
            "again"
        )
    until, offset = entry.until, entry.offset + begin
    return upright(decode_frames(entry.video, start, stop - start, fps=fps, offset=offset, until=until), orient)


def _read_stored(entry: _Entry, camera: str, orient: str, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
    """Read frames that lie in the rows themselves, as PNG or JPEG bytes."""
    cells = _read_rows(entry.data, entry.number, [camera])[camera].slice(start, stop - start).to_pylist()
    where = f"{camera} of episode {entry.number} in {entry.data}"
    contents = [cell.get("bytes") if isinstance(cell, dict) else None for cell in cells]
    return upright(decode_images(contents, where), orient)


def _read_info(root: Path) -> dict[str, Any]:
    """Read what a data set says of itself; ValueError for another layout, or one that does not say what is needed."""
    path = root / INFO
    if not root.exists():
        raise FileNotFoundError(f"no data set at {root}: there is no such folder; one on the Hub is owner/repo")
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


def _read_index(
    root: Path,
    info: Mapping[str, Any],
    video_key: str | None,
    episodes: Sequence[int] | None = None,
    without: Sequence[int] = (),
) -> tuple[list[_Entry], list[int]]:
    """Read where the episodes lie: the entries to read, by number, and the numbers of all.

    `video_key` is the camera whose videos are read, None where the images lie in the rows. Nothing is read of the
    episodes `without`, so one that is damaged does no harm.
    """
    third = str(info["codebase_version"]).startswith("v3")
    path = root / "meta" / ("episodes" if third else "episodes.jsonl")
    if not path.exists():
        raise FileNotFoundError(f"layout {info['codebase_version']} needs {path}; fetch the data set again")
    found: dict[int, _Line] = {}
    for line in _lines_v3(path, video_key) if third else [_Line(each, str(path)) for each in read_json_lines(path)]:
        number = line.whole("episode_index")
        if number in found:
            raise ValueError(f"{path} must list every episode once, lists episode {number} twice")
        found[number] = replace(line, where=f"episode {number} in {line.where}")
    numbers = sorted(found)
    stated = _Line(info, str(root / INFO)).whole("total_episodes") if "total_episodes" in info else len(numbers)
    if len(numbers) != stated:
        raise ValueError(f"{path} must list the {stated} episodes that {INFO} states, lists {len(numbers)}; fetch it")
    # Chosen before anything of an entry is read: a damaged episode can be left out.
    kept = _choose(str(root), numbers, episodes, without)
    entries = [_read_entry(root, info, found[number], video_key) for number in kept]
    if not (third and video_key):
        return entries, numbers
    _require_apart(entries, float(info["fps"]))
    ends: dict[Path | None, float] = defaultdict(float)
    for line in found.values():
        # Episodes that are not read count, too, unless they are damaged.
        with suppress(ValueError):
            entry = _read_entry(root, info, line, video_key)
            ends[entry.video] = max(ends[entry.video], entry.offset + entry.rows / info["fps"])
    return [replace(entry, video_ends=ends[entry.video]) for entry in entries], numbers


def _lines_v3(folder: Path, video_key: str | None) -> Iterator[_Line]:
    needed = ["episode_index", "length", "tasks", "data/chunk_index", "data/file_index"]
    own = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    needed += [f"videos/{video_key}/{name}" for name in own]
    paths = sorted(folder.glob("chunk-*/file-*.parquet"))
    if not paths:
        raise FileNotFoundError(f"{folder} must hold chunk-*/file-*.parquet; fetch the data set again")
    for path in paths:
        with _whole(path) as parquet:
            names = parquet.read_schema(path).names
            columns = [name for name in needed if name in names]
            rows = parquet.read_table(path, columns=columns, use_threads=False).to_pylist()
        yield from (_Line(row, str(path)) for row in rows)


def _read_entry(root: Path, info: Mapping[str, Any], line: _Line, video_key: str | None) -> _Entry:
    third = str(info["codebase_version"]).startswith("v3")
    number, own = line.whole("episode_index"), f"videos/{video_key}/"

    def place(prefix: str) -> dict[str, int]:
        if third:
            return {name: line.whole(prefix + name) for name in ("chunk_index", "file_index")}
        chunk = number // _Line(info, str(root / INFO)).whole("chunks_size", least=1)
        return {"episode_chunk": chunk, "episode_index": number}

    data = _place(root, info, "data_path", place("data/"))
    entry = _Entry(number, line.whole("length"), line.tasks(), data, video=None)
    if video_key is None:
        return entry
    video = _place(root, info, "video_path", {"video_key": video_key, **place(own)})
    if not third:
        return replace(entry, video=video)
    offset = line.seconds(f"{own}from_timestamp")
    stated = f"{own}to_timestamp" in line.values
    until = line.seconds(f"{own}to_timestamp") if stated else offset + entry.rows / info["fps"]
    if (until - offset) * info["fps"] < entry.rows - WITHIN:
        raise ValueError(
            f"{line.where} must have a frame for each of its {entry.rows} rows; from_timestamp {offset:.4f} s and "
            f"to_timestamp {until:.4f} s of {video_key} leave room for {(until - offset) * info['fps']:.3g}; leave "
            "this episode out or convert the data set again"
        )
    return replace(entry, video=video, offset=offset, until=until)


def _require_apart(entries: Iterable[_Entry], fps: float) -> None:
    """Raise ValueError where two episodes would be given the same frames."""
    for one, other in pairwise(sorted(entries, key=lambda entry: (str(entry.video), entry.offset))):
        if one.video == other.video and (other.offset - one.offset) * fps < one.rows - WITHIN:
            raise ValueError(
                f"episode {one.number} has {one.rows} rows, so its frames in {one.video} run from {one.offset:.4f} s "
                f"into those of episode {other.number}, which begins at {other.offset:.4f} s; leave one of the two out "
                "or convert the data set again"
            )


def _place(root: Path, info: Mapping[str, Any], key: str, values: Mapping[str, int | str]) -> Path:
    """Fill a pattern of paths; raise ValueError if it has other fields or leads out of the data set."""
    pattern, where = info.get(key), f"{key} of {root / INFO}"

    def fill(field: re.Match[str]) -> str:
        if field[1] not in values:
            raise ValueError(f"{where} may name {', '.join(values)}, names {field[1] or 'nothing'}")
        return format(values[field[1]], field[2] or "")

    filled = _FIELD.sub(fill, pattern) if isinstance(pattern, str) else "{"
    if "{" in filled or "}" in filled:
        raise ValueError(f"{where} must be a pattern of paths, is {pattern!r}; give fields such as {{name:03d}}")
    path = PurePosixPath(filled)
    if path.is_absolute() or ".." in path.parts or "\0" in filled or max(map(len, path.parts), default=256) > 255:
        raise ValueError(f"{where} must lead to a file inside the data set, leads to {filled[:100]!r}")
    return root / path


@contextmanager
def _whole(path: Path, needs: str = "") -> Iterator[Any]:
    """Give what reads parquet; ValueError where it cannot."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        told = "LeRobot data sets are parquet; install pyarrow: pip install 'prophet-gym[data]'"
        raise ImportError(told, name=error.name) from error
    refuse_pointer(path)
    with reading(f"{path} must be a whole parquet file{needs}", "fetch it again"):
        yield parquet


def _read_rows(path: Path, episode: int, columns: Iterable[str]) -> Any:
    """Read columns of one episode's rows."""
    names = list(columns)
    if not path.exists():
        raise FileNotFoundError(f"the data set's index names {path}, which is not there; fetch the data set again")
    with _whole(path, f" with {', '.join(names)}") as parquet:
        return parquet.read_table(path, columns=names, filters=[("episode_index", "==", episode)], use_threads=False)
