"""DROID's raw recordings: `trajectory.h5`, `metadata_*.json` and `recordings/MP4/<serial>.mp4` in an episode's folder.

Layout: github.com/droid-dataset/droid, docs/the-droid-dataset.md, `postprocessing/schema.py` (the metadata) and
`trajectory_utils/trajectory_writer.py` (the HDF5 file). Row i and frame i of a video belong together, whatever rate the
video states; a row is an observation and the action after it, so the last action is left out.
"""

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, UInt8

from prophet_gym._checks import require_known
from prophet_gym._io.files import read_json
from prophet_gym.data._episode import ByRows, Episode, _choose
from prophet_gym.data._hdf5 import open_hdf5
from prophet_gym.data._reading import ToolReading, finite, success_of
from prophet_gym.data._video import decode_frames, frame_size, frame_times
from prophet_gym.embodiments import camera_matrix
from prophet_gym.embodiments._droid import CONTROL_HZ
from prophet_gym.embodiments._kinematics import euler_to_matrix

VIEWS = ("ext1", "ext2", "wrist")
_STATE = "observation/robot_state/"
_TOOLS = ToolReading(
    (f"{_STATE}cartesian_position", f"{_STATE}gripper_position"), ("xyz", "euler", "gripper"), open=0.0, closed=1.0
)
_ACTION = ("action/cartesian_velocity", "action/gripper_position")


@dataclass(frozen=True)
class _Metadata:
    """Hold what an episode's metadata say: its rows, its task, its outcome, and each camera's serial and pose."""

    rows: int
    task: str
    success: bool | None
    serials: dict[str, str]
    poses: dict[str, Float64[np.ndarray, " 6"] | None]


