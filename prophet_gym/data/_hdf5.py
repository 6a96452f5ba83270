"""Demonstrations in HDF5, as robomimic and LIBERO store them: data/demo_i/{actions, obs/<camera>}.

Sources: robomimic.github.io/docs/datasets/overview.html; LIBERO's `scripts/create_dataset.py`; OpenVLA's
`regenerate_libero_dataset.py`; robomimic's `envs/env_robosuite.py`, which reverses the rows of what robosuite renders.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, UInt8

from prophet_gym._checks import require_image_type, require_known, require_number, unknown_option
from prophet_gym._io.files import parse_object, reading, require_file
from prophet_gym.data._episode import Episode, _choose
from prophet_gym.data._reading import ORIENT, ToolReading, cameras_of, finite, upright
from prophet_gym.errors import ProphetError


@dataclass(frozen=True)
class Layout:
    """Describe what one writer of these files does differently from others.

    `first_action` follows frame 0. LIBERO's writer stores the image *after* each action, so the action after frame 0 is
    number 1 there, and action 0 has no frame before it. `orient` says how the images of `camera` become upright, see
    `ORIENT`.
    """

    camera: str
    first_action: int
    orient: str

    def __post_init__(self) -> None:
        require_known("orient", self.orient, ORIENT)


LIBERO = Layout("agentview_rgb", 1, "rows_reversed")
"""LIBERO's published files."""
LIBERO_REGENERATED = Layout("agentview_rgb", 0, "rows_reversed")
"""LIBERO played again by OpenVLA's script: images before each action, idle steps left out, still bottom row first."""
ROBOMIMIC = Layout("agentview_image", 0, "as_stored")
"""The files of robomimic's `dataset_states_to_obs.py`."""

_UPRIGHT = {"opengl": "rows_reversed", "opencv": "as_stored"}
"""Map robosuite's `macros.IMAGE_CONVENTION`, which LIBERO's files note, to the way up of an image."""


@dataclass(frozen=True)
class _Demo:
    """Describe a demonstration: its file, its name there, its number of usable steps, its camera's matrix."""

    path: Path
    key: str
    steps: int
    camera: Float64[np.ndarray, "3 4"] | None


