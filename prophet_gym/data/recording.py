"""Recorded episodes on disk: a video and an npz each, written whole or not at all."""

import json
import os
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8

from prophet_gym.data.source import SourceEpisode
from prophet_gym.data.tools import tool_numbers
from prophet_gym.data.video import decode_frames
from prophet_gym.embodiments.kinematics import matrix_to_euler, quaternion_to_matrix

FRAMES_PER_SECOND = 20
QUALITY = "10"
"""x264's constant rate factor: about 45 dB on these pictures."""
META = "meta.json"
MAX_OPENING = 0.08
"""Distance of the fingers of an open Panda gripper, metres."""


@dataclass(frozen=True)
class Episode:
    """One recorded episode. Frame i is what was seen before action i; t actions, f = t + 1 frames.

    Positions are world metres, quaternions xyzw, `gripper_opening` metres; `camera` takes a homogeneous world point to
    (u z, v z, z), picture coordinates in [0, 1]; `init_state` is the simulator's state at frame 0.
    """

    actions: Float32[np.ndarray, "t 7"]
    gripper_position: Float32[np.ndarray, "f 3"]
    gripper_quaternion: Float32[np.ndarray, "f 4"]
    gripper_opening: Float32[np.ndarray, " f"]
    object_positions: Float32[np.ndarray, "f n 3"]
    object_names: tuple[str, ...]
    target: str
    success: Bool[np.ndarray, " f"]
    camera: Float64[np.ndarray, "3 4"]
    init_state: Float64[np.ndarray, " s"]
    instruction: str
    suite: str
    task: int
    mode: str
    seed: int
    look: str
    video: Path | None = None

    def __len__(self) -> int:
        return len(self.actions)

    @cached_property
    def target_positions(self) -> Float[np.ndarray, "f 3"] | None:
        """The path of the object that the task is about; None where that is a fixture, such as a drawer."""
        if self.target not in self.object_names:
            return None
        return self.object_positions[:, self.object_names.index(self.target)]

    def frames(self) -> UInt8[np.ndarray, "f h w 3"]:
        """Decodes the video.

        Raises:
            ValueError: when the episode has no video, or the video another number of frames than t + 1.
        """
        if self.video is None:
            raise ValueError("this episode was not read from a folder and has no video; use read_episode")
        frames = read_video(self.video)
        if len(frames) != len(self) + 1:
            raise ValueError(
                f"{self.video} must hold {len(self) + 1} frames, holds {len(frames)}; delete both files, collect again"
            )
        return frames


_STORED = tuple(field.name for field in fields(Episode) if field.name != "video")


def episode_path(folder: Path, task: int, index: int) -> Path:
    """Where episode `index` of `task` lies in a recording: the npz; the video is beside it."""
    return folder / f"task_{task:02d}" / f"episode_{index:05d}.npz"


def list_episodes(folder: str | os.PathLike, task: int | None = None) -> list[Path]:
    """The whole episodes (their npz) of a recording, by index, then task, so that any prefix is balanced over tasks.

    Raises:
        FileNotFoundError: when `folder` is no recording.
    """
    folder = Path(folder)
    if not (folder / META).exists():
        raise FileNotFoundError(
            f"{folder} is no recording (it has no {META}); make one with `prophet collect --out {folder}`"
        )
    paths = folder.glob("task_*/episode_*.npz" if task is None else f"task_{task:02d}/episode_*.npz")
    return sorted((path for path in paths if path.with_suffix(".mp4").exists()), key=lambda p: (p.name, p.parent.name))


def read_episode(path: str | os.PathLike) -> Episode:
    """Reads one episode; its frames are decoded when asked for.

    Args:
        path: the npz or the mp4 of the episode.
    """
    path = Path(path).with_suffix(".npz")
    with np.load(path) as stored:
        missing = [name for name in _STORED if name not in stored]
        if missing:
            raise ValueError(f"{path} must hold {', '.join(_STORED)}; {', '.join(missing)} is missing")
        values: dict[str, Any] = {name: stored[name] for name in _STORED}
    for name in ("target", "instruction", "suite", "mode", "look"):
        values[name] = str(values[name])
    values["object_names"] = tuple(str(name) for name in values["object_names"])
    values["task"], values["seed"] = int(values["task"]), int(values["seed"])
    return Episode(**values, video=path.with_suffix(".mp4"))


