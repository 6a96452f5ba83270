"""What is known of a robot: its actions, of some also gripper, cameras and kinematics; and its pose at a start."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from prophet_gym.embodiments._kinematics import ToolPath, ToolPose, integrate_tool_deltas
from prophet_gym.errors import InvalidStartError, UnknownOptionError
from prophet_gym.specs import ActionSpec, CameraSpec, InitialState

# What a start knows beside its frames, as entries of its `extra`: where the tools are, and what camera looks on.
POSITION, EULER, OPENNESS = "tool_position", "tool_euler_xyz", "tool_openness"
CAMERA = "camera"


@dataclass(frozen=True)
class Gripper:
    """Hold the number that opens a gripper and the one that closes it, in the units of an action."""

    open: float
    closed: float
    opening: float | None = None
    """Distance between the fingers when open, metres; None where it is not published."""

    def openness(self, actions: Float[np.ndarray, "*b"]) -> Float[np.ndarray, "*b"]:
        """Return Prophet's gripper number: 1 open .. 0 closed."""
        return (actions - self.closed) / (self.open - self.closed)


@dataclass(frozen=True, kw_only=True)
class Robot:
    """Describe the actions of one robot, whatever they are: poses, velocities, joints.

    Attributes:
        name: The name by which checkpoints and recordings know it.
        action_spec: Names, units and bounds of the dimensions of an action.
        control_hz: Number of actions per second; None if not published.
        rest_action: Action that leaves the robot where it is, with the gripper open; None for robots whose actions are
            poses, since no single pose does that.
        chunk: Number of actions per env step, unless a world model or a policy says otherwise.
    """

    name: str
    action_spec: ActionSpec
    control_hz: float | None
    rest_action: tuple[float, ...] | None = None
    chunk: int = 8

    @classmethod
    def described(cls, config: Mapping[str, Any]) -> "Robot | None":
        """Return the robot that a checkpoint's config describes dimension by dimension; None where it only names one.

        KeyError, TypeError or ValueError for a description that is damaged.
        """
        if "action_names" not in config:
            return None
        names, low, high = (tuple(config[f"action_{part}"]) for part in ("names", "low", "high"))
        rest = config["rest_action"]
        return cls(
            name=str(config["embodiment"]),
            action_spec=ActionSpec(names, low, high),
            control_hz=float(config["fps"]),
            rest_action=None if rest is None else tuple(rest),
            chunk=int(config["chunk"]),
        )

    def action_before(self, first: Float[np.ndarray, " a"]) -> Float[np.ndarray, " a"]:
        """Return the action that is assumed before the `first` one of an episode.

        A robot whose actions are motions was at rest; one whose actions are poses had the first pose as its target.
        """
        return first if self.rest_action is None else np.asarray(self.rest_action, first.dtype)

    def no_op(self, actions: Float[np.ndarray, "*b a"]) -> Float[np.ndarray, "*b a"]:
        """Return for each action the no-op that keeps the robot where it led; the gripper's dimension is kept."""
        if self.rest_action is None:
            return actions.copy()
        return np.concatenate([np.zeros_like(actions[..., :-1]), actions[..., -1:]], axis=-1)


@dataclass(frozen=True, kw_only=True)
class Embodiment(Robot):
    """Describe one robot, as its data set does, with what leads from its actions to Prophet's.

    Attributes:
        arms: 1 or 2.
        gripper: The gripper's convention.
        to_model_actions: `actions (t, a), start -> model actions (t, 14)`; the start is the pose of the tools before.
        frame_size: Height and width of the frames that the released Prophet was trained on.
        camera: `suite, task -> CameraSpec` for cameras that never move; None if there are no such cameras or no public
            calibration of them.
        calibration: One sentence on which cameras are calibrated.
        posed: Whether model actions depend on the pose of the tools, too.
        rest: Pose that is assumed for an initial state without one if it is needed for model actions alone; None if
            nothing can be assumed.
        path: `actions (t, a), start -> ToolPath`, see `path_of`; given for robots whose model actions are not metric.
        wrist: Matrix of the camera at the hand, from the hand's frame (metres) to its unit image, see `CameraSpec`;
            None where there is none, or it is not published.
    """

    arms: int
    gripper: Gripper
    to_model_actions: Callable[[np.ndarray, ToolPose], np.ndarray]
    frame_size: tuple[int, int]
    camera: Callable[[str, int], CameraSpec] | None
    calibration: str
    posed: bool = True
    rest: ToolPose | None = None
    path: Callable[[np.ndarray, ToolPose], ToolPath] | None = None
    wrist: Float[np.ndarray, "3 4"] | None = None

    def path_of(self, actions: Float[np.ndarray, "t a"], start: ToolPose) -> ToolPath:
        """Return the path of the tools under actions, start first: positions, Euler angles and openness."""
        if self.path is not None:
            return self.path(actions, start)
        return integrate_tool_deltas(start, self.to_model_actions(actions, start))


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
