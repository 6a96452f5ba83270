"""From a task's goal, as LIBERO states it, to a short plan: which skill to use on what, and in which order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

Fact = tuple[str, ...]
"""A predicate of LIBERO and its arguments, such as ("on", "plate_1", "flat_stove_1_cook_region")."""
Skill = Literal["put", "push", "open", "close", "turn"]
# What must come first: a drawer is opened before something is put into it, and closed at the end.
_ORDER = {"turnon": 0, "open": 1, "on": 2, "in": 2, "close": 3}
_SKILLS: Mapping[str, Skill] = {"turnon": "turn", "open": "open", "close": "close"}
_PUSHED = ("plate",)
"""Kinds of objects that are pushed to where they are wanted: flat, and wider than the hand."""


@runtime_checkable
class World(Protocol):
    """Hold what a plan depends on."""

    def holds(self, fact: Fact) -> bool:
        """Tell whether a predicate holds now."""
        ...

    def kind(self, name: str) -> str:
        """Return the category of an object or fixture."""
        ...

    def joint_of(self, name: str) -> str | None:
        """Return the joint of a drawer or door, None for what has none."""
        ...


@dataclass(frozen=True)
class Step:
    """Describe a skill and its target: `put` and `push` have an object and a place, the others a fixture or drawer."""

    skill: Skill
    on: tuple[str, ...]
    fact: Fact
    """Name the fact that holds afterwards."""


def plan(goal: Sequence[Fact], world: World) -> list[Step]:
    """Return the steps from the present state to the goal, none where it holds; ValueError for an unknown predicate."""
    steps: list[Step] = []
    for fact in sorted(goal, key=_rank):
        if world.holds(fact):
            continue
        name, *on = fact
        if name == "in" and world.joint_of(on[1]) and not world.holds(first := ("open", on[1])):
            steps.append(Step("open", (on[1],), first))
        if name in ("on", "in"):
            steps.append(Step("push" if world.kind(on[0]) in _PUSHED else "put", tuple(on), fact))
        else:
            steps.append(Step(_SKILLS[name], tuple(on), fact))
    # What has to be opened on the way is closed again where the goal says so, also if it is closed now.
    opened = {step.on for step in steps if step.skill == "open"}
    closing = {step.fact for step in steps}
    again = [fact for fact in goal if fact[0] == "close" and fact[1:] in opened and fact not in closing]
    return steps + [Step("close", fact[1:], fact) for fact in again]


def _rank(fact: Fact) -> int:
    if fact[0] not in _ORDER:
        raise ValueError(f"no skill is known for the predicate {fact[0]!r} of {fact}; known are {', '.join(_ORDER)}")
    return _ORDER[fact[0]]
