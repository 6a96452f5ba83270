"""LeRobot data sets, layouts v2 (a file per episode) and v3 (many episodes in a file): parquet rows, mp4 or PNG frames.

Layouts: github.com/huggingface/lerobot, `lerobot/datasets/utils.py` and `lerobot_dataset.py` of 0.3.3 (v2.1) and 0.4.4
(v3.0). A row holds a frame and the action after it; the outcome of an episode's last action was not filmed, so that
action is left out here.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from prophet_gym._files import read_json, read_json_lines
from prophet_gym.data.source import Orient, ReadFrames, SourceEpisode, as_stored
from prophet_gym.data.tools import Calibration, ToolReading
from prophet_gym.data.video import decode_frames
from prophet_gym.errors import unknown_option

try:
    import pyarrow as pa
    from pyarrow import parquet
except ImportError as error:
    raise ImportError(
        "LeRobot data sets are parquet; install pyarrow: pip install 'prophet-gym[data]'", name=error.name
    ) from error

INFO = "meta/info.json"


@dataclass(frozen=True)
class Entry:
    """One line of a data set's index: where an episode's rows and pictures lie."""

    number: int
    rows: int
    instruction: str
    data: Path
    video: Path | None
    offset: float


class LeRobotSource:
    """A LeRobot data set on disk; `huggingface_hub.snapshot_download(..., repo_type="dataset")` fetches one.

    Args:
        root: its folder, the one that holds `meta/info.json`.
        camera: the feature to read as frames, e.g. `observation.images.agentview`.
        action: the feature to read as actions.
        robot: stands in for the data set's `robot_type`.
        orient: turns its pictures upright. LIBERO sets that were made for OpenVLA and openpi are mirrored:
            `columns_reversed`.
        tools: which features say where the tools are, and how.
        calibration: the camera's matrices, episodes by number.

    Raises:
        FileNotFoundError: a file of the index is missing.
        ValueError: the layout is another version, the index contradicts itself or a file is cut off.
        UnknownOptionError: there is no such camera, action feature or state feature.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        camera: str,
        *,
        action: str = "action",
        robot: str | None = None,
        orient: Orient = as_stored,
        tools: ToolReading | None = None,
        calibration: Calibration | None = None,
    ):
        self.root = Path(root)
        info = _read_info(self.root)
        features = info["features"]
        cameras = {name: f for name, f in features.items() if f["dtype"] in ("video", "image")}
        if camera not in cameras:
            raise unknown_option("camera", camera, cameras)
        if action not in features:
            raise unknown_option("action feature", action, features)
        self.states = () if tools is None else tools.columns
        for name in self.states:
            if name not in features:
                raise unknown_option("state feature", name, features)
        self.camera, self.action, self.orient = camera, action, orient
        self.tools, self.calibration = tools, calibration
        self.fps = float(info["fps"])
        self.robot = robot or str(info.get("robot_type") or "unknown")
        filmed = camera if cameras[camera]["dtype"] == "video" else None
        index = _index_v3 if info["codebase_version"].startswith("v3") else _index_v2
        self.entries = index(self.root, info, filmed)
        if calibration is not None:
            calibration.require(len(self.entries))

    def __len__(self) -> int:
        return len(self.entries)

    def steps(self, index: int) -> int:
        """How many actions of episode `index` have both their frames."""
        return max(self.entries[index].rows - 1, 0)

    def episode(self, index: int) -> SourceEpisode:
        """Reads the actions of episode `index`, and where its tools are.

        Raises:
            FileNotFoundError: its file is missing.
            ValueError: its rows are not as many as the index says, or not at the stated rate; or its states have
                another width than `tools` says.
        """
        entry = self.entries[index]
        name = f"episode {entry.number} of {self.root}"
        table = read_rows(entry.data, entry.number, list(dict.fromkeys([self.action, "timestamp", *self.states])))
        if len(table) != entry.rows:
            raise ValueError(f"{name} must have {entry.rows} rows, has {len(table)} in {entry.data}; fetch it again")
        _check_times(name, np.asarray(table["timestamp"].to_pylist(), np.float64).reshape(-1), self.fps)
        column = lambda name: np.asarray(table[name].to_pylist(), np.float32).reshape(entry.rows, -1)  # noqa: E731
        read = (
            partial(_read_stored, entry, self.camera) if entry.video is None else partial(_read_video, entry, self.fps)
        )
        return SourceEpisode(
            name=name,
            actions=column(self.action)[: self.steps(index)],
            instruction=entry.instruction,
            fps=self.fps,
            robot=self.robot,
            read=partial(_upright, read, self.orient),
            tools=None if self.tools is None else self.tools.read(np.hstack([column(name) for name in self.states])),
            camera=None if self.calibration is None else self.calibration.camera(index),
        )


