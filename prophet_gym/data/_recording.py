"""A folder of episodes as `prophet collect` writes it: `task_03/episode_00007.npz` and `.mp4`, and one meta.json.

With a second camera there is also `task_03/episode_00007.wrist.mp4`, and the npz has `robot_state`. An episode's npz is
renamed into place last, so an episode that is listed is whole.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from prophet_gym._checks import require_images
from prophet_gym._io.atomic import atomic_file, atomic_write
from prophet_gym._io.files import read_json, read_npz
from prophet_gym.data._episode import Episode, Simulation, _choose
from prophet_gym.data._reading import _tool_states
from prophet_gym.data._video import decode_frames, write_video
from prophet_gym.embodiments import get_embodiment
from prophet_gym.embodiments._kinematics import matrix_to_euler, quaternion_to_matrix
from prophet_gym.specs import FIRST_CAMERA, STATE_NAMES

META = "meta.json"
EXPORTED = "meta/recording.json"
"""Keep the recording's meta.json under this name in a LeRobot data set that was exported from it."""
BUNDLED = "bundled"
_BUNDLED = Path(__file__).resolve().parents[1] / "checkpoints" / "libero_small" / "demo"
_OFFICIAL = "official"
_STARTS = ("random", "train", _OFFICIAL)
"""Name where a recording's episodes start; one that does not say it was made before there were two."""
_ROBOT = "libero"
"""The robot of an episode that does not name one: all of them were LIBERO's once, and LIBERO's still do not."""
_ROBOT_STATE = "robot_state"
"""Name the array that the npz of an episode has besides, where there is a second video."""
_WRIST_VIDEO = ".wrist.mp4"
_SIMULATION = tuple(field.name for field in fields(Simulation) if field.name != _ROBOT_STATE)
_STORED = ("actions", "camera", "instruction", *_SIMULATION)
_ARRAYS: dict[str, tuple[str, str, tuple[str | int, ...]]] = {
    "actions": ("f", "real numbers", ("t", "a")),
    "gripper_position": ("f", "real numbers", ("f", 3)),
    "gripper_quaternion": ("f", "real numbers", ("f", 4)),
    "gripper_opening": ("f", "real numbers", ("f",)),
    "object_positions": ("f", "real numbers", ("f", "n", 3)),
    "object_names": ("U", "texts", ("n",)),
    "success": ("b", "true or false", ("f",)),
    "camera": ("f", "real numbers", (3, 4)),
    "init_state": ("f", "real numbers", ("s",)),
    _ROBOT_STATE: ("f", "real numbers", ("f", len(STATE_NAMES))),
    **dict.fromkeys(("target", "instruction", "suite", "mode", "look"), ("U", "one text", ())),
    **dict.fromkeys(("task", "seed"), ("iu", "one whole number", ())),
}
"""What an episode's arrays must be: kinds of number, in words, and shape: t actions of a numbers, f = t + 1 frames, n
objects."""


def episode_path(folder: Path, task: int, index: int) -> Path:
    """Return where the npz of episode `index` of `task` lies in a recording; the video is beside it."""
    return folder / f"task_{task:02d}" / f"episode_{index:05d}.npz"


def name_of(episode: Path | Episode) -> str:
    """Return what an episode is called in its data set, e.g. `task_03/episode_00007`."""
    path = Path(episode.name) if isinstance(episode, Episode) else episode
    return f"{path.parent.name}/{path.stem}"


def opened(episode: Path | Episode) -> Episode:
    """Return an episode that may still be a file of a recording."""
    return episode if isinstance(episode, Episode) else read_episode(episode)


def read_episode(path: str | os.PathLike) -> Episode:
    """Read one episode by its npz or its mp4; its frames are decoded when they are asked for."""
    path = Path(path).with_suffix(".npz")
    # The limit is for what packed zeros may claim; an episode's arrays are a few hundred kilobytes.
    values: dict[str, Any] = read_npz(path, _STORED, optional=("robot", _ROBOT_STATE), limit=2**28)
    robot = str(values.pop("robot", _ROBOT))
    _require_episode(path, values, robot)
    for name, (kind, _, axes) in _ARRAYS.items():
        if name not in values:
            continue
        if not axes:
            values[name] = str(values[name]) if kind == "U" else int(values[name])
        elif kind == "f":
            wide = name in ("camera", "init_state")
            values[name] = values[name].astype(np.float64 if wide else np.float32, copy=False)
    values["object_names"] = tuple(map(str, values["object_names"]))
    own = {name: values[name] for name in ("actions", "instruction", "camera")}
    simulation = Simulation(**{name: values[name] for name in (*_SIMULATION, _ROBOT_STATE) if name in values})
    return simulated_episode(**own, simulation=simulation, robot=robot, path=path)


