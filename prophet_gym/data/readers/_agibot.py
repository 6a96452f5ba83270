"""AgiBot World as published (Alpha and Beta): HDF5 of what the robot felt and was told, videos, camera parameters.

Layout: huggingface.co/datasets/agibot-world/AgiBotWorld-Beta, "Dataset Structure", and for the camera parameters
github.com/AgibotTech/Genie-Envisioner, `data/agibotworld_dataset.py`. The folders below `root`, of which the archives
have been unpacked, are `task_info`, `observations`, `proprio_stats` and, where cameras are calibrated, `parameters`.
A row is an observation and the action after it, so the last action is left out.
"""

import copy
import os
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from prophet_gym._checks import unknown_option
from prophet_gym._io.files import modified, parse_object, read_json, read_text, reading
from prophet_gym.data._episode import ByRows, Episode, _choose
from prophet_gym.data._hdf5 import open_hdf5
from prophet_gym.data._reading import ToolReading, finite
from prophet_gym.data._video import decode_frames, frame_size
from prophet_gym.embodiments import camera_matrix
from prophet_gym.embodiments._agibot import GRIPPER

FPS = 30.0
CAMERA = "head"
_ARM = ("xyz", "quaternion", "gripper")
_TOOLS = ToolReading(("state/end",), _ARM * 2, open=GRIPPER.open, closed=GRIPPER.closed)
_STILL = 1e-3
"""Take a camera to be fixed if its pose changes by no more than this, metres and entries of the rotation."""
_BEYOND = 0.02
"""Bound how far a gripper's command may lie outside 0 .. 1, which is rounding; it is clipped."""


