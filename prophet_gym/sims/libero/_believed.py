"""The arm as a script believes it to be where no simulator can be asked: in a dream, and for comparison in LIBERO.

A script is told where everything lies at the start. From there on it sees the gripper once per chunk, reckons its way
in between, and takes an object for held that lies where the fingers close, until an image says otherwise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from scipy.spatial.transform import Rotation

from prophet_gym.embodiments._libero import (
    CONTROL_HZ,
    FRACTION_REACHED,
    METRES_PER_ACTION,
    RADIANS_PER_ACTION,
    STIFFNESS,
)
from prophet_gym.sims.simulator import Arm

SEEN_WEIGHT = 0.5
"""Usual weight of the gripper that is seen against the one that is reckoned: a dream's tracker errs by about 1 cm."""
CLOSED_AFTER = 4
"""Actions in which open fingers close."""
WITHIN = np.array([0.035, 0.035, 0.06])
"""Limit the distance from the grip to the middle of an object that the fingers close on, metres."""
AWAY = 0.09
"""Distance from the grip to an object that is held no more, metres."""
ReadObject = Callable[[UInt8[np.ndarray, "h w 3"]], Float[np.ndarray, " 3"]]
"""Reads the target's position off an image, metres."""


@dataclass(frozen=True)
class Layout:
    """Hold where things are at the start of an episode: metres, and the hand's orientation as xyzw."""

    target: str
    gripper: Float[np.ndarray, " 3"]
    quaternion: Float[np.ndarray, " 4"]
    objects: Mapping[str, Float[np.ndarray, " 3"]]

    @classmethod
    def of(cls, arm: Arm) -> "Layout":
        """Return the layout of a simulator that has been reset."""
        objects = {name: np.array(place) for name, place in arm.object_positions().items()}
        return cls(arm.target_name, np.array(arm.gripper_position()), np.array(arm.gripper_quaternion()), objects)


class BelievedArm:
    """Give scripts an `Arm` that is told of actions and corrected by what is seen; with weight 0 it never looks."""

    def __init__(self, layout: Layout, seen_weight: float = SEEN_WEIGHT) -> None:
        self.target_name, self._layout, self._seen_weight = layout.target, layout, seen_weight
        self._position, self._velocity = layout.gripper.astype(np.float64), np.zeros(3)
        self._turn = Rotation.from_quat(layout.quaternion)
        self._objects = dict(layout.objects)
        self._closing, self._held, self._offset = 0, "", np.zeros(3)

    def gripper_position(self) -> Float[np.ndarray, " 3"]:
        """Return where the grip is believed to be, world metres."""
        return self._position.copy()

    def gripper_quaternion(self) -> Float[np.ndarray, " 4"]:
        """Return the believed orientation of the hand, xyzw; nothing that is seen corrects it."""
        return self._turn.as_quat()

    def object_positions(self) -> dict[str, Float[np.ndarray, " 3"]]:
        """Return the believed positions of the objects, metres, by name."""
        return dict(self._objects)

    def see(
        self, gripper: Float[np.ndarray, " 3"], image: UInt8[np.ndarray, "h w 3"], read: ReadObject | None = None
    ) -> None:
        """Take in what a chunk ends with: the gripper, and whether the target is still in the hand."""
        self._position += self._seen_weight * (gripper - self._position)
        if self._seen_weight and read is not None and self._held == self.target_name:
            found = read(image)
            if np.linalg.norm(found - self._position) > AWAY:
                self._let_go(found)

    def act(self, action: Float[np.ndarray, " 7"]) -> None:
        """Reckon what an action does: the controller is critically damped, its target ahead of where the arm is."""
        rate, time = STIFFNESS**0.5, 1 / CONTROL_HZ
        target = self._position + METRES_PER_ACTION * action[:3]
        off = self._position - target
        slope, decay = self._velocity + rate * off, np.exp(-rate * time)
        self._position = target + (off + slope * time) * decay
        self._velocity = (self._velocity - rate * slope * time) * decay
        self._turn = Rotation.from_rotvec(FRACTION_REACHED * RADIANS_PER_ACTION * action[3:6]) * self._turn
        self._closing = self._closing + 1 if action[6] > 0 else 0
        if self._closing == CLOSED_AFTER:
            self._grasp()
        elif self._held and not self._closing:
            self._let_go(self._objects[self._held])
        if self._held:
            self._objects[self._held] = self._position + self._offset

    def _grasp(self) -> None:
        offsets = {name: place - self._position for name, place in self._objects.items() if name != "basket_1"}
        inside = {name: offset for name, offset in offsets.items() if (np.abs(offset) < WITHIN).all()}
        if inside:
            self._held = min(inside, key=lambda name: float(np.linalg.norm(inside[name])))
            self._offset = inside[self._held]

    def _let_go(self, where: Float[np.ndarray, " 3"]) -> None:
        """Believe the object to have come to rest below a place."""
        self._objects[self._held] = np.array([*where[:2], self._layout.objects[self._held][2]])
        self._held = ""
