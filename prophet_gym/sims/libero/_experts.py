"""Scripted experts of LIBERO: top-down pick and place, and the ways in which it goes wrong.

A script is a generator: each `next` reads the simulator as it is now and yields one action, (7,) in [-1, 1].
All that varies between episodes comes from the generator `rng`, so an episode is a function of its seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from prophet_gym.sims.libero._hand import CLOSE, HOME, OPEN, WORKSPACE_HIGH, WORKSPACE_LOW, Hand, Levelled, draw_style
from prophet_gym.sims.simulator import Arm

Mode = Literal["expert", "noisy", "offset", "drop", "abort", "random", "explore", "slip"]
SCRIPT_VERSION = 3
"""Rises when the same seed gives another episode of libero_object; other suites have `planned`'s own."""
MODES: tuple[Mode, ...] = get_args(Mode)
MIXTURE: dict[Mode, float] = {
    "expert": 0.35,
    "noisy": 0.25,
    "offset": 0.15,
    "drop": 0.10,
    "abort": 0.08,
    "random": 0.07,
}
"""List the scripts of a recording of successes and failures; `slip` is in none, and recorded where it is asked for."""
EXPLORATION: dict[Mode, float] = {"explore": 0.75, "random": 0.25}
"""List those of suites whose tasks no script solves: the arm reaches for things, moves some, and wanders."""

CLEARANCE = 0.17
"""Height in metres which the lowest point of a carried object keeps over the floor: the basket's rim is at 0.146."""
PALM = 0.05
"""Metres from the grip up to the palm."""
HAND = 0.10
"""Half the width of the hand, metres; the fingers open along it, world y when the wrist is not turned."""
NOWHERE = np.zeros(3)


@dataclass(frozen=True)
class Grasp:
    """Describe a grasp: the grip is `height` over the object's centre, its lowest point `below` the grip, metres."""

    height: float
    below: float


GRASPS: dict[str, Grasp] = {
    "alphabet_soup": Grasp(0.010, 0.048),
    "bbq_sauce": Grasp(0.012, 0.067),
    "butter": Grasp(0.000, 0.009),
    "chocolate_pudding": Grasp(0.000, 0.013),
    "cream_cheese": Grasp(0.000, 0.009),
    "ketchup": Grasp(0.030, 0.102),
    "milk": Grasp(0.020, 0.090),
    "orange_juice": Grasp(0.020, 0.090),
    "salad_dressing": Grasp(0.030, 0.103),
    "tomato_sauce": Grasp(0.010, 0.048),
}


HANDY = Grasp(0.0, 0.03)
"""A guess for things whose grasp is not known."""


def grasp_of(name: str) -> Grasp:
    """Return the grasp of the object `name`, such as `milk_1`."""
    kind = name.rsplit("_", 1)[0]
    if kind not in GRASPS:
        raise ValueError(f"no grasp is known for {name!r}; the scripted experts hold {', '.join(sorted(GRASPS))}")
    return GRASPS[kind]


def clear_turn(hand: Hand, name: str, grasp: Grasp) -> float:
    """Return the smallest turn of the wrist, radians, at which the hand comes down beside the objects around."""
    places = hand.arm.object_positions()
    here, low = places[name], places[name][2] + grasp.height + PALM
    # An object's centre is half as high as its top.
    tall = [at[:2] - here[:2] for other, at in places.items() if other not in (name, "basket_1") and 2 * at[2] > low]

    def gap(turn: float) -> float:
        along = np.array([-np.sin(turn), np.cos(turn)])
        return min((float(np.linalg.norm(at - np.clip(at @ along, -HAND, HAND) * along)) for at in tall), default=1.0)

    options = (0.0, 0.25, -0.25, 0.5, -0.5)
    return next((turn for turn in options if gap(turn) > 0.07), max(options, key=gap))


