"""Skills on what is fixed in a scene: open and close drawers and doors, turn knobs."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from prophet_gym.sims.libero._hand import CLOSE, OPEN
from prophet_gym.sims.libero.planned._skills import UP, front_of, retreat
from prophet_gym.sims.libero.planned._tool import LEVEL, Tool, across, leaning, turned

ENOUGH = 0.144
"""Metres that a drawer is opened: hardly more than LIBERO asks for (0.14), since an open drawer hangs over things."""
PULL = 0.172
"""Metres from the grasp to where the hand is sent; it stops when the drawer is open."""


def handle_of(tool: Tool, drawer: str) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """Return the middle of a drawer's handle and the direction in which the drawer opens."""
    _, axis, _ = tool.scene.joint(drawer)
    out = axis * tool.scene.opening(drawer)
    boxes = tool.scene.moving_boxes(drawer)
    bar = int(np.argmax(boxes.centre @ out))
    return boxes.centre[bar], out


def open_drawer(tool: Tool, drawer: str) -> Iterator[np.ndarray]:
    """Grasp the handle from the front, the hand leaning to the drawer, pull it out and let go."""
    scene, style = tool.scene, tool.style
    lean = 1.1
    for _ in range(style.attempts):
        shift, tool.shift = tool.shift, np.zeros(3)
        bar, out = handle_of(tool, drawer)
        facing = leaning(-out[:2], lean) * across(out[:2])
        pointing = facing.apply(-UP)
        yield from tool.squeeze(OPEN, 1)
        grip = bar + 0.006 * pointing + shift
        before = grip - pointing * (0.06 + 0.3 * style.approach)
        yield from tool.route(before + 0.06 * out, below=0.05, facing=facing)
        yield from tool.settle(before, tolerance=0.01)
        yield from tool.settle(grip, tolerance=0.006, limit=30)
        yield from tool.squeeze(CLOSE, int(tool.rng.integers(8, 12)))
        end = tool.position + PULL * out
        for _ in range(80):
            # The handle may slip out of a hand that pulls too fast.
            lost = np.linalg.norm(handle_of(tool, drawer)[0] - tool.position) > 0.05
            if lost or scene.joint(drawer)[0] * scene.opening(drawer) > ENOUGH:
                break
            yield tool.towards(end, 0.0, min(style.speed, 0.5))
        yield from tool.squeeze(OPEN, 6)
        yield from retreat(tool, back=-0.08 * pointing + 0.02 * out)
        if scene.holds(("open", drawer)):
            return


def close_drawer(tool: Tool, drawer: str) -> Iterator[np.ndarray]:
    """Push the handle with closed fingers, the hand leaning to the drawer, until it is closed."""
    shift, tool.shift = tool.shift, np.zeros(3)
    bar, out = handle_of(tool, drawer)
    facing = leaning(-out[:2], 0.9) * across(out[:2])
    pointing = facing.apply(-UP)
    yield from tool.squeeze(CLOSE, 1)
    start = bar + shift + 0.05 * out - 0.005 * pointing
    yield from tool.route(start + 0.05 * out, below=0.05, facing=facing)
    yield from tool.settle(start, tolerance=0.012)
    yield from _press(tool, drawer, lambda: handle_of(tool, drawer)[0] + shift * 0.5 - 0.06 * out)
    yield from retreat(tool, back=0.08 * out + 0.02 * UP)


def _press(tool: Tool, name: str, aim: Callable[[], Float[np.ndarray, "3"]]) -> Iterator[np.ndarray]:
    """Follow `aim` until `name` is closed, and a little longer."""
    for _ in range(100):
        if tool.scene.holds(("close", name)):
            break
        yield tool.towards(aim(), 0.0, min(tool.style.speed, 0.7))
    for _ in range(3):
        yield tool.towards(aim(), 0.0, 0.5)


def close_door(tool: Tool, door: str) -> Iterator[np.ndarray]:
    """Push a door shut: the closed fingers follow its outer face around the hinge."""
    scene = tool.scene
    shift, tool.shift = tool.shift, np.zeros(3)
    out = front_of(tool, door)
    boxes = scene.moving_boxes(door)
    panel = int(np.argmax(np.prod(boxes.half, axis=1)))
    width, thick = 2 * float(boxes.half[panel].max()), 2 * float(boxes.half[panel].min())
    top = float(boxes.centre[panel, 2] + boxes.extent[panel, 2])
    closed = Rotation.from_euler("z", np.pi / 2).apply([*out, 0.0])[:2]

    def at(angle: float, over: float) -> Float[np.ndarray, "3"]:
        """Return a point before the outer face at `angle` of the hinge, `over` metres off it."""
        _, _, hinge = scene.joint(door)
        spin = turned(angle)
        along, outer = spin.apply([*closed, 0.0]), spin.apply([*out, 0.0])
        point = hinge + (width - 0.045) * along + (thick + over) * outer
        return np.array([point[0], point[1], top - 0.03])

    yield from tool.squeeze(CLOSE, 1)
    angle = scene.joint(door)[0]
    start = at(angle, 0.07) + shift
    yield from tool.route(start, below=0.03, facing=LEVEL)
    yield from tool.settle(start, tolerance=0.02)
    # The microwave, the only one with a door, is closed at 0 and open at negative angles.
    yield from _press(tool, door, lambda: at(min(scene.joint(door)[0] + 0.25, 0.0), -0.035) + 0.5 * shift)
    yield from retreat(tool, back=np.array([*(0.06 * out), 0.03]))


def close(tool: Tool, name: str) -> Iterator[np.ndarray]:
    """Close a drawer or a door, and try again when it stays open."""
    for _ in range(tool.style.attempts):
        yield from (close_drawer if tool.scene.slides(name) else close_door)(tool, name)
        if tool.scene.holds(("close", name)):
            return


def turn_knob(tool: Tool, fixture: str) -> Iterator[np.ndarray]:
    """Hold the blade of a knob between the fingers and turn the wrist about its axis."""
    scene, style = tool.scene, tool.style
    for _ in range(style.attempts):
        shift, tool.shift = tool.shift, np.zeros(3)
        _, axis, anchor = scene.joint(fixture)
        boxes = scene.moving_boxes(fixture)
        top = float((boxes.centre[:, 2] + boxes.extent[:, 2]).max())
        blade = int(np.argmax(boxes.centre[:, 2] + boxes.extent[:, 2]))
        level = np.abs(boxes.rotation[blade, 2]) < 0.5
        thin = boxes.rotation[blade][:, int(np.argmin(np.where(level, boxes.half[blade], np.inf)))]
        start = np.array([*anchor[:2], top - 0.018]) + shift
        yield from tool.squeeze(OPEN, 1)
        facing = across(thin[:2])
        yield from tool.route(start + style.approach * UP, below=0.04, facing=facing)
        yield from tool.settle(start, tolerance=0.008)
        yield from tool.squeeze(CLOSE, 8)
        for twist in np.linspace(0.0, 1.1, 28):
            tool.facing = turned(float(np.sign(axis[2])) * twist) * facing
            yield tool.towards(start, 0.0, style.speed)
        for _ in range(12):
            if scene.joint(fixture)[0] > 0.7:
                break
            yield tool.towards(start, 0.0, style.speed)
        yield from tool.squeeze(OPEN, 6)
        yield from retreat(tool)
        tool.facing = LEVEL
        if scene.holds(("turnon", fixture)):
            return
