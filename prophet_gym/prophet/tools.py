"""Where commands lead: the actions that Prophet reads, the tools' poses that a dream carries, and their pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from prophet_gym.embodiments.embodiment import Embodiment
from prophet_gym.embodiments.kinematics import ToolPose, euler_to_matrix
from prophet_gym.embodiments.start_poses import named, start_camera, start_pose
from prophet_gym.errors import InvalidStartError
from prophet_gym.prophet.action_frames import draw_tools
from prophet_gym.specs import InitialState


@dataclass(frozen=True)
class Plan:
    """What a chunk of commands comes to.

    Attributes:
        actions: the model's numbers.
        tools: position, Euler angles and openness of each tool at the start and after each command; None where no pose
            is carried.
    """

    actions: Float[Tensor, "b k d"]
    tools: Float[Tensor, "b f arms 7"] | None


def plan(
    robot: Embodiment, actions: Float[Tensor, "b k a"], tools: Float[Tensor, "b arms 7"] | None, action_dim: int
) -> Plan:
    """Translate commands.

    Args:
        robot: whose commands.
        actions: in its units.
        tools: the poses before the first command; None for a robot whose actions do not depend on them.
        action_dim: numbers per action of the model; what the robot does not have is 0.
    """
    model_actions, paths = [], []
    for row, numbers in enumerate(actions.cpu().numpy()):
        start = _nowhere(robot.arms) if tools is None else _pose(tools[row])
        model_actions.append(robot.to_model_actions(numbers, start))
        if tools is not None:
            positions, euler, openness = robot.path_of(numbers, start)
            paths.append(np.concatenate([positions, euler, openness[..., None]], axis=-1).astype(np.float32))
    flat = torch.from_numpy(np.stack(model_actions)).to(actions)
    carried = torch.from_numpy(np.stack(paths)).to(tools) if tools is not None else None
    return Plan(F.pad(flat, (0, action_dim - flat.shape[-1])), carried)


def start_tools(robot: Embodiment, starts: Sequence[InitialState | None], *, drawn: bool) -> Float[Tensor, "b arms 7"]:
    """The tools at the starts of a dream, one row each.

    Args:
        robot: whose tools.
        starts: None where only frames are known.
        drawn: whether they are drawn: then every start must say where they are. Otherwise the robot's own pose of rest
            stands in where there is one, for what actions depend on.

    Raises:
        InvalidStartError: a start does not say what is needed.
    """
    poses = []
    for start in starts:
        pose = None if start is None else start_pose(start, robot.arms)
        if pose is None:
            pose = None if drawn else robot.rest
        if pose is None:
            why = "draws the tools" if drawn else f"reads {robot.name}'s commands from where the tools are"
            raise InvalidStartError(
                f"this checkpoint {why}, so a start must say where: "
                f"{'frames alone do' if start is None else f'{named(start)} does'} not. Give extra=pose_extra("
                f"ToolPose(...)) of {robot.arms} arm(s) to its InitialState (embodiments.start_poses); the sets of "
                "`prophet starts` have it"
            )
        poses.append(np.concatenate([pose.position, pose.euler_xyz, pose.openness[:, None]], axis=-1))
    return torch.from_numpy(np.stack(poses).astype(np.float32))


def start_cameras(robot: Embodiment, starts: Sequence[InitialState]) -> Float[Tensor, "b 3 4"]:
    """The cameras of the starts; InvalidStartError where one is not known."""
    return torch.from_numpy(np.stack([start_camera(start, robot) for start in starts]).astype(np.float32))


def action_video(
    tools: Float[Tensor, "b f arms 7"], cameras: Float[Tensor, "b 3 4"], size: tuple[int, int]
) -> UInt8[Tensor, "b f h w 3"]:
    """The picture of the tools at the start and after each command, see `draw_tools`."""
    rotations = torch.from_numpy(euler_to_matrix(tools[..., 3:6].cpu().numpy())).to(tools)
    return draw_tools(tools[..., :3], rotations, tools[..., 6], cameras[:, None].to(tools), size)


def _pose(tools: Float[Tensor, "arms 7"]) -> ToolPose:
    numbers = tools.cpu().double().numpy()
    return ToolPose(numbers[:, :3], numbers[:, 3:6], numbers[:, 6])


def _nowhere(arms: int) -> ToolPose:
    return ToolPose(np.zeros((arms, 3)), np.zeros((arms, 3)), np.zeros(arms))