def pick(
    hand: Hand, name: str, *, grasp: Grasp | None = None, shift: Float[np.ndarray, "3"] = NOWHERE, height: float = 0.0
) -> Iterator[np.ndarray]:
    """Go above the object, down, close, up; `shift` (metres) moves the grasp off it, `height` is added to the lift."""
    style, rng = hand.style, hand.rng
    grasp = grasp or grasp_of(name)
    turn = clear_turn(hand, name, grasp) + rng.normal(0.0, 10.0 * style.jitter)
    hand.grip = OPEN
    if style.via:
        yield from hand.reach(hand.around((hand.position + hand.object(name)) / 2 + [0, 0, 0.1], style.via))
    hand.turn = turn
    jitter = rng.uniform(-style.jitter, style.jitter, 3)
    above = hand.object(name) + shift + jitter + [0.0, 0.0, grasp.height + style.approach + grasp.below * 0.5]
    yield from hand.reach(above, turn=turn, tolerance=0.012)
    goal = hand.object(name) + shift + 0.7 * jitter + [0.0, 0.0, grasp.height]
    goal[2] = max(goal[2], WORKSPACE_LOW[2] - 0.006)
    yield from hand.reach(goal, turn=turn, tolerance=0.006, limit=25, speed=min(style.speed, 0.8))
    yield from hand.hold(style.pause, turn=turn)
    yield from hand.squeeze(CLOSE, int(rng.integers(6, 10)), turn=turn)
    up = np.array([*hand.position[:2], grasp.below + CLEARANCE + style.cruise + height])
    yield from hand.reach(hand.around(up, 0.01), turn=turn, tolerance=0.03, limit=30)


def place(
    hand: Hand, name: str, spot: Float[np.ndarray, "2"], *, grasp: Grasp | None = None, rim: bool = True
) -> Iterator[np.ndarray]:
    """Carry what is held over `spot` (metres), lower, open, go up; `rim`: into the basket, else on the floor."""
    style, rng = hand.style, hand.rng
    grasp = grasp or grasp_of(name)
    turn = hand.turn
    cruise = grasp.below + CLEARANCE + style.cruise
    if style.via:
        middle = np.array([*(hand.position[:2] + spot) / 2, cruise + 0.03])
        yield from hand.reach(hand.around(middle, style.via * 0.5), turn=turn, tolerance=0.04)
    yield from hand.reach(np.array([*spot, cruise]), turn=turn, tolerance=0.02)
    low = max(0.13, grasp.below + 0.05) + style.release if rim else grasp.below + 0.01
    yield from hand.reach(np.array([*spot, max(low, 0.12 if rim else 0.02)]), turn=turn, tolerance=0.015, limit=25)
    yield from hand.hold(style.pause, turn=turn)
    yield from hand.squeeze(OPEN, int(rng.integers(5, 10)), turn=turn)
    yield from hand.reach(hand.around(np.array([*spot, cruise]), 0.03), tolerance=0.03, limit=25)


def basket_spot(hand: Hand) -> Float[np.ndarray, "2"]:
    """Draw a place in the basket, a little off its middle."""
    return hand.object("basket_1")[:2] + hand.rng.uniform(-0.025, 0.025, 2)


def pick_and_place(hand: Hand, name: str) -> Iterator[np.ndarray]:
    """Do the whole task, and try again when the object was not lifted."""
    for _ in range(hand.style.attempts):
        yield from pick(hand, name)
        if hand.holds(name):
            yield from place(hand, name, basket_spot(hand))
            return
        yield from hand.squeeze(OPEN, 2)


def slip(hand: Hand, name: str) -> Iterator[np.ndarray]:
    """Act as an expert up to somewhere on the way to the basket, where the hand opens: a bad habit."""
    yield from pick(hand, name)
    spot = basket_spot(hand)
    whole = np.linalg.norm(spot - hand.position[:2])
    left = hand.rng.uniform(0.2, 0.9) * whole
    for action in place(hand, name, spot):
        if np.linalg.norm(spot - hand.position[:2]) < left:
            break
        yield action
    yield from hand.squeeze(OPEN, int(hand.rng.integers(8, 13)))


