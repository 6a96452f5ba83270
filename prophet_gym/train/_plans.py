"""From a data set's actions and poses to what the full Prophet reads in training: model actions, and poses to draw."""

import numpy as np
import torch
from jaxtyping import Float32
from torch.nn import functional as F

from prophet_gym.data._windows import Tools
from prophet_gym.embodiments._embodiment import Embodiment
from prophet_gym.embodiments._kinematics import ARM_DIM, tool_frame_deltas
from prophet_gym.prophet._action_frames import plan

Actions = Float32[np.ndarray, "k a"]
ModelActions = Float32[np.ndarray, "k m"]


def robot_plan(actions: Actions, tools: Tools, *, robot: Embodiment, action_dim: int) -> tuple[ModelActions, Tools]:
    """Return the model's actions for a robot's, and where they lead from the true pose at the window's current frame.

    Both are what a rollout from that pose computes; true poses after it are not read. So the images show what
    was commanded, as they will in dreams; the true path would tell what came of it (a grasp that held the gripper open,
    an arm that lagged or was stopped), which no dream can know beforehand.

    Differences from the paper: it reads actions off the recorded poses, see `poses_plan`; for BRIDGE, whose actions
    are their differences, that is the same but for the gripper.
    """
    if tools is None and robot.posed:
        raise ValueError(
            f"what {robot.name}'s actions come to depends on where the tools are, which this data set does not say; "
            "name its states and what they hold, state=COLUMN,numbers=xyz+euler+gripper, or add actions=given to data "
            "that hold model actions"
        )
    if actions.shape[1] != robot.action_spec.dim:
        raise ValueError(
            f"{robot.name} takes actions of {robot.action_spec.dim} dimensions, the data have {actions.shape[1]}; "
            "add actions=given to data that hold model actions"
        )
    _require_arms(robot.arms, action_dim)
    start = None if tools is None else torch.from_numpy(tools[:1])
    found = plan(robot, torch.from_numpy(actions)[None], start, action_dim)
    return found.actions[0].numpy(), None if found.tools is None else found.tools[0].numpy()


def poses_plan(actions: Actions, tools: Tools, *, action_dim: int) -> tuple[ModelActions, Tools]:  # noqa: ARG001
    """Return the motion between true poses as model actions (ProphRL, section on actions), and these poses to be drawn.

    This is right for any robot whose model actions are metres and radians, whatever its own are.
    """
    if tools is None:
        raise ValueError(
            "actions=poses needs data that say where the tools are: name the states and what they hold, "
            "state=COLUMN,numbers=xyz+euler+gripper"
        )
    _require_arms(tools.shape[1], action_dim)
    model_actions = tool_frame_deltas(tools[..., :3], tools[..., 3:6], tools[..., 6])
    return F.pad(torch.from_numpy(model_actions), (0, action_dim - model_actions.shape[1])).numpy(), tools


def _require_arms(arms: int, action_dim: int) -> None:
    if action_dim < ARM_DIM * arms:
        needed = f"{arms} arm(s) need {ARM_DIM * arms} dimensions of an action"
        raise ValueError(f"{needed}, but the model reads {action_dim}")
