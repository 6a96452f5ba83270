"""Demonstrations in HDF5, as robomimic and LIBERO store them: data/demo_i/{actions, obs/<camera>}.

Sources: robomimic.github.io/docs/datasets/overview.html; LIBERO's `scripts/create_dataset.py`; OpenVLA's
`regenerate_libero_dataset.py`; robomimic's `envs/env_robosuite.py`, which reverses the rows of what robosuite renders.
"""

import json
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

from prophet_gym._io.files import refuse_pointer
from prophet_gym.data.episode import Episode, choose
from prophet_gym.data.reading import Calibration, Orient, ToolReading, as_stored, rows_reversed
from prophet_gym.errors import ProphetError, require_number, unknown_option
from prophet_gym.specs import require_image_type

try:
    import h5py
except ImportError as error:
    raise ImportError(
        "these demonstrations are HDF5 files; install h5py: pip install 'prophet-gym[data]'", name=error.name
    ) from error


@dataclass(frozen=True)
class Layout:
    """What a writer of these files does differently from others.

    Attributes:
        camera: the picture in `obs` to read as frames.
        first_action: the action that follows frame 0. LIBERO's writer stores the picture *after* each action, so the
            action after frame 0 is number 1 there, and action 0 has no frame before it.
        orient: turns its pictures upright.
    """

    camera: str
    first_action: int
    orient: Orient


LIBERO = Layout("agentview_rgb", 1, rows_reversed)
"""LIBERO's published files."""
LIBERO_REGENERATED = Layout("agentview_rgb", 0, rows_reversed)
"""LIBERO played again by OpenVLA's script: pictures before each action, idle steps left out, still bottom row first."""
ROBOMIMIC = Layout("agentview_image", 0, as_stored)
"""robomimic's `dataset_states_to_obs.py`."""

_UPRIGHT = {"opengl": rows_reversed, "opencv": as_stored}
"""Which way up robosuite's `macros.IMAGE_CONVENTION` leaves a picture; LIBERO's files note it."""


@dataclass(frozen=True)
class Demo:
    """One demonstration: its file, its name there, its number of usable steps, its place among all."""

    path: Path
    key: str
    steps: int
    place: int


