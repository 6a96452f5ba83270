"""AgiBot World's G1: two arms that are commanded to poses, grippers open at 0."""

import numpy as np
from jaxtyping import Float

from prophet_gym.embodiments._embodiment import Embodiment, Gripper
from prophet_gym.embodiments._kinematics import ToolPose, actions_through, quaternion_to_matrix, require_arms
from prophet_gym.specs import ActionSpec

# Our default: the data set names no bounds; wide enough for a robot of a person's size.
FARTHEST = 2.0

_ARM = ("x", "y", "z", "qx", "qy", "qz", "qw", "gripper")
ACTION_SPEC = ActionSpec(
    names=tuple(f"{side}_{number}" for side in ("left", "right") for number in _ARM),
    low=(*(-FARTHEST,) * 3, *(-1.0,) * 4, 0.0) * 2,
    high=(*(FARTHEST,) * 3, *(1.0,) * 4, 1.0) * 2,
    units=(*("m",) * 3, *("",) * 5) * 2,
)
# /action/effector/position: 0 full open, 1 full close. (/state/effector/position is a width in millimetres.)
GRIPPER = Gripper(open=0.0, closed=1.0)


def to_model_actions(actions: Float[np.ndarray, "t 16"], start: ToolPose) -> Float[np.ndarray, "t 14"]:
    """Convert AgiBot actions, both flanges' next poses (quaternions of any length but 0), left arm first."""
    require_arms(start, 2)
    arms = actions.astype(np.float64).reshape(len(actions), 2, len(_ARM))
    return actions_through(start, arms[..., :3], quaternion_to_matrix(arms[..., 3:7]), GRIPPER.openness(arms[..., 7]))


EMBODIMENT = Embodiment(
    name="agibot",
    arms=2,
    action_spec=ACTION_SPEC,
    gripper=GRIPPER,
    to_model_actions=to_model_actions,
    # AgiBot World as published for LeRobot (cadene/agibot_alpha_world): 30 frames and actions a second.
    control_hz=30.0,
    frame_size=(240, 320),
    camera=None,
    calibration="one per episode, in the data set (`parameters/<task>/<episode>/camera`): `camera_matrix`",
)
