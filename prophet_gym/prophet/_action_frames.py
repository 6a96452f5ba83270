"""End effectors drawn on black where the actions lead, the figure's second conditioning.

The full Prophet pools latents of `draw_tools` over space; the small one reads `draw_discs` as extra input channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from prophet_gym.embodiments._embodiment import Embodiment, named, start_camera, start_pose
from prophet_gym.embodiments._kinematics import ToolPose, euler_to_matrix
from prophet_gym.errors import InvalidStartError
from prophet_gym.specs import InitialState

# Our defaults, since the paper names no sizes and no colours. Colours are RGB, 0 to 1.
DISC_METRES = 0.03
AXIS_METRES = 0.1
AXIS_WIDTH_METRES = 0.012
OPEN_COLOUR, CLOSED_COLOUR = (1.0, 1.0, 0.0), (1.0, 0.0, 1.0)
AXIS_COLOURS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
NEAREST = 0.05  # metres before the camera from where on things are drawn


class PooledActionFrames(nn.Module):
    """Read the latents of an action video, as the released model does (reference.md: "Action frames")."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.proj_in = nn.Conv3d(channels, dim, 1)
        self.depthwise = nn.Conv3d(dim, dim, (1, 3, 3), padding=(0, 1, 1), groups=dim, bias=False)
        self.pointwise = nn.Conv3d(dim, dim, 1, bias=False)
        self.to_embedding = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))
        self.to_modulation = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 3 * dim))
        for parameter in self.proj_in.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, action_frames: Float[Tensor, "b c t h w"], condition_mask: Float[Tensor, "b 1 t h w"]
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b t d3"]]:
        """Return what is added to the timestep embedding and to the modulation of every latent frame."""
        # The given frame's drawing says nothing about what is to be generated.
        x = self.pointwise(self.depthwise(self.proj_in(action_frames))) * (1 - condition_mask)
        x = x.mean(dim=(3, 4)).transpose(1, 2)
        x = x + sinusoid(x.shape[1], x.shape[2]).to(x)
        return self.to_embedding(x), self.to_modulation(x)


def sinusoid(length: int, dim: int) -> Float[Tensor, "t d"]:
    """Return a position table: sines in even, cosines in odd columns, base 10000."""
    position = torch.arange(length, dtype=torch.float32)[:, None]
    frequency = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    return torch.stack([torch.sin(position * frequency), torch.cos(position * frequency)], dim=-1).flatten(1)


def project(points: Float[Tensor, "*b 3"], camera: Float[Tensor, "*#b 3 4"]) -> Float[Tensor, "*b 3"]:
    """Project world points (metres) to u (to the right), v (downwards), both 0..1 in the image, and depth z in metres.

    The camera maps homogeneous points to `(u z, v z, z)`.
    """
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    uvz = (camera @ homogeneous[..., None])[..., 0]
    return torch.cat([uvz[..., :2] / uvz[..., 2:].clamp(min=1e-3), uvz[..., 2:]], dim=-1)


def draw_discs(
    positions: Float[Tensor, "b t 3"],
    openness: Float[Tensor, "b t"],
    camera: Float[Tensor, "b 3 4"],
    size: tuple[int, int],
) -> Float[Tensor, "b t 3 h w"]:
    """Draw the gripper (world metres) as a Gaussian disc of one cell at 1 m depth, at latent resolution.

    Channels: the disc; the disc signed by the openness (1 open .. -1 closed); the disc times height in decimetres.
    """
    height, width = size
    uvz = project(positions, camera[:, None])
    x = uvz[..., 0, None] * width - 0.5 - torch.arange(width, device=positions.device)
    y = uvz[..., 1, None] * height - 0.5 - torch.arange(height, device=positions.device)
    # A disc at the lens would cover the image.
    sigma = 1 / uvz[..., 2, None].clamp(min=0.2)
    disc = torch.exp(-0.5 * (y / sigma) ** 2)[..., :, None] * torch.exp(-0.5 * (x / sigma) ** 2)[..., None, :]
    sign = (2 * openness - 1)[..., None, None]
    level = (10 * positions[..., 2])[..., None, None]
    return torch.stack([disc, disc * sign, disc * level], dim=2)


