"""LeRobot data sets, layouts v2 (a file per episode) and v3 (many episodes in a file): parquet rows, mp4 or PNG frames.

Layouts: github.com/huggingface/lerobot, `lerobot/datasets/utils.py` and `lerobot_dataset.py` of 0.3.3 (v2.1) and 0.4.4
(v3.0). A row holds a frame and the action after it; the outcome of an episode's last action was not recorded, so that
action is left out here.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from prophet_gym._checks import require_number, unknown_option
from prophet_gym.data._episode import Episode
from prophet_gym.data._lerobot_index import INFO, Entry, read_index, read_info, read_rows
from prophet_gym.data._reading import Calibration, Orient, ToolReading, as_stored
from prophet_gym.data._video import WITHIN, decode_frames, frame_times

if TYPE_CHECKING:
    import pyarrow as pa


class LeRobotSource:
    """A LeRobot data set on disk; `huggingface_hub.snapshot_download(..., repo_type="dataset")` fetches one.

    Args:
        root: Its folder, the one that holds `meta/info.json`.
        camera: The feature to read as frames, e.g. `observation.images.agentview`.
        action: The feature to read as actions.
        robot: Stands in for the data set's `robot_type`.
        orient: Turns its images upright. LIBERO sets that were made for OpenVLA and openpi are mirrored:
            `columns_reversed`.
        tools: Which features say where the tools are, and how.
        calibration: The camera's matrices, episodes by number.
        episodes: The numbers of those to read; all if not given.
        without: Numbers of episodes to leave out.
        tolerance: How far a row's time stamp may lie from where the stated rate has it, in frames; recordings of real
            robots may need 0.3. At one half another row is as near.

    Raises:
        FileNotFoundError: A file of the index is missing.
        ValueError: The layout is another version, the index contradicts itself or a file is cut off.
        UnknownOptionError: There is no such camera, action feature, state feature or episode.
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
        episodes: Sequence[int] | None = None,
        without: Sequence[int] = (),
        tolerance: float | int = 0.1,
    ):
        self.root = Path(root)
        self.tolerance = require_number("tolerance", tolerance, above=0)
        # From half a frame on, the row before or after would be as near.
        if self.tolerance >= WITHIN:
            raise ValueError(f"tolerance must be below {WITHIN} of a frame, got {tolerance}")
        info = read_info(self.root)
        features = info["features"]
        cameras = {name: f for name, f in features.items() if f["dtype"] in ("video", "image")}
        self.states = () if tools is None else tools.columns
        asked = [("camera", camera, cameras), ("action feature", action, features)]
        for kind, name, known in [*asked, *(("state feature", state, features) for state in self.states)]:
            if name not in known:
                raise unknown_option(kind, name, known)
        self.camera, self.action, self.orient = camera, action, orient
        self.tools, self.calibration = tools, calibration
        self.fps = float(info["fps"])
        self.robot = robot or str(info.get("robot_type") or "unknown")
        video_key = camera if cameras[camera]["dtype"] == "video" else None
        self.entries, numbers = read_index(self.root, info, video_key, episodes, without)
        self._places = {number: place for place, number in enumerate(numbers)}
        if calibration is not None:
            calibration.require(len(numbers))

    def __len__(self) -> int:
        return len(self.entries)

    def steps(self, index: int) -> int:
        """Return how many actions of episode `index` have both their frames."""
        return max(self.entries[index].rows - 1, 0)

    def episode(self, index: int) -> Episode:
        """Read the actions of episode `index`, and where its tools are.

        Raises:
            FileNotFoundError: Its file is missing.
            ValueError: Its rows are not as many as the index says, or not at the stated rate; or its states have
                another width than `tools` says.
        """
        entry = self.entries[index]
        name = f"episode {entry.number} of {self.root}"
        table = read_rows(entry.data, entry.number, list(dict.fromkeys([self.action, "timestamp", *self.states])))
        if len(table) != entry.rows:
            raise ValueError(f"{name} must have {entry.rows} rows, has {len(table)} in {entry.data}; fetch it again")
        times = _column(table, "timestamp", name)[:, 0]
        _check_times(name, times, self.fps, self.tolerance)
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
            camera=None if self.calibration is None else self.calibration.camera(self._places[entry.number]),
        )


def _column(table: "pa.Table", column: str, name: str) -> Float64[np.ndarray, "f n"]:
    """Return a column's numbers, as many in each row."""
    try:
        values = np.asarray(table[column].to_pylist())
        wide = values.reshape(len(table), -1) if len(table) else np.zeros((0, 1))
        if wide.dtype.kind not in "fiub" or not wide.shape[1]:
            raise ValueError(f"they are {wide.dtype} {values.shape}")
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{column} of {name} must be as many numbers in each row ({error}); leave it out") from error
    # What float32 cannot hold would become infinite without a word.
    if not (np.abs(wide.astype(np.float64)) <= np.finfo(np.float32).max).all():
        raise ValueError(f"{column} of {name} must be finite numbers; leave this episode out")
    return wide.astype(np.float64)


def _read_video(
    entry: Entry, fps: float, begin: float, orient: Orient, start: int, stop: int
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
    return orient(decode_frames(entry.video, start, stop - start, fps=fps, offset=offset, until=until))


def _read_stored(entry: Entry, camera: str, orient: Orient, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
    """Read frames that lie in the rows themselves, as PNG or JPEG bytes."""
    cells = read_rows(entry.data, entry.number, [camera])[camera].slice(start, stop - start).to_pylist()
    frames = [_decoded(cell) for cell in cells]
    whole = [frame for frame in frames if frame is not None]
    if len(whole) < len(frames) or len({frame.shape for frame in whole}) > 1:
        what = f"{camera} of episode {entry.number} in {entry.data}"
        raise ValueError(f"{what} must be images of one size as PNG or JPEG bytes; save the set again")
    return orient(np.stack(whole) if whole else np.empty((0, 1, 1, 3), np.uint8))


def _decoded(cell: Any) -> UInt8[np.ndarray, "h w 3"] | None:
    """Return a cell's image; None if it holds no image."""
    content = cell.get("bytes") if isinstance(cell, dict) else None
    if not isinstance(content, bytes) or not content:
        return None
    try:
        frame = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if frame is None else cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _check_times(name: str, times: Float64[np.ndarray, " n"], fps: float, tolerance: float) -> None:
    late = np.abs(times - times[0] - np.arange(len(times)) / fps) if len(times) else np.zeros(1)
    if late.max() > tolerance / fps:
        step = float(np.median(np.diff(times)))
        raise ValueError(
            f"{name} must have {fps:g} rows a second, as {INFO} states; its timestamps are {step:.4f} s apart and "
            f"up to {late.max():.4f} s off, {late.max() * fps:.2g} of a frame; correct {INFO}, record the set again "
            f"or allow more than tolerance={tolerance:g}"
        )
