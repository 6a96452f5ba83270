"""Skills on privileged state: pick and put, push, open and close, turn. Each reads the scene, none writes into it."""

from collections.abc import Generator, Iterator

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from prophet_gym.sims.libero._hand import CLOSE, OPEN, WORKSPACE_HIGH, WORKSPACE_LOW
from prophet_gym.sims.libero.planned._tool import (
    ALIGNED,
    HANDLES,
    LEVEL,
    OPENED,
    TIP,
    Hold,
    Tool,
    across,
    clearance,
    holds_of,
    leaning,
    room,
    turned,
)

UP = np.array([0.0, 0.0, 1.0])
LIFTED = 0.015
"""Metres by which an object must rise to count as held."""
LEAN = 0.45
"""Radians by which something leans that is set down on a slope."""


def wait(tool: Tool, steps: int = 40) -> Iterator[np.ndarray]:
    """Wait until all objects lie still: some scenes drop theirs from a height at reset."""
    for _ in range(steps):
        if tool.scene.speed() < 0.05:
            return
        yield from tool.hold(1)


def retreat(tool: Tool, height: float = 0.1, back: Float[np.ndarray, "3"] | None = None) -> Iterator[np.ndarray]:
    """Leave what was touched: straight up, or along `back`."""
    way = np.array([0.0, 0.0, height]) if back is None else back
    yield from tool.reach(tool.position + way, tolerance=0.03, limit=20)


def lowest(tool: Tool, name: str) -> float:
    """Return the height of an object's lowest point, metres."""
    boxes = tool.scene.boxes(name)
    return float((boxes.centre[:, 2] - boxes.extent[:, 2]).min())


def surface(tool: Tool, spot: Float[np.ndarray, "2"], *ignored: str) -> float:
    """Return the height of what lies under a spot, seen from above."""
    boxes = tool.scene.others(*ignored)
    heights = np.arange(0.5, -0.03, -0.004)
    points = np.column_stack([np.tile(spot, (len(heights), 1)), heights])
    hit = boxes.distance(points) < 0.0
    return float(heights[np.argmax(hit)]) if hit.any() else 0.0


def pick(tool: Tool, name: str, hold: Hold) -> Generator[np.ndarray, None, bool]:
    """Go above the object, down, close, up; return whether it came along."""
    style, rng, scene = tool.style, tool.rng, tool.scene
    shift, tool.shift = tool.shift + rng.uniform(-style.jitter, style.jitter, 3) * 0.5, np.zeros(3)
    yield from tool.squeeze(OPEN, 1)
    above = scene.pose(name)[0] + hold.grip + shift + style.approach * UP
    yield from tool.route(above, below=0.03, facing=hold.facing)
    yield from tool.settle(scene.pose(name)[0] + hold.grip + shift + style.approach * UP, tolerance=0.008, limit=25)
    goal = scene.pose(name)[0] + hold.grip + shift
    goal[2] = max(goal[2], lowest(tool, name) + TIP - 0.003)
    yield from tool.reach(goal, tolerance=0.004, limit=30, speed=min(style.speed, 0.8))
    yield from tool.hold(style.pause)
    yield from tool.squeeze(CLOSE, int(rng.integers(7, 11)))
    before = scene.pose(name)[0][2]
    yield from tool.clear_overhead(scene.others(name), name)
    yield from tool.reach(tool.position + 0.07 * UP, tolerance=0.02, limit=20)
    return bool(scene.pose(name)[0][2] > before + LIFTED)


def within_reach(tool: Tool, name: str) -> bool:
    """Tell whether an object is over the table still: LIBERO's resets throw some off it."""
    place = tool.scene.pose(name)[0]
    low, high = WORKSPACE_LOW - np.array([0.3, 0.12, 0.1]), WORKSPACE_HIGH + np.array([0.12, 0.1, 0.1])
    return bool(((low < place) & (place < high)).all())


def spot_in(tool: Tool, name: str, place: str) -> Float[np.ndarray, "2"]:
    """Choose where in `place` an object is put: near its middle, clear of what is there already."""
    scene = tool.scene
    middle = scene.pose(place)[0][:2]
    if not scene.is_region(place):
        return middle
    half, boxes = scene.half(place)[:2], scene.boxes(name)
    width = np.subtract(*boxes.span()[::-1])[:2]
    sharing = [fact[1] for fact in scene.goal if fact[0] in ("on", "in") and fact[2] == place]
    if name in sharing and len(sharing) > 1:
        # Each has its own part of the place, side by side where they are narrow.
        axis, number = int(np.argmin(width)), sharing.index(name)
        apart = min(width[axis] + 0.015, 2 * (half[axis] - 0.03) / (len(sharing) - 1))
        return middle + np.eye(2)[axis] * (number - (len(sharing) - 1) / 2) * apart
    parent = scene.parent(place)
    if parent in scene.movable():
        return middle + tool.rng.uniform(-0.015, 0.015, 2)
    others = scene.boxes(*[each for each in scene.movable() if each not in (name, parent)])
    grid = np.stack(np.meshgrid(*[np.linspace(-0.6, 0.6, 7)] * 2), axis=-1).reshape(-1, 2) * half
    away = np.abs(middle + grid[:, None] - others.centre[None, :, :2]) - others.extent[None, :, :2]
    clear = np.linalg.norm(np.maximum(away, 0.0), axis=-1).min(axis=1, initial=np.inf)
    cost = np.linalg.norm(grid, axis=1) + 10.0 * np.maximum(float(width.max()) / 2 + 0.01 - clear, 0.0)
    return middle + grid[np.argmin(cost)]