def draw_tools(
    positions: Float[Tensor, "*b arms 3"],
    rotations: Float[Tensor, "*b arms 3 3"],
    openness: Float[Tensor, "*b arms"],
    camera: Float[Tensor, "*#b 3 4"],
    size: tuple[int, int],
) -> UInt8[Tensor, "*b h w 3"]:
    """Draw end effectors as the released conditioner reads them: on black, at the size of the video.

    Each is a disc that shrinks with depth, yellow where the gripper is open (1) to magenta where closed (0), under its
    axes x, y, z, the columns of its rotation, in red, green, blue. Nearer tools cover farther ones; what is behind
    the camera is not drawn.

    Differences from the paper: it gives neither sizes nor colours; these are our defaults, antialiased.
    """
    cameras = camera[..., None, :, :]
    tips = positions[..., None, :] + AXIS_METRES * rotations.transpose(-1, -2)
    places, depth = _in_pixels(project(positions, cameras), size)
    ends, end_depth = _in_pixels(project(tips, cameras[..., None, :, :]), size)
    scale = _pixels_per_radian(cameras, size[0]) / depth.clamp(min=NEAREST)
    opened, closed = (torch.tensor(c, device=positions.device) for c in (OPEN_COLOUR, CLOSED_COLOUR))
    colours = closed + openness[..., None].clamp(0, 1) * (opened - closed)
    canvas = torch.zeros(*positions.shape[:-2], *size, 3, device=positions.device)
    # The farthest arm first: the nearer one is painted over it.
    order = depth.argsort(dim=-1, descending=True)
    for rank in range(depth.shape[-1]):
        arm = order[..., rank]
        place, shown, unit = _pick(places, arm), _pick(depth, arm) > NEAREST, _pick(scale, arm)
        canvas = _paint(canvas, place, place, unit * DISC_METRES, _pick(colours, arm), shown)
        for axis, colour in enumerate(AXIS_COLOURS):
            end, seen = _pick(ends[..., axis, :], arm), shown & (_pick(end_depth[..., axis], arm) > NEAREST)
            one = torch.tensor(colour, device=positions.device).expand(*place.shape[:-1], 3)
            canvas = _paint(canvas, place, end, unit * AXIS_WIDTH_METRES / 2, one, seen)
    return (255 * canvas).round().to(torch.uint8)


def _in_pixels(uvz: Float[Tensor, "*b 3"], size: tuple[int, int]) -> tuple[Float[Tensor, "*b 2"], Float[Tensor, "*b"]]:
    """Return column and row, 0 in the middle of the first pixel, and the depth."""
    height, width = size
    return torch.stack([uvz[..., 0] * width - 0.5, uvz[..., 1] * height - 0.5], dim=-1), uvz[..., 2]


def _pixels_per_radian(camera: Float[Tensor, "*b 3 4"], height: int) -> Float[Tensor, "*b"]:
    """Return the focal length: what is left of the row of v without the part along the line of sight."""
    sight, row = camera[..., 2, :3], camera[..., 1, :3]
    return height * (row - (row * sight).sum(-1, keepdim=True) * sight).norm(dim=-1)


def _pick(values: Tensor, arm: Tensor) -> Tensor:
    """Return the chosen arm of `*b arms ...`."""
    index = arm.reshape(*arm.shape, *[1] * (values.ndim - arm.ndim))
    return values.take_along_dim(index, dim=arm.ndim).squeeze(arm.ndim)


