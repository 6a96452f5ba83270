"""What a script believes without a simulator: where the arm is, what it holds, and what an image takes back."""

import numpy as np
import pytest

from prophet_gym.embodiments._libero import FRACTION_REACHED, METRES_PER_ACTION
from prophet_gym.sims.libero import _install as install
from prophet_gym.sims.libero._believed import SEEN_WEIGHT, BelievedArm, Layout
from prophet_gym.sims.simulator import Arm

IMAGE = np.zeros((4, 4, 3), np.uint8)
MILK, BASKET = np.array([0.0, 0.0, 0.09]), np.array([0.0, 0.25, 0.0])
CLOSE, OPEN = np.array([0, 0, 0, 0, 0, 0, 1.0]), np.array([0, 0, 0, 0, 0, 0, -1.0])


def arm(at=(0.0, 0.0, 0.1)) -> BelievedArm:
    layout = Layout("milk_1", np.array(at), np.array([1.0, 0, 0, 0]), {"milk_1": MILK, "basket_1": BASKET})
    made = BelievedArm(layout)
    assert isinstance(made, Arm)
    return made


def holding() -> BelievedArm:
    made = arm()
    for _ in range(8):
        made.act(CLOSE)
    for _ in range(20):
        made.act(np.array([0, 0.5, 1, 0, 0, 0, 1.0]))
    return made


def test_under_constant_actions_it_covers_the_known_part_of_them():
    made = arm()
    for _ in range(20):
        before = made.gripper_position()
        made.act(np.array([1.0, 0, 0, 0, 0, 0, -1]))
    assert made.gripper_position() - before == pytest.approx([FRACTION_REACHED * METRES_PER_ACTION, 0, 0], rel=0.02)


def test_what_lies_between_closing_fingers_comes_along_and_rests_where_they_open():
    made = holding()
    grip = made.gripper_position()
    assert grip[2] > 0.3
    assert made.object_positions()["milk_1"] == pytest.approx(grip - [0, 0, 0.01])
    made.act(OPEN)
    assert made.object_positions()["milk_1"] == pytest.approx([grip[0], grip[1], MILK[2]], abs=0.01)
    assert made.object_positions()["basket_1"] == pytest.approx(BASKET)


def test_what_lies_beside_the_fingers_stays():
    made = arm((0.05, 0.0, 0.1))
    for _ in range(8):
        made.act(np.array([0, 0, 1.0, 0, 0, 0, 1]))
    assert made.object_positions()["milk_1"] == pytest.approx(MILK)


def test_an_image_takes_back_what_is_not_held():
    made = holding()
    grip = made.gripper_position()
    made.see(grip, IMAGE, lambda _: grip + np.array([0.02, 0, 0]))
    assert made.object_positions()["milk_1"][2] > 0.3
    made.see(grip, IMAGE, lambda _: np.array([0.03, 0.01, 0.02]))
    assert made.object_positions()["milk_1"] == pytest.approx([0.03, 0.01, MILK[2]])


def test_the_gripper_that_is_seen_corrects_a_part():
    made = arm()
    made.see(np.array([0.1, 0.0, 0.1]), IMAGE)
    assert made.gripper_position() == pytest.approx([0.1 * SEEN_WEIGHT, 0, 0.1])


def test_with_weight_0_it_never_looks():
    layout = Layout("milk_1", np.array([0.0, 0.0, 0.1]), np.array([1.0, 0, 0, 0]), {"milk_1": MILK})
    made = BelievedArm(layout, 0.0)
    for _ in range(8):
        made.act(CLOSE)
    made.see(np.array([0.1, 0.0, 0.1]), IMAGE, lambda _: np.array([1.0, 1.0, 0.0]))
    assert made.gripper_position() == pytest.approx([0, 0, 0.1])
    assert made.object_positions()["milk_1"] == pytest.approx(MILK)


@pytest.mark.libero
@pytest.mark.skipif(install.missing() is not None, reason=str(install.missing()))
def test_eight_actions_lead_where_libero_goes():
    from prophet_gym.sims.libero.simulator import LiberoSimulator

    sim = LiberoSimulator("libero_object", 3, size=64)
    sim.reset(official=0)
    made, random = BelievedArm(Layout.of(sim)), np.random.default_rng(0)
    for _ in range(5):
        for action in np.clip(random.normal([0.3, 0, 0.2], 0.5, (8, 3)), -1, 1):
            sim.step(np.array([*action, 0, 0, 0, -1]))
            made.act(np.array([*action, 0, 0, 0, -1]))
        assert np.linalg.norm(made.gripper_position() - sim.gripper_position()) < 0.02
        made.see(sim.gripper_position(), sim.render())
    sim.close()
