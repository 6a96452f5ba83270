"""The arm as a script sees it, and the closed-loop motions that scripts are made of."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from prophet_gym.embodiments._libero import GRIPPER, RADIANS_PER_ACTION
from prophet_gym.sims.simulator import Arm

OPEN, CLOSE = GRIPPER.open, GRIPPER.closed
HOME = np.array([-0.15, 0.0, 0.26])
"""Give the position of the grip at rest, metres: libero_object's scene, whose floor is at height 0."""
WORKSPACE_LOW = np.array([-0.28, -0.34, 0.015])
WORKSPACE_HIGH = np.array([0.22, 0.36, 0.42])


class Levelled:
    """Convert an arm's heights to those of libero_object's scene, so that scripts need no numbers for each table."""

    def __init__(self, arm: Arm):
        self.arm = arm
        # In steps of 10 cm, because the arm's rest is shaken by centimetres at every reset.
        self.shift = np.array([0.0, 0.0, np.round(10 * (HOME - arm.gripper_position())[2]) / 10])
        self.target_name, self.gripper_quaternion = arm.target_name, arm.gripper_quaternion

    def gripper_position(self) -> Float[np.ndarray, "3"]:
        """Return where the grip is in libero_object's world, metres."""
        return self.arm.gripper_position() + self.shift

    def object_positions(self) -> dict[str, Float[np.ndarray, "3"]]:
        """Return the positions of the objects in libero_object's world, metres."""
        return {name: place + self.shift for name, place in self.arm.object_positions().items()}


@dataclass(frozen=True)
class Style:
    """Describe how the hand moves: lengths in metres, `gain` in action units per metre of error, times in steps."""

    gain: float = 18.0
    speed: float = 1.0
    approach: float = 0.10
    cruise: float = 0.03
    release: float = 0.0
    jitter: float = 0.0
    via: float = 0.0
    pause: int = 0
    attempts: int = 3


def draw_style(rng: np.random.Generator) -> Style:
    """Draw a style: its speed, heights, detours and precision."""
    return Style(
        gain=rng.uniform(14.0, 22.0),
        speed=rng.choice([rng.uniform(0.5, 0.8), rng.uniform(0.8, 1.0)], p=[0.25, 0.75]),
        approach=rng.uniform(0.05, 0.14),
        cruise=rng.uniform(0.0, 0.08),
        release=rng.uniform(-0.05, 0.04),
        jitter=rng.uniform(0.0, 0.006),
        via=rng.choice([0.0, 0.0, 1.0]) * rng.uniform(0.05, 0.15),
        pause=int(rng.integers(0, 4)),
    )


class Hand:
    """Closed-loop motions of one arm; every motion is a generator of actions."""

    def __init__(self, arm: Arm, rng: np.random.Generator, style: Style):
        self.arm, self.rng, self.style = arm, rng, style
        self.grip, self.turn = OPEN, 0.0
        start = Rotation.from_quat(arm.gripper_quaternion())
        self.level = _shortest_turn(start.apply([0.0, 0.0, 1.0]), np.array([0.0, 0.0, -1.0])) * start

    @property
    def position(self) -> Float[np.ndarray, "3"]:
        """Return where the grip is, world metres."""
        return np.asarray(self.arm.gripper_position(), dtype=np.float64)

    def towards(self, goal: Float[np.ndarray, "3"], turn: float, speed: float) -> Float[np.ndarray, "7"]:
        """Return the action towards `goal` (metres) with the tool turned by `turn` (radians) about the vertical."""
        move = self.style.gain * (goal - self.position)
        move *= min(1.0, speed / max(np.abs(move).max(), 1e-9))
        wanted = Rotation.from_rotvec([0.0, 0.0, turn]) * self.level
        twist = (wanted * Rotation.from_quat(self.arm.gripper_quaternion()).inv()).as_rotvec()
        twist = np.clip(twist / RADIANS_PER_ACTION, -0.6 * speed, 0.6 * speed)
        return np.concatenate([move, twist, [self.grip]])

    def reach(
        self,
        goal: Float[np.ndarray, "3"],
        *,
        turn: float = 0.0,
        tolerance: float = 0.015,
        limit: int = 60,
        speed: float | None = None,
    ) -> Iterator[np.ndarray]:
        """Go to `goal` until within `tolerance` metres, or until `limit` steps have passed."""
        for _ in range(limit):
            if np.linalg.norm(goal - self.position) < tolerance:
                return
            yield self.towards(goal, turn, speed or self.style.speed)

    def hold(self, steps: int, *, turn: float = 0.0) -> Iterator[np.ndarray]:
        """Stay for `steps` steps with the gripper as it is."""
        yield from self.reach(self.position, turn=turn, tolerance=0.0, limit=steps)

    def squeeze(self, grip: float, steps: int, *, turn: float = 0.0) -> Iterator[np.ndarray]:
        """Open or close the gripper and wait `steps` steps for the fingers."""
        self.grip = grip
        yield from self.hold(steps, turn=turn)

    def object(self, name: str) -> Float[np.ndarray, "3"]:
        """Return where an object is, world metres."""
        return np.asarray(self.arm.object_positions()[name], dtype=np.float64)

    def holds(self, name: str) -> bool:
        """Tell whether the object is off the floor and at the fingers."""
        distance = np.linalg.norm(self.object(name) - self.position)
        return bool(distance < 0.09 and self.position[2] > 0.12)

    def around(self, point: Float[np.ndarray, "3"], spread: float) -> Float[np.ndarray, "3"]:
        """Move `point` by up to `spread` metres along each axis."""
        return point + self.rng.uniform(-spread, spread, 3)


def _shortest_turn(start: Float[np.ndarray, "3"], end: Float[np.ndarray, "3"]) -> Rotation:
    axis = np.cross(start, end)
    sine, cosine = float(np.linalg.norm(axis)), float(np.dot(start, end))
    return Rotation.from_rotvec(axis / max(sine, 1e-12) * np.arctan2(sine, cosine))
