"""Scripts of all four suites: the plan of a task's goal carried out, and the ways in which that goes wrong."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice

import numpy as np

from prophet_gym.sims.libero._experts import Mode, linger, with_noise
from prophet_gym.sims.libero._hand import CLOSE, HOME, OPEN, WORKSPACE_LOW, draw_style
from prophet_gym.sims.libero.planned._fixtures import close, open_drawer, turn_knob
from prophet_gym.sims.libero.planned._goals import Skill, Step, plan
from prophet_gym.sims.libero.planned._scene import Scene
from prophet_gym.sims.libero.planned._skills import best_hold, carry, pick, push, put, surface, wait
from prophet_gym.sims.libero.planned._tool import LEVEL, Tool, known_kinds

SKILLS: Mapping[Skill, Callable[..., Iterator[np.ndarray]]] = {
    "put": put,
    "push": push,
    "open": open_drawer,
    "close": close,
    "turn": turn_knob,
}
PLANNED_VERSION = 3
"""Rises when the same seed gives another episode of a suite other than libero_object.

What both kinds of scripts share raises both versions: the exploring modes, `_hand`, and what is imported of `_experts`.
"""
ROUNDS = 3
"""Plan so often when the goal does not hold after the one before."""


def perform(tool: Tool, step: Step) -> Iterator[np.ndarray]:
    """Do one step of a plan."""
    yield from SKILLS[step.skill](tool, *step.on)


def achieve(tool: Tool) -> Iterator[np.ndarray]:
    """Make the goal hold: plan from what holds, do the steps, and again where something failed."""
    tool.facing = LEVEL
    yield from wait(tool)
    yield from _carried_out(tool)
    for _ in range(ROUNDS - 1):
        if reached(tool):
            return
        held = 0
        for action in _carried_out(tool):
            yield action
            # Some things come to rest where they should be after the hand has left them: nothing is tried again then.
            held = held + 1 if reached(tool) else 0
            if held >= 10 and tool.grip == OPEN:
                return


def _carried_out(tool: Tool) -> Iterator[np.ndarray]:
    for step in plan(tool.scene.goal, tool.scene):
        yield from perform(tool, step)
    yield from tool.hold(10)


def reached(tool: Tool) -> bool:
    """Tell whether the task's goal holds now."""
    return all(tool.scene.holds(fact) for fact in tool.scene.goal)


def attempt(tool: Tool, spoil: Callable[[Tool, Step], Iterator[np.ndarray]]) -> Iterator[np.ndarray]:
    """Do the plan once, one step of it spoilt: the first or a later one."""
    tool.facing = LEVEL
    yield from wait(tool)
    steps = plan(tool.scene.goal, tool.scene)
    spoilt = int(tool.rng.integers(max(len(steps), 1)))
    for number, step in enumerate(steps):
        yield from (spoil if number == spoilt else perform)(tool, step)


def miss(tool: Tool, step: Step) -> Iterator[np.ndarray]:
    """Touch beside or over what the step is about, once."""
    rng = tool.rng
    angle, reach = rng.uniform(-np.pi, np.pi), rng.uniform(0.02, 0.07)
    tool.shift = np.array([reach * np.cos(angle), reach * np.sin(angle), rng.choice([0.0, 0.0, 0.02, 0.05])])
    again, style = rng.random() < 0.4, tool.style
    # A skill that notices its failure tries again.
    tool.style = replace(style, attempts=style.attempts if again else 1)
    yield from perform(tool, step)
    tool.style = style


def let_go(tool: Tool, step: Step) -> Iterator[np.ndarray]:
    """Open the hand a while after it has closed, somewhere on the way of the step."""
    rng = tool.rng
    # Closing takes about ten actions and lifting as many; after about forty the hand is often above its goal.
    left = int(rng.integers(12, 36))
    for action in perform(tool, step):
        left -= int(action[6] == CLOSE)
        if left <= 0:
            break
        yield action
    yield from tool.squeeze(OPEN, int(rng.integers(8, 13)))


def drop(tool: Tool) -> Iterator[np.ndarray]:
    """Let go on the way, then carry on with the rest, start again or stay."""
    yield from attempt(tool, let_go)
    if tool.rng.random() < 0.3:
        yield from achieve(tool)


def slip(tool: Tool) -> Iterator[np.ndarray]:
    """Act as an expert up to where the hand opens on its way, and end there: a bad habit."""
    tool.facing = LEVEL
    yield from wait(tool)
    for step in plan(tool.scene.goal, tool.scene)[:1]:
        yield from let_go(tool, step)


def abort(tool: Tool) -> Iterator[np.ndarray]:
    """Move another object, put the right one elsewhere, or turn back on the way."""
    rng, scene = tool.rng, tool.scene
    kind = rng.choice(["other", "elsewhere", "home"], p=[0.35, 0.25, 0.4])
    about = {name for fact in scene.goal for name in fact[1:]}
    carried = [name for name in scene.movable() if scene.kind(name) in known_kinds()]
    some = [name for name in carried if (name in about) == (kind == "elsewhere")]
    tool.facing = LEVEL
    yield from wait(tool)
    if kind != "home" and some:
        name = str(rng.choice(some))
        spot = rng.uniform(WORKSPACE_LOW[:2] * 0.6, [0.15, 0.2])
        hold = best_hold(tool, name, np.zeros(3), 0.0, 0)
        if (yield from pick(tool, name, hold)):
            yield from carry(tool, name, np.array([*spot, surface(tool, spot, name)]))
        return
    yield from islice(achieve(tool), int(rng.integers(15, 120)))
    yield from tool.squeeze(OPEN, 3)
    tool.facing = LEVEL
    yield from tool.reach(tool.around(HOME, 0.03))


def rest(tool: Tool) -> Iterator[np.ndarray]:
    """Act after a script is over: as other scripts do, or stay still where something is held in its place."""
    if tool.grip == CLOSE and reached(tool):
        while True:
            yield from tool.hold(1)
    tool.facing = None
    yield from linger(tool)


def planned_script(scene: Scene, rng: np.random.Generator, mode: Mode) -> tuple[Iterator, Iterator]:
    """Return the actions of a script, which ends, and those after it, as `script` of `_experts` does."""
    tool = Tool(scene, rng, draw_style(rng))
    after = rest(tool)
    if mode == "expert":
        return achieve(tool), after
    if mode == "noisy":
        return with_noise(achieve(tool), rng), after
    if mode == "slip":
        return slip(tool), iter(())
    acting = attempt(tool, miss) if mode == "offset" else drop(tool) if mode == "drop" else abort(tool)
    return (with_noise(acting, rng) if rng.random() < 0.3 else acting), after