class DroidSource(ByRows):
    """Read raw DROID episodes: all folders under `root` that hold a `trajectory.h5`.

    Args:
        root: Any folder of the data set, such as `droid_raw/1.0.1/AUTOLab/success`.
        camera: `ext1` or `ext2`, the cameras beside the robot by their serial numbers, or `wrist`; the left lens.
        outcome: Which episodes to read: `success`, `failure` or `all`.
        intrinsics: fx, fy, cx, cy of the cameras in pixels of their videos, for recordings that do not have them.
        episodes: Names of the episodes to read, their folders under `root`; by default all.
        without: Names of episodes to leave out.

    An episode has a camera matrix where its metadata have the camera's pose and its intrinsics are known: the wrist's,
    which moves, never has one.

    Raises:
        FileNotFoundError: There is no episode, or a file of one is missing.
        ValueError: A file is cut, or it contradicts the metadata.
        UnknownOptionError: There is no such camera or episode.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        camera: str = VIEWS[0],
        *,
        outcome: str = "all",
        intrinsics: Sequence[float | int] | None = None,
        episodes: Sequence[str] | None = None,
        without: Sequence[str] = (),
    ):
        self.root = Path(root)
        wanted = {"success": (True,), "failure": (False,), "all": (True, False, None)}
        require_known("camera", camera, VIEWS)
        require_known("outcome", outcome, wanted)
        if intrinsics is not None and (len(intrinsics) != 4 or not min(intrinsics[:2]) > 0):
            raise ValueError(f"intrinsics must be fx, fy above 0, cx, cy, got {list(intrinsics)}")
        folders = sorted(path.parent for path in self.root.rglob("trajectory.h5"))
        if not folders:
            raise FileNotFoundError(f"no episode of DROID (trajectory.h5) under {root}")
        names = _choose(str(root), [str(path.relative_to(self.root)) for path in folders], episodes, without)
        told = {name: _metadata(self.root / name) for name in names}
        self.camera, self.intrinsics = camera, intrinsics
        self.names = [name for name in names if told[name].success in wanted[outcome]]
        self.metadata = [told[name] for name in self.names]
        self.rows = [each.rows for each in self.metadata]

    @property
    def views(self) -> tuple[str, ...]:
        """Return the names of the cameras."""
        return VIEWS

    def looking_through(self, camera: str) -> "DroidSource":
        """Return the same episodes with the frames of another camera."""
        other = copy.copy(self)
        other.camera = camera
        return other

    def episode(self, index: int) -> Episode:
        """Read the actions and tool poses of episode `index`; ValueError if they contradict its metadata."""
        folder, told = self.root / self.names[index], self.metadata[index]
        path = folder / "trajectory.h5"
        with open_hdf5(path) as stored:
            actions = np.hstack([_column(stored, key, told.rows, path) for key in _ACTION])
            states = np.hstack([_column(stored, key, told.rows, path) for key in _TOOLS.columns])
            matrix = _intrinsics(stored, told.serials[self.camera], path)
        if self.intrinsics is not None:
            fx, fy, cx, cy = self.intrinsics
            matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)
        name = f"{self.names[index]} of {self.root}"
        video = folder / "recordings" / "MP4" / f"{told.serials[self.camera]}.mp4"
        return Episode(
            name=name,
            actions=actions[: self.steps(index)].astype(np.float32),
            instruction=told.task,
            fps=CONTROL_HZ,
            robot="droid",
            read=partial(_read, video),
            tools=_TOOLS.read(states, name) if told.rows else None,
            camera=_camera(matrix, told.poses[self.camera], video),
            success=None if told.success is None else success_of(np.full(told.rows, told.success)),
        )


def _metadata(folder: Path) -> _Metadata:
    paths = sorted(folder.glob("metadata_*.json"))
    if len(paths) != 1:
        raise FileNotFoundError(f"{folder} must hold one metadata_*.json, holds {len(paths)}; fetch the episode again")
    told = read_json(paths[0])
    rows, success = told.get("trajectory_length"), told.get("success")
    serials = {view: told.get(f"{view}_cam_serial") for view in VIEWS}
    if not isinstance(rows, int) or rows < 0 or not all(isinstance(serial, str) for serial in serials.values()):
        named = "trajectory_length, " + ", ".join(f"{view}_cam_serial" for view in VIEWS)
        raise ValueError(f"{paths[0]} must state {named}; leave this episode out or fetch it again")
    poses: dict[str, Any] = {view: told.get(f"{view}_cam_extrinsics") for view in VIEWS}
    for view, pose in poses.items():
        numbers = isinstance(pose, list) and len(pose) == 6 and all(isinstance(each, int | float) for each in pose)
        if pose is not None and not numbers:
            raise ValueError(f"{view}_cam_extrinsics of {paths[0]} must be x, y, z and three angles, are {pose!r}")
        # The wrist's is that of the first moment alone.
        poses[view] = None if pose is None or view == "wrist" else np.array(pose, np.float64)
    outcome = success if isinstance(success, bool) else None
    return _Metadata(rows, str(told.get("current_task") or ""), outcome, {k: str(v) for k, v in serials.items()}, poses)


def _column(stored: Any, key: str, rows: int, path: Path) -> Float64[np.ndarray, "f n"]:
    """Return a data set's numbers, one line of them a row."""
    found = stored.get(key)
    shape = getattr(found, "shape", None)
    if found is None or shape is None or found.dtype.kind not in "fiu" or not 1 <= len(shape) <= 2:
        raise ValueError(f"{key} of {path} must be numbers (rows, n), is {shape or 'missing'}; leave this episode out")
    if shape[0] != rows:
        raise ValueError(f"{key} of {path} must have the {rows} rows that its metadata state, has {shape[0]}; fetch it")
    return finite(f"{key} of {path}", found[()].reshape(rows, -1))


def _intrinsics(stored: Any, serial: str, path: Path) -> Float64[np.ndarray, "3 3"] | None:
    """Return the matrix of a camera's left lens where the recording has it."""
    found = stored.get(f"observation/camera_intrinsics/{serial}_left")
    if found is None:
        return None
    if found.ndim != 3 or found.shape[1:] != (3, 3) or not len(found):
        raise ValueError(f"camera_intrinsics of {path} must be (rows, 3, 3), are {found.shape}; leave this episode out")
    return found[0].astype(np.float64)


def _camera(
    intrinsics: Float64[np.ndarray, "3 3"] | None, pose: Float64[np.ndarray, " 6"] | None, video: Path
) -> Float[np.ndarray, "3 4"] | None:
    if intrinsics is None or pose is None:
        return None
    camera_to_base = np.eye(4)
    camera_to_base[:3, :3], camera_to_base[:3, 3] = euler_to_matrix(pose[3:]), pose[:3]
    return camera_matrix(intrinsics, camera_to_base, frame_size(video))


def _read(video: Path, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
    """Decode frames by their numbers: the videos state the rate of the camera, 60 a second, not that of the rows."""
    times = frame_times(video)
    rate = 1 / float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    return decode_frames(video, start, stop - start, fps=rate, offset=float(times[0]))
