"""BRIDGE in its own layouts: the raw folders, and the `out.npy` that its scripts make of them.

Layouts: github.com/rail-berkeley/bridge_data_v2, `data_processing/bridgedata_raw_to_numpy.py` (commit 830fc9e). Images
and states of a trajectory are one more than its actions. Recordings before 23 July 2021 show each state one step late.
"""

import copy
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from prophet_gym._checks import require_known
from prophet_gym._io.files import modified, read_text, reading
from prophet_gym.data._episode import Episode, ReadFrames, _choose
from prophet_gym.data._reading import ToolReading, decode_images, finite
from prophet_gym.data.readers._plain_pickle import load_object_array, load_pickle
from prophet_gym.embodiments import get_robot

CAMERA = "images0"
_STATE = ToolReading(("full_state",), ("xyz", "euler", "gripper"))
_DATED = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")
_LATE_BEFORE = datetime(2021, 7, 23)


@dataclass(frozen=True)
class _Place:
    """Say where a trajectory lies: its folder, or a file of several and its number there; and its count of actions."""

    path: Path
    number: int | None
    steps: int


class BridgeSource:
    """Read BRIDGE from disk: all trajectories under a folder, raw ones or those of `out.npy` files.

    Args:
        root: Any folder of the data set, such as `bridgedata_raw/rss/toykitchen2`.
        camera: Which camera to read: `images0`, `images1`, ...; trajectories without it are refused.
        episodes: Names of trajectories to read: their folders, or `out.npy`'s and a number, under `root`.
        without: Names of trajectories to leave out.

    Raises:
        FileNotFoundError: There is no trajectory, or a file of one is missing.
        ValueError: A file is cut, names anything but arrays, or has not one action fewer than images.
        UnknownOptionError: There is no such camera or trajectory.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        camera: str = CAMERA,
        *,
        episodes: Sequence[str] | None = None,
        without: Sequence[str] = (),
    ):
        self.root, self.camera = Path(root), camera
        raw = sorted(path.parent for path in self.root.rglob("traj*/obs_dict.pkl"))
        files = sorted(self.root.rglob("out.npy")) if not raw else []
        found = {str(path.relative_to(self.root)): (path, None) for path in raw}
        for path in files:
            held = range(len(_trajectories(path)))
            found |= {f"{path.relative_to(self.root)}/{number}": (path, number) for number in held}
        if not found:
            raise FileNotFoundError(f"no trajectory of BRIDGE (traj*/obs_dict.pkl or out.npy) under {root}")
        self.names = _choose(str(root), list(found), episodes, without)
        self.places = [_placed(*found[name], camera) for name in self.names]

    def __len__(self) -> int:
        return len(self.places)

    def steps(self, index: int) -> int:
        """Return the number of actions of episode `index`, each with a frame before and after."""
        return self.places[index].steps

    @property
    def views(self) -> tuple[str, ...]:
        """Return the names of the cameras of the first trajectory."""
        return _views(self.places[0]) if self.places else ()

    def looking_through(self, camera: str) -> "BridgeSource":
        """Return the same trajectories with the frames of another camera."""
        other = copy.copy(self)
        other.camera = camera
        other.places = [_placed(place.path, place.number, camera) for place in self.places]
        return other

    def episode(self, index: int) -> Episode:
        """Read the actions and tool poses of episode `index`."""
        place = self.places[index]
        name = f"{self.names[index]} of {self.root}"
        read = _read_raw if place.number is None else _read_numpy
        states, actions, instruction, frames = read(place, self.camera, name)
        return Episode(
            name=name,
            actions=finite(f"the actions of {name}", actions).astype(np.float32),
            instruction=instruction,
            fps=float(get_robot("bridge").control_hz or 5.0),
            robot="bridge",
            read=frames,
            tools=_STATE.read(finite(f"full_state of {name}", states), name),
        )


def _placed(path: Path, number: int | None, camera: str) -> _Place:
    """Return where a trajectory lies, after checking that the camera is there."""
    views = _views(_Place(path, number, 0))
    require_known(f"camera of {path}", camera, views)
    if number is not None:
        return _Place(path, number, len(_trajectories(path)[number]["observations"]))
    return _Place(path, None, max(len(_images(path / camera)) - 1 - _late(path), 0))


def _views(place: _Place) -> tuple[str, ...]:
    if place.number is None:
        return tuple(sorted(path.name for path in place.path.glob("images*") if path.is_dir()))
    steps = _trajectories(place.path)[place.number]["observations"]
    return tuple(sorted(name for name in (steps[0] if steps else {CAMERA: None}) if name.startswith("images")))


def _late(path: Path) -> int:
    """Return by how many steps the states of a raw trajectory are late, by the date in its path."""
    dates = [part for part in path.parts if _DATED.fullmatch(part)]
    return int(bool(dates) and datetime.strptime(dates[-1], "%Y-%m-%d_%H-%M-%S") < _LATE_BEFORE)


def _images(folder: Path) -> list[Path]:
    """Return the images of a camera in order, im_10 after im_9; ValueError where one between them is missing."""
    found = {int(path.stem[3:]): path for path in folder.glob("im_*.jpg") if path.stem[3:].isdigit()}
    absent = sorted(set(range(len(found))) - set(found))
    if absent:
        raise ValueError(f"{folder} must hold im_0.jpg .. im_{max(found)}.jpg, im_{absent[0]}.jpg is missing; fetch it")
    return [found[number] for number in sorted(found)]


def _read_raw(place: _Place, camera: str, name: str) -> tuple[Float64[np.ndarray, "f s"], np.ndarray, str, ReadFrames]:
    path, late = place.path, _late(place.path)
    observed, acted = load_pickle(path / "obs_dict.pkl"), load_pickle(path / "policy_out.pkl")
    with reading(f"{name} must have full_state in obs_dict.pkl and a list in policy_out.pkl", "leave it out"):
        states = np.asarray(observed["full_state"], np.float64)
        actions = np.array([each["actions"] if isinstance(each, Mapping) else each for each in acted], np.float64)
    whole = place.steps + late
    if not len(states) - 1 == len(actions) == whole:
        raise ValueError(
            f"{name} must have one action fewer than images and states, has {whole + 1} images, {len(states)} states "
            f"and {len(actions)} actions; leave it out"
        )
    told = read_text(path / "lang.txt").split("\n") if (path / "lang.txt").is_file() else []
    tasks = [line.strip() for line in told if line.strip() and "confidence" not in line]
    frames = partial(_raw_frames, path / camera, late)
    return states[late:], actions[: len(actions) - late], tasks[0] if tasks else "", frames


def _raw_frames(folder: Path, late: int, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
    paths = _images(folder)[late + start : late + stop]
    return decode_images([path.read_bytes() for path in paths], f"the images of {folder}")


def _read_numpy(
    place: _Place, camera: str, name: str
) -> tuple[Float64[np.ndarray, "f s"], np.ndarray, str, ReadFrames]:
    assert place.number is not None
    found = _trajectories(place.path)[place.number]
    with reading(f"{name} must have a state before each action, and one after the last", "leave it out"):
        last = found["next_observations"][-1]["state"]
        states = np.array([*(each["state"] for each in found["observations"]), last], np.float64)
        actions = np.array(found["actions"], np.float64)
        if not len(states) - 1 == len(actions) == len(found["next_observations"]):
            raise ValueError(f"it has {len(states) - 1} observations and {len(actions)} actions")
        task = str(next(iter(found["language"]), ""))
    return states, actions, task, partial(_numpy_frames, place, camera)


def _numpy_frames(place: _Place, camera: str, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
    assert place.number is not None
    found = _trajectories(place.path)[place.number]
    seen = [*found["observations"], *found["next_observations"][-1:]]
    with reading(f"{camera} of {place.path} must be images of one size", "leave it out"):
        return np.stack([each[camera] for each in seen[start:stop]])


def _trajectories(path: Path) -> list[Any]:
    """Return the trajectories of a file; windows ask for several of the same one."""
    return _loaded(path, modified(path))


@lru_cache(maxsize=1)
def _loaded(path: Path, changed: int) -> list[Any]:  # noqa: ARG001 (cache key)
    found = load_object_array(path)
    for number, each in enumerate(found):
        if not isinstance(each, dict) or not {"observations", "next_observations", "actions", "language"} <= set(each):
            raise ValueError(
                f"trajectory {number} of {path} must have observations, actions and language; fetch it again"
            )
    return found
