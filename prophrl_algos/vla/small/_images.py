"""Scale and vary the images that the small VLA learns from."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor


def shrunk(image: UInt8[Tensor, "b h w 3"], size: int) -> UInt8[Tensor, "b s s 3"]:
    """Return images averaged to size x size."""
    if image.shape[1:3] == (size, size):
        return image.clone()
    pixels = F.interpolate(image.movedim(-1, 1).float(), (size, size), mode="area")
    return pixels.round().to(torch.uint8).movedim(1, -1).contiguous()


def varied(
    image: Tensor, shift: int, jitter: float | int, generator: torch.Generator | None
) -> tuple[Float[Tensor, "b h w c"], Float[Tensor, "b 2"]]:
    """Move images by up to `shift` pixels (edges repeated) and change contrast and brightness of each colour.

    Several images of a row, three channels each, are varied alike.

    Returns:
        The images, and how far across and down each row was moved, where 2 is the whole image.
    """
    rows, height, width, channels = image.shape
    pixels = F.pad(image.movedim(-1, 1).float(), [shift] * 4, mode="replicate")
    moves = torch.randint(2 * shift + 1, (rows, 2), generator=generator)
    moved = torch.stack([
        each[:, down : down + height, across : across + width]
        for each, (down, across) in zip(pixels, moves.tolist(), strict=True)
    ])  # fmt: skip
    drawn = torch.rand(2, rows, 3, 1, 1, generator=generator, dtype=torch.float32)
    colours = (1 + jitter * (2 * drawn - 1)).to(image.device)
    contrast, brightness = colours.repeat(1, 1, channels // 3, 1, 1).unbind(0)
    changed = (moved - 127.5) * contrast + 127.5 * brightness
    along = 2 * (shift - moves.flip(1)) / torch.tensor([width, height], dtype=torch.float32)
    return changed.clamp(0, 255).movedim(1, -1), along.to(image.device)


def softened(
    image: Float[Tensor, "b h w 3"], blur: float | int, generator: torch.Generator | None
) -> Float[Tensor, "b h w 3"]:
    """Mix each image with itself blurred by a Gaussian of `blur` pixels, by a fraction drawn from 0 to 1."""
    if not blur:
        return image
    reach = math.ceil(2 * blur)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=image.device, dtype=torch.float32) / blur) ** 2)
    kernel = (weights / weights.sum()).expand(3, 1, 1, -1)
    pixels = image.movedim(-1, 1)
    edged = F.pad(pixels, [reach] * 4, mode="replicate")
    # A Gaussian is separable: along the rows, then along the columns.
    blurred = F.conv2d(F.conv2d(edged, kernel, groups=3), kernel.mT, groups=3)
    fraction = torch.rand(len(image), generator=generator).to(image)
    return torch.lerp(pixels, blurred, fraction[:, None, None, None]).movedim(1, -1)
