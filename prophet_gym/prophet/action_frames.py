"""End-effector pictures on black: the figure's second conditioning, drawn where the actions lead.

Two ways in: `PooledActionFrames` is the released one (its latents are pooled over space and join the timestep
embedding), and `draw_tools` draws what it reads; `draw_discs` makes pictures at latent resolution that the small model
reads as extra input channels.
"""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

# Our defaults, since the paper names no sizes and no colours. Colours are RGB, 0 to 1.
DISC_METRES = 0.03
AXIS_METRES = 0.1
AXIS_WIDTH_METRES = 0.012
OPEN_COLOUR, CLOSED_COLOUR = (1.0, 1.0, 0.0), (1.0, 0.0, 1.0)
AXIS_COLOURS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
NEAREST = 0.05
"""Metres before the camera from where on things are drawn."""


class PooledActionFrames(nn.Module):
    """The released conditioner: latents of the action video -> what is added to the timestep embedding.

    Zero-initialised 1x1x1 conv to D, depthwise (1,3,3) conv, 1x1x1 conv, times (1 - condition mask), spatial mean, plus
    a sinusoidal position over latent time, then LayerNorm and Linear to D and to 3D (reference.md: "Action frames").
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.proj_in = nn.Conv3d(channels, dim, 1)
        self.depthwise = nn.Conv3d(dim, dim, (1, 3, 3), padding=(0, 1, 1), groups=dim, bias=False)
        self.pointwise = nn.Conv3d(dim, dim, 1, bias=False)
        self.to_embedding = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))
        self.to_modulation = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 3 * dim))
        nn.init.zeros_(self.proj_in.weight)
        if self.proj_in.bias is not None:
            nn.init.zeros_(self.proj_in.bias)

    def forward(
        self, action_frames: Float[Tensor, "b c t h w"], condition_mask: Float[Tensor, "b 1 t h w"]
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b t d3"]]:
        """Return what is added to the embedding and to the modulation of every latent frame."""
        x = self.pointwise(self.depthwise(self.proj_in(action_frames))) * (1 - condition_mask)
        x = x.mean(dim=(3, 4)).transpose(1, 2)
        x = x + sinusoid(x.shape[1], x.shape[2]).to(x)
        return self.to_embedding(x), self.to_modulation(x)


def sinusoid(length: int, dim: int) -> Float[Tensor, "t d"]:
    """Transformer position table: sines in even, cosines in odd columns, base 10000."""
    position = torch.arange(length, dtype=torch.float32)[:, None]
    frequency = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    return torch.stack([torch.sin(position * frequency), torch.cos(position * frequency)], dim=-1).flatten(1)


def project(points: Float[Tensor, "*b 3"], camera: Float[Tensor, "*#b 3 4"]) -> Float[Tensor, "*b 3"]:
    """Project world points (metres) into the unit image.

    Args:
        points: world positions.
        camera: maps homogeneous world points to `(u z, v z, z)`; u grows to the right, v downwards, both in [0, 1].

    Returns:
        u, v and the depth z in metres.
    """
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    uvz = (camera @ homogeneous[..., None])[..., 0]
    return torch.cat([uvz[..., :2] / uvz[..., 2:].clamp(min=1e-3), uvz[..., 2:]], dim=-1)


def draw_discs(
    positions: Float[Tensor, "b t 3"],
    openness: Float[Tensor, "b t"],
    camera: Float[Tensor, "b 3 4"],
    size: tuple[int, int],
    *,
    radius: float = 1.0,
) -> Float[Tensor, "b t 3 h w"]:
    """Draw the gripper as a Gaussian disc at latent resolution.

    Args:
        positions: gripper positions, world metres.
        openness: 1 open .. 0 closed.
        camera: see `project`.
        size: height and width of the picture in latent cells.
        radius: standard deviation of the disc in cells at 1 m depth; it shrinks with depth.

    Returns:
        Three channels per frame: the disc; the disc signed by the gripper (+1 open, -1 closed); the disc times height
        in decimetres.
    """
    height, width = size
    uvz = project(positions, camera[:, None])
    x = uvz[..., 0, None] * width - 0.5 - torch.arange(width, device=positions.device)
    y = uvz[..., 1, None] * height - 0.5 - torch.arange(height, device=positions.device)
    sigma = radius / uvz[..., 2, None].clamp(min=0.2)
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

    Each is a disc that shrinks with depth, yellow where the gripper is open to magenta where it is closed, under its
    three axes x, y, z in red, green, blue. Nearer tools cover farther ones; what is behind the camera is not drawn. A
    chunk's video has the pose before the first action and one after each: 21 pictures for 20 actions.

    Args:
        positions: world metres.
        rotations: the columns are the tool's axes in the world.
        openness: 1 open .. 0 closed.
        camera: see `project`.
        size: height and width in pixels.

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
    """Column and row, 0 in the middle of the first pixel, and the depth."""
    height, width = size
    return torch.stack([uvz[..., 0] * width - 0.5, uvz[..., 1] * height - 0.5], dim=-1), uvz[..., 2]


def _pixels_per_radian(camera: Float[Tensor, "*b 3 4"], height: int) -> Float[Tensor, "*b"]:
    """The focal length: what is left of the row of v without the part along the line of sight."""
    sight, row = camera[..., 2, :3], camera[..., 1, :3]
    return height * (row - (row * sight).sum(-1, keepdim=True) * sight).norm(dim=-1)


def _pick(values: Tensor, arm: Tensor) -> Tensor:
    """The chosen arm of `*b arms ...`."""
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
