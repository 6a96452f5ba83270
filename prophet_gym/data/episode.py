"""One recorded episode on disk: a video and an npz, written whole or not at all."""

import os
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8

from prophet_gym._io.files import read_npz
from prophet_gym.specs import require_images

FRAMES_PER_SECOND = 20
QUALITY = "10"
"""x264's constant rate factor: about 45 dB on these pictures."""
MAX_OPENING = 0.08
"""Distance of the fingers of an open Panda gripper, metres."""
MAX_BYTES = 2**28
"""The most that one episode's arrays may take in memory; they are a few hundred kilobytes."""


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
_ARRAYS: dict[str, tuple[str, str, tuple[str | int, ...]]] = {
    "actions": ("f", "real numbers", ("t", 7)),
    "gripper_position": ("f", "real numbers", ("f", 3)),
    "gripper_quaternion": ("f", "real numbers", ("f", 4)),
    "gripper_opening": ("f", "real numbers", ("f",)),
    "object_positions": ("f", "real numbers", ("f", "n", 3)),
    "object_names": ("U", "texts", ("n",)),
    "success": ("b", "true or false", ("f",)),
    "camera": ("f", "real numbers", (3, 4)),
    "init_state": ("f", "real numbers", ("s",)),
    **dict.fromkeys(("target", "instruction", "suite", "mode", "look"), ("U", "one text", ())),
    **dict.fromkeys(("task", "seed"), ("iu", "one whole number", ())),
}
"""What an episode's arrays must be: kinds of number, in words, and shape: t actions, f = t + 1 frames, n objects."""


def episode_path(folder: Path, task: int, index: int) -> Path:
    """Where episode `index` of `task` lies in a recording: the npz; the video is beside it."""
    return folder / f"task_{task:02d}" / f"episode_{index:05d}.npz"


def read_episode(path: str | os.PathLike) -> Episode:
    """Reads one episode; its frames are decoded when asked for.

    Args:
        path: the npz or the mp4 of the episode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or what it holds is no episode.
    """
    path = Path(path).with_suffix(".npz")
    values: dict[str, Any] = read_npz(path, _STORED, limit=MAX_BYTES)
    _require_episode(path, values)
    for name, (kind, _, axes) in _ARRAYS.items():
        if not axes:
            values[name] = str(values[name]) if kind == "U" else int(values[name])
    values["object_names"] = tuple(str(name) for name in values["object_names"])
    return Episode(**values, video=path.with_suffix(".mp4"))


def _require_episode(path: Path, values: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless these arrays are an episode: of its kinds and shapes, finite and within bounds."""
    steps = len(values["actions"]) if values["actions"].ndim else 0
    if not steps:
        raise ValueError(f"{path} must hold an episode of at least one action; delete it and its video")
    sizes: dict[str, int] = {"t": steps, "f": steps + 1}
    for name, (kinds, words, axes) in _ARRAYS.items():
        array = values[name]
        if array.ndim == len(axes):
            named = zip(axes, array.shape, strict=True)
            want = tuple(sizes.setdefault(axis, size) if isinstance(axis, str) else axis for axis, size in named)
        else:
            want = tuple(sizes.get(str(axis), axis) for axis in axes)
        # An empty list of names has numpy's default kind.
        if array.shape != want or (array.dtype.kind not in kinds and array.size):
            shape = f", shape ({', '.join(map(str, want))})" if want else ""
            raise ValueError(
                f"{name} of {path} must be {words}{shape}, is {array.dtype} {array.shape}; record the episode again"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} of {path} must be finite numbers; record the episode again")
    # The recorder writes what the controller did, which stops at its bounds.
    if np.abs(values["actions"]).max() > 1 + 1e-6:
        largest = float(np.abs(values["actions"]).max())
        raise ValueError(f"actions of {path} must lie within -1..1, one is {largest:g}; record the episode again")


def write_episode(path: str | os.PathLike, episode: Episode, frames: np.ndarray) -> None:
    """Writes `path` (npz) and its video; the npz appears last, so an episode that is listed is whole.

    Args:
        path: of the npz; see `episode_path`.
        episode: its numbers and words.
        frames: its t + 1 frames, uint8 `f h w 3`, RGB.

    Raises:
        ValueError: frames or arrays are not those of an episode of at least one action; nothing is written.
    """
    path = Path(path).with_suffix(".npz")
    require_images(f"frames for {path}", frames)
    if len(frames) != len(episode) + 1:
        raise ValueError(f"{len(episode)} actions need {len(episode) + 1} frames, got {len(frames)}")
    values: dict[str, Any] = {name: np.asarray(getattr(episode, name)) for name in _STORED}
    _require_episode(path, values)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f".{path.stem}-{uuid.uuid4().hex[:8]}"
    try:
        write_video(draft.with_suffix(".mp4"), frames)
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
