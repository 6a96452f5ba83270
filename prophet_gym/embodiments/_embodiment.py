"""What a robot's file says: its actions, its gripper, its cameras, and how its actions become Prophet's."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from prophet_gym.embodiments._kinematics import ToolPath, ToolPose, integrate_tool_deltas, require_arms
from prophet_gym.specs import ActionSpec, CameraSpec


@dataclass(frozen=True)
class Gripper:
    """The number that opens a gripper and the number that closes it, in the units of an action."""

    open: float
    closed: float
    opening: float | None = None
    """Distance between the fingers when open, metres; None where it is not published."""

    def openness(self, actions: Float[np.ndarray, "*b"]) -> Float[np.ndarray, "*b"]:
        """Return Prophet's gripper number: 1 open .. 0 closed."""
        return (actions - self.closed) / (self.open - self.closed)


def keep_gripper(actions: Float[np.ndarray, "*b a"]) -> Float[np.ndarray, "*b a"]:
    """Return no-ops of robots whose motion is a difference or velocity: zeros, the gripper (last) as it was."""
    return np.concatenate([np.zeros_like(actions[..., :-1]), actions[..., -1:]], axis=-1)


def keep_pose(actions: Float[np.ndarray, "*b a"]) -> Float[np.ndarray, "*b a"]:
    """Return no-ops of robots that are commanded to poses: the same pose again."""
    return actions.copy()


@dataclass(frozen=True)
class Embodiment:
    """One robot, as its data set describes it.

    Attributes:
        name: Its name in `EMBODIMENTS`.
        arms: 1 or 2.
        action_spec: Names, units and bounds of one action.
        gripper: The gripper's convention.
        to_model_actions: `actions (t, a), start -> actions (t, 14)`, the start being the tools before.
        control_hz: Actions a second.
        frame_size: Height and width of the frames that the released Prophet was trained on.
        camera: `suite, task -> CameraSpec` of cameras that never move; None where there are none or no calibration is
            public, `calibration` says which.
        calibration: Which cameras are calibrated, in a sentence.
        no_op: `actions (*b, a) -> (*b, a)`: for each action the one that stays where it led, its gripper kept.
        posed: Whether the model actions of an action depend on where the tools are.
        rest: The pose that a start without one is taken to have where only actions are read off it; None where there is
            no such pose.
        path: `actions (t, a), start -> ToolPath` of robots whose actions are not metres and radians, so that poses cannot
            be read off them.
        rest_action: The action that leaves the robot where it is, its gripper open; None for robots that are commanded
            to poses, which have no such action.
        chunk: Actions of one env step, where neither a world model nor a policy says otherwise.
    """

    name: str
    arms: int
    action_spec: ActionSpec
    gripper: Gripper
    to_model_actions: Callable[[np.ndarray, ToolPose], np.ndarray]
    control_hz: float
    frame_size: tuple[int, int]
    camera: Callable[[str, int], CameraSpec] | None
    calibration: str
    no_op: Callable[[np.ndarray], np.ndarray] = keep_gripper
    posed: bool = True
    rest: ToolPose | None = None
    path: Callable[[np.ndarray, ToolPose], ToolPath] | None = None
    rest_action: tuple[float, ...] | None = None
    chunk: int = 8

    def action_before(self, first: Float[np.ndarray, " a"]) -> Float[np.ndarray, " a"]:
        """Return what a model takes the robot to have done before the `first` action of an episode.

        A robot whose actions are motions rested; one that is commanded to poses was already commanded to the first.
        """
        return first if self.rest_action is None else np.asarray(self.rest_action, first.dtype)

    def path_of(self, actions: Float[np.ndarray, "t a"], start: ToolPose) -> ToolPath:
        """Return where actions lead, the start first: what action frames are drawn from."""
        if self.path is not None:
            return self.path(actions, start)
        return self.integrate(start, self.to_model_actions(actions, start))

    def integrate(self, start: ToolPose, model_actions: Float[np.ndarray, "t 14"]) -> ToolPath:
        """Return the tools' positions, Euler angles and openness that model actions lead through, the start first.

        Raises:
            ValueError: This robot's actions are not metric, or the start has another number of arms.
        """
        if self.path is not None:
            raise ValueError(f"the actions of {self.name} are not in metres and radians: poses cannot be read off them")
        require_arms(start, self.arms)
        return integrate_tool_deltas(start, model_actions)
