"""The hand with any orientation, and what it needs to know before it goes somewhere: ways to hold, and room."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from prophet_gym.embodiments._libero import RADIANS_PER_ACTION
from prophet_gym.sims.libero._experts import GRASPS
from prophet_gym.sims.libero._hand import Hand, Style
from prophet_gym.sims.libero.planned._scene import Boxes, Scene

LEVEL = Rotation.identity()
TIP = 0.012
"""Metres from the grip down to the fingertips."""
RIM = 0.022
"""Metres from the top of a rim down to the grip that holds it."""
INWARD = 0.018
"""Metres by which a rim may be off the middle between the fingers."""
LEAN_OUT = 0.55
"""Radians by which a hand leans out at most: at more it meets the table."""
PALM = 0.045
"""Metres from the grip up to the palm."""
RIMMED = ("akita_black_bowl", "porcelain_mug", "white_yellow_mug", "red_coffee_mug", "glazed_rim_porcelain_ramekin")
"""Kinds that are held by their rim."""
BARS = {
    "black_book": ((0.0, -0.012, 0.105), (1.0, 0.0, 0.0)),
    "cream_cheese": ((0.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "butter": ((0.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "chocolate_pudding": ((0.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "cookies": ((0.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
}
"""Kinds that are held across: the point between the fingers, and the axis along which they close, in its own frame."""
ALIGNED = ("black_book",)
"""Kinds that fit where they are wanted only along its long side."""
HANDLES = {"white_yellow_mug": ((0.064, 0.0, 0.07), (0.0, 1.0, 0.0))}
"""As BARS, for what must be held from the side."""
ROUND = {"wine_bottle": 0.115, "moka_pot": 0.075}
"""Kinds that are held around, and how high over their origin, metres; the others are those of GRASPS."""


@dataclass(frozen=True)
class Hold:
    """Describe a way to hold an object: where the grip is beside its origin, metres, and how the hand is turned."""

    grip: Float[np.ndarray, "3"]
    facing: Rotation


def turned(angle: float) -> Rotation:
    """Return a turn about the vertical, radians."""
    return Rotation.from_rotvec([0.0, 0.0, angle])


def across(axis: Float[np.ndarray, "2"]) -> Rotation:
    """Return the smaller turn of a level hand whose fingers open along `axis`."""
    # At rest they open along y.
    angle = np.arctan2(-axis[0], axis[1])
    return turned((angle + np.pi / 2 + 1e-6) % np.pi - np.pi / 2 - 1e-6)


def leaning(towards: Float[np.ndarray, "2"], angle: float) -> Rotation:
    """Return the lean of the hand by `angle` from pointing down to pointing along `towards`, a unit vector."""
    return Rotation.from_rotvec(angle * np.array([towards[1], -towards[0], 0.0]))


def holds_of(scene: Scene, name: str) -> list[Hold]:
    """Return the ways to hold an object, as it lies now."""
    kind, (place, rotation) = scene.kind(name), scene.pose(name)
    if kind in RIMMED:
        middle, radius, widening = scene.boxes(name).rim()
        # Along the wall, which widens upwards.
        along = float(np.clip(np.arctan(widening), 0.0, 0.25))
        # Or further in, where a wall stands close outside, or leaning out so far that the hand fits under a drawer.
        ways = [(along, 0.0), (along, INWARD), (LEAN_OUT, 0.0)]
        holds = []
        for azimuth in np.arange(16) * np.pi / 8:
            out = np.array([np.cos(azimuth), np.sin(azimuth)])
            for lean, inward in ways:
                grip = middle + np.array([*(radius - widening * RIM - inward) * out, -RIM])
                holds.append(Hold(grip - place, leaning(-out, lean) * across(out)))
        return holds
    if kind in BARS:
        point, axis = (rotation.apply(part) for part in BARS[kind])
        return [Hold(point, across(axis[:2]))]
    height = ROUND.get(kind, GRASPS[kind].height if kind in GRASPS else None)
    if height is None:
        raise ValueError(f"no way to hold {name!r} is known; the scripted experts hold {', '.join(known_kinds())}")
    return [Hold(np.array([0.0, 0.0, height]), turned(angle)) for angle in np.arange(-4, 5) * np.pi / 10]


def known_kinds() -> list[str]:
    """Return the kinds of objects that can be held."""
    return sorted({*RIMMED, *BARS, *ROUND, *GRASPS})


def _hand_points() -> Float[np.ndarray, "m 3"]:
    """Return points of palm and wrist around the grip: across, along which the fingers open, and up."""
    # As dense as the walls of drawers are thin.
    palm = [(x, y, z) for x in (-0.03, 0.0, 0.03) for y in np.linspace(-0.1, 0.1, 13) for z in (PALM, 0.08, 0.12)]
    wrist = [(x, y, z) for x in (-0.045, 0.045) for y in (-0.045, 0.045) for z in (0.16, 0.2)]
    return np.array(palm + wrist)


_POINTS = _hand_points()
OPENED = 0.08
"""Metres between the open fingers."""


def clearance(
    boxes: Boxes, grip: Float[np.ndarray, "3"], facing: Rotation, opening: float = OPENED
) -> Float[np.ndarray, " m"]:
    """Return the distances from points all over the hand at `grip` to the nearest box, metres."""
    sides = [side * (opening / 2 + thick) for side in (-1, 1) for thick in (0.002, 0.015)]
    fingers = np.array([(x, y, z) for x in (-0.01, 0.01) for y in sides for z in (-TIP, 0.02)])
    return boxes.distance(grip + facing.apply(np.concatenate([fingers, _POINTS])))


def room(boxes: Boxes, grip: Float[np.ndarray, "3"], facing: Rotation, opening: float = OPENED) -> float:
    """Return the distance from the hand at `grip` to the nearest box, metres; negative where they meet."""
    return float(clearance(boxes, grip, facing, opening).min())


class Tool(Hand):
    """Move the hand in a scene: with `facing`, its orientation is that turn from level, whatever `turn` says.

    `shift` (metres) moves what the next skill touches first: a miss.
    """

    def __init__(self, scene: Scene, rng: np.random.Generator, style: Style):
        super().__init__(scene, rng, style)
        self.scene = scene
        self.facing: Rotation | None = None
        self.shift = np.zeros(3)

    def towards(self, goal: Float[np.ndarray, "3"], turn: float, speed: float) -> Float[np.ndarray, "7"]:
        """Return the action towards `goal` (metres), in the orientation `facing`."""
        action = super().towards(goal, turn, speed)
        if self.facing is None:
            return action
        now = Rotation.from_quat(self.arm.gripper_quaternion())
        twist = (self.facing * self.level * now.inv()).as_rotvec()
        action[3:6] = np.clip(twist / RADIANS_PER_ACTION, -0.6 * speed, 0.6 * speed)
        return action

    def off(self) -> float:
        """Return the angle to the wanted orientation, radians."""
        now = Rotation.from_quat(self.arm.gripper_quaternion())
        return float(((self.facing or LEVEL) * self.level * now.inv()).magnitude())

    def settle(
        self, goal: Float[np.ndarray, "3"], *, tolerance: float, limit: int = 40, angle: float = 0.08
    ) -> Iterator[np.ndarray]:
        """Go to `goal` until position and orientation (`angle` in radians) are right, for `limit` steps at most."""
        for _ in range(limit):
            if np.linalg.norm(goal - self.position) < tolerance and self.off() < angle:
                return
            yield self.towards(goal, 0.0, self.style.speed)

    def route(
        self, goal: Float[np.ndarray, "3"], *, below: float, carried: Sequence[str] = (), facing: Rotation | None = None
    ) -> Iterator[np.ndarray]:
        """Go over all that stands between to above `goal`, `below` metres free under the grip, and end at that height.

        The hand turns on the way, once it is up.
        """
        obstacles = self.scene.others(*carried)
        yield from self.clear_overhead(obstacles)
        start = self.position
        spans = [self.scene.boxes(name).span() for name in carried]
        wide = max((float((high - low)[:2].max()) for low, high in spans), default=0.1)
        top = obstacles.top_near(start[:2], goal[:2], 0.03 + wide / 2)
        height = max(top + below + 0.03 + self.style.cruise * 0.5, goal[2])
        if np.linalg.norm(start[:2] - goal[:2]) > 0.03:
            yield from self.reach(np.array([*start[:2], max(height, start[2])]), tolerance=0.03, limit=40)
        self.facing = facing or self.facing
        if self.style.via and not carried:
            middle = np.array([*(start[:2] + goal[:2]) / 2, height + self.style.via * 0.5])
            yield from self.reach(middle, tolerance=0.04)
        yield from self.settle(np.array([*goal[:2], height]), tolerance=0.015, limit=80)

    def clear_overhead(self, obstacles: Boxes, *held: str) -> Iterator[np.ndarray]:
        """Move sideways from under what hangs over the hand or what it holds, by the shortest way."""
        here = self.position
        points = [here, *(self.scene.pose(name)[0] for name in held)]

        def covered(move: Float[np.ndarray, "3"], radius: float) -> bool:
            return any(len(obstacles.overhead(point + move, radius).centre) for point in points)

        if not covered(np.zeros(3), 0.06):
            return
        ways = [np.array([np.cos(angle), np.sin(angle), 0.0]) for angle in np.arange(16) * np.pi / 8]
        for far in np.arange(0.02, 0.3, 0.02):
            free = [way for way in ways if not covered(far * way, 0.07)]
            if free:
                yield from self.reach(here + far * free[0], tolerance=0.015, limit=40)
                return
