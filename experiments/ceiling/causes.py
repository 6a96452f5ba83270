"""Say why an episode failed, from facts of the simulator: pure functions of where hand and objects were."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

LIFTED = 0.03
"""Metres above where it lay from which an object counts as lifted."""
NEAR = 0.02
"""Metres that a grasp may be off, in the image plane and along the view each: half the fingers' way is 0.04."""
REACHED = 0.10
"""Metres from the place of the grasp within which a closing hand was meant for the object, or holds it."""
LATER = 20
"""Actions after a loss (one second) at which the image is asked whether it shows the loss."""
SHOWN = 2.0
"""Pixels of the policy's image from which an offset can be seen in it."""
PIXELS = 96
"""Height and width of the policy's image."""

CAUSES = {
    "missed along the view": "hand closed near the object, off by less than NEAR in the image plane, by more in depth",
    "missed across the view": "hand closed near the object, off by more than NEAR in the image plane",
    "closed on it, not lifted": "hand closed within NEAR of the object in both, which was never lifted",
    "slipped": "object lifted, then lost from a hand that was told to stay closed",
    "let go": "object lifted, then lost from a hand that was told to open",
    "wrong object": "another object lifted, this one never",
    "timeout before a grasp": "hand never closed within REACHED of the object",
    "timeout while carrying": "object still lifted at the end",
}
"""What each cause means; an episode has the last loss, or else the nearest of its grasps, as its cause."""


@dataclass(frozen=True)
class Facts:
    """Hold what happened in an episode of n actions, in metres; index 0 is before the first one.

    Attributes:
        gripper: Where the grip was.
        closing: Whether the hand was told to be closed on the way there.
        objects: Where each movable object was, by name; the basket is none of them.
        target: The name of the object to be moved.
        above: How far over the object's centre it is to be gripped.
        camera: Maps a world point (x, y, z, 1) to (u z, v z, z), image coordinates 0..1.
        eye: Where the camera is.
    """

    gripper: Float[np.ndarray, "t 3"]
    closing: Bool[np.ndarray, " t"]
    objects: Mapping[str, Float[np.ndarray, "t 3"]]
    target: str
    above: float
    camera: Float[np.ndarray, "3 4"]
    eye: Float[np.ndarray, " 3"]


@dataclass(frozen=True)
class Cause:
    """Say why an episode failed.

    Attributes:
        name: One of `CAUSES`.
        step: Actions before the moment that decided it.
        seen: Actions before the moment at which the image is asked.
        along: How far the hand was off along the camera's view at the decisive moment, metres; positive is beyond.
        across: How far in the image plane, metres.
        pixels: How far what tells the failure apart is in the policy's image, pixels.
    """

    name: str
    step: int
    seen: int
    along: float
    across: float
    pixels: float

    def plain(self) -> dict[str, Any]:
        """Return it as the report has it, lengths in millimetres."""
        lengths = {"along_mm": round(1000 * self.along, 1), "across_mm": round(1000 * self.across, 1)}
        return {"cause": self.name, "step": self.step, "seen": self.seen} | lengths | {"pixels": round(self.pixels, 1)}


def cause_of(facts: Facts) -> Cause:
    """Return why an episode that did not succeed failed."""
    place = facts.objects[facts.target]
    goal = place + np.array([0.0, 0.0, facts.above])
    off, last = np.linalg.norm(facts.gripper - goal, axis=1), len(place) - 1
    # What lies on the basket's rim is lifted too, by nobody.
    if (held := lifted(place) & (off <= REACHED)).any():
        step = int(np.flatnonzero(held)[-1])
        name = "timeout while carrying" if step == last else "slipped" if facts.closing[step] else "let go"
        return described(facts, name, step, min(step + LATER, last), facts.gripper, place)
    if wrong := [name for name, where in facts.objects.items() if name != facts.target and lifted(where).any()]:
        step = int(np.flatnonzero(lifted(facts.objects[wrong[0]]))[0])
        return described(facts, "wrong object", step, step, facts.objects[wrong[0]], place)
    closed = np.flatnonzero(facts.closing[1:] & ~facts.closing[:-1]) + 1
    tried = [int(step) for step in closed if off[step] <= REACHED]
    if not tried:
        step = int(off.argmin())
        return described(facts, "timeout before a grasp", step, step, facts.gripper, goal)
    step = min(tried, key=lambda each: off[each])
    along, across = split(facts, step)
    name = "closed on it, not lifted" if abs(along) < NEAR else "missed along the view"
    return described(facts, name if across < NEAR else "missed across the view", step, step, facts.gripper, goal)


def lifted(places: Float[np.ndarray, "t 3"]) -> Bool[np.ndarray, " t"]:
    """Tell when an object was lifted."""
    return places[:, 2] > places[0, 2] + LIFTED


def split(facts: Facts, step: int) -> tuple[float, float]:
    """Return how far the grip is from where it should grasp: along the camera's view, and across it, metres."""
    goal = facts.objects[facts.target][step] + np.array([0.0, 0.0, facts.above])
    view = (goal - facts.eye) / np.linalg.norm(goal - facts.eye)
    error = facts.gripper[step] - goal
    along = float(error @ view)
    return along, float(np.linalg.norm(error - along * view))


def described(
    facts: Facts, name: str, step: int, seen: int, one: Float[np.ndarray, "t 3"], other: Float[np.ndarray, "t 3"]
) -> Cause:
    """Return a cause whose failure shows in the distance of two points at the moment `seen`."""
    distance = np.linalg.norm(in_image(facts.camera, one[seen]) - in_image(facts.camera, other[seen]))
    return Cause(name, step, seen, *split(facts, step), float(PIXELS * distance))


def in_image(camera: Float[np.ndarray, "3 4"], point: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 2"]:
    """Return where the camera sees a point, 0..1 across and down."""
    seen = camera @ np.append(point, 1.0)
    return seen[:2] / seen[2]