def miss(hand: Hand, name: str) -> Iterator[np.ndarray]:
    """Grasp beside, over or at the edge of the object, then carry on as if nothing had happened, or try again."""
    rng = hand.rng
    angle = rng.uniform(-np.pi, np.pi)
    reach = rng.uniform(0.015, 0.07)
    offset = np.array([reach * np.cos(angle), reach * np.sin(angle), rng.choice([0.0, 0.0, 0.02, 0.05])])
    yield from pick(hand, name, shift=offset)
    kind = rng.choice(["carry", "again", "stay"], p=[0.5, 0.35, 0.15])
    if kind == "carry" or hand.holds(name):
        yield from place(hand, name, basket_spot(hand))
    elif kind == "again":
        yield from hand.squeeze(OPEN, 2)
        yield from pick_and_place(hand, name)


def drop(hand: Hand, name: str) -> Iterator[np.ndarray]:
    """Open the gripper somewhere between the object and the basket."""
    rng = hand.rng
    yield from pick(hand, name, height=rng.uniform(-0.12, 0.05))
    start, spot = hand.position, basket_spot(hand)
    share = rng.uniform(0.0, 0.8)
    end = np.array([*(start[:2] + share * (spot - start[:2])), start[2]])
    yield from hand.reach(hand.around(end, 0.04), turn=hand.turn, tolerance=0.03)
    yield from hand.squeeze(OPEN, int(rng.integers(3, 10)))
    kind = rng.choice(["carry", "again", "stay"], p=[0.4, 0.25, 0.35])
    if kind == "carry":
        yield from place(hand, name, spot)
    elif kind == "again":
        yield from pick_and_place(hand, name)


def abort(hand: Hand, name: str) -> Iterator[np.ndarray]:
    """Take another object, another place, or turn back on the way."""
    rng = hand.rng
    kind = rng.choice(["other", "elsewhere", "home"], p=[0.5, 0.3, 0.2])
    others = sorted(n for n in hand.arm.object_positions() if n not in (name, "basket_1"))
    if kind == "other":
        yield from pick_and_place(hand, str(rng.choice(others)))
    elif kind == "elsewhere":
        yield from pick(hand, name)
        yield from place(hand, name, rng.uniform(WORKSPACE_LOW[:2] * 0.8, [0.18, 0.12]), rim=False)
    else:
        yield from islice(pick_and_place(hand, name), int(rng.integers(10, 60)))
        yield from hand.squeeze(OPEN, 3)
        yield from hand.reach(HOME)


def explore(hand: Hand) -> Iterator[np.ndarray]:
    """Reach for one thing after the other, close the hand about there, and carry on, held or not."""
    rng = hand.rng
    while True:
        name = str(rng.choice(sorted(hand.arm.object_positions())))
        slip = rng.uniform(-0.02, 0.02, 3) + np.array([0.0, 0.0, rng.choice([0.0, 0.03])])
        yield from pick(hand, name, grasp=HANDY, shift=slip, height=rng.uniform(-0.1, 0.0))
        spot = rng.uniform(WORKSPACE_LOW[:2] * 0.8, [0.16, 0.25])
        yield from place(hand, name, spot, grasp=HANDY, rim=False)
        yield from wander(hand, int(rng.integers(0, 40)), grip_changes=0.1)


def wander(hand: Hand, steps: int, *, grip_changes: float = 0.35) -> Iterator[np.ndarray]:
    """Move at random over the whole workspace: way points, repeated actions, rests; `steps` actions in all."""
    rng, left = hand.rng, steps
    while left > 0:
        if rng.random() < grip_changes:
            hand.grip = -hand.grip
        kind = rng.choice(["goal", "held", "still"], p=[0.45, 0.45, 0.10])
        if kind == "goal":
            goal = rng.uniform(WORKSPACE_LOW, WORKSPACE_HIGH)
            speed, yaw = rng.uniform(0.3, 1.0), rng.uniform(-0.8, 0.8)
            segment = hand.reach(goal, turn=yaw, tolerance=0.03, limit=30, speed=speed)
        elif kind == "held":
            segment = _held_command(hand, int(rng.integers(4, 20)))
        else:
            segment = iter([np.array([0.0] * 6 + [hand.grip])] * int(rng.integers(3, 10)))
        for action in segment:
            yield action
            left -= 1
            if left <= 0:
                return