def aligning(tool: Tool, name: str, place: str) -> float:
    """Return the smaller turn, radians, that lays the long side of an object along that of the region."""
    if tool.scene.kind(name) not in ALIGNED:
        return 0.0
    axis = tool.scene.pose(name)[1].apply([0.0, 1.0, 0.0])
    half = tool.scene.half(place)
    wanted = 0.0 if half[0] > half[1] else np.pi / 2
    return float((wanted - np.arctan2(axis[1], axis[0]) + np.pi / 2) % np.pi - np.pi / 2)


def best_hold(tool: Tool, name: str, move: Float[np.ndarray, "3"], turn: float, tried: int) -> Hold:
    """Return the way to hold that leaves the hand most room, here and after `move`; every try takes the next best."""
    scene = tool.scene
    here, others = scene.pose(name)[0], scene.others(name).near(scene.pose(name)[0], move)
    there = here + move

    def score(hold: Hold) -> float:
        # It comes down from above, past what may hang over the object's side.
        ups = np.arange(0.0, 0.21, 0.03)
        down = np.array([clearance(others, here + hold.grip + up * UP, hold.facing) for up in ups])
        # Walls are thin: how much of the hand is at one says more than how deep it is in it.
        touching = 0.003 * float((down < 0.004).sum())
        left = room(others, there + turned(turn).apply(hold.grip), turned(turn) * hold.facing)
        # Far turns of the wrist cost time and may end at its limit.
        effort = max(hold.facing.magnitude(), (turned(turn) * hold.facing).magnitude())
        # Where it is set down the hand may stay higher.
        return 2.0 * min(float(down.min()), 0.02) + min(left, 0.02) - 0.012 * effort - touching

    ranked = sorted(holds_of(scene, name), key=score, reverse=True)
    return ranked[tried % min(3, len(ranked))]


def put(tool: Tool, name: str, place: str) -> Iterator[np.ndarray]:
    """Pick an object up and put it onto or into a place, from above, or from the front where there is a roof."""
    if roofed(tool, place):
        yield from insert(tool, name, place)
        return
    for tried in range(tool.style.attempts):
        if not within_reach(tool, name):
            yield from tool.hold(20)
            return
        spot = spot_in(tool, name, place)
        under = lowest(tool, name)
        floor = surface(tool, spot, name)
        turn = aligning(tool, name, place)
        here = tool.scene.pose(name)[0]
        if tool.scene.kind(name) in ALIGNED:
            # Its origin is not its middle, and there is little room.
            low, high = tool.scene.boxes(name).span()
            spot = spot - turned(turn).apply((low + high) / 2 - here)[:2]
        move = np.array([*(spot - here[:2]), floor - under])
        hold = best_hold(tool, name, move, turn, tried)
        if (yield from pick(tool, name, hold)):
            yield from carry(tool, name, np.array([*spot, floor]), turn)
            return
        yield from tool.squeeze(OPEN, 3)
        yield from retreat(tool)


def slope(tool: Tool, spot: Float[np.ndarray, "2"], *ignored: str) -> Rotation:
    """Return how a hand leans to set something down on a slope: what it holds leans uphill and comes to lie there."""
    reach = 0.02 * np.eye(2)
    ends = [[surface(tool, spot + side * way, *ignored) for side in (1, -1)] for way in reach]
    down = np.array([low - high for high, low in ends]) / 0.04
    steep = float(np.linalg.norm(down))
    return leaning(down / steep, LEAN) if 0.25 < steep < 1.5 else LEVEL