def simulated_episode(
    actions: Float32[np.ndarray, "t a"],
    instruction: str,
    camera: Float64[np.ndarray, "3 4"],
    simulation: Simulation,
    *,
    robot: str = _ROBOT,
    path: Path | None = None,
) -> Episode:
    """Build an episode of what a simulator says: fps from its robot, the tool from the pose of the gripper.

    Without the `path` of its npz, asking for a frame is an error.
    """
    name = "a new episode" if path is None else str(path)
    if not np.linalg.norm(simulation.gripper_quaternion, axis=1).all():
        raise ValueError(f"gripper_quaternion of {name} must not be zero; record the episode again or leave it out")
    euler = matrix_to_euler(quaternion_to_matrix(simulation.gripper_quaternion))
    fps, open_width = recorded_facts(robot)
    tool = _tool_states(simulation.gripper_position, euler, simulation.gripper_opening[:, None] / open_width)
    wrist = partial(_read_frames, path, fps, suffix=_WRIST_VIDEO) if simulation.robot_state is not None else None
    return Episode(
        name=name,
        read_wrist=wrist,
        actions=actions,
        instruction=instruction,
        fps=fps,
        robot=robot,
        read=partial(_read_frames, path, fps),
        tools=tool[:, None],
        camera=camera,
        simulation=simulation,
        success=simulation.success,
    )


def recorded_facts(robot: str) -> tuple[float, float]:
    """Return a robot's frame rate and how wide its gripper opens, metres: a recording's files hold neither."""
    embodiment = get_embodiment(robot)
    if embodiment.control_hz is None or embodiment.gripper.opening is None:
        raise ValueError(f"the embodiment {robot} must say its control_hz and the opening of its gripper; add them")
    return embodiment.control_hz, embodiment.gripper.opening


def _read_frames(
    path: Path | None, fps: float, start: int, stop: int, *, suffix: str = ".mp4"
) -> UInt8[np.ndarray, "f h w 3"]:
    if path is None:
        raise ValueError(f"a new episode has no frames {start}..{stop - 1} yet; write it and use read_episode")
    return decode_frames(path.with_suffix(suffix), start, stop - start, fps=fps)


def write_episode(
    path: str | os.PathLike, episode: Episode, frames: np.ndarray, wrist_frames: np.ndarray | None = None
) -> None:
    """Write an episode of a simulator and its t + 1 frames: the npz to `path`, see `episode_path`, the video beside it.

    The robot's state is written with the frames of the wrist camera, without which it is left out. ValueError for
    frames or arrays that are not those of an episode of at least one action; nothing is written then.
    """
    path = Path(path).with_suffix(".npz")
    videos = {".mp4": frames} | ({} if wrist_frames is None else {_WRIST_VIDEO: wrist_frames})
    for shown in videos.values():
        require_images(f"frames for {path}", shown)
        if len(shown) != len(episode) + 1:
            raise ValueError(f"{len(episode)} actions need {len(episode) + 1} frames, got {len(shown)}")
    holders = {name: episode.sim if name in _SIMULATION else episode for name in _STORED}
    values: dict[str, Any] = {name: np.asarray(getattr(holder, name)) for name, holder in holders.items()}
    if wrist_frames is not None:
        if episode.sim.robot_state is None:
            raise ValueError(f"frames of the wrist camera for {path} need the robot's state beside them (robot_state)")
        values[_ROBOT_STATE] = episode.sim.robot_state
    _require_episode(path, values, episode.robot)
    # LIBERO's files stay as they have always been.
    if episode.robot != _ROBOT:
        values["robot"] = np.asarray(episode.robot)
    # The inner files are renamed first: the npz, which makes it an episode, comes last.
    with ExitStack() as files:
        numbers = files.enter_context(atomic_file(path))
        for suffix, shown in videos.items():
            write_video(files.enter_context(atomic_file(path.with_suffix(suffix))), shown, episode.fps)
        np.savez_compressed(numbers, **values)


