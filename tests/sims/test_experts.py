import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from prophet_gym.embodiments._libero import METRES_PER_ACTION, RADIANS_PER_ACTION
from prophet_gym.sims._recorder import _draw_mode
from prophet_gym.sims.libero import _experts as experts
from prophet_gym.sims.libero import _hand as hand
from prophet_gym.sims.libero._experts import (
    EXPLORATION,
    GRASPS,
    MIXTURE,
    MODES,
    clear_turn,
    script,
)
from prophet_gym.sims.libero._hand import Hand, Style
from prophet_gym.sims.libero.simulator import LiberoSimulator


class PointArm:
    """An arm without inertia: it moves by a quarter of what is commanded, and a hand that closes holds what is near."""

    target_name = "milk_1"

    def __init__(self):
        self.at, self.turned = np.array([-0.15, 0.0, 0.26]), Rotation.from_euler("x", 180, degrees=True)
        self.places = {
            "milk_1": np.array([0.05, -0.10, 0.07]),
            "butter_1": np.array([-0.12, -0.20, 0.009]),
            "basket_1": np.array([0.0, 0.26, 0.0]),
        }
        self.held, self.grip = None, -1.0

    def gripper_position(self):
        return self.at.copy()

    def gripper_quaternion(self):
        return self.turned.as_quat()

    def object_positions(self):
        return {name: place.copy() for name, place in self.places.items()}

    def step(self, action):
        action = np.clip(action, -1, 1)
        moved = 0.25 * METRES_PER_ACTION * action[:3]
        self.turned = Rotation.from_rotvec(0.25 * RADIANS_PER_ACTION * action[3:6]) * self.turned
        self.at = self.at + moved
        if action[6] < 0:
            if self.held:
                self.places[self.held][2] = 0.02
            self.held = None
        elif self.grip > 0 and self.held is None:
            near = {n: np.linalg.norm(p - self.at) for n, p in self.places.items() if n != "basket_1"}
            name = min(near, key=near.get)
            self.held = name if near[name] < 0.03 else None
        if self.held:
            self.places[self.held] = self.places[self.held] + moved
        self.grip = action[6]


def play(mode: str, seed: int, limit: int = 300) -> tuple[PointArm, np.ndarray]:
    arm, actions = PointArm(), []
    acting, lingering = script(arm, np.random.default_rng(seed), mode)
    for action in itertools.islice(itertools.chain(acting, itertools.islice(lingering, 20)), limit):
        arm.step(action)
        actions.append(action)
    return arm, np.array(actions)


def in_basket(arm: PointArm, name: str) -> bool:
    return bool(np.abs(arm.places[name][:2] - arm.places["basket_1"][:2]).max() < 0.06)


@pytest.mark.parametrize("seed", range(5))
def test_the_expert_puts_the_target_and_nothing_else_into_the_basket(seed):
    arm, actions = play("expert", seed)
    assert in_basket(arm, "milk_1")
    assert not in_basket(arm, "butter_1")
    assert np.abs(actions).max() <= 1.0
    assert set(actions[:, 6]) == {-1.0, 1.0}


@pytest.mark.parametrize("seed", range(5))
def test_a_slipping_demonstration_is_an_expert_that_opens_its_hand_on_the_way_and_ends_there(seed):
    arm, actions = play("slip", seed)
    opened = np.flatnonzero(np.diff(actions[:, 6]) < 0) + 1
    assert len(opened) == 1
    assert 8 <= len(actions) - opened[0] <= 12
    start, spot = PointArm().places["milk_1"][:2], arm.places["basket_1"][:2]
    assert not in_basket(arm, "milk_1")
    left = np.linalg.norm(arm.places["milk_1"][:2] - spot) / np.linalg.norm(start - spot)
    assert 0.1 < left < 0.95


def test_failures_are_failures_most_of_the_time():
    for mode in ("abort", "random"):
        assert not any(in_basket(play(mode, seed)[0], "milk_1") for seed in range(8)), mode
    dropped = [in_basket(play("drop", seed, limit=110)[0], "milk_1") for seed in range(12)]
    assert sum(dropped) <= 6


def test_an_episode_is_a_function_of_its_seed():
    for mode in MODES:
        np.testing.assert_array_equal(play(mode, 3)[1], play(mode, 3)[1])
    assert len({len(play("expert", seed)[1]) for seed in range(6)}) > 2


