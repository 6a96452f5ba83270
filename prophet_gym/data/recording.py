"""A folder of recorded episodes, as `prophet collect` writes it, and what training reads of it."""

import json
import os
import uuid
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from jaxtyping import UInt8

from prophet_gym._io.files import read_json
from prophet_gym.data.episode import (
    FRAMES_PER_SECOND,
    MAX_OPENING,
    Episode,
    episode_path,
    read_episode,
    read_video,
    write_episode,
    write_video,
)
from prophet_gym.data.source import SourceEpisode, choose
from prophet_gym.data.tools import tool_numbers
from prophet_gym.data.video import decode_frames
from prophet_gym.embodiments.kinematics import matrix_to_euler, quaternion_to_matrix

__all__ = [
    "FRAMES_PER_SECOND", "MAX_OPENING", "META", "Episode", "RecordingSource", "claim_folder", "episode_path",
    "is_held_out", "list_episodes", "list_recordings", "read_episode", "read_meta", "read_video", "refuse_official",
    "write_episode", "write_video",
]  # fmt: skip

META = "meta.json"
OFFICIAL = "official"
STARTS = ("random", "train", OFFICIAL)
"""Where a recording's episodes start; one that does not say it was made before there were two."""


def read_meta(folder: str | os.PathLike, needs: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a recording's meta.json says.

    Args:
        folder: the recording.
        needs: what it must say in words, e.g. `suite`.

    Raises:
        FileNotFoundError: `folder` is no recording.
        ValueError: the file is damaged, or does not say that.
    """
    path = Path(folder) / META
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} is no recording (it has no {META}); make one with `prophet collect --out {folder}`"
        )
    meta = read_json(path)
    for name in needs:
        if not isinstance(meta.get(name), str):
            raise ValueError(f"{path} must state {name} in words, has {meta.get(name)!r}; record the folder again")
    if meta.get("starts", STARTS[0]) not in STARTS:
        raise ValueError(f"starts in {path} must be one of {', '.join(STARTS)}, is {meta['starts']!r}")
    return meta


def list_episodes(
    folder: str | os.PathLike,
    task: int | None = None,
    *,
    evaluating: bool = False,
    episodes: Sequence[str] | None = None,
    without: Sequence[str] = (),
) -> list[Path]:
    """List the whole episodes (their npz) of a recording, by index, then task: any prefix is balanced over tasks.

    Args:
        folder: the recording.
        task: one task's episodes; all if not given.
        evaluating: nothing is fitted to them, so they may start from official initial states.
        episodes: only these, e.g. `task_03/episode_00007`; all if not given.
        without: but not these.

    Raises:
        FileNotFoundError: `folder` is no recording.
        UnknownOptionError: it has no such episode.
        ValueError: it starts from official initial states, and something may be fitted to it.
    """
    folder = Path(folder)
    if evaluating:
        read_meta(folder)
    else:
        refuse_official(folder)
    found = [path for path in folder.glob("task_*/episode_*.npz") if path.with_suffix(".mp4").exists()]
    whole = {f"{path.parent.name}/{path.stem}": path for path in sorted(found)}
    kept = [whole[name] for name in choose(str(folder), list(whole), episodes, without)]
    of_task = [path for path in kept if task is None or path.parent.name == f"task_{task:02d}"]
    return sorted(of_task, key=lambda path: (path.name, path.parent.name))


def list_recordings(
    folders: Sequence[str | os.PathLike],
    *,
    task: int | None = None,
    most: int | None = None,
    without: Sequence[str] = (),
) -> list[list[Path]]:
    """List the episodes of several recordings to fit something to, see `list_episodes`.

    Args:
        folders: the recordings.
        task: one task's episodes; all if not given.
        most: of each recording at most so many; all if not given.
        without: episodes to leave out of each recording that has them, and one must.

    Raises:
        FileNotFoundError: a folder is no recording.
        UnknownOptionError: none of the recordings has such an episode.
        ValueError: one starts from official initial states.
    """
    every = [list_episodes(folder) for folder in folders]
    names = {f"{path.parent.name}/{path.stem}" for paths in every for path in paths}
    choose(", ".join(map(str, folders)), sorted(names), without=without)
    kept = []
    for paths in every:
        left = [path for path in paths if f"{path.parent.name}/{path.stem}" not in without]
        kept.append([path for path in left if task is None or path.parent.name == f"task_{task:02d}"][:most])
    return kept


class RecordingSource:
    """A folder that `prophet collect` wrote, as one of the data sets that training mixes.

    Args:
        folder: the recording.
        task: one task's episodes; all if not given.
        robot: what clips call its robot.
        episodes: only these, e.g. `task_03/episode_00007`; all if not given.
        without: but not these.

    Raises:
        FileNotFoundError: when `folder` is no recording.
        UnknownOptionError: it has no such episode.
        ValueError: when it starts from official initial states, which are for evaluation alone, or an episode is
            damaged.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        task: int | None = None,
        robot: str = "libero",
        episodes: Sequence[str] | None = None,
        without: Sequence[str] = (),
    ):
        self.paths = list_episodes(folder, task, episodes=episodes, without=without)
        self.robot = robot
        self.lengths = [len(read_episode(path)) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def steps(self, index: int) -> int:
        """How many actions episode `index` has."""
        return self.lengths[index]

    def episode(self, index: int) -> SourceEpisode:
        """Reads the actions of episode `index`, where its gripper is, and its camera."""
        episode = read_episode(self.paths[index])
        assert episode.video is not None
        if not np.linalg.norm(episode.gripper_quaternion, axis=1).all():
            raise ValueError(
                f"gripper_quaternion of {self.paths[index]} must not be zero; record the episode again or leave it out"
            )
        euler = matrix_to_euler(quaternion_to_matrix(episode.gripper_quaternion))
        openness = episode.gripper_opening[:, None] / MAX_OPENING
        return SourceEpisode(
            name=str(self.paths[index]),
            actions=episode.actions,
            instruction=episode.instruction,
            fps=float(FRAMES_PER_SECOND),
            robot=self.robot,
            read=partial(_read_frames, episode.video),
            tools=tool_numbers(episode.gripper_position, euler, openness)[:, None],
            camera=episode.camera,
        )


def _read_frames(path: Path, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
    return decode_frames(path, start, stop - start, fps=FRAMES_PER_SECOND)


def refuse_official(folder: str | os.PathLike) -> None:
    """Raises ValueError for a recording of official starts: those must never become training data."""
    if read_meta(folder).get("starts") == OFFICIAL:
        raise ValueError(
            f"{folder} starts from official initial states, which are for evaluation alone; "
            "record training data with `prophet collect --starts random`"
        )


def is_held_out(path: Path, one_in: int) -> bool:
    """Whether an episode is kept from training: one in so many, by its name alone, so the same on every machine."""
    return crc32(f"{path.parent.name}/{path.stem}".encode()) % one_in == 0


def claim_folder(folder: str | os.PathLike, meta: dict[str, Any], same: Sequence[str]) -> None:
    """Writes `meta` as the folder's meta.json, or checks that a recording there agrees with it.

    Args:
        folder: made if it is not there.
        meta: what was asked for; plain JSON values.
        same: the keys in which a folder must not change.

    Raises:
        ValueError: when the folder holds a recording made with other values.
    """
    path = Path(folder) / META
    if path.exists():
        found = read_json(path)
        other = {key: found.get(key) for key in same if found.get(key) != meta[key]}
        if other:
            asked = ", ".join(f"{key}={meta[key]!r}" for key in other)
            has = ", ".join(f"{key}={value!r}" for key, value in other.items())
            raise ValueError(f"{folder} holds a recording with {has} and cannot take {asked}; choose another --out")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{META}-{uuid.uuid4().hex[:8]}")
    draft.write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)