def _require_episode(path: Path, values: Mapping[str, np.ndarray], robot: str) -> None:
    """Raise ValueError unless these arrays are an episode: of its kinds and shapes, finite and within bounds."""
    steps = len(values["actions"]) if values["actions"].ndim else 0
    if not steps:
        raise ValueError(f"{path} must hold an episode of at least one action; delete it and its video")
    spec = get_embodiment(robot).action_spec
    sizes: dict[str, int] = {"t": steps, "f": steps + 1, "a": spec.dim}
    for name, (kinds, words, axes) in _ARRAYS.items():
        if name == _ROBOT_STATE and name not in values:
            continue
        array = values[name]
        if array.ndim == len(axes):
            sizes = dict(zip(map(str, axes), array.shape, strict=True)) | sizes
        want = tuple(axis if isinstance(axis, int) else sizes.get(axis, axis) for axis in axes)
        # An empty list of names has numpy's default kind.
        if array.shape != want or (array.dtype.kind not in kinds and array.size):
            shape = f"{words}, shape ({', '.join(map(str, want))})" if want else words
            raise ValueError(f"{name} of {path} must be {shape}, is {array.dtype} {array.shape}; record it again")
        if array.dtype.kind == "f" and not (np.abs(array) <= np.finfo(np.float32).max).all():
            raise ValueError(f"{name} of {path} must be finite numbers that float32 can hold; record the episode again")
    # The recorder writes what the controller did, which stops at its bounds; float32 may round them outwards.
    low, high = np.array(spec.low), np.array(spec.high)
    slack = 1e-6 * np.maximum(1, np.maximum(abs(low), abs(high)))
    outside = np.argwhere((values["actions"] < low - slack) | (values["actions"] > high + slack))
    if len(outside):
        step, column = outside[0]
        raise ValueError(
            f"actions of {path} must lie within {low[column]:g}..{high[column]:g}, one is "
            f"{values['actions'][step, column]:g} ({spec.names[column]}); record the episode again"
        )


def _refuse_other(name: str) -> None:
    """Raise ValueError for a data set of another reader, by its kind or by its folder, that says who takes it."""
    from prophet_gym.data._mixture import kind_named  # which reads recordings as well

    kind = "recipe" if name.startswith("recipe:") else None
    with suppress(ValueError, OSError):
        kind = kind or kind_named(name)[0]
    if kind == "lerobot" and not name.startswith("lerobot:"):
        raise ValueError(f"{name} is a LeRobot data set: name it lerobot:{name} where a command reads such")
    if kind == "lerobot":
        raise ValueError(f"{name} is a LeRobot data set; what is read here must be a recording of `prophet collect`")
    if kind not in (None, "recording"):
        raise ValueError(
            f"{name} is data of the kind {kind}, on which the full Prophet alone trains (`prophet pretrain`); what is "
            "read here must be a recording of `prophet collect` or, where a command reads such, lerobot:PATH"
        )


def recording_folder(name: str | os.PathLike) -> Path:
    """Return the folder of a recording; `bundled` names the episodes of the bundled checkpoint, if no folder does."""
    path = Path(name)
    return _BUNDLED if str(path) == BUNDLED and not path.exists() else path


def is_bundled(folder: str | os.PathLike) -> bool:
    """Return whether a recording is the one that comes with the package, by its name or by its path."""
    return recording_folder(folder).resolve() == _BUNDLED


