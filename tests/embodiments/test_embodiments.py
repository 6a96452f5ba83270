"""Every robot's commands against answers by hand, and what all robots must hold."""

import numpy as np
import pytest

from prophet_gym.embodiments import EMBODIMENTS, Embodiment, get_embodiment
from prophet_gym.embodiments import _agibot as agibot
from prophet_gym.embodiments import _bridge as bridge
from prophet_gym.embodiments import _droid as droid
from prophet_gym.embodiments import _libero as libero
from prophet_gym.embodiments import _ur30e as ur30e
from prophet_gym.embodiments._kinematics import (
    ToolPose,
    camera_matrix,
    euler_to_matrix,
    integrate_tool_deltas,
    matrix_to_euler,
    tool_frame_deltas,
)
from prophet_gym.errors import UnknownOptionError
from prophet_gym.specs import ActionSpec

QUARTER = np.pi / 2


def still(arms: int) -> ToolPose:
    return ToolPose(np.zeros((arms, 3)), np.zeros((arms, 3)), np.ones(arms))


def turned(angle: float) -> ToolPose:
    """One arm at (1, 2, 3), turned about z."""
    return ToolPose(np.array([[1.0, 2, 3]]), np.array([[0, 0, angle]]), np.ones(1))


@pytest.fixture(params=sorted(EMBODIMENTS))
def robot(request):
    return EMBODIMENTS[request.param]


def test_the_five_robots_are_there():
    assert {"agibot", "bridge", "droid", "libero", "ur30e"} <= set(EMBODIMENTS)
    assert get_embodiment("bridge") is bridge.EMBODIMENT


def test_an_unknown_robot_is_refused_with_the_closest_name():
    with pytest.raises(UnknownOptionError, match=r"unknown embodiment 'droids'. Did you mean 'droid'\? Known: agibot"):
        get_embodiment("droids")


def test_a_robot_has_units_and_a_gripper_within_its_bounds(robot):
    spec = robot.action_spec
    assert len(spec.units) == spec.dim
    assert robot.calibration
    for name, bounds in zip(spec.names, spec.bounds, strict=True):
        if "gripper" in name:
            assert sorted([robot.gripper.open, robot.gripper.closed]) == list(bounds)


def within_bounds(numbers: np.ndarray, robot: Embodiment) -> np.ndarray:
    low, high = np.array(robot.action_spec.low), np.array(robot.action_spec.high)
    return low + (numbers + 1) / 2 * (high - low)


def test_any_command_within_bounds_becomes_fourteen_numbers_with_missing_arms_at_zero(robot):
    numbers = np.random.default_rng(0).uniform(-1, 1, (6, robot.action_spec.dim))
    actions = robot.to_model_actions(within_bounds(numbers, robot), still(robot.arms))
    assert actions.shape == (6, 14)
    assert np.isfinite(actions).all()
    assert actions[:, :6].any()
    assert actions[:, 7:].any() == (robot.arms == 2)
    assert (actions[:, 6] >= 0).all()
    assert (actions[:, 6] <= 1).all()


def test_the_poses_of_a_metric_robots_commands_come_back_from_its_actions(robot):
    numbers = np.random.default_rng(1).uniform(-0.9, 0.9, (8, robot.action_spec.dim))
    actions, start = within_bounds(numbers, robot), still(robot.arms)
    if robot.path is not None:
        return
    positions, euler, openness = robot.path_of(actions, start)
    model_actions = robot.to_model_actions(actions, start)
    np.testing.assert_allclose(tool_frame_deltas(positions, euler, openness), model_actions, atol=1e-5)


def test_a_start_of_another_number_of_arms_is_refused(robot):
    with pytest.raises(ValueError, match=f"{robot.arms} arm"):
        robot.path_of(np.ones((2, robot.action_spec.dim)), still(3 - robot.arms))


def test_bridge_adds_its_differences_and_prophet_reads_them_in_the_tools_frame():
    command = np.array([[0.02, 0.0, 0.01, 0, 0, 0.1, 1.0], [0.0, 0.0, 0.0, 0, 0, -0.1, 0.0]])
    actions = bridge.to_model_actions(command, turned(QUARTER))
    np.testing.assert_allclose(actions[0, :7], [0, -0.02, 0.01, 0, 0, 0.1, 1], atol=1e-6)
    np.testing.assert_allclose(actions[1, :7], [0, 0, 0, 0, 0, -0.1, 0], atol=1e-6)
    positions, euler, _ = bridge.EMBODIMENT.path_of(command, turned(QUARTER))
    np.testing.assert_allclose(positions[-1, 0], [1.02, 2, 3.01], atol=1e-6)
    np.testing.assert_allclose(euler[-1, 0], [0, 0, QUARTER], atol=1e-6)


