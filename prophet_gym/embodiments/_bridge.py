"""BridgeData V2's WidowX 250: differences of recorded poses, and a gripper that is open at 1."""

import numpy as np
from jaxtyping import Float

from prophet_gym.embodiments._embodiment import Embodiment, Gripper
from prophet_gym.embodiments._kinematics import ToolPose, actions_through, euler_to_matrix, require_arms
from prophet_gym.specs import ActionSpec

# 1st and 99th percentile of the data set: what [-1, 1] of a policy trained on it spans
# (`dataset_statistics.json`, key `bridge_dataset`, of Stanford-ILIAD/minivla-vq-bridge-prismatic).
_Q01 = (-0.028727, -0.041703, -0.026094, -0.080921, -0.092887, -0.207183)
_Q99 = (0.028310, 0.040855, 0.040162, 0.081920, 0.077929, 0.203826)

ACTION_SPEC = ActionSpec(
    names=("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
    low=(*_Q01, 0.0),
    high=(*_Q99, 1.0),
    units=("m",) * 3 + ("rad",) * 3 + ("",),
)
# bridge_data_robot, widowx_env_service.py: "1.0 is open, 0.0 is closed".
GRIPPER = Gripper(open=1.0, closed=0.0)


def to_model_actions(actions: Float[np.ndarray, "t 7"], start: ToolPose) -> Float[np.ndarray, "t 14"]:
    """Convert BRIDGE actions, which add to the recorded position and Euler angles (0: the gripper points down)."""
    require_arms(start, 1)
    states = np.cumsum(actions[:, None, :6].astype(np.float64), axis=0)
    return actions_through(
        start,
        start.position + states[..., :3],
        euler_to_matrix(start.euler_xyz + states[..., 3:]),
        GRIPPER.openness(actions[:, 6:]),
    )


EMBODIMENT = Embodiment(
    name="bridge",
    arms=1,
    action_spec=ACTION_SPEC,
    gripper=GRIPPER,
    to_model_actions=to_model_actions,
    # bridge_data_robot, bridge_data_v2/conf.py: a move takes 0.2 s.
    control_hz=5.0,
    frame_size=(256, 256),
    camera=None,
    calibration="none public",
    # Where every episode of the data set begins, about: pointing down (angle 0) and open. Actions do not depend
    # on the position, which is not known.
    rest=ToolPose(np.zeros((1, 3)), np.zeros((1, 3)), np.ones(1)),
    rest_action=(0.0,) * 6 + (GRIPPER.open,),
)
