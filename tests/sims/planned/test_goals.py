"""Plans of all forty tasks, read from LIBERO's task files; nothing is simulated."""

import importlib.util
import re
from pathlib import Path

import pytest

from prophet_gym.sims.libero import _install as install
from prophet_gym.sims.libero.planned._goals import Fact, Step, plan
from prophet_gym.sims.libero.planned._plans import SKILLS

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
JOINTED = re.compile(r"(cabinet|microwave|stove)_\d+(_(top|middle|bottom)_region)?$")


class Told:
    """A world in which exactly the given predicates hold."""

    def __init__(self, *facts: Fact):
        self.facts = set(facts)

    def holds(self, fact: Fact) -> bool:
        return fact in self.facts

    def kind(self, name: str) -> str:
        return name.rsplit("_", 1)[0]

    def joint_of(self, name: str) -> str | None:
        return name if JOINTED.search(name) else None


def goals() -> dict[str, list[Fact]]:
    spec = importlib.util.find_spec("libero")
    assert spec is not None
    root = Path(next(iter(spec.submodule_search_locations or ()))) / "libero" / "bddl_files"
    found = {}
    for path in sorted(path for suite in SUITES for path in (root / suite).glob("*.bddl")):
        text = path.read_text().split("(:goal", 1)[1]
        found[path.stem] = [(name.lower(), *on.split()) for name, on in re.findall(r"\((\w+) ([\w ]+)\)", text)]
    return found


def skills(steps: list[Step]) -> list[str]:
    return [step.skill for step in steps]


@pytest.mark.libero
@pytest.mark.skipif(install.missing() is not None, reason=str(install.missing()))
def test_each_of_the_forty_tasks_is_a_short_plan():
    found = goals()
    assert len(found) == 40
    for name, goal in found.items():
        steps = plan(goal, Told())
        assert 1 <= len(steps) <= 3, name
        assert {step.fact for step in steps} >= set(goal), name
        assert set(skills(steps)) <= set(SKILLS), name
        assert plan(goal, Told(*goal)) == [], name


def test_a_closed_drawer_is_opened_before_and_closed_after_something_is_put_into_it():
    goal = [("close", "cabinet_1_top_region"), ("in", "bowl_1", "cabinet_1_top_region")]
    assert skills(plan(goal, Told())) == ["open", "put", "close"]
    assert skills(plan(goal, Told(("open", "cabinet_1_top_region")))) == ["put", "close"]
    # It is closed now, and would not be after the bowl is in.
    assert skills(plan(goal, Told(goal[0]))) == ["open", "put", "close"]
    assert skills(plan(goal, Told(goal[1]))) == ["close"]


def test_what_holds_already_is_left_alone():
    goal = [("on", "moka_pot_1", "stove_1_cook_region"), ("turnon", "stove_1")]
    assert skills(plan(goal, Told())) == ["turn", "put"]
    assert skills(plan(goal, Told(("turnon", "stove_1")))) == ["put"]


def test_a_plate_is_pushed_where_other_things_are_carried():
    assert skills(plan([("on", "plate_1", "table_region"), ("on", "mug_1", "plate_1")], Told())) == ["push", "put"]


def test_an_unknown_predicate_is_named():
    with pytest.raises(ValueError, match="no skill is known for the predicate 'fold'"):
        plan([("fold", "towel_1")], Told())