class AgibotSource(ByRows):
    """Read AgiBot World from disk.

    Args:
        root: The folder that holds `proprio_stats`.
        camera: Which camera to read: `head`, `hand_left`, `head_center_fisheye`, ...
        tasks: Numbers of the tasks to read, e.g. `327`; by default all that are there.
        episodes: Names of the episodes to read, e.g. `327/648642`; by default all of these tasks.
        without: Names of episodes to leave out.

    Actions are those of `embodiments/_agibot.py`: next poses of both flanges, and grippers open at 0. The set states
    the grippers' widths without their range, so where the tools are takes their openness from the command before. The
    camera's matrix is known where `parameters` has it and it stood still: the head's moves in some episodes.

    Opening reads how many rows each chosen episode has, a file each.

    Raises:
        FileNotFoundError: There is no episode, or a file of one is missing.
        ValueError: A file is cut or contradicts another, or the robot had hands in place of grippers.
        UnknownOptionError: There is no such camera, task or episode.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        camera: str = CAMERA,
        *,
        tasks: Sequence[str] | None = None,
        episodes: Sequence[str] | None = None,
        without: Sequence[str] = (),
    ):
        self.root, self.camera = Path(root), camera
        folder = self.root / "proprio_stats"
        found = [(path.parent.parent.name, path.parent.name) for path in folder.glob("*/*/proprio_stats.h5")]
        if not found:
            raise FileNotFoundError(f"no episode of AgiBot World (TASK/EPISODE/proprio_stats.h5) under {folder}")
        there: list[str] = sorted({task for task, _ in found}, key=_number)
        kept: list[str] = _choose(str(folder), there, tasks, [])
        known = sorted((pair for pair in found if pair[0] in kept), key=lambda pair: tuple(map(_number, pair)))
        self.names = _choose(str(self.root), [f"{task}/{episode}" for task, episode in known], episodes, without)
        self.rows = [_rows(self._path(name)) for name in self.names]
        self._require_camera()

    @property
    def views(self) -> tuple[str, ...]:
        """Return the names of the cameras of the first episode."""
        videos = (self.root / "observations" / name / "videos" for name in self.names[:1])
        return tuple(sorted(path.stem.removesuffix("_color") for each in videos for path in each.glob("*_color.mp4")))

    def looking_through(self, camera: str) -> "AgibotSource":
        """Return the same episodes with the frames of another camera."""
        other = copy.copy(self)
        other.camera = camera
        other._require_camera()
        return other

    def episode(self, index: int) -> Episode:
        """Read the actions and tool poses of episode `index`."""
        name, rows = self.names[index], self.rows[index]
        path = self._path(name)
        with open_hdf5(path) as stored:
            _require_rate(stored, path)
            asked = _grippers(stored, rows, path)
            actions = _arms(stored, "action", rows, asked, path)
            states = _arms(stored, "state", rows, np.concatenate([asked[:1], asked[:-1]]), path)
        where = f"{name} of {self.root}"
        video = self.root / "observations" / name / "videos" / f"{self.camera}_color.mp4"
        return Episode(
            name=where,
            actions=actions[: self.steps(index)],
            instruction=_task(self.root, name),
            fps=FPS,
            robot="agibot",
            read=partial(_read, video),
            tools=_TOOLS.read(states.astype(np.float64), where) if rows else None,
            camera=_camera(self.root / "parameters" / name, self.camera, video),
        )

    def _path(self, name: str) -> Path:
        return self.root / "proprio_stats" / name / "proprio_stats.h5"

    def _require_camera(self) -> None:
        if self.names and self.camera not in self.views:
            raise unknown_option(f"camera of {self.names[0]} of {self.root}", self.camera, self.views)


def _number(name: str) -> tuple[int, str]:
    return (int(name) if name.isascii() and name.isdigit() else -1, name)


def _rows(path: Path) -> int:
    with open_hdf5(path) as stored:
        found = stored.get("timestamp")
        if found is None or getattr(found, "ndim", 0) != 1:
            raise ValueError(f"{path} must hold timestamp, one for each row; fetch it again")
        return len(found)


def _require_rate(stored: Any, path: Path) -> None:
    """Raise ValueError unless the time stamps (nanoseconds) are about 30 a second, which videos and rows share."""
    times = stored["timestamp"][()].astype(np.float64) / 1e9
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1 / FPS
    if abs(step * FPS - 1) > 0.1:
        raise ValueError(f"{path} must have {FPS:g} rows a second, has one each {step:.4g} s; leave this episode out")


def _numbers(stored: Any, key: str, rows: int, width: int, path: Path) -> Float64[np.ndarray, "f n"]:
    found = stored.get(key)
    shape = getattr(found, "shape", None)
    size = int(np.prod(shape[1:])) if shape else 0
    if found is None or not shape or found.dtype.kind not in "fiu" or size != width:
        hands = "; hands with fingers are not read" if size == 12 else ""
        told = shape or "missing"
        raise ValueError(f"{key} of {path} must be {width} numbers a row, is {told}{hands}; leave this episode out")
    if shape[0] != rows:
        raise ValueError(
            f"{key} of {path} must have {rows} rows as timestamp has, has {shape[0]}; leave this episode out"
        )
    return finite(f"{key} of {path}", found[()].reshape(rows, width))


def _grippers(stored: Any, rows: int, path: Path) -> Float64[np.ndarray, "f 2"]:
    """Return what the grippers are told, 0 open .. 1 closed."""
    key = "action/effector/position"
    asked = _numbers(stored, key, rows, 2, path)
    clipped = asked.clip(0, 1)
    if (np.abs(asked - clipped) > _BEYOND).any():
        span = f"{asked.min():.4g} .. {asked.max():.4g}"
        raise ValueError(f"{key} of {path} must be 0 (open) .. 1 (closed), is {span}; leave this episode out")
    return clipped


def _arms(
    stored: Any, kind: str, rows: int, gripper: Float64[np.ndarray, "f 2"], path: Path
) -> Float32[np.ndarray, "f 16"]:
    """Return position, quaternion (real part last) and gripper of the left arm, then of the right."""
    places = _numbers(stored, f"{kind}/end/position", rows, 6, path).reshape(rows, 2, 3)
    turns = _numbers(stored, f"{kind}/end/orientation", rows, 8, path).reshape(rows, 2, 4)
    return np.concatenate([places, turns, gripper[..., None]], axis=-1).reshape(rows, 16).astype(np.float32)


def _task(root: Path, name: str) -> str:
    task, episode = name.split("/")
    path = root / "task_info" / f"task_{task}.json"
    told = _tasks(path, modified(path))
    if episode not in told:
        raise ValueError(f"{path} must list episode {episode}, lists {len(told)} others; leave it out: without={name}")
    return told[episode]


@lru_cache(maxsize=64)
def _tasks(path: Path, changed: int) -> dict[str, str]:  # noqa: ARG001 (cache key)
    """Return the task of each episode in words: a file is a list of episodes."""
    return {str(each.get("episode_id")): str(each.get("task_name", "")) for each in _listed(path)}


def _listed(path: Path) -> list[dict[str, Any]]:
    """Read a file that holds a JSON list of objects."""
    told = parse_object(f'{{"list": {read_text(path)}}}', str(path))["list"]
    if not isinstance(told, list) or not all(isinstance(each, dict) for each in told):
        raise ValueError(f"{path} must be a JSON list of objects; fetch it again")
    return told


def _camera(folder: Path, camera: str, video: Path) -> Float64[np.ndarray, "3 4"] | None:
    """Return the matrix of a calibrated camera that stood still."""
    # The archives unpack to parameters/camera, the published tree shows camera alone.
    below = folder / "parameters" / "camera" if (folder / "parameters").is_dir() else folder / "camera"
    inner, outer = below / f"{camera}_intrinsic_params.json", below / f"{camera}_extrinsic_params_aligned.json"
    if not inner.is_file() or not outer.is_file():
        return None
    told = _listed(outer)
    with reading(f"{inner} and {outer} must hold intrinsic and extrinsic", "fetch them again"):
        lens = read_json(inner)["intrinsic"]
        matrix = np.array([[lens["fx"], 0, lens["ppx"]], [0, lens["fy"], lens["ppy"]], [0, 0, 1]], np.float64)
        turns = np.array([each["extrinsic"]["rotation_matrix"] for each in told], np.float64).reshape(-1, 3, 3)
        places = np.array([each["extrinsic"]["translation_vector"] for each in told], np.float64).reshape(-1, 3)
        moved = max(float(np.abs(each - each[:1]).max()) for each in (turns, places))
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = turns[0], places[0]
        return None if moved > _STILL else camera_matrix(matrix, pose, frame_size(video))


def _read(video: Path, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
    return decode_frames(video, start, stop - start, fps=FPS)