def _held_command(hand: Hand, steps: int) -> Iterator[np.ndarray]:
    rng = hand.rng
    move = rng.uniform(-1.0, 1.0, 3)
    if rng.random() < 0.5:
        move *= np.arange(3) == rng.integers(3)
    twist = rng.uniform(-0.5, 0.5, 3) * (np.arange(3) == rng.integers(3)) * (rng.random() < 0.3)
    for _ in range(steps):
        position = hand.position
        outward = ((position < WORKSPACE_LOW) & (move < 0)) | ((position > WORKSPACE_HIGH) & (move > 0))
        move = np.where(outward, -move, move)
        turned = (Rotation.from_quat(hand.arm.gripper_quaternion()) * hand.level.inv()).as_rotvec()
        twist = np.where((np.abs(turned) > 0.6) & (turned * twist > 0), -twist, twist)
        yield np.concatenate([move, twist, [hand.grip]])


def linger(hand: Hand) -> Iterator[np.ndarray]:
    """Act after a script is over: rest, go home or wander, without end."""
    kind = hand.rng.choice(["still", "home", "wander"], p=[0.3, 0.3, 0.4])
    if kind == "home":
        yield from hand.reach(hand.around(HOME, 0.05), tolerance=0.02)
    if kind == "wander":
        yield from wander(hand, 1000, grip_changes=0.15)
    while True:
        yield np.array([0.0] * 6 + [hand.grip])


def with_noise(actions: Iterator[np.ndarray], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Add noise of a drawn kind and size: white or Ornstein-Uhlenbeck, all along or in bursts, and finger slips."""
    size = rng.choice([0.1, 0.2, 0.35, 0.5]) * rng.uniform(0.5, 1.2) * np.array([1, 1, 1, 0.4, 0.4, 0.4])
    memory = rng.choice([0.0, 0.7, 0.9])
    burst = rng.random() < 0.4
    slip = rng.choice([0.0, 0.0, 0.02])
    noise, on, slipping = np.zeros(6), True, 0
    for action in actions:
        noise = memory * noise + np.sqrt(1 - memory**2) * size * rng.standard_normal(6)
        if burst and rng.random() < 0.08:
            on = not on
        slipping = slipping - 1 if slipping else int(rng.random() < slip) * int(rng.integers(2, 7))
        grip = -action[6] if slipping else action[6]
        yield np.concatenate([action[:6] + (noise if on else 0.0), [grip]])


def script(arm: Arm, rng: np.random.Generator, mode: Mode) -> tuple[Iterator, Iterator]:
    """Return the actions of a script, which ends, and those after it, endless but for `slip`.

    The arm has been reset, and is stepped with each action before the next is asked for.
    """
    if mode in EXPLORATION:
        arm = Levelled(arm)
    hand = Hand(arm, rng, draw_style(rng))
    name = arm.target_name
    if mode == "expert":
        return pick_and_place(hand, name), linger(hand)
    if mode == "noisy":
        hand.style = replace(hand.style, attempts=2)
        return with_noise(pick_and_place(hand, name), rng), linger(hand)
    if mode == "explore":
        return _maybe_noisy(explore(hand), rng, 0.5), linger(hand)
    if mode == "random":
        return _maybe_noisy(wander(hand, int(rng.integers(120, 201))), rng, 0.5), linger(hand)
    if mode == "slip":
        return slip(hand, name), iter(())
    failures = {"offset": miss, "drop": drop, "abort": abort}
    if mode not in failures:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
    return _maybe_noisy(failures[mode](hand, name), rng, 0.3), linger(hand)


def _maybe_noisy(actions: Iterator[np.ndarray], rng: np.random.Generator, probability: float) -> Iterator[np.ndarray]:
    return with_noise(actions, rng) if rng.random() < probability else actions
