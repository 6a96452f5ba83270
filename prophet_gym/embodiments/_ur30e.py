"""The paper's own robot, a UR30e: poses as Universal Robots' controllers take them; the rest is our default."""

import numpy as np
from jaxtyping import Float

from prophet_gym.embodiments._embodiment import Embodiment, Gripper
from prophet_gym.embodiments._kinematics import ToolPose, actions_through, require_arms, rotation_vector_to_matrix
from prophet_gym.specs import ActionSpec

# Universal Robots' table of models: the UR30 reaches 1300 mm.
REACH = 1.3
# A rotation vector longer than pi names a shorter rotation the other way round.
HALF_TURN = float(np.pi)

ACTION_SPEC = ActionSpec(
    names=("x", "y", "z", "rx", "ry", "rz", "gripper"),
    low=(-REACH,) * 3 + (-HALF_TURN,) * 3 + (0.0,),
    high=(REACH,) * 3 + (HALF_TURN,) * 3 + (1.0,),
    units=("m",) * 3 + ("rad",) * 3 + ("",),
)
# Our default: the paper does not name the gripper; this is Prophet's own convention.
GRIPPER = Gripper(open=1.0, closed=0.0)


def to_model_actions(actions: Float[np.ndarray, "t 7"], start: ToolPose) -> Float[np.ndarray, "t 14"]:
    """Convert UR actions, the flange's next pose in the base frame, to Prophet's 14 numbers.

    Differences from the paper: it does not say how the robot was commanded; these are URScript's poses
    `p[x, y, z, rx, ry, rz]` (metres, rotation vector).
    """
    require_arms(start, 1)
    poses = actions[:, None].astype(np.float64)
    return actions_through(
        start, poses[..., :3], rotation_vector_to_matrix(poses[..., 3:6]), GRIPPER.openness(poses[..., 6])
    )


EMBODIMENT = Embodiment(
    name="ur30e",
    arms=1,
    action_spec=ACTION_SPEC,
    gripper=GRIPPER,
    to_model_actions=to_model_actions,
    control_hz=None,  # not published
    frame_size=(240, 320),
    camera=None,
    calibration="none public",
)
