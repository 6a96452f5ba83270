import numpy as np
import pytest

from prophet_gym.embodiments._kinematics import euler_to_matrix, matrix_to_euler, tool_frame_deltas
from prophet_gym.embodiments._libero import to_model_actions


def test_tool_frame_deltas_are_those_of_the_original_implementation(golden):
    actions = tool_frame_deltas(golden["positions"], golden["euler_xyz"], golden["gripper"])
    np.testing.assert_allclose(actions, golden["expected_actions"], atol=1e-5)


def test_libero_commands_become_the_originals_actions(golden):
    np.testing.assert_allclose(to_model_actions(golden["libero_commands"]), golden["expected_libero"], atol=1e-5)


def test_a_quarter_turn_about_z_swaps_the_axes_of_the_tool():
    np.testing.assert_allclose(euler_to_matrix(np.array([0, 0, np.pi / 2])) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    positions = np.array([[[0.0, 0, 0]], [[0, 0.1, 0]]])
    euler = np.array([[[0, 0, np.pi / 2]], [[0, 0, np.pi]]])
    actions = tool_frame_deltas(positions, euler, np.array([[0.0], [1.0]]))
    np.testing.assert_allclose(actions[0, :7], [0.1, 0, 0, 0, 0, np.pi / 2, 1], atol=1e-6)
    assert not actions[0, 7:].any()


def test_the_order_of_the_axes_is_z_after_y_after_x():
    turn = euler_to_matrix(np.array([np.pi / 2, np.pi / 2, 0]))
    np.testing.assert_allclose(turn @ [0, 1, 0], [1, 0, 0], atol=1e-12)


def test_angles_come_back_also_at_the_pole():
    random = np.random.default_rng(0)
    angles = random.uniform(-1.5, 1.5, (50, 3))
    np.testing.assert_allclose(matrix_to_euler(euler_to_matrix(angles)), angles, atol=1e-9)
    pole = euler_to_matrix(np.array([0.4, np.pi / 2, 0.7]))
    np.testing.assert_allclose(euler_to_matrix(matrix_to_euler(pole)), pole, atol=1e-6)


def test_one_pose_or_three_arms_are_refused():
    with pytest.raises(ValueError, match="1 poses"):
        tool_frame_deltas(np.zeros((1, 1, 3)), np.zeros((1, 1, 3)), np.zeros((1, 1)))
    with pytest.raises(ValueError, match="3 arms"):
        tool_frame_deltas(np.zeros((2, 3, 3)), np.zeros((2, 3, 3)), np.zeros((2, 3)))
