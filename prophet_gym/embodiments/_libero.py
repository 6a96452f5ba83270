"""LIBERO's Panda arm: its actions, what Prophet reads of them, and the fixed camera of each scene."""

import numpy as np
from jaxtyping import Float

from prophet_gym._checks import require_known, unknown_option
from prophet_gym.embodiments._embodiment import Embodiment, Gripper, ToolPath
from prophet_gym.embodiments._kinematics import (
    ACTION_DIM,
    ToolPose,
    camera_matrix,
    euler_to_matrix,
    matrix_to_euler,
    require_arms,
    rotation_vector_to_matrix,
)
from prophet_gym.specs import ActionSpec, CameraSpec

CONTROL_HZ = 20.0
# What an action of 1 moves the controller's target by (robosuite's OSC_POSE defaults).
METRES_PER_ACTION = 0.05
RADIANS_PER_ACTION = 0.5
# The controller (stiffness 150 / s^2, critically damped) puts its target ahead of where the arm is, not of where it was
# sent: at constant actions the acceleration 150 (target - place) - damping speed is 0 where a step covers this part.
STIFFNESS = 150.0
_DAMPING = 2 * STIFFNESS**0.5
FRACTION_REACHED = STIFFNESS / CONTROL_HZ / (_DAMPING + STIFFNESS / CONTROL_HZ / 2)
# Prophet was trained with translation and rotation alike times this (A2World's reader of LIBERO does so).
PROPHET_SCALE = 0.05

ACTION_SPEC = ActionSpec(
    names=("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
    low=(-1.0,) * 7,
    high=(1.0,) * 7,
    units=("5 cm",) * 3 + ("0.5 rad",) * 3 + ("",),
)
# 0.08 m is the distance of the fingers of an open Panda gripper.
GRIPPER = Gripper(open=-1.0, closed=1.0, opening=0.08)

# `robot0_eye_in_hand`, read from the simulator: 75 degrees high, 5 cm beside and 9.7 cm behind the grip site.
_FOCAL = 0.5 / np.tan(np.deg2rad(75.0) / 2)
_WRIST = camera_matrix(
    np.array([[_FOCAL, 0, 0.5], [0, _FOCAL, 0.5], [0, 0, 1.0]]),
    np.array([[0, -1.0, 0, 0.05], [1.0, 0, 0, 0], [0, 0, 1.0, -0.097], [0, 0, 0, 1.0]]),
    (1, 1),
)
# `agentview` of the four kinds of scene, read from the simulator; they do not move.
_LOW = [
    [-0.424384737, 1.207106010, -0.264385055],
    [0.213898886, 0.000000173, -1.288935238],
    [-0.848765314, -0.000001543, -0.528769744],
]
_HIGH = [
    [-0.388999210, 1.207106705, -0.314133409],
    [0.369385571, -0.000000164, -1.253260181],
    [-0.777998244, -0.000000152, -0.628266450],
]
_FLOOR, _TABLE, _LIVING_ROOM, _STUDY = (
    CameraSpec("agentview", np.column_stack([turn, move]))
    for turn, move in (
        (_LOW, [0.552343409, 0.646031004, 1.104684108]),
        (_HIGH, [0.762064747, 1.774905359, 1.524128787]),
        (_LOW, [0.511231832, 1.107631604, 1.022460787]),
        (_HIGH, [0.684264905, 1.848782473, 1.368529138]),
    )
)
_CAMERAS = {
    "libero_object": (_FLOOR,) * 10,
    "libero_spatial": (_TABLE,) * 10,
    "libero_goal": (_TABLE,) * 10,
    "libero_10": (
        *(_LIVING_ROOM, _LIVING_ROOM, _TABLE, _TABLE, _LIVING_ROOM),
        *(_STUDY, _LIVING_ROOM, _LIVING_ROOM, _TABLE, _TABLE),
    ),
}


def camera(suite: str, task: int) -> CameraSpec:
    """Return the fixed camera of a task's scene, without the simulator."""
    require_known("suite", suite, _CAMERAS)
    if not 0 <= task < len(_CAMERAS[suite]):
        raise unknown_option("task", task, map(str, range(len(_CAMERAS[suite]))))
    return _CAMERAS[suite][task]


def to_model_actions(
    actions: Float[np.ndarray, "t 7"],
    start: ToolPose | None = None,  # noqa: ARG001 (every robot is called alike)
) -> Float[np.ndarray, "t 14"]:
    """Convert LIBERO actions: motion times 0.05, gripper -1 (open) .. 1 (close) to 1 .. 0, zeros for the second arm."""
    actions = _executed(actions)
    model_actions = np.zeros((len(actions), ACTION_DIM), dtype=np.float32)
    model_actions[:, :6] = actions[:, :6] * PROPHET_SCALE
    model_actions[:, 6] = GRIPPER.openness(actions[:, 6])
    return model_actions


def path(actions: Float[np.ndarray, "t 7"], start: ToolPose) -> ToolPath:
    """Return about where LIBERO's actions lead: in every step the arm covers `FRACTION_REACHED` of what is commanded.

    That is its speed under constant actions; how it speeds up, slows down and meets things is left out.
    """
    require_arms(start, 1)
    actions = _executed(actions)
    numbers = FRACTION_REACHED * actions[:, :6].astype(np.float64)
    turns = rotation_vector_to_matrix(RADIANS_PER_ACTION * numbers[:, 3:])
    rotations = [euler_to_matrix(start.euler_xyz.astype(np.float64))]
    for turn in turns:
        rotations.append(turn @ rotations[-1])
    moves = np.cumsum(METRES_PER_ACTION * numbers[:, None, :3], axis=0)
    positions = start.position + np.concatenate([np.zeros((1, 1, 3)), moves])
    openness = np.concatenate([start.openness[None].astype(np.float64), GRIPPER.openness(actions[:, 6:])])
    return positions, matrix_to_euler(np.stack(rotations)), openness


def _executed(actions: Float[np.ndarray, "t 7"]) -> Float[np.ndarray, "t 7"]:
    """Return what the controller makes of actions (robosuite 1.4, `Controller.scale_action`; grippers clip alike)."""
    return np.clip(actions, np.asarray(ACTION_SPEC.low, actions.dtype), np.asarray(ACTION_SPEC.high, actions.dtype))


EMBODIMENT = Embodiment(
    name="libero",
    arms=1,
    action_spec=ACTION_SPEC,
    gripper=GRIPPER,
    to_model_actions=to_model_actions,
    control_hz=CONTROL_HZ,
    frame_size=(256, 256),
    camera=camera,
    calibration="`agentview` of each scene, read from the simulator",
    posed=False,
    # Prophet reads the actions themselves, rotation at a tenth of what is turned, and the arm lags them.
    path=path,
    wrist=_WRIST,
    rest_action=(0.0,) * 6 + (GRIPPER.open,),
)
