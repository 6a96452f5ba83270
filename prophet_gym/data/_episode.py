"""One episode of a robot: what it saw, what it did and, where a simulator recorded it, what was true."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Protocol, TypeVar, runtime_checkable
from zlib import crc32

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8

from prophet_gym._checks import require_images, require_known
from prophet_gym.errors import UnknownOptionError
from prophet_gym.specs import CAMERAS, FIRST_CAMERA

ReadFrames = Callable[[int, int], UInt8[np.ndarray, "f h w 3"]]
"""`read(start, stop)` decodes the frames start .. stop - 1 of one episode, RGB."""


@dataclass(frozen=True)
class Simulation:
    """Hold what a simulator knows of an episode of t actions and f = t + 1 frames, beside what a camera sees.

    Positions are the world's, in metres; quaternions are the hand's, xyzw; `gripper_opening` is the distance between
    the fingers in metres; `success` says whether the task's goal holds; `target` is the object or fixture that the task
    is about; `mode` is who acted (`expert`, `noisy`, `policy`); `seed` is that of the placement, or the index of the
    official initial state; `look` is how the simulator was drawn; `robot_state` has the numbers of `specs.STATE_NAMES`,
    None in a recording of one camera.
    """

    gripper_position: Float32[np.ndarray, "f 3"]
    gripper_quaternion: Float32[np.ndarray, "f 4"]
    gripper_opening: Float32[np.ndarray, " f"]
    object_positions: Float32[np.ndarray, "f n 3"]
    object_names: tuple[str, ...]
    target: str
    success: Bool[np.ndarray, " f"]
    init_state: Float64[np.ndarray, " s"]
    suite: str
    task: int
    mode: str
    seed: int
    look: str
    robot_state: Float32[np.ndarray, "f 8"] | None = None


@dataclass(frozen=True)
class Episode:
    """Hold one recorded episode of t actions and t + 1 frames; frame i was seen before action i.

    Attributes:
        name: Its path or name, for messages.
        actions: The actions, in the robot's own units.
        instruction: The task in words.
        fps: Number of frames, and of actions, per second.
        robot: Name of the embodiment.
        read: Decodes frames on request: `start, stop -> frames`.
        tools: Where the tools are at every frame: position (metres, in the frame of the camera's matrix), Euler angles
            x, y, z (radians, R = Rz Ry Rx) and openness (1 open .. 0 closed) of each; None if not known.
        camera: The matrix of its camera (see `CameraSpec`); None if not known.
        simulation: What a simulator recorded besides; None for an episode of another data set.
        read_wrist: Decodes the frames of a camera at the hand at the same moments; None where there was none.
        success: At which frames the data set, or the simulator that recorded it, calls the task done; None if neither
            says. It may be lost again, as where an object bounces off: `success.any()` tells whether it was ever done.

    Raises:
        ValueError: Actions or tools are not finite, or tools are missing for some frame.

    Example:
        >>> dark = lambda start, stop: np.zeros((stop - start, 48, 64, 3), np.uint8)
        >>> episode = Episode("dark", np.zeros((30, 7), np.float32), "wait", 20.0, "libero", dark)
        >>> len(episode), episode.frames().shape, episode.frames(4, 6).shape
        (30, (31, 48, 64, 3), (2, 48, 64, 3))
    """

    name: str
    actions: Float32[np.ndarray, "t a"]
    instruction: str
    fps: float
    robot: str
    read: ReadFrames
    tools: Float32[np.ndarray, "f arms 7"] | None = None
    camera: Float64[np.ndarray, "3 4"] | None = None
    simulation: Simulation | None = None
    read_wrist: ReadFrames | None = None
    success: Bool[np.ndarray, " f"] | None = None

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

    @property
    def cameras(self) -> tuple[str, ...]:
        """Return the cameras whose frames it has, names of `specs.CAMERAS`."""
        return (FIRST_CAMERA,) if self.read_wrist is None else tuple(CAMERAS)

    def frames(
        self, start: int = 0, stop: int | None = None, *, camera: str = FIRST_CAMERA
    ) -> UInt8[np.ndarray, "f h w 3"]:
        """Decode the frames start .. stop - 1, by default all, of a camera.

        ValueError where the episode or its video lacks some, UnknownOptionError where it has no such camera.
        """
        require_known(f"camera of {self.name}", camera, self.cameras)
        read = self.read if camera == FIRST_CAMERA or self.read_wrist is None else self.read_wrist
        stop = len(self) + 1 if stop is None else stop
        if not 0 <= start < stop <= len(self) + 1:
            raise ValueError(f"{self.name} has the frames 0..{len(self)}, asked for {start}..{stop - 1}")
        frames = require_images(f"the frames of {self.name}", read(start, stop))
        if len(frames) != stop - start:
            raise ValueError(
                f"{self.name} must hold a frame before each of its {len(self)} actions and one after them; "
                f"of the frames {start}..{stop - 1} only {len(frames)} are there; fetch or record it again"
            )
        return frames

    def cut(self, steps: int) -> "Episode":
        """Return its first so many actions, with their frames."""
        tools, simulation = None if self.tools is None else self.tools[: steps + 1], self.simulation
        if simulation is not None:
            per_frame = ["gripper_position", "gripper_quaternion", "gripper_opening", "object_positions", "success"]
            per_frame += [] if simulation.robot_state is None else ["robot_state"]
            simulation = replace(simulation, **{name: getattr(simulation, name)[: steps + 1] for name in per_frame})
        success = None if self.success is None else self.success[: steps + 1]
        return replace(self, actions=self.actions[:steps], tools=tools, simulation=simulation, success=success)

    @property
    def sim(self) -> Simulation:
        """Return what the simulator recorded; ValueError for an episode that comes from none."""
        if self.simulation is None:
            raise ValueError(
                f"{self.name} must say what a simulator knows of it (positions of objects, success), and does not; "
                "record episodes with `prophet collect`"
            )
        return self.simulation

    @property
    def done(self) -> Bool[np.ndarray, " f"]:
        """Return at which frames the task is done; ValueError where neither data set nor simulator says."""
        if self.success is not None:
            return self.success
        if self.simulation is None:
            raise ValueError(
                f"{self.name} must say when its task is done, and does not: a LeRobot data set says it in the feature "
                "next.success or is_episode_successful; without one, score dreams with reward='vlm:...'"
            )
        return self.simulation.success

    @property
    def gripper_position(self) -> Float[np.ndarray, "f 3"]:
        """Return the position of the first tool at every frame, metres; ValueError where it is not known."""
        if self.tools is None:
            raise ValueError(f"{self.name} must say where its tools are; name the states that hold them")
        return self.tools[:, 0, :3]

    @cached_property
    def target_positions(self) -> Float[np.ndarray, "f 3"] | None:
        """Return the path of the object that the task is about; None for a fixture, or where it is not known."""
        if self.simulation is None or self.simulation.target not in self.simulation.object_names:
            return None
        return self.simulation.object_positions[:, self.simulation.object_names.index(self.simulation.target)]


@dataclass(frozen=True)
class LabelledVideo:
    """Hold frames, real or dreamt, who acted, and at which frames the simulator calls the task done."""

    frames: UInt8[np.ndarray, "t h w 3"]
    success: Bool[np.ndarray, " _"]
    instruction: str
    task: int = 0
    policy: str = ""

    def __post_init__(self) -> None:
        if len(self.frames) != len(self.success):
            raise ValueError(f"each frame needs a label, got {len(self.frames)} frames, {len(self.success)} labels")


@runtime_checkable
class EpisodeSource(Protocol):
    """Read a data set on disk. Opening it reads the index; `steps` is free, `episode` reads actions but no images.

    A source holds plain data only, so that it can be sent to a worker process.
    """

    def __len__(self) -> int:
        """Return how many episodes there are."""
        ...

    def steps(self, index: int) -> int:
        """Return how many actions of episode `index` have both their frames."""
        ...

    def episode(self, index: int) -> Episode:
        """Return episode `index`, whose length is `steps(index)`."""
        ...


class ByRows:
    """Count episodes of rows, each an observation and the action after it: the last action's outcome is not there."""

    rows: list[int]

    def __len__(self) -> int:
        return len(self.rows)

    def steps(self, index: int) -> int:
        """Return the number of actions of episode `index` with a frame before and after."""
        return max(self.rows[index] - 1, 0)


@runtime_checkable
class SeveralCameras(EpisodeSource, Protocol):
    """Read a data set whose episodes were seen by several cameras, one of them at a time."""

    @property
    def views(self) -> tuple[str, ...]:
        """Return the names of the cameras."""
        ...

    def looking_through(self, camera: str) -> EpisodeSource:
        """Return the same episodes with the frames of another camera."""
        ...


def held_out(name: str, share: float | int) -> bool:
    """Decide whether an episode (`recording.name_of`) is kept from training; `share` in 0..1 is the fraction that is.

    The checksum of the name alone decides: a growing recording keeps its held-out episodes, and an episode and its
    dream, which have one name, fall on the same side. `held_out(name, share / 2)` implies `held_out(name, share)`.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the held-out share must be in 0..1, got {share}")
    # A float such as 0.05 is not exactly 1/20; the nearest small fraction is what was meant.
    fraction = Fraction(share).limit_denominator(10**6)
    return crc32(name.encode()) % fraction.denominator < fraction.numerator


_Name = TypeVar("_Name", int, str)
"""Name an episode as its data set does: a number, or a text."""


def _choose(
    where: str, known: Sequence[_Name], episodes: Sequence[_Name] | None = None, without: Sequence[_Name] = ()
) -> list[_Name]:
    """Return the episodes to read of those that a data set has, in its own order: all or `episodes`, `without` some."""
    asked, left_out = set(known if episodes is None else episodes), set(without)
    for name in (asked | left_out) - set(known):
        span = f": {known[0]} .. {known[-1]}" if known else ""
        raise UnknownOptionError(f"{where} has no episode {name}; it has {len(known)} episodes{span}")
    return [name for name in known if name in asked - left_out]