class Hdf5Source:
    """Read the demonstrations of one HDF5 file, or of all `*.hdf5` files of a folder.

    Args:
        path: The file or the folder.
        layout: Who wrote it: `LIBERO`, `LIBERO_REGENERATED`, `ROBOMIMIC`, or one of your own.
        split: A robomimic filter key, e.g. `train`; all demonstrations by default.
        instruction: The task in words, if the file does not have it.
        fps: The frame rate, if the file does not have it (`control_freq`).
        tools: Which data sets of `obs` give the poses of the tools, and in which form.
        calibration: The camera's matrix, one for all or one for each, by files and numbers; NaN if not known.
        episodes: Episodes to read, e.g. `demo_3`, or `pick_up_the_milk_demo.hdf5/demo_3` in a folder; by default all.
        without: Episodes to leave out, and all else in the file's group `data` that is no episode.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is truncated or contradicts the layout, or lacks something that is not given either.
        UnknownOptionError: There is no such camera, split, state or demonstration.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        layout: Layout = LIBERO,
        *,
        split: str | None = None,
        instruction: str | None = None,
        fps: float | int | None = None,
        tools: ToolReading | None = None,
        calibration: Float[np.ndarray, "*_ 3 4"] | None = None,
        episodes: Sequence[str] | None = None,
        without: Sequence[str] = (),
    ):
        paths = sorted(Path(path).glob("*.hdf5")) if Path(path).is_dir() else [Path(path)]
        if not paths or not all(file.exists() for file in paths):
            raise FileNotFoundError(f"no HDF5 file at {path}; give a file or a folder that holds *.hdf5")
        self.layout, self.tools = layout, tools
        self.facts: dict[Path, tuple[str, float, str]] = {}
        listed: dict[str, tuple[Path, str]] = {}
        for file in paths:
            with _open(file) as stored:
                self.facts[file] = _facts(file, stored["data"].attrs, layout, instruction, fps)
                prefix = f"{file.name}/" if Path(path).is_dir() else ""
                listed |= {f"{prefix}{key}": (file, key) for key in _keys(file, stored, split)}
        kept = _choose(str(path), list(listed), episodes, without)
        cameras = dict(zip(listed, cameras_of(calibration, len(listed)), strict=True))
        self.demos = [_Demo(*listed[name], _steps(*listed[name], layout, name), cameras[name]) for name in kept]

    def __len__(self) -> int:
        return len(self.demos)

    def steps(self, index: int) -> int:
        """Return the number of actions of episode `index` with a frame before and after."""
        return self.demos[index].steps

    def episode(self, index: int) -> Episode:
        """Read the actions and tool poses of episode `index`; ValueError if they contradict the layout."""
        demo, first = self.demos[index], self.layout.first_action
        name = f"{demo.key} of {demo.path}"
        with _open(demo.path) as stored:
            found = stored["data"][demo.key]
            actions = _numbers(found, "actions", name)[first : first + demo.steps]
            tools = None if self.tools is None else self.tools.read(_states(found, self.tools, name), name)
        instruction, fps, robot = self.facts[demo.path]
        return Episode(
            name=name,
            actions=actions.astype(np.float32),
            instruction=instruction,
            fps=fps,
            robot=robot,
            read=partial(_read, demo, self.layout),
            tools=tools,
            camera=demo.camera,
        )


def _states(demo: Any, tools: ToolReading, name: str) -> Float[np.ndarray, "f s"]:
    """Read the states of a demonstration; each is stored with the image that it was taken with."""
    for column in tools.columns:
        if column not in demo["obs"]:
            raise unknown_option("state", column, [key for key, data in demo["obs"].items() if _ndim(data) < 3])
    columns = [_numbers(demo["obs"], column, name) for column in tools.columns]
    if len({len(column) for column in columns} | {len(demo["actions"])}) > 1:
        raise ValueError(f"{', '.join(tools.columns)} of {name} must have a state for each action; leave it out")
    return np.hstack(columns)


def _numbers(group: Any, key: str, name: str) -> Float64[np.ndarray, "n a"]:
    """Read an array of finite numbers, one line of them a step."""
    stored = group[key]
    shape, kind = stored.shape, stored.dtype.kind
    if kind not in "fiu" or not 1 <= len(shape) <= 2 or 0 in shape[1:]:
        raise ValueError(f"{key} of {name} must be numbers (steps, n), is {stored.dtype} {shape}; leave it out")
    return finite(f"{key} of {name}", stored[()].reshape(len(stored), -1))


def _ndim(data: Any) -> int:
    return getattr(data, "ndim", 0)


def _read(demo: _Demo, layout: Layout, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
    with _open(demo.path) as stored:
        return upright(stored["data"][demo.key]["obs"][layout.camera][start:stop], layout.orient)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a file of demonstrations for one read."""
    with open_hdf5(path) as stored:
        if not isinstance(stored.get("data"), Mapping):
            raise ValueError(f"{path} must hold a group data with demo_0, ...; it is no robomimic or LIBERO file")
        yield stored


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for one read: a handle must not cross into another process, so none is kept."""
    try:
        import h5py
    except ImportError as error:
        told = "these demonstrations are HDF5 files; install h5py: pip install 'prophet-gym[data]'"
        raise ImportError(told, name=error.name) from error
    require_file(path)
    # HDF5 reads a part of a file when it is asked for: damage shows anywhere, as any of h5py's errors.
    try:
        with h5py.File(path, "r") as stored:
            yield stored
    except BlockingIOError as error:
        advice = "close it there, or set HDF5_USE_FILE_LOCKING=FALSE if it writes no more"
        raise ValueError(f"another process holds {path} open for writing; {advice}") from error
    except Exception as error:
        # Our own refusals pass; they are raised inside this block, too, and name the file.
        if isinstance(error, ProphetError) or (type(error) is ValueError and str(path) in str(error)):
            raise
        raise ValueError(f"{path} must be a whole HDF5 file; fetch it again ({error})") from error


def _keys(path: Path, stored: Any, split: str | None) -> list[str]:
    """List the names of the demonstrations, by number."""
    names = list(stored["data"])
    if split is not None:
        splits = list(stored.get("mask", {}))
        require_known("split", split, splits)
        mask = stored["mask"][split]
        found = mask[()] if _ndim(mask) == 1 else []
        names = [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in found]
        absent = [name for name in names if name not in stored["data"]]
        if absent or not names or len(set(names)) < len(names):
            raise ValueError(
                f"mask/{split} of {path} must name each of its demonstrations once, and they must be in data; "
                f"{', '.join(absent[:10]) or 'another name'} is not; give another split, or name episodes"
            )
    # demo_10 comes after demo_9; 18 digits are what an int64 holds.
    return sorted(names, key=lambda name: (int(re.sub(r"[^0-9]", "", name)[:18] or 0), name))


def _steps(path: Path, key: str, layout: Layout, called: str) -> int:
    """Count the usable steps of a demonstration, after checking that images and actions are there and as many.

    `called` is what a caller calls it, to leave it out.
    """
    name = f"{key} of {path}"
    with _open(path) as stored:
        demo = stored["data"][key]
        stored_actions: Any = demo.get("actions") if isinstance(demo, Mapping) else None
        if not _ndim(stored_actions):
            raise ValueError(f"{name} has no actions, so it is no demonstration; leave it out: without=[{called!r}]")
        obs = demo.get("obs")
        if not isinstance(obs, Mapping):
            raise ValueError(
                f"{name} has no images (no group obs), only states; run robomimic's dataset_states_to_obs.py"
            )
        if layout.camera not in obs:
            raise unknown_option("camera", layout.camera, [each for each, data in obs.items() if _ndim(data) == 4])
        images = obs[layout.camera]
        shape, actions = getattr(images, "shape", ()), stored_actions.shape
        require_image_type(f"{layout.camera} of {name}", getattr(images, "dtype", np.dtype("O")), shape)
        if len(shape) != 4:
            raise ValueError(f"{layout.camera} of {name} must be frames (steps, height, width, 3), is {shape}")
    if shape[0] != actions[0]:
        raise ValueError(f"{name} must have as many frames as actions, has {shape[0]} and {actions[0]}; leave it out")
    # Whichever way the writer paired them, one action lacks a frame on one side.
    return max(shape[0] - 1, 0)


def _facts(
    path: Path, attrs: Mapping[str, Any], layout: Layout, instruction: str | None, fps: float | int | None
) -> tuple[str, float, str]:
    """Return instruction, fps and robot of a file: what the caller gave, else what its attributes say."""
    convention = _text(path, attrs, "macros_image_convention")
    noted, orient = _UPRIGHT.get(convention), layout.orient
    if noted and orient in _UPRIGHT.values() and orient != noted:
        raise ValueError(
            f"{path} notes the image convention {convention!r}, which {noted} turns upright; the layout has "
            f"{orient}; give Layout(..., orient={noted!r})"
        )
    settings = _object(path, attrs, "env_args").get("env_kwargs") or {}
    if not isinstance(settings, dict):
        raise ValueError(f"env_kwargs in env_args of {path} must be a JSON object, is {settings!r}")
    stated = settings.get("control_freq")
    for name, value in ((f"control_freq in env_args of {path}", stated), ("fps", fps)):
        if value is not None:
            require_number(name, value, above=0)
    if fps is not None and stated is not None and abs(fps - stated) > 1e-6:
        raise ValueError(f"{path} states control_freq={stated:g}, which contradicts fps={fps:g}; leave fps out")
    rate = stated if fps is None else fps
    text = instruction if instruction is not None else _instruction(path, attrs)
    if rate is None or text is None:
        name = "fps" if rate is None else "instruction"
        raise ValueError(f"{path} does not say its {name}; give it: Hdf5Source(..., {name}=...)")
    robots = settings.get("robots") or ["unknown"]
    return str(text), float(rate), "+".join(map(str, robots)) if isinstance(robots, list) else str(robots)


def _text(path: Path, attrs: Mapping[str, Any], name: str) -> str:
    """Return an attribute's text, "" where there is none; some writers store bytes."""
    value = attrs.get(name, "")
    with reading(f"the attribute {name} of {path} must be a text in UTF-8", "write it again"):
        value = value.decode() if isinstance(value, bytes) else value
    if not isinstance(value, str):
        raise ValueError(f"the attribute {name} of {path} must be a text, is a {type(value).__name__}")
    return value


def _object(path: Path, attrs: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the JSON object that an attribute holds; an empty one if it is missing or null."""
    text = _text(path, attrs, name)
    return {} if text in ("", "null") else parse_object(text, f"the attribute {name} of {path}")


def _instruction(path: Path, attrs: Mapping[str, Any]) -> str | None:
    """Return LIBERO's instruction, which some of its files hold as a list of letters in quotation marks."""
    text = _object(path, attrs, "problem_info").get("language_instruction")
    if text is None:
        return None
    letters = [text] if isinstance(text, str) else text
    if not isinstance(letters, list) or not all(isinstance(char, str) for char in letters):
        raise ValueError(f"language_instruction in problem_info of {path} must be a text, is {text!r}")
    return "".join(letters).strip('"')
