"""What a start knows beside its frames: where the tools are and what camera looks on, as entries of its `extra`."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from prophet_gym.embodiments._embodiment import Embodiment
from prophet_gym.embodiments._kinematics import ToolPose
from prophet_gym.errors import InvalidStartError, UnknownOptionError
from prophet_gym.specs import InitialState

POSITION, EULER, OPENNESS = "tool_position", "tool_euler_xyz", "tool_openness"
CAMERA = "camera"


def pose_extra(pose: ToolPose) -> dict[str, np.ndarray]:
    """Return the entries of `InitialState.extra` that say where the tools are.

    Example:
        >>> extra = pose_extra(ToolPose(np.zeros((1, 3)), np.zeros((1, 3)), np.ones(1)))
        >>> {name: values.shape for name, values in extra.items()}
        {'tool_position': (1, 3), 'tool_euler_xyz': (1, 3), 'tool_openness': (1,)}
    """
    numbers = {POSITION: pose.position, EULER: pose.euler_xyz, OPENNESS: pose.openness}
    return {name: np.asarray(values, np.float32) for name, values in numbers.items()}


def start_pose(start: InitialState, arms: int) -> ToolPose | None:
    """Return where the tools are at a start, None where it does not say; InvalidStartError where it does in part."""
    names = {POSITION: (arms, 3), EULER: (arms, 3), OPENNESS: (arms,)}
    if not names.keys() & start.extra.keys():
        return None
    wrong = [f"{name} {shape}" for name, shape in names.items() if not _fits(start.extra, name, shape)]
    if wrong:
        raise InvalidStartError(f"{named(start)} must have finite {', '.join(wrong)} in its extra, or no pose at all")
    return ToolPose(*(np.asarray(start.extra[name], np.float64) for name in names))


def start_camera(start: InitialState, robot: Embodiment) -> Float[np.ndarray, "3 4"]:
    """Return the matrix of a start's camera (see `CameraSpec`): its own, or else the one of the robot's scene."""
    if CAMERA in start.extra:
        if not _fits(start.extra, CAMERA, (3, 4)):
            raise InvalidStartError(f"extra['{CAMERA}'] of {named(start)} must be finite (3, 4), see CameraSpec.matrix")
        return np.asarray(start.extra[CAMERA], np.float64)
    needed = f"{named(start)} must have the matrix of its camera, extra['{CAMERA}']: {robot.name} has"
    if robot.camera is None:
        raise InvalidStartError(f"{needed} no fixed one ({robot.calibration})")
    try:
        return robot.camera(start.suite, start.task).matrix
    except UnknownOptionError as error:
        raise InvalidStartError(f"{needed} none for it ({error})") from error


def named(start: InitialState) -> str:
    """Return what messages call a start."""
    return f"start {start.index} of task {start.task} of {start.suite or 'no suite'}"


def _fits(extra: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> bool:
    return name in extra and np.shape(extra[name]) == shape and bool(np.isfinite(extra[name]).all())
