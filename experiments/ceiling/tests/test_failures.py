"""Causes by hand-made facts, and failures that are filmed, logged once and counted."""

from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from experiments.ceiling import failures, figures
from experiments.ceiling.causes import CAUSES, Facts, cause_of
from prophet_gym.sims.libero import _install as install

EYE = np.array([1.0, 0.0, 1.0])
# At EYE, looking down along (-1, 0, -1) / sqrt(2); an image is as wide as it is far.
VIEW, DOWN = np.array([-1.0, 0.0, -1.0]) / np.sqrt(2), np.array([1.0, 0.0, -1.0]) / np.sqrt(2)
ROTATION = np.stack([[0.0, 1.0, 0.0] + 0.5 * VIEW, DOWN + 0.5 * VIEW, VIEW])
CAMERA = np.column_stack([ROTATION, -ROTATION @ EYE])
AT = EYE + 1.4 * VIEW


def facts(off=(0.0, 0.0, 0.0), *, closes=4, steps=40, height=None, other=None, opens=None):
    """Return a hand that descends on an object, closes, and stays `off` it; `height` is the object's."""
    place = np.tile(AT, (steps, 1))
    place[:, 2] += 0.0 if height is None else height
    closing = np.arange(steps) >= closes
    if opens is not None:
        closing &= np.arange(steps) < opens
    objects = {"milk_1": place, "butter_1": np.tile(AT + np.array([0, 0.2, 0]), (steps, 1))}
    if other is not None:
        objects["butter_1"][other:, 2] += 0.1
    return Facts(place + np.array(off), closing, objects, "milk_1", 0.0, CAMERA, EYE)


def up(frm, to, steps=40):
    """Return an object that is 10 cm up between two actions."""
    return np.where((np.arange(steps) >= frm) & (np.arange(steps) < to), 0.1, 0.0)


@pytest.mark.parametrize(
    ("name", "step", "told"),
    [
        ("missed along the view", 4, facts(0.05 * VIEW)),
        ("missed across the view", 4, facts([0, 0.05, 0])),
        ("missed across the view", 4, facts([0, 0.03, 0] + 0.05 * VIEW)),
        ("closed on it, not lifted", 4, facts(0.01 * VIEW)),
        ("slipped", 19, facts(height=up(10, 20))),
        ("let go", 19, facts(height=up(10, 20), opens=18)),
        ("timeout while carrying", 39, facts(height=up(10, 40))),
        ("wrong object", 12, facts([0, 0.2, 0], other=12)),
        ("timeout before a grasp", 0, facts([0, 0.2, 0])),
        ("timeout before a grasp", 0, facts(closes=99)),
    ],
)
def test_a_cause_is_told_by_facts(name, step, told):
    found = cause_of(told)
    assert (found.name, found.step) == (name, step)
    assert name in CAUSES


def test_what_is_off_along_the_view_moves_no_pixel_and_what_is_off_across_does():
    along, across = cause_of(facts(0.05 * VIEW)), cause_of(facts([0, 0.05, 0]))
    assert (along.along, along.across, along.pixels) == pytest.approx((0.05, 0.0, 0.0), abs=1e-9)
    distance = np.linalg.norm(AT - EYE)
    assert across.across == pytest.approx(0.05, rel=0.01)
    assert across.pixels == pytest.approx(96 * 0.05 / distance, rel=0.01)


def test_a_lost_object_is_looked_for_a_second_later():
    told = facts(height=up(5, 12))
    told.gripper[20:, 1] += 0.3
    found = cause_of(told)
    assert (found.step, found.seen) == (11, 31)
    assert found.pixels > 15
    # What was up while the hand was elsewhere was not lost by it.
    elsewhere = told.gripper - np.array([0, 0.3, 0])
    assert cause_of(replace(told, gripper=elsewhere)).name == "timeout before a grasp"


class OneTask:
    """Simulate with six numbers: the position of the hand, and how often it was stepped."""

    instruction, target_name = "pick up the milk", "milk_1"

    def __init__(self):
        from types import SimpleNamespace

        self.model = SimpleNamespace(camera=lambda _: SimpleNamespace(id=0))
        self.data = SimpleNamespace(cam_xpos=EYE[None])

    def reset(self, *, official):
        self.start, self.t = official, 0

    def step(self, action):
        self.t += 1

    def success(self):
        return self.start == 0 and self.t == 3

    def render(self):
        return np.full((128, 128, 3), self.t, np.uint8)

    def gripper_position(self):
        return AT

    def object_positions(self):
        return {"milk_1": AT, "basket_1": AT}

    def camera_matrix(self):
        return CAMERA

    def get_state(self):
        return np.array([self.t])

    def set_state(self, state):
        self.t = int(state[0])


def test_failures_are_filmed_logged_once_and_counted(tmp_path, monkeypatch):
    from experiments.reinforce_in_dream.files import spaces, write_weights
    from prophrl_algos._named import make_policy

    monkeypatch.setattr(failures, "SIZE", replace(failures.SIZE, policy="benchmarks.toys:tiny", final_states=3))
    monkeypatch.setattr(failures, "CHUNKS", 2)
    monkeypatch.setattr(failures, "in_sight", lambda *_: True)
    policy, weights = make_policy("benchmarks.toys:tiny", spaces(), None), tmp_path / "w.safetensors"
    assert isinstance(policy, nn.Module)
    write_weights(policy, weights)
    args = failures.Args(out=tmp_path, failures=3, repeats=2)
    lines = failures.film_failures(args, weights, {3: OneTask()})
    assert [(line["start"], line["repeat"], line["success"]) for line in lines] == [
        (0, 0, True), (1, 0, False), (2, 0, False), (0, 1, True), (1, 1, False),
    ]  # fmt: skip
    assert all((tmp_path / "failures" / line["sheet"]).is_file() for line in lines if not line["success"])
    assert failures.film_failures(args, weights, {3: None}) == lines
    report = failures.summarise(lines, "clone-2")
    assert sum(found["count"] for found in report["causes"].values()) == 3
    assert (report["success"]["mean"], report["success"]["episodes"]) == (0.4, 5)
    failures.write_json(tmp_path / "failures.json", report)
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    assert "3 failures among 5 episodes" in figures.failed()


@pytest.mark.skipif(install.missing() is not None, reason=str(install.missing()))
def test_an_episode_of_libero_is_played_looked_at_and_drawn(monkeypatch):
    from experiments.reinforce_in_dream.files import spaces
    from prophet_gym.sims.libero.simulator import LiberoSimulator
    from prophrl_algos._named import make_policy

    monkeypatch.setattr(failures, "CHUNKS", 1)
    sim = LiberoSimulator("libero_object", 3, size=64)
    film = failures.play(make_policy("benchmarks.toys:tiny", spaces(), None), sim, 0, 0)
    assert (len(film.states), film.facts.gripper.shape, film.success) == (9, (9, 3), False)
    place = film.facts.objects[film.facts.target][0]
    assert failures.in_sight(sim, film.facts, film.states[0])
    other = next(where[0] for name, where in film.facts.objects.items() if name != film.facts.target)
    behind = replace(film.facts, eye=other + (other - place))
    assert not failures.in_sight(sim, behind, film.states[0])
    page = failures.sheet(sim, film, cause_of(film.facts), "missed")
    assert page.size == (4 * 128, 16 + 2 * 128)
    assert np.asarray(page).std() > 10
    sim.close()