def _paint(
    canvas: Float[Tensor, "*b h w 3"],
    start: Float[Tensor, "*b 2"],
    end: Float[Tensor, "*b 2"],
    radius: Float[Tensor, "*b"],
    colour: Float[Tensor, "*b 3"],
    shown: Bool[Tensor, "*b"],
) -> Float[Tensor, "*b h w 3"]:
    """Paint all that is nearer than the radius (at least half a pixel) to a segment, or to a point."""
    height, width = canvas.shape[-3:-1]
    rows = torch.arange(height, device=canvas.device, dtype=canvas.dtype)[:, None]
    columns = torch.arange(width, device=canvas.device, dtype=canvas.dtype)
    across, down = ((end - start)[..., i, None, None] for i in (0, 1))
    x, y = columns - start[..., 0, None, None], rows - start[..., 1, None, None]
    along = ((x * across + y * down) / (across**2 + down**2).clamp(min=1e-9)).clamp(0, 1)
    distance = torch.hypot(x - along * across, y - along * down)
    cover = (radius.clamp(min=0.5)[..., None, None] + 0.5 - distance).clamp(0, 1) * shown[..., None, None]
    return canvas + cover[..., None] * (colour[..., None, None, :] - canvas)


class Plan(NamedTuple):
    """Hold a chunk of model actions, and position, Euler angles and openness of the tools at first and after each."""

    actions: Float[Tensor, "b k d"]
    tools: Float[Tensor, "b f arms 7"] | None


def plan(
    robot: Embodiment, actions: Float[Tensor, "b k a"], tools: Float[Tensor, "b arms 7"] | None, action_dim: int
) -> Plan:
    """Translate a robot's actions into the model's, those of missing arms 0, and follow the tools from their poses.

    Without poses, which a robot that is not `posed` can do without, no tools are followed.
    """
    poses = torch.zeros(len(actions), robot.arms, 7) if tools is None else tools
    model_actions, paths = [], []
    for own, pose in zip(actions.cpu().numpy(), poses.cpu().double().numpy(), strict=True):
        start = ToolPose(pose[:, :3], pose[:, 3:6], pose[:, 6])
        model_actions.append(robot.to_model_actions(own, start))
        if tools is not None:
            positions, euler, openness = robot.path_of(own, start)
            paths.append(np.concatenate([positions, euler, openness[..., None]], axis=-1).astype(np.float32))
    flat = torch.from_numpy(np.stack(model_actions)).to(actions)
    carried = torch.from_numpy(np.stack(paths)).to(tools) if tools is not None else None
    return Plan(F.pad(flat, (0, action_dim - flat.shape[-1])), carried)


def start_tools(robot: Embodiment, starts: Sequence[InitialState | None], *, drawn: bool) -> Float[Tensor, "b arms 7"]:
    """Return the tools where dreams begin, one batch element each; a start is None where only frames are known.

    Where tools are drawn every initial state must say where they are; otherwise the robot's pose of rest, if it has
    one, stands in for what model actions depend on.
    """
    poses = []
    for start in starts:
        pose = (start and start_pose(start, robot.arms)) or (None if drawn else robot.rest)
        if pose is None:
            why = "draws the tools" if drawn else f"reads {robot.name}'s actions from where the tools are"
            raise InvalidStartError(
                f"this checkpoint {why}, so a start must say where: "
                f"{'frames alone do' if start is None else f'{named(start)} does'} not. Give extra=pose_extra("
                f"ToolPose(...)) of {robot.arms} arm(s) to its InitialState (embodiments.start_poses); the sets of "
                "`prophet starts` have it"
            )
        poses.append(np.concatenate([pose.position, pose.euler_xyz, pose.openness[:, None]], axis=-1))
    return torch.from_numpy(np.stack(poses).astype(np.float32))


def start_cameras(robot: Embodiment, starts: Sequence[InitialState]) -> Float[Tensor, "b 3 4"]:
    """Return the cameras of initial states; raise InvalidStartError where one is not known."""
    return torch.from_numpy(np.stack([start_camera(start, robot) for start in starts]).astype(np.float32))


def action_video(
    tools: Float[Tensor, "b f arms 7"], cameras: Float[Tensor, "b 3 4"], size: tuple[int, int]
) -> UInt8[Tensor, "b f h w 3"]:
    """Draw the tools at first and after each action, see `draw_tools`."""
    rotations = torch.from_numpy(euler_to_matrix(tools[..., 3:6].cpu().numpy())).to(tools)
    return draw_tools(tools[..., :3], rotations, tools[..., 6], cameras[:, None].to(tools), size)
