"""What a data set is to training: episodes of frames and commands, whoever recorded them and in whatever files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from prophet_gym.errors import UnknownOptionError
from prophet_gym.specs import require_images

ReadFrames = Callable[[int, int], UInt8[np.ndarray, "f h w 3"]]
"""`read(start, stop)` decodes the frames start .. stop - 1 of one episode, RGB."""
Orient = Callable[[UInt8[np.ndarray, "f h w 3"]], UInt8[np.ndarray, "f h w 3"]]
"""Turns stored pictures upright: `as_stored`, `rows_reversed`, `columns_reversed`."""


def as_stored(frames: UInt8[np.ndarray, "f h w 3"]) -> UInt8[np.ndarray, "f h w 3"]:
    """Leave pictures that are stored upright."""
    return frames


def rows_reversed(frames: UInt8[np.ndarray, "f h w 3"]) -> UInt8[np.ndarray, "f h w 3"]:
    """Turn pictures that are stored with the bottom row first, as OpenGL reads them."""
    return np.ascontiguousarray(frames[:, ::-1])


def columns_reversed(frames: UInt8[np.ndarray, "f h w 3"]) -> UInt8[np.ndarray, "f h w 3"]:
    """Unmirror pictures: OpenGL's, turned by 180 degrees, are upright with left and right exchanged."""
    return np.ascontiguousarray(frames[:, :, ::-1])


@dataclass(frozen=True)
class SourceEpisode:
    """One episode. Frame i was seen before action i, the last frame after the last action: t actions, t + 1 frames.

    Attributes:
        name: where it lies, for messages.
        actions: in the robot's own command units.
        instruction: the task in words.
        fps: frames, and actions, a second.
        robot: which embodiment it is.
        read: decodes some of its frames.
        tools: where the tools are at every frame: position (metres, in the frame of the camera's matrix), Euler angles
            x, y, z (radians, R = Rz Ry Rx) and openness (1 open .. 0 closed) of each; None where not known.
        camera: the matrix of what it shows (see `CameraSpec`); None where not known.
    """

    name: str
    actions: Float32[np.ndarray, "t a"]
    instruction: str
    fps: float
    robot: str
    read: ReadFrames
    tools: Float32[np.ndarray, "f arms 7"] | None = None
    camera: Float64[np.ndarray, "3 4"] | None = None

    def __post_init__(self) -> None:
        if not np.isfinite(self.actions).all():
            raise ValueError(f"the actions of {self.name} must be finite numbers; leave this episode out")
        if self.tools is None:
            return
        if len(self.tools) != len(self) + 1 or not np.isfinite(self.tools).all():
            raise ValueError(
                f"{self.name} must say in finite numbers where the tools are at each of its {len(self) + 1} frames, "
                f"says so {len(self.tools)} times; leave this episode out, or read it without its states"
            )

    def __len__(self) -> int:
        return len(self.actions)

    def frames(self, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
        """Decodes the frames start .. stop - 1.

        Raises:
            ValueError: when the episode has no such frames, or its pictures end earlier than its actions.
        """
        if not 0 <= start < stop <= len(self) + 1:
            raise ValueError(f"{self.name} has the frames 0..{len(self)}, asked for {start}..{stop - 1}")
        frames = require_images(f"the frames of {self.name}", self.read(start, stop))
        if len(frames) != stop - start:
            raise ValueError(
                f"{self.name} must hold a frame before each of its {len(self)} actions and one after them; "
                f"of the frames {start}..{stop - 1} only {len(frames)} are there; fetch or record it again"
            )
        return frames


@runtime_checkable
class EpisodeSource(Protocol):
    """A data set on disk. Opening one reads its index; `steps` costs nothing, `episode` reads actions, no pictures.

    A source holds plain data only, so that it can be sent to a worker process.
    """

    def __len__(self) -> int:
        """How many episodes there are."""
        ...

    def steps(self, index: int) -> int:
        """How many actions of episode `index` have both their frames."""
        ...

    def episode(self, index: int) -> SourceEpisode:
        """Episode `index`; its length is `steps(index)`."""
        ...


Name = TypeVar("Name", int, str)
"""What a data set calls an episode: a number, or a text."""


def choose(
    where: str, known: Sequence[Name], episodes: Sequence[Name] | None = None, without: Sequence[Name] = ()
) -> list[Name]:
    """Return the episodes to read of those that a data set has, in its own order.

    Args:
        where: the data set, for the message.
        known: all its episodes.
        episodes: only these; all if not given.
        without: but not these.

    Raises:
        UnknownOptionError: there is no such episode.

    Example:
        >>> choose("a set", [0, 1, 2, 3], without=[2])
        [0, 1, 3]
        >>> choose("a set", [0, 1, 2, 3], episodes=[4])
        Traceback (most recent call last):
        ...
        prophet_gym.errors.UnknownOptionError: a set has no episode 4; it has 4 episodes: 0 .. 3
    """
    asked, left_out = set(known if episodes is None else episodes), set(without)
    for name in (asked | left_out) - set(known):
        span = f": {known[0]} .. {known[-1]}" if known else ""
        raise UnknownOptionError(f"{where} has no episode {name}; it has {len(known)} episodes{span}")
    return [name for name in known if name in asked - left_out]