def read_meta(folder: str | os.PathLike, needs: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a recording's meta.json says; it must say what is in `needs` in words, e.g. `suite`."""
    path = recording_folder(folder) / META
    if not path.exists():
        # What has a kind before its name, such as `rlds:`, is no folder of ours, there or not.
        if not path.parent.exists() and ":" not in str(folder):
            raise FileNotFoundError(f"there is no folder {folder}; `prophet collect --out` makes a recording")
        _refuse_other(str(folder))
        raise FileNotFoundError(f"{folder} is no recording (it has no {META}); `prophet collect --out` makes one")
    meta = read_json(path)
    for name in needs:
        if not isinstance(meta.get(name), str):
            raise ValueError(f"{path} must state {name} in words, has {meta.get(name)!r}; record the folder again")
    if meta.get("starts", _STARTS[0]) not in _STARTS:
        raise ValueError(f"starts in {path} must be one of {', '.join(_STARTS)}, is {meta['starts']!r}")
    return meta


def refuse_official(folder: str | os.PathLike) -> None:
    """Raise ValueError for a recording of official starts: those must never become training data."""
    if read_meta(folder).get("starts") == _OFFICIAL:
        _raise_official(folder)


def is_official(folder: str | os.PathLike) -> bool:
    """Return whether a recording, or a LeRobot data set exported from one, is of official initial states."""
    return any(
        read_json(recording_folder(folder) / name).get("starts") == _OFFICIAL
        for name in (META, EXPORTED)
        if (recording_folder(folder) / name).is_file()
    )


def refuse_official_export(folder: str | os.PathLike) -> None:
    """Raise ValueError for a LeRobot data set that was exported from a recording of official starts."""
    if is_official(folder):
        _raise_official(folder)


def _raise_official(folder: str | os.PathLike) -> NoReturn:
    raise ValueError(
        f"{folder} starts from official initial states, which are for evaluation only; "
        "record training data with `prophet collect --starts random`"
    )


def begin_recording(folder: str | os.PathLike, meta: dict[str, Any], same: Sequence[str]) -> None:
    """Write `meta` as the folder's meta.json, or check that a recording there agrees with it in the keys `same`."""
    path = Path(folder) / META
    if not path.exists():
        atomic_write(path, json.dumps(meta, indent=2) + "\n")
        return
    found = {"cameras": [FIRST_CAMERA]} | read_json(path)  # the only one before there were two
    other = {key: found.get(key) for key in same if found.get(key) != meta[key]}
    if other:
        asked = ", ".join(f"{key}={meta[key]!r}" for key in other)
        has = ", ".join(f"{key}={value!r}" for key, value in other.items())
        raise ValueError(f"{folder} holds a recording with {has} and cannot take {asked}; choose another --out")


def list_episodes(
    folder: str | os.PathLike,
    *,
    evaluating: bool = False,
    episodes: Sequence[str] | None = None,
    without: Sequence[str] = (),
) -> list[Path]:
    """List the whole episodes (their npz) of a recording, by index, then task: any prefix is balanced over tasks.

    Nothing is fitted to episodes that are read for `evaluating`, so they may start from official initial states.
    `episodes` are the only ones listed, e.g. `task_03/episode_00007`, and `without` are left out.
    """
    folder = recording_folder(folder)
    if evaluating:
        read_meta(folder)
    else:
        refuse_official(folder)
    # The npz appears last, so this finds no episode that is still being written; a video may have been removed.
    found = [path for path in folder.glob("task_*/episode_*.npz") if path.with_suffix(".mp4").exists()]
    whole = {name_of(path): path for path in sorted(found)}
    kept = [whole[name] for name in _choose(str(folder), list(whole), episodes, without)]
    return sorted(kept, key=lambda path: (path.name, path.parent.name))


def list_recordings(
    folders: Sequence[str | os.PathLike],
    *,
    task: int | None = None,
    most: int | None = None,
    without: Sequence[str] = (),
) -> list[list[Path]]:
    """List the episodes of several recordings to fit something to: of one `task` or all, the first `most` of each.

    Episodes `without` are left out of each recording that has them, and one must.
    """
    every = [list_episodes(folder) for folder in folders]
    names = sorted({name_of(path) for paths in every for path in paths})
    kept = set(_choose(", ".join(map(str, folders)), names, without=without))
    if task is not None:
        kept = {name for name in kept if name.startswith(f"task_{task:02d}/")}
    return [[path for path in paths if name_of(path) in kept][:most] for paths in every]


class RecordingSource:
    """Read a recording of `prophet collect` as one of the data sets that training mixes.

    `episodes` names the only ones to read, e.g. `task_03/episode_00007`, and `without` those to leave out. The folder
    `bundled` is the recording that comes with the bundled checkpoint; its starts are official, so it is read for
    `evaluating` alone.

    Raises:
        FileNotFoundError: `folder` is no recording.
        UnknownOptionError: The recording has no such episode.
        ValueError: The recording starts from official initial states, which are for evaluation only, and `evaluating`
            does not say that nothing is fitted to it; or it is damaged.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        episodes: Sequence[str] | None = None,
        without: Sequence[str] = (),
        evaluating: bool = False,
    ):
        self.paths = list_episodes(folder, evaluating=evaluating, episodes=episodes, without=without)
        # Read once here, so that damage shows before training begins and `steps` costs nothing.
        self.lengths = [len(read_episode(path)) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def steps(self, index: int) -> int:
        """Return how many actions episode `index` has."""
        return self.lengths[index]

    def episode(self, index: int) -> Episode:
        """Read episode `index`."""
        return read_episode(self.paths[index])