class Hdf5Source:
    """Demonstrations of one HDF5 file, or of all `*.hdf5` of a folder.

    Args:
        path: the file or the folder.
        layout: who wrote it: `LIBERO`, `LIBERO_REGENERATED`, `ROBOMIMIC`, or one of your own.
        split: a robomimic filter key, e.g. `train`; all demonstrations if not given.
        instruction: the task in words, where the file does not say it.
        fps: where the file does not say it (`control_freq`).
        robot: stands in for the file's name of it.
        tools: which data of `obs` say where the tools are, and how.
        calibration: the camera's matrices, demonstrations in the order of files and numbers.
        episodes: only these, e.g. `demo_3`, or `pick_up_the_milk_demo.hdf5/demo_3` in a folder; all if not given.
        without: but not these; anything else in the file's group `data` has to be named here.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is cut off or contradicts the layout, or does not say what has to be given then.
        UnknownOptionError: there is no such camera, split, state or demonstration.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        layout: Layout = LIBERO,
        *,
        split: str | None = None,
        instruction: str | None = None,
        fps: float | int | None = None,
        robot: str | None = None,
        tools: ToolReading | None = None,
        calibration: Calibration | None = None,
        episodes: Sequence[str] | None = None,
        without: Sequence[str] = (),
    ):
        paths = sorted(Path(path).glob("*.hdf5")) if Path(path).is_dir() else [Path(path)]
        if not paths or not all(file.exists() for file in paths):
            raise FileNotFoundError(f"no HDF5 file at {path}; give a file or a folder that holds *.hdf5")
        self.layout, self.tools, self.calibration = layout, tools, calibration
        self.facts: dict[Path, tuple[str, float, str]] = {}
        listed: dict[str, tuple[Path, str]] = {}
        for file in paths:
            with _open(file) as stored:
                self.facts[file] = _facts(file, stored["data"].attrs, layout, instruction, fps, robot)
                prefix = f"{file.name}/" if Path(path).is_dir() else ""
                listed |= {f"{prefix}{key}": (file, key) for key in _keys(file, stored, split)}
        kept = choose(str(path), list(listed), episodes, without)
        if calibration is not None:
            calibration.require(len(listed))
        places = {name: place for place, name in enumerate(listed)}
        self.demos = [Demo(*listed[name], _steps(*listed[name], layout, name), places[name]) for name in kept]

    def __len__(self) -> int:
        return len(self.demos)

    def steps(self, index: int) -> int:
        """How many actions of episode `index` have both their frames."""
        return self.demos[index].steps

    def episode(self, index: int) -> Episode:
        """Reads the actions of episode `index`, and where its tools are.

        Raises:
            UnknownOptionError: it has no such states.
            ValueError: they have another width than `tools` says.
        """
        demo, first = self.demos[index], self.layout.first_action
        name = f"{demo.key} of {demo.path}"
        with _open(demo.path) as stored:
            actions = _numbers(stored["data"][demo.key], "actions", name)[first : first + demo.steps]
            states = None if self.tools is None else _states(stored["data"][demo.key], self.tools, name)
        instruction, fps, robot = self.facts[demo.path]
        return Episode(
            name=name,
            actions=actions.astype(np.float32),
            instruction=instruction,
            fps=fps,
            robot=robot,
            read=partial(_read, demo, self.layout),
            tools=None if self.tools is None or states is None else self.tools.read(states, name),
            camera=None if self.calibration is None else self.calibration.camera(demo.place),
        )


def _states(demo: Any, tools: ToolReading, name: str) -> Float[np.ndarray, "f s"]:
    """The states of a demonstration; each is stored with the picture that it was taken with."""
    for column in tools.columns:
        if column not in demo["obs"]:
            known = [name for name, data in demo["obs"].items() if getattr(data, "ndim", 3) < 3]
            raise unknown_option("state", column, known)
    columns = [_numbers(demo["obs"], column, name) for column in tools.columns]
    if len({len(column) for column in columns} | {len(demo["actions"])}) > 1:
        raise ValueError(f"{', '.join(tools.columns)} of {name} must have a state for each action; leave it out")
    return np.hstack(columns)


def _numbers(group: Any, key: str, name: str) -> Float64[np.ndarray, "n a"]:
    """Return an array of finite numbers, one line of them a step."""
    stored = group[key]
    shape, kind = stored.shape, stored.dtype.kind
    if kind not in "fiu" or not 1 <= len(shape) <= 2 or 0 in shape[1:]:
        raise ValueError(f"{key} of {name} must be numbers (steps, n), is {stored.dtype} {shape}; leave it out")
    values = stored[()].reshape(len(stored), -1).astype(np.float64)
    # What float32 cannot hold would become infinite without a word.
    if not (np.abs(values) <= np.finfo(np.float32).max).all():
        raise ValueError(f"{key} of {name} must be finite numbers; leave it out")
    return values


def _read(demo: Demo, layout: Layout, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
    with _open(demo.path) as stored:
        return layout.orient(stored["data"][demo.key]["obs"][layout.camera][start:stop])


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """The file, open; opened anew for every read, since an HDF5 handle must not cross into another process."""
    refuse_pointer(path)
    # HDF5 reads a part of a file when it is asked for: damage shows anywhere, as any of h5py's errors.
    try:
        with h5py.File(path, "r") as stored:
            if not isinstance(stored.get("data"), h5py.Group):
                raise ValueError(
                    f"{path} must hold a group data with demo_0, demo_1, ...; it is no robomimic or LIBERO file"
                )
            yield stored
    except BlockingIOError as error:
        raise ValueError(
            f"another process holds {path} open for writing; close it there, or set HDF5_USE_FILE_LOCKING=FALSE if it "
            "writes no more"
        ) from error
    except Exception as error:
        ours = isinstance(error, ProphetError) or (type(error) is ValueError and str(path) in str(error))
        if ours:
            raise
        raise ValueError(f"{path} must be a whole HDF5 file; fetch it again ({error})") from error


def _keys(path: Path, stored: Any, split: str | None) -> list[str]:
    """Names of the demonstrations, by number."""
    if split is None:
        names = list(stored["data"])
    else:
        splits = list(stored.get("mask", {}))
        if split not in splits:
            raise unknown_option("split", split, splits)
        mask = stored["mask"][split]
        found = mask[()] if isinstance(mask, h5py.Dataset) and mask.ndim == 1 else []
        names = [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in found]
        absent = [name for name in names if name not in stored["data"]]
        if absent or not names or len(set(names)) < len(names):
            raise ValueError(
                f"mask/{split} of {path} must name each of its demonstrations once, and they must be in data; "
                f"{', '.join(absent[:10]) or 'another name'} is not; give another split, or name episodes"
            )
    return sorted(names, key=lambda name: (int(re.sub(r"[^0-9]", "", name)[:18] or 0), name))


def _is_group(node: Any) -> bool:
    return isinstance(node, h5py.Group)


def _steps(path: Path, key: str, layout: Layout, called: str) -> int:
    """Count the usable steps of a demonstration, after checking that pictures and actions are there and as many.

    `called` is what a caller calls it, to leave it out.
    """
    name = f"{key} of {path}"
    with _open(path) as stored:
        demo: Any = stored["data"][key]
        if not _is_group(demo) or not isinstance(demo.get("actions"), h5py.Dataset):
            raise ValueError(f"{name} has no actions, so it is no demonstration; leave it out: without=[{called!r}]")
        if not _is_group(demo.get("obs")):
            raise ValueError(
                f"{name} has no pictures (no group obs): the file holds the simulator's states alone; make pictures of "
                "them with robomimic's dataset_states_to_obs.py"
            )
        seen = {camera: data for camera, data in demo["obs"].items() if getattr(data, "ndim", 0) == 4}
        if layout.camera not in demo["obs"]:
            raise unknown_option("camera", layout.camera, seen)
        pictures = demo["obs"][layout.camera]
        shape = getattr(pictures, "shape", ())
        require_image_type(f"{layout.camera} of {name}", getattr(pictures, "dtype", np.dtype("O")), shape)
        if len(shape) != 4 or not demo["actions"].ndim:
            raise ValueError(f"{layout.camera} of {name} must be frames (steps, height, width, 3), is {shape}")
        frames, actions = len(pictures), len(demo["actions"])
    if frames != actions:
        raise ValueError(
            f"{name} must have as many frames as actions, has {frames} and {actions}; leave it out or fetch it again"
        )
    return max(frames - 1, 0)


def _facts(
    path: Path,
    attrs: Mapping[str, Any],
    layout: Layout,
    instruction: str | None,
    fps: float | int | None,
    robot: str | None,
) -> tuple[str, float, str]:
    """Instruction, fps and robot of a file: what the caller gave, else what its attributes say."""
    convention = _text(path, attrs, "macros_image_convention")
    if convention in _UPRIGHT and layout.orient in _UPRIGHT.values() and layout.orient is not _UPRIGHT[convention]:
        raise ValueError(
            f"{path} notes the image convention {convention!r}, which {_UPRIGHT[convention].__name__} turns upright; "
            f"the layout has {layout.orient.__name__}; give Layout(..., orient={_UPRIGHT[convention].__name__})"
        )
    settings = _object(path, attrs, "env_args").get("env_kwargs") or {}
    if not isinstance(settings, dict):
        raise ValueError(f"env_kwargs in env_args of {path} must be a JSON object, is {settings!r}")
    stated = settings.get("control_freq")
    if stated is not None:
        require_number(f"control_freq in env_args of {path}", stated, above=0)
    if fps is not None:
        require_number("fps", fps, above=0)
    if fps is not None and stated is not None and abs(fps - stated) > 1e-6:
        raise ValueError(f"{path} states control_freq={stated:g}, which contradicts fps={fps:g}; leave fps out")
    rate = fps if fps is not None else stated
    text = instruction if instruction is not None else _told(path, attrs)
    if rate is None or text is None:
        name = "fps" if rate is None else "instruction"
        raise ValueError(f"{path} does not say its {name}; give it: Hdf5Source(..., {name}=...)")
    robots = settings.get("robots") or ["unknown"]
    return str(text), float(rate), robot or ("+".join(map(str, robots)) if isinstance(robots, list) else str(robots))


def _text(path: Path, attrs: Mapping[str, Any], name: str) -> str | None:
    """Return an attribute's text, which some writers store as bytes."""
    value = attrs.get(name)
    try:
        value = value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise ValueError(f"the attribute {name} of {path} must be a text in UTF-8 ({error})") from error
    if value is not None and not isinstance(value, str):
        raise ValueError(f"the attribute {name} of {path} must be a text, is a {type(value).__name__}")
    return value


def _object(path: Path, attrs: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the JSON object that an attribute holds; an empty one if it is missing or null."""
    text = _text(path, attrs, name)
    try:
        value = json.loads(text or "null")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the attribute {name} of {path} must be JSON ({error}); fetch the file again") from error
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"the attribute {name} of {path} must be a JSON object, holds a {type(value).__name__}")
    return value or {}


def _told(path: Path, attrs: Mapping[str, Any]) -> str | None:
    """LIBERO's instruction, which some of its files hold as a list of letters in quotation marks."""
    text = _object(path, attrs, "problem_info").get("language_instruction")
    letters = [text] if isinstance(text, str) else text
    if letters is None:
        return None
    if not isinstance(letters, list) or not all(isinstance(letter, str) for letter in letters):
        raise ValueError(f"language_instruction in problem_info of {path} must be a text, is {text!r}")
    return "".join(letters).strip('"')
