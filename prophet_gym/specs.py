"""Frozen descriptions that all modules share: actions, cameras, initial states.

Axis legend, the same letters in every signature of both packages:

    b  batch elements (sub-environments)       t  frames over time
    k  steps of one action chunk               n  objects, or tokens where a docstring says so
    a  dimensions of one action                h w  height and width in pixels (or latents)
    c  channels                                d  width of a feature vector

Frames are uint8 `... h w 3`, RGB, upright. Actions are in the embodiment's own units.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, UInt8

Camera = Literal["agentview", "wrist"]
"""Name a camera: what all names below are taken from."""
FIRST_CAMERA, WRIST_CAMERA = get_args(Camera)
CAMERAS: Mapping[str, str] = {FIRST_CAMERA: "image", WRIST_CAMERA: "wrist_image"}
"""Names of cameras, and of the observations that show them. The first looks at the scene, and every world has it."""
STATE_NAMES = ("x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z", "finger_left", "finger_right")
"""Numbers of `observation["state"]`: metres, radians and metres, as LIBERO's policies read them."""


@dataclass(frozen=True)
class ActionSpec:
    """Describe one action of an embodiment, dimension by dimension.

    Attributes:
        names: What each dimension moves, e.g. `("x", "y", "z", "roll", "pitch", "yaw", "gripper")`.
        low: Lower bounds, finite.
        high: Upper bounds, finite.
        units: The unit of each dimension, e.g. `("m", "m", "m", "rad", "rad", "rad", "")`; empty where there are none.
    """

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    units: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names, low, high, units = map(len, (self.names, self.low, self.high, self.units))
        if units not in (0, names):
            raise ValueError(f"units must have one entry per action dimension or none, got {units} for {self.names}")
        if not names == low == high:
            wanted = "names, low and high must have one entry per action dimension"
            raise ValueError(f"{wanted}, got {names}, {low} and {high}")
        if not all(-np.inf < low < high < np.inf for low, high in self.bounds):
            raise ValueError(f"bounds must be finite with low < high, got {self.bounds}")

    @property
    def dim(self) -> int:
        """Return the number of dimensions of an action."""
        return len(self.names)

    @property
    def bounds(self) -> list[tuple[float, float]]:
        """Return (low, high) of each dimension."""
        return list(zip(self.low, self.high, strict=True))


@dataclass(frozen=True)
class CameraSpec:
    """Describe a fixed camera.

    Attributes:
        name: The camera's name in its simulator or dataset.
        matrix: World (homogeneous, metres) to the unit image: with `x, y, z = matrix @ (X, Y, Z, 1)`,
            `x / z` runs from 0 at the left edge to 1 at the right, `y / z` from 0 at the top to 1 at the
            bottom, and `z` is the depth in metres.
    """

    name: str
    matrix: Float[np.ndarray, "3 4"]


@dataclass(frozen=True)
class InitialState:
    """Describe where an episode starts: the images and the task.

    Attributes:
        frames: The last recorded frames (1 to 4), oldest first; the episode starts at the last one.
        instruction: The task in words.
        suite: The suite of tasks, e.g. `libero_object`.
        task: Number of the task in its suite.
        index: Number of the initial state in its task.
        split: `train` (random resets), `official` (evaluation and demo only) or a name of your own.
        extra: Further arrays by name, e.g. `gripper_position` (3,) in metres, or what a second camera sees at the last
            frame, `wrist_image` (1, h, w, 3), and the robot's `state` (8,).
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    instruction: str
    suite: str = ""
    task: int = 0
    index: int = 0
    split: str = "custom"
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)