def _upright(read: ReadFrames, orient: Orient, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
    return orient(read(start, stop))


def _read_video(entry: Entry, fps: float, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
    assert entry.video is not None
    return decode_frames(entry.video, start, stop - start, fps=fps, offset=entry.offset)


def _read_stored(entry: Entry, camera: str, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
    """Frames that lie in the rows themselves, as PNG or JPEG bytes."""
    cells = read_rows(entry.data, entry.number, [camera])[camera].slice(start, stop - start).to_pylist()
    decoded = [cv2.imdecode(np.frombuffer(cell["bytes"] or b"\0", np.uint8), cv2.IMREAD_COLOR) for cell in cells]
    whole = [cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) for frame in decoded if frame is not None]
    if len(whole) < len(decoded):
        raise ValueError(f"{entry.data} must hold its pictures as PNG or JPEG bytes in {camera}; save the set again")
    return np.stack(whole)


def read_rows(path: Path, episode: int, columns: list[str]) -> "pa.Table":
    """Columns of one episode's rows.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is cut off, or lacks a column.
    """
    if not path.exists():
        raise FileNotFoundError(f"the data set's index names {path}, which is not there; fetch the data set again")
    try:
        return parquet.read_table(path, columns=columns, filters=[("episode_index", "==", episode)], use_threads=False)
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise ValueError(
            f"{path} must be a whole parquet file with {', '.join(columns)}; fetch it again ({error})"
        ) from error


def _check_times(name: str, times: Float64[np.ndarray, " n"], fps: float) -> None:
    late = np.abs(times - times[0] - np.arange(len(times)) / fps) if len(times) else np.zeros(1)
    if late.max() > 0.1 / fps:
        step = float(np.median(np.diff(times)))
        raise ValueError(
            f"{name} must have {fps:g} rows a second, as {INFO} states; its timestamps are {step:.4f} s apart and "
            f"up to {late.max():.4f} s off; correct {INFO} or record the set again"
        )


def _read_info(root: Path) -> dict[str, Any]:
    path = root / INFO
    if not path.exists():
        raise FileNotFoundError(f"{root} is no LeRobot data set (it has no {INFO}); give the folder that holds meta/")
    info = read_json(path)
    missing = [key for key in ("codebase_version", "fps", "features", "data_path") if not info.get(key)]
    if missing:
        raise ValueError(f"{path} must state codebase_version, fps, features, data_path; {', '.join(missing)} missing")
    if not info["codebase_version"].startswith(("v2.", "v3.")):
        raise ValueError(
            f"{path} must be of layout v2 or v3, is {info['codebase_version']}; convert it with lerobot's own scripts"
        )
    return info


def _index_v2(root: Path, info: Mapping[str, Any], filmed: str | None) -> list[Entry]:
    path = root / "meta" / "episodes.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"layout {info['codebase_version']} needs {path}; fetch the data set again")
    lines = read_json_lines(path)
    entries = []
    for line in sorted(lines, key=lambda line: line["episode_index"]):
        number = line["episode_index"]
        place = {"episode_chunk": number // info["chunks_size"], "episode_index": number}
        video = None if filmed is None else root / info["video_path"].format(video_key=filmed, **place)
        data = root / info["data_path"].format(**place)
        entries.append(Entry(number, line["length"], "; ".join(line["tasks"]), data, video, 0.0))
    return _counted(entries, info, path)


def _index_v3(root: Path, info: Mapping[str, Any], filmed: str | None) -> list[Entry]:
    folder = root / "meta" / "episodes"
    paths = sorted(folder.glob("chunk-*/file-*.parquet"))
    if not paths:
        raise FileNotFoundError(f"layout {info['codebase_version']} needs {folder}; fetch the data set again")
    columns = ["episode_index", "length", "tasks", "data/chunk_index", "data/file_index"]
    film = [f"videos/{filmed}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")] if filmed else []
    entries = []
    for path in paths:
        try:
            table = parquet.read_table(path, columns=columns + film, use_threads=False)
        except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
            raise ValueError(f"{path} must be a whole parquet file; fetch it again ({error})") from error
        absent = [name for name in columns + film if name not in table.column_names]
        if absent:
            raise ValueError(f"{path} must have the columns {', '.join(absent)}; convert the set with lerobot again")
        for row in table.to_pylist():
            number, rows, tasks, *place = (row[name] for name in columns)
            data = root / info["data_path"].format(chunk_index=place[0], file_index=place[1])
            video, offset = None, 0.0
            if filmed:
                chunk, file, offset = (row[name] for name in film)
                video = root / info["video_path"].format(video_key=filmed, chunk_index=chunk, file_index=file)
            entries.append(Entry(number, rows, "; ".join(tasks), data, video, float(offset)))
    return _counted(sorted(entries, key=lambda entry: entry.number), info, folder)


def _counted(entries: list[Entry], info: Mapping[str, Any], path: Path) -> list[Entry]:
    stated = info.get("total_episodes", len(entries))
    if len(entries) != stated:
        raise ValueError(
            f"{path} must list the {stated} episodes that {INFO} states, lists {len(entries)}; fetch it again"
        )
    return entries