class RecordingSource:
    """A folder that `prophet collect` wrote, as one of the data sets that training mixes.

    Args:
        folder: the recording.
        task: one task's episodes; all if not given.
        robot: what clips call its robot.

    Raises:
        FileNotFoundError: when `folder` is no recording.
        ValueError: when it starts from official initial states, which are for evaluation alone.
    """

    def __init__(self, folder: str | os.PathLike, *, task: int | None = None, robot: str = "libero"):
        self.paths = list_episodes(folder, task)
        refuse_official(folder)
        self.robot = robot
        self.lengths = [_count_actions(path) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def steps(self, index: int) -> int:
        """How many actions episode `index` has."""
        return self.lengths[index]

    def episode(self, index: int) -> SourceEpisode:
        """Reads the actions of episode `index`, where its gripper is, and its camera."""
        episode = read_episode(self.paths[index])
        assert episode.video is not None
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


def _count_actions(path: Path) -> int:
    with np.load(path) as stored:
        return len(stored["actions"])


def _read_frames(path: Path, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
    return decode_frames(path, start, stop - start, fps=FRAMES_PER_SECOND)


def refuse_official(folder: str | os.PathLike) -> None:
    """Raises ValueError for a recording of official starts: those must never become training data."""
    if json.loads((Path(folder) / META).read_text(encoding="utf-8")).get("starts") == "official":
        raise ValueError(
            f"{folder} starts from official initial states, which are for evaluation alone; "
            "record training data with `prophet collect --starts random`"
        )


def write_episode(path: str | os.PathLike, episode: Episode, frames: UInt8[np.ndarray, "f h w 3"]) -> None:
    """Writes `path` (npz) and its video; the npz appears last, so an episode that is listed is whole."""
    path = Path(path).with_suffix(".npz")
    if len(frames) != len(episode) + 1:
        raise ValueError(f"{len(episode)} actions need {len(episode) + 1} frames, got {len(frames)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f".{path.stem}-{uuid.uuid4().hex[:8]}"
    try:
        write_video(draft.with_suffix(".mp4"), frames)
        values: dict[str, Any] = {name: np.asarray(getattr(episode, name)) for name in _STORED}
        np.savez_compressed(draft.with_suffix(".npz"), **values)
        draft.with_suffix(".mp4").replace(path.with_suffix(".mp4"))
        draft.with_suffix(".npz").replace(path)
    finally:
        draft.with_suffix(".mp4").unlink(missing_ok=True)
        draft.with_suffix(".npz").unlink(missing_ok=True)


def write_video(path: Path, frames: UInt8[np.ndarray, "t h w 3"]) -> None:
    """H.264 with full colour resolution, 20 frames a second, one thread."""
    import imageio_ffmpeg

    height, width = frames.shape[1:3]
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(FRAMES_PER_SECOND), "-i", "-"]
    target = ["-c:v", "libx264", "-preset", "fast", "-crf", QUALITY, "-pix_fmt", "yuv444p", "-threads", "1"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *source, *target, str(path)]
    done = subprocess.run(command, input=np.ascontiguousarray(frames).tobytes(), capture_output=True, check=False)
    if done.returncode:
        raise OSError(f"ffmpeg could not write {path}: {done.stderr.decode(errors='replace').strip()}")


def read_video(path: str | os.PathLike) -> UInt8[np.ndarray, "t h w 3"]:
    """All frames of a video, RGB.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it cannot be decoded.
    """
    import cv2

    if not Path(path).exists():
        raise FileNotFoundError(f"no video at {path}")
    video = cv2.VideoCapture(str(path))
    frames = []
    while (read := video.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    video.release()
    if not frames:
        raise ValueError(f"{path} must be a video, and no frame of it could be decoded; delete it and record again")
    return np.stack(frames)


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
        found = json.loads(path.read_text(encoding="utf-8"))
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
