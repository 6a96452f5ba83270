"""DROID's Franka Panda: normalised Cartesian velocities, and a gripper that is open at 0."""

import numpy as np
from jaxtyping import Float

from prophet_gym.embodiments._embodiment import Embodiment, Gripper
from prophet_gym.embodiments._kinematics import ToolPose, actions_through, euler_to_matrix, require_arms
from prophet_gym.specs import ActionSpec

# github.com/droid-dataset/droid, droid/robot_ik/robot_ik_solver.py: control_hz, max_lin_delta, max_rot_delta.
CONTROL_HZ = 15.0
METRES_PER_ACTION = 0.075
RADIANS_PER_ACTION = 0.15

ACTION_SPEC = ActionSpec(
    names=("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
    # droid/robot_env.py refuses velocities beyond -1 and 1.
    low=(-1.0,) * 6 + (0.0,),
    high=(1.0,) * 6 + (1.0,),
    units=("7.5 cm",) * 3 + ("0.15 rad",) * 3 + ("",),
)
# droid/franka/robot.py: the position of the gripper is 1 - width / largest width.
# Robotiq 2F-85: a stroke of 85 mm.
GRIPPER = Gripper(open=0.0, closed=1.0, opening=0.085)


def to_model_actions(actions: Float[np.ndarray, "t 7"], start: ToolPose) -> Float[np.ndarray, "t 14"]:
    """Convert DROID actions, each taken to be reached before the next, to Prophet's 14 numbers.

    A step adds to the position and turns the tool about the axes of the base; velocities longer than 1 are shortened
    to 1 (droid/robot_ik/robot_ik_solver.py, droid/misc/transformations.py).
    """
    require_arms(start, 1)
    numbers = actions.astype(np.float64)
    moves = METRES_PER_ACTION * _at_most_one(numbers[:, :3])
    turns = euler_to_matrix(RADIANS_PER_ACTION * _at_most_one(numbers[:, 3:6]))
    rotations = np.empty((len(numbers), 1, 3, 3))
    last = euler_to_matrix(start.euler_xyz)
    for step, turn in enumerate(turns):
        rotations[step] = last = turn @ last
    positions = start.position + np.cumsum(moves[:, None], axis=0)
    return actions_through(start, positions, rotations, GRIPPER.openness(actions[:, 6:]))


def _at_most_one(vectors: Float[np.ndarray, "t 3"]) -> Float[np.ndarray, "t 3"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1)


EMBODIMENT = Embodiment(
    name="droid",
    arms=1,
    action_spec=ACTION_SPEC,
    gripper=GRIPPER,
    to_model_actions=to_model_actions,
    control_hz=CONTROL_HZ,
    frame_size=(240, 416),
    camera=None,
    # Six numbers an episode: position (metres) and Euler angles x, y, z (radians, R = Rz Ry Rx) in the base frame.
    calibration="one per episode, in the data set (`camera_extrinsics`): `camera_matrix`",
    rest_action=(0.0,) * 6 + (GRIPPER.open,),
)
