"""Scale, vary and read what the small VLA sees: bytes to a vector, an image to keypoints."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

_GROUPS = 8
_CHAR_WIDTH = 64
_STEM_WIDTH = 64
_DEEP_WIDTH = 128


class TextEncoder(nn.Module):
    """Turn bytes into a vector: two convolutions, and the largest response anywhere, which spots words."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.letters = nn.Embedding(256, _CHAR_WIDTH)
        self.near = nn.Conv1d(_CHAR_WIDTH, width, 5, padding=2)
        self.far = nn.Conv1d(width, width, 5, padding=2)
        self.out = nn.Linear(width, width)

    def forward(self, text: UInt8[Tensor, "b n"]) -> Float[Tensor, "b d"]:
        """Return one vector per row; byte 0 is padding, and a row must have another one."""
        real = (text != 0)[:, None]
        # Padding is zeroed between the convolutions, so that a text means the same however long its row is.
        hidden = F.silu(self.near(self.letters(text.long()).movedim(1, 2) * real)) * real
        hidden = F.silu(self.far(hidden)).masked_fill(~real, -math.inf)
        return self.out(hidden.amax(2))


class _Residual(nn.Module):
    """Apply two convolutions around a scale and shift that the text decides (FiLM, arXiv 1709.07871)."""

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.middle = nn.GroupNorm(_GROUPS, width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.film = nn.Linear(text_width, 2 * width)

    def forward(self, x: Float[Tensor, "b c h w"], text: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        scale, shift = self.film(text)[:, :, None, None].chunk(2, 1)
        hidden = self.middle(self.first(F.silu(self.norm(x)))) * (1 + scale) + shift
        return x + self.second(F.silu(hidden))


class KeypointEncoder(nn.Module):
    """Find keypoints in an image that matter for a text, and describe what is there.

    Each keypoint is a spatial softmax (arXiv 1504.00702) over a grid of a quarter of the image's resolution: its mean
    position, finer than the grid, and the features there.
    """

    def __init__(self, keypoints: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(5, _STEM_WIDTH, 8, stride=4, padding=2)
        self.fine = _Residual(_STEM_WIDTH, width)
        self.down = nn.Conv2d(_STEM_WIDTH, _DEEP_WIDTH, 3, stride=2, padding=1)
        self.deep = _Residual(_DEEP_WIDTH, width)
        self.lateral = nn.Conv2d(_STEM_WIDTH, _STEM_WIDTH, 1)
        self.top = nn.Conv2d(_DEEP_WIDTH, _STEM_WIDTH, 1)
        self.norm = nn.GroupNorm(_GROUPS, _STEM_WIDTH)
        self.maps = nn.Conv2d(_STEM_WIDTH, keypoints, 1)
        self.out = nn.Linear(_STEM_WIDTH + 2, width)
        self.names = nn.Parameter(torch.zeros(keypoints, width))

    def forward(
        self, pixels: Float[Tensor, "b 3 h w"], text: Float[Tensor, "b d"]
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n 2"]]:
        """Return the vector of each keypoint, and its position across and down from -1 to 1; pixels are in [-1, 1]."""
        # A convolution alone cannot tell where it is, so the positions are channels beside the colours.
        fine = self.fine(F.silu(self.stem(torch.cat([pixels, _coordinates(pixels)], 1))), text)
        deep = self.deep(F.silu(self.down(fine)), text)
        above = F.interpolate(self.top(deep), fine.shape[2:], mode="bilinear", align_corners=False)
        grid = F.silu(self.norm(self.lateral(fine) + above))
        weights = self.maps(grid).flatten(2).softmax(2)
        # Positions count fourfold beside the features, so that small differences are learned soon.
        seen = weights @ torch.cat([grid, 4 * _coordinates(grid)], 1).flatten(2).movedim(1, 2)
        return self.out(seen) + self.names, seen[..., -2:] / 4


def shrunk(image: UInt8[Tensor, "b h w 3"], size: int) -> UInt8[Tensor, "b s s 3"]:
    """Return images averaged to size x size."""
    if image.shape[1:3] == (size, size):
        return image.clone()
    pixels = F.interpolate(image.movedim(-1, 1).float(), (size, size), mode="area")
    return pixels.round().to(torch.uint8).movedim(1, -1).contiguous()


def varied(
    image: Tensor, shift: int, jitter: float | int, generator: torch.Generator | None
) -> tuple[Float[Tensor, "b h w 3"], Float[Tensor, "b 2"]]:
    """Move images by up to `shift` pixels (edges repeated) and change contrast and brightness of each colour.

    Returns:
        The images, and how far across and down each row was moved, where 2 is the whole image.
    """
    rows, height, width, _ = image.shape
    pixels = F.pad(image.movedim(-1, 1).float(), [shift] * 4, mode="replicate")
    moves = torch.randint(2 * shift + 1, (rows, 2), generator=generator)
    moved = torch.stack([
        each[:, down : down + height, across : across + width]
        for each, (down, across) in zip(pixels, moves.tolist(), strict=True)
    ])  # fmt: skip
    drawn = torch.rand(2, rows, 3, 1, 1, generator=generator, dtype=torch.float32)
    contrast, brightness = (1 + jitter * (2 * drawn - 1)).to(image.device)
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
    # A Gaussian is separable: along the rows, then along the columns. Pixels up to 255 are too large for bf16.
    with torch.autocast(image.device.type, enabled=False):
        blurred = F.conv2d(F.conv2d(edged, kernel, groups=3), kernel.mT, groups=3)
    fraction = torch.rand(len(image), generator=generator).to(image)
    return torch.lerp(pixels, blurred, fraction[:, None, None, None]).movedim(1, -1)


def _coordinates(like: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 2 h w"]:
    """Return the positions across and down, from -1 to 1."""
    rows, _, height, width = like.shape
    across = torch.linspace(-1, 1, width, device=like.device, dtype=like.dtype).expand(rows, 1, height, width)
    down = torch.linspace(-1, 1, height, device=like.device, dtype=like.dtype)[:, None].expand(rows, 1, height, width)
    return torch.cat([across, down], 1)
