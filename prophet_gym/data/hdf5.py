"""Demonstrations in HDF5, as robomimic and LIBERO store them: data/demo_i/{actions, obs/<camera>}.

Sources: robomimic.github.io/docs/datasets/overview.html; LIBERO's `scripts/create_dataset.py`; OpenVLA's
`regenerate_libero_dataset.py`; robomimic's `envs/env_robosuite.py`, which reverses the rows of what robosuite renders.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from prophet_gym.data.source import Orient, SourceEpisode, as_stored, rows_reversed
from prophet_gym.data.tools import Calibration, ToolReading
from prophet_gym.errors import unknown_option

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
    """One demonstration: its file, its name there, its number of usable steps."""

    path: Path
    key: str
    steps: int


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

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is cut off or contradicts the layout, or does not say what has to be given then.
        UnknownOptionError: there is no such camera, split or state.
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
    ):
        paths = sorted(Path(path).glob("*.hdf5")) if Path(path).is_dir() else [Path(path)]
        if not paths or not all(file.exists() for file in paths):
            raise FileNotFoundError(f"no HDF5 file at {path}; give a file or a folder that holds *.hdf5")
        self.layout, self.tools, self.calibration = layout, tools, calibration
        self.demos: list[Demo] = []
        self.facts: dict[Path, tuple[str, float, str]] = {}
        for file in paths:
            with _open(file) as stored:
                self.facts[file] = _facts(file, stored["data"].attrs, layout, instruction, fps, robot)
                self.demos += [Demo(file, key, _steps(file, stored, key, layout)) for key in _keys(stored, split)]
        if calibration is not None:
            calibration.require(len(self.demos))

    def __len__(self) -> int:
        return len(self.demos)

    def steps(self, index: int) -> int:
        """How many actions of episode `index` have both their frames."""
        return self.demos[index].steps

    def episode(self, index: int) -> SourceEpisode:
        """Reads the actions of episode `index`, and where its tools are.

        Raises:
            UnknownOptionError: it has no such states.
            ValueError: they have another width than `tools` says.
        """
        demo, first = self.demos[index], self.layout.first_action
        with _open(demo.path) as stored:
            actions = stored["data"][demo.key]["actions"][first : first + demo.steps]
            tools = None if self.tools is None else self.tools.read(_states(stored["data"][demo.key], self.tools))
        instruction, fps, robot = self.facts[demo.path]
        return SourceEpisode(
            name=f"{demo.key} of {demo.path}",
            actions=actions.astype(np.float32),
            instruction=instruction,
            fps=fps,
            robot=robot,
            read=partial(_read, demo, self.layout),
            tools=tools,
            camera=None if self.calibration is None else self.calibration.camera(index),
        )


def _states(demo: Any, tools: ToolReading) -> Float[np.ndarray, "f s"]:
    """The states of a demonstration; each is stored with the picture that it was taken with."""
    for name in tools.columns:
        if name not in demo["obs"]:
            raise unknown_option("state", name, [name for name, data in demo["obs"].items() if data.ndim < 3])
    return np.hstack([demo["obs"][name][()].reshape(len(demo["actions"]), -1) for name in tools.columns])


def _read(demo: Demo, layout: Layout, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
    with _open(demo.path) as stored:
        return layout.orient(stored["data"][demo.key]["obs"][layout.camera][start:stop])


def _open(path: Path) -> Any:
    """The file, open; opened anew for every read, since an HDF5 handle must not cross into another process."""
    try:
        stored = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} must be a whole HDF5 file; fetch it again ({error})") from error
    if "data" not in stored:
        stored.close()
        raise ValueError(f"{path} must hold a group data with demo_0, demo_1, ...; it is no robomimic or LIBERO file")
    return stored


def _keys(stored: Any, split: str | None) -> list[str]:
    """Names of the demonstrations, by number."""
    if split is None:
        names = list(stored["data"])
    else:
        splits = list(stored.get("mask", {}))
        if split not in splits:
            raise unknown_option("split", split, splits)
        names = [name.decode() for name in stored["mask"][split][()]]
    return sorted(names, key=lambda name: (int(re.sub(r"\D", "", name) or 0), name))


def _steps(path: Path, stored: Any, key: str, layout: Layout) -> int:
    """Usable steps of a demonstration, after checking that pictures and actions are as many."""
    demo = stored["data"][key]
    if layout.camera not in demo["obs"]:
        raise unknown_option("camera", layout.camera, [name for name, data in demo["obs"].items() if data.ndim == 4])
    frames, actions = len(demo["obs"][layout.camera]), len(demo["actions"])
    if frames != actions:
        raise ValueError(
            f"{key} of {path} must have as many frames as actions, has {frames} and {actions}; "
            "leave it out or fetch it again"
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
    convention = attrs.get("macros_image_convention")
    if convention in _UPRIGHT and layout.orient in _UPRIGHT.values() and layout.orient is not _UPRIGHT[convention]:
        raise ValueError(
            f"{path} notes the image convention {convention!r}, which {_UPRIGHT[convention].__name__} turns upright; "
            f"the layout has {layout.orient.__name__}; give Layout(..., orient={_UPRIGHT[convention].__name__})"
        )
    settings = json.loads(attrs.get("env_args", "{}")).get("env_kwargs", {})
    stated = settings.get("control_freq")
    if fps is not None and stated is not None and abs(fps - stated) > 1e-6:
        raise ValueError(f"{path} states control_freq={stated:g}, which contradicts fps={fps:g}; leave fps out")
    rate = fps if fps is not None else stated
    text = instruction if instruction is not None else _told(attrs)
    if rate is None or text is None:
        name = "fps" if rate is None else "instruction"
        raise ValueError(f"{path} does not say its {name}; give it: Hdf5Source(..., {name}=...)")
    robots = settings.get("robots") or ["unknown"]
    return str(text), float(rate), robot or ("+".join(robots) if isinstance(robots, list) else str(robots))


def _told(attrs: Mapping[str, Any]) -> str | None:
    """LIBERO's instruction, which some of its files hold as a list of letters in quotation marks."""
    text = json.loads(attrs.get("problem_info", "{}")).get("language_instruction")
    return None if text is None else "".join(text).strip('"')