def test_a_droid_velocity_of_one_is_seven_and_a_half_centimetres_and_its_gripper_opens_at_zero():
    command = np.array([[1.0, 0, 0, 0, 0, 0, 0.0], [0, 0, 0, 0, 0, 1.0, 0.25]])
    actions = droid.to_model_actions(command, turned(QUARTER))
    np.testing.assert_allclose(actions[0, :7], [0, -0.075, 0, 0, 0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(actions[1, :7], [0, 0, 0, 0, 0, 0.15, 0.75], atol=1e-6)


def test_a_droid_turn_is_about_the_axes_of_the_base():
    actions = droid.to_model_actions(np.array([[0, 0, 0, 1.0, 0, 0, 0]]), turned(QUARTER))
    np.testing.assert_allclose(actions[0, 3:6], [0, -0.15, 0], atol=1e-6)


def test_a_droid_velocity_longer_than_one_is_shortened():
    actions = droid.to_model_actions(np.array([[1.0, 1, 1, 0.3, 0, 0, 0]]), still(1))
    np.testing.assert_allclose(actions[0, :3], [0.075 / 3**0.5] * 3, atol=1e-6)
    np.testing.assert_allclose(actions[0, 3:6], [0.045, 0, 0], atol=1e-6)


def test_agibots_arms_go_to_their_poses_left_before_right():
    half = 0.5**0.5
    left = [0.1, 0, 0, 0, 0, half, half, 0.0]
    right = [0, 0.2, 0, 0, 0, 0, 2.0, 1.0]
    actions = agibot.to_model_actions(np.array([left + right, left + right]), still(2))
    np.testing.assert_allclose(actions[0, :7], [0.1, 0, 0, 0, 0, QUARTER, 1], atol=1e-6)
    np.testing.assert_allclose(actions[0, 7:], [0, 0.2, 0, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(actions[1], [0, 0, 0, 0, 0, 0, 1] + [0] * 7, atol=1e-6)
    with pytest.raises(ValueError, match="quaternion must not be 0"):
        agibot.to_model_actions(np.zeros((1, 16)), still(2))


def test_liberos_actions_do_not_depend_on_the_start():
    actions = np.random.default_rng(3).uniform(-1, 1, (4, 7))
    np.testing.assert_array_equal(libero.to_model_actions(actions), libero.to_model_actions(actions, turned(QUARTER)))


def test_liberos_commands_outside_its_bounds_are_cut_as_its_controller_cuts_them():
    beyond = np.array([[1.5, -2.0, 0.5, 3.0, -1.0, 0.0, 4.0]], np.float32)
    within = np.array([[1.0, -1.0, 0.5, 1.0, -1.0, 0.0, 1.0]], np.float32)
    np.testing.assert_array_equal(libero.to_model_actions(beyond), libero.to_model_actions(within))
    for found, right in zip(libero.path(beyond, still(1)), libero.path(within, still(1)), strict=True):
        np.testing.assert_array_equal(found, right)


def test_golden_poses_come_back_from_their_actions(golden):
    euler = golden["euler_xyz"]
    start = ToolPose(golden["positions"][0], euler[0], golden["gripper"][0])
    positions, back, openness = integrate_tool_deltas(start, golden["expected_actions"])
    np.testing.assert_allclose(positions, golden["positions"], atol=1e-5)
    np.testing.assert_allclose(euler_to_matrix(back), euler_to_matrix(euler), atol=1e-5)
    np.testing.assert_allclose(openness, golden["gripper"], atol=1e-6)


def test_a_tool_that_moves_ahead_and_turns_left_four_times_is_back():
    step = np.zeros((4, 14), np.float32)
    step[:, 0], step[:, 5] = 0.1, QUARTER
    positions, euler, _ = integrate_tool_deltas(still(1), step)
    np.testing.assert_allclose(positions[:, 0, :2], [[0, 0], [0.1, 0], [0.1, 0.1], [0, 0.1], [0, 0]], atol=1e-7)
    np.testing.assert_allclose(euler[1, 0], [0, 0, QUARTER], atol=1e-7)


def test_round_trip_over_random_paths_of_both_arms():
    random = np.random.default_rng(4)
    positions = random.uniform(-1, 1, (21, 2, 3))
    euler = matrix_to_euler(euler_to_matrix(random.uniform(-3, 3, (21, 2, 3))))
    openness = random.uniform(0, 1, (21, 2))
    actions = tool_frame_deltas(positions, euler, openness)
    found = integrate_tool_deltas(ToolPose(positions[0], euler[0], openness[0]), actions)
    np.testing.assert_allclose(found[0], positions, atol=1e-5)
    np.testing.assert_allclose(euler_to_matrix(found[1]), euler_to_matrix(euler), atol=1e-5)
    np.testing.assert_allclose(found[2], openness, atol=1e-6)


def test_a_camera_two_metres_away_sees_a_point_where_similar_triangles_put_it():
    intrinsics = np.array([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]])
    # Looks along the base's x from x = -2: its right is -y, its down is -z.
    pose = np.eye(4)
    pose[:3, :3] = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    pose[0, 3] = -2
    x, y, z = camera_matrix(intrinsics, pose, (480, 640)) @ [0, -0.5, 0.25, 1]
    assert (x / z, y / z, z) == pytest.approx(((320 + 100) / 640, (240 - 50) / 480, 2.0))
    pose[0, 0] = 3
    with pytest.raises(ValueError, match="must be a rotation"):
        camera_matrix(intrinsics, pose, (480, 640))


def test_units_need_one_entry_per_number():
    with pytest.raises(ValueError, match="units must have one entry"):
        ActionSpec(("x", "y"), (-1.0, -1.0), (1.0, 1.0), ("m",))


def test_ur30e_poses_are_rotation_vectors():
    third = 2 * np.pi / 3 / 3**0.5
    actions = ur30e.to_model_actions(np.array([[0.4, 0, 0, third, third, third, 1.0]]), still(1))
    np.testing.assert_allclose(actions[0, :3], [0.4, 0, 0], atol=1e-6)
    turn = euler_to_matrix(actions[0, 3:6].astype(np.float64))
    np.testing.assert_allclose(turn, [[0, 0, 1], [1, 0, 0], [0, 1, 0]], atol=1e-6)
