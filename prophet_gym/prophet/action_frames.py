"""End-effector pictures on black: the figure's second conditioning, drawn where the actions lead.

Two ways in: `PooledActionFrames` is the released one (its latents are pooled over space and join the timestep
embedding); `draw_discs` makes pictures at latent resolution that the small model reads as extra input channels.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PooledActionFrames(nn.Module):
    """The released conditioner: latents of the action video -> what is added to the timestep embedding.

    Zero-initialised 1x1x1 conv to D, depthwise (1,3,3) conv, 1x1x1 conv, times (1 - condition mask), spatial mean, plus
    a sinusoidal position over latent time, then LayerNorm and Linear to D and to 3D (REFERENCE: "Action frames").
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
