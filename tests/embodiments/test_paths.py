"""Where commands lead, what holds a robot still, and what starts say of poses."""

import numpy as np
import pytest

from prophet_gym.embodiments import EMBODIMENTS, get_embodiment
from prophet_gym.embodiments import _libero as libero
from prophet_gym.embodiments._embodiment import pose_extra, start_camera, start_pose
from prophet_gym.embodiments._kinematics import (
    ToolPose,
    euler_to_matrix,
    matrix_to_euler,
    quaternion_to_matrix,
)
from prophet_gym.errors import InvalidStartError
from prophet_gym.sims.libero import _install as install
from prophet_gym.sims.libero.simulator import LiberoSimulator
from prophet_gym.specs import InitialState


def somewhere(arms: int) -> ToolPose:
    rng = np.random.default_rng(0)
    return ToolPose(rng.uniform(-0.5, 0.5, (arms, 3)), rng.uniform(-1, 1, (arms, 3)), np.ones(arms))


@pytest.mark.parametrize("name", sorted(EMBODIMENTS))
def test_the_held_command_changes_neither_pose_nor_gripper(name):
    robot = get_embodiment(name)
    low, high = np.array(robot.action_spec.low), np.array(robot.action_spec.high)
    command = low + np.random.default_rng(1).uniform(0.1, 0.9, low.shape) * (high - low)
    held = robot.no_op(command[None])[0]
    assert (held >= low).all()
    assert (held <= high).all()
    positions, euler, openness = robot.path_of(np.stack([command, held, held]), somewhere(robot.arms))
    assert not np.allclose(positions[1], positions[0])
    np.testing.assert_allclose(positions[2:], np.stack([positions[1]] * 2), atol=1e-6)
    np.testing.assert_allclose(euler_to_matrix(euler[3]), euler_to_matrix(euler[1]), atol=1e-6)
    np.testing.assert_allclose(openness[1:], np.stack([openness[1]] * 3), atol=1e-6)


def test_liberos_arm_covers_the_share_of_its_controllers_steady_speed():
    """Acceleration 150 (d - x) - 2 sqrt(150) v with x = v / 40, half a step: 0 at v = 150 d / (24.49 + 3.75)."""
    assert pytest.approx(150 / (2 * 150**0.5 + 150 / 40) / 20, rel=1e-12) == libero.FRACTION_REACHED
    start = ToolPose(np.array([[0.1, 0.2, 0.9]]), np.zeros((1, 3)), np.ones(1))
    actions = np.zeros((2, 7))
    actions[:, 0], actions[:, 5], actions[:, 6] = 1.0, -0.5, [-1, 1]
    positions, euler, openness = libero.EMBODIMENT.path_of(actions, start)
    step = 0.05 * libero.FRACTION_REACHED
    np.testing.assert_allclose(positions[:, 0], [[0.1, 0.2, 0.9], [0.1 + step, 0.2, 0.9], [0.1 + 2 * step, 0.2, 0.9]])
    np.testing.assert_allclose(euler[2, 0], [0, 0, -2 * 0.25 * libero.FRACTION_REACHED], atol=1e-12)
    assert openness[:, 0].tolist() == [1, 1, 0]


@pytest.mark.libero
@pytest.mark.skipif(install.missing() is not None, reason=str(install.missing()))
def test_liberos_path_is_near_the_simulators_over_a_chunk():
    """20 commands: about 3 cm at most, where the arm moves by more than 10."""
    sim = LiberoSimulator("libero_object", 3, look="light", size=64)
    sim.reset(seed=5)
    start = ToolPose(
        sim.gripper_position()[None], matrix_to_euler(quaternion_to_matrix(sim.gripper_quaternion()[None])), np.ones(1)
    )
    actions = np.tile([0.5, -0.6, 0.2, 0.0, 0.1, 0.3, -1.0], (20, 1))
    seen = [sim.gripper_position()]
    for command in actions:
        sim.step(command)
        seen.append(sim.gripper_position())
    turned = quaternion_to_matrix(sim.gripper_quaternion())
    sim.close()
    positions, euler, _ = libero.EMBODIMENT.path_of(actions, start)
    moved = np.linalg.norm(seen[-1] - seen[0])
    assert moved > 0.1
    assert np.linalg.norm(positions[:, 0] - np.stack(seen), axis=1).max() < 0.3 * moved
    angle = np.arccos(np.clip((np.trace(euler_to_matrix(euler[-1, 0]).T @ turned) - 1) / 2, -1, 1))
    start_angle = np.arccos(np.clip((np.trace(euler_to_matrix(euler[0, 0]).T @ turned) - 1) / 2, -1, 1))
    assert angle < 0.4 * start_angle


def a_start(extra=None, suite="libero_object", task=0) -> InitialState:
    return InitialState(np.zeros((1, 8, 8, 3), np.uint8), "x", suite, task, extra=extra or {})


def test_a_pose_goes_into_a_start_and_comes_out():
    pose = somewhere(2)
    read = start_pose(a_start(pose_extra(pose)), 2)
    assert read is not None
    for name in ("position", "euler_xyz", "openness"):
        np.testing.assert_allclose(getattr(read, name), getattr(pose, name), atol=1e-6)
    assert start_pose(a_start({"gripper_position": np.zeros(3)}), 2) is None


@pytest.mark.parametrize(
    "change",
    [{"tool_position": np.zeros((2, 3))}, {"tool_openness": np.array([np.nan])}, {"tool_euler_xyz": None}],
)
def test_half_a_pose_is_refused(change):
    extra = {name: value for name, value in {**pose_extra(somewhere(1)), **change}.items() if value is not None}
    with pytest.raises(
        InvalidStartError, match=rf"start 0 of task 0 of libero_object must have finite {next(iter(change))}"
    ):
        start_pose(a_start(extra), 1)


def test_cameras_are_the_starts_own_or_the_scenes():
    own = np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(start_camera(a_start({"camera": own}), get_embodiment("droid")), own)
    scene = start_camera(a_start(suite="libero_10", task=5), get_embodiment("libero"))
    np.testing.assert_array_equal(scene, libero.camera("libero_10", 5).matrix)
    with pytest.raises(InvalidStartError, match="droid has no fixed one"):
        start_camera(a_start(), get_embodiment("droid"))
    with pytest.raises(InvalidStartError, match=r"libero has none for it .*unknown suite 'kitchen'"):
        start_camera(a_start(suite="kitchen"), get_embodiment("libero"))
    with pytest.raises(InvalidStartError, match=r"must be finite \(3, 4\)"):
        start_camera(a_start({"camera": np.eye(3)}), get_embodiment("libero"))