def carry(tool: Tool, name: str, spot: Float[np.ndarray, "3"], turn: float = 0.0) -> Iterator[np.ndarray]:
    """Bring what is held over `spot`, lower it until its lowest point is there, open, go up."""
    style, scene = tool.style, tool.scene
    lean = slope(tool, spot[:2], name)
    change = lean * turned(turn)
    facing = change * (tool.facing or LEVEL)
    beside = change.apply(tool.position - scene.pose(name)[0])
    below = tool.position[2] - lowest(tool, name)
    yield from tool.route(np.array([*(spot[:2] + beside[:2]), 0.0]), below=below, carried=(name,), facing=facing)
    # It may have turned or slid in the hand.
    beside = tool.position - scene.pose(name)[0]
    below = tool.position[2] - lowest(tool, name)
    gap = 0.016 if scene.kind(name) in ALIGNED else 0.006 + max(style.release, 0.0) * 0.2
    goal = np.array([*(spot[:2] + beside[:2]), spot[2] + below + gap])
    # What leans touches the slope uphill of its middle.
    goal[:2] += 0.015 * lean.apply(-UP)[:2] / np.sin(LEAN)
    others = scene.others(name).near(goal, np.zeros(3))
    openings = np.linspace(scene.sim.gripper_opening(), OPENED, 4)
    # Into a basket or between walls the hand itself does not fit: what it holds falls the rest.
    while min(room(others, goal, facing, each) for each in openings) < 0.002 and goal[2] < spot[2] + below + 0.12:
        goal[2] += 0.005
    if scene.kind(name) in ALIGNED:
        yield from tool.settle(goal + 0.11 * UP, tolerance=0.003, limit=40, angle=0.02)
    else:
        yield from tool.reach(goal + 0.04 * UP, tolerance=0.01, limit=30)
    yield from tool.reach(goal, tolerance=0.008, limit=30, speed=min(style.speed, 0.6))
    yield from tool.hold(style.pause)
    if scene.kind(name) in ALIGNED and all(scene.holds(fact) for fact in scene.goal):
        # LIBERO's region begins a few millimetres over the floor on which the book stands once it is let go.
        return
    yield from tool.squeeze(OPEN, int(tool.rng.integers(5, 9)))
    yield from retreat(tool, 0.1, -0.1 * facing.apply(-UP))
    tool.facing = LEVEL


def roofed(tool: Tool, place: str) -> bool:
    """Tell whether something is over a region: then it has to be reached from the front."""
    scene = tool.scene
    if not scene.is_region(place) or scene.parent(place) in (None, *scene.movable()):
        return False
    middle, half = scene.pose(place)[0], scene.half(place)
    return bool(half[2] > 0.02 and surface(tool, middle[:2], *scene.movable()) > middle[2] + 0.5 * half[2])


def front_of(tool: Tool, fixture: str) -> Float[np.ndarray, "2"]:
    """Return the direction out of the front of a fixture, seen from above: its own -y."""
    out = tool.scene.pose(fixture)[1].apply([0.0, -1.0, 0.0])[:2]
    return out / np.linalg.norm(out)


def insert(tool: Tool, name: str, place: str) -> Iterator[np.ndarray]:
    """Hold an object by its handle and set it just inside the front of a region; what closes pushes it in."""
    scene = tool.scene
    out = front_of(tool, str(scene.parent(place)))
    middle, half = scene.pose(place)[0], scene.half(place)
    for _ in range(tool.style.attempts):
        _, rotation = scene.pose(name)
        point, axis = (rotation.apply(part) for part in HANDLES[scene.kind(name)])
        if not (yield from pick(tool, name, Hold(point, across(axis[:2])))):
            yield from tool.squeeze(OPEN, 3)
            yield from retreat(tool)
            continue
        below = tool.position[2] - lowest(tool, name)
        floor = middle[2] - half[2] + 0.012
        # The hand stays out of the opening.
        front = middle[:2] + out * (half[1] + 0.052)
        yield from tool.route(np.array([*(front + 0.12 * out), floor + below + 0.012]), below=below, carried=(name,))
        yield from tool.reach(np.array([*(front + 0.10 * out), floor + below + 0.012]), tolerance=0.01)
        yield from tool.reach(np.array([*front, floor + below + 0.008]), tolerance=0.008, speed=0.5)
        yield from tool.squeeze(OPEN, 8)
        yield from retreat(tool, back=np.array([*(0.03 * out), 0.0]))
        yield from retreat(tool, 0.1)
        return


def push(tool: Tool, name: str, place: str) -> Iterator[np.ndarray]:
    """Slide a flat object over the table: closed fingers press on it, ahead of its middle, so that it follows."""
    scene, style = tool.scene, tool.style
    for _ in range(style.attempts):
        shift, tool.shift = tool.shift, np.zeros(3)
        goal, at = scene.pose(place)[0][:2], scene.pose(name)[0]
        way = (goal - at[:2]) / np.linalg.norm(goal - at[:2])
        yield from tool.squeeze(CLOSE, 1)
        touch = np.array([*(at[:2] + 0.015 * way), lowest(tool, name) + 0.01]) + shift
        yield from tool.route(touch + style.approach * UP, below=0.03, facing=across(np.array([-way[1], way[0]])))
        yield from tool.reach(touch, tolerance=0.012, limit=25, speed=0.5)
        for _ in range(100):
            at = scene.pose(name)[0]
            left = goal - at[:2]
            far = float(np.linalg.norm(left))
            lost = np.linalg.norm(at[:2] - tool.position[:2]) > 0.06
            if lost or far < 0.012:
                break
            ahead = tool.position[:2] + left / far * min(far + 0.01, 0.03)
            yield tool.towards(np.array([*ahead, touch[2]]), 0.0, min(style.speed, 0.6))
        yield from retreat(tool, 0.1)
        if scene.holds(("on", name, place)):
            return