def test_noise_is_added_to_the_motion_and_its_size_varies():
    sizes = [np.diff(play("noisy", seed)[1][:, :3], axis=0).std() for seed in range(8)]
    calm = max(np.diff(play("expert", seed)[1][:, :3], axis=0).std() for seed in range(8))
    assert max(sizes) > 2 * calm
    assert max(sizes) > 2 * min(sizes)


def test_random_motion_covers_the_workspace_and_both_gripper_states():
    path, grips = [], []
    for seed in range(12):
        arm = PointArm()
        acting, _ = script(arm, np.random.default_rng(seed), "random")
        for action in acting:
            arm.step(action)
            path.append(arm.at)
            grips.append(action[6])
    low, high = np.percentile(path, [2, 98], axis=0)
    assert (low < [-0.2, -0.2, 0.08]).all()
    assert (high > [0.13, 0.22, 0.33]).all()
    assert 0.25 < np.mean(np.array(grips) > 0) < 0.75
    margin = 0.06
    assert (np.array(path) > hand.WORKSPACE_LOW - margin).all()
    assert (np.array(path) < hand.WORKSPACE_HIGH + margin).all()


def test_the_mixture_is_what_is_drawn():
    assert sum(MIXTURE.values()) == pytest.approx(1.0)
    rng = np.random.default_rng(0)
    drawn = [_draw_mode(rng, MIXTURE) for _ in range(4000)]
    for mode, share in MIXTURE.items():
        assert drawn.count(mode) / 4000 == pytest.approx(share, abs=0.03)


def test_the_wrist_turns_only_where_a_tall_neighbour_is_under_the_hand():
    arm = PointArm()
    motion = Hand(arm, np.random.default_rng(0), Style())
    assert clear_turn(motion, "butter_1", GRASPS["butter"]) == 0.0
    arm.places["milk_1"] = arm.places["butter_1"] + [0.02, 0.09, 0.06]
    turn = clear_turn(motion, "butter_1", GRASPS["butter"])
    assert turn != 0.0
    tip = 0.1 * np.array([-np.sin(turn), np.cos(turn)])
    assert np.linalg.norm(tip - [0.02, 0.09]) > np.linalg.norm(np.array([0.0, 0.1]) - [0.02, 0.09])
    arm.places["milk_1"][2] = 0.01
    assert clear_turn(motion, "butter_1", GRASPS["butter"]) == 0.0


def test_the_tool_is_kept_level():
    arm = PointArm()
    arm.turned = Rotation.from_rotvec([0.2, 0.1, 0.0]) * arm.turned
    motion = Hand(arm, np.random.default_rng(0), Style())
    for action in motion.hold(40):
        arm.step(action)
    np.testing.assert_allclose(arm.turned.apply([0, 0, 1]), [0, 0, -1], atol=1e-2)


def test_unknown_things_are_named():
    with pytest.raises(ValueError, match=r"no grasp is known for 'wine_bottle_1'.*milk"):
        experts.grasp_of("wine_bottle_1")
    assert len(GRASPS) == 10


class HighArm(PointArm):
    """The same scene on a table 0.9 m high, with a rest that is shaken by 2 cm, and with things no script knows."""

    target_name = "flat_stove_1"

    def __init__(self):
        super().__init__()
        self.places = {"wine_bottle_1": np.array([0.05, -0.10, 0.92]), "plate_1": np.array([-0.1, 0.1, 0.9])}
        self.at = self.at + np.array([0.0, 0.02, 0.92])

    def step(self, action):
        super().step(action)
        if self.held is None:
            for place in self.places.values():
                place[2] = 0.9


@pytest.mark.parametrize("mode", EXPLORATION)
def test_exploration_needs_no_known_grasp_and_keeps_over_any_table(mode):
    moved = []
    for seed in range(6):
        arm = HighArm()
        before = arm.object_positions()
        acting, _ = script(arm, np.random.default_rng(seed), mode)
        path = []
        for action in itertools.islice(acting, 240):
            arm.step(action)
            path.append(arm.at[2])
        assert 0.88 < min(path) < max(path) < 1.4
        moved += [np.linalg.norm(place - before[name]) > 0.05 for name, place in arm.places.items()]
    assert any(moved) or mode == "random"


def test_every_suite_has_a_mixture():
    for suite in ("libero_spatial", "libero_object", "libero_goal", "libero_10"):
        assert LiberoSimulator.mixture(suite) == MIXTURE
    assert sum(EXPLORATION.values()) == pytest.approx(1.0)
