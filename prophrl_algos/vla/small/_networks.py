"""The parts of the small VLA: bytes to a vector, a picture to places, places and noise to a velocity."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

GROUPS = 8
CHAR_WIDTH = 64
STEM_WIDTH = 64
DEEP_WIDTH = 128
TIME_WIDTH = 64
MODULATIONS = 6
MLP_RATIO = 4


class TextEncoder(nn.Module):
    """Bytes, two convolutions over neighbours, and the largest response anywhere: it spots words.

    Args:
        width: of the vector.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.letters = nn.Embedding(256, CHAR_WIDTH)
        self.near = nn.Conv1d(CHAR_WIDTH, width, 5, padding=2)
        self.far = nn.Conv1d(width, width, 5, padding=2)
        self.out = nn.Linear(width, width)

    def forward(self, text: UInt8[Tensor, "b n"]) -> Float[Tensor, "b d"]:
        """One vector per row; byte 0 is padding, and a row must have another one."""
        real = (text != 0)[:, None]
        hidden = F.silu(self.near(self.letters(text.long()).movedim(1, 2) * real)) * real
        hidden = F.silu(self.far(hidden)).masked_fill(~real, -math.inf)
        return self.out(hidden.amax(2))


class Residual(nn.Module):
    """Two convolutions around a scale and shift that the text decides (FiLM, arXiv 1709.07871)."""

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.middle = nn.GroupNorm(GROUPS, width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.film = nn.Linear(text_width, 2 * width)

    def forward(self, x: Float[Tensor, "b c h w"], text: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        """The same size."""
        scale, shift = self.film(text)[:, :, None, None].chunk(2, 1)
        hidden = self.middle(self.first(F.silu(self.norm(x)))) * (1 + scale) + shift
        return x + self.second(F.silu(hidden))


class PlaceEncoder(nn.Module):
    """A picture and a text to places: where something is that the text makes matter, and what is there.

    Each place is a softmax over a grid of a quarter of the picture's resolution: its mean position is finer than a cell
    (spatial softmax, arXiv 1504.00702), and the features under it say what is there.

    Args:
        places: how many.
        width: of the text and of each place's vector.
    """

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(5, STEM_WIDTH, 8, stride=4, padding=2)
        self.fine = Residual(STEM_WIDTH, width)
        self.down = nn.Conv2d(STEM_WIDTH, DEEP_WIDTH, 3, stride=2, padding=1)
        self.deep = Residual(DEEP_WIDTH, width)
        self.lateral = nn.Conv2d(STEM_WIDTH, STEM_WIDTH, 1)
        self.top = nn.Conv2d(DEEP_WIDTH, STEM_WIDTH, 1)
        self.norm = nn.GroupNorm(GROUPS, STEM_WIDTH)
        self.maps = nn.Conv2d(STEM_WIDTH, places, 1)
        self.out = nn.Linear(STEM_WIDTH + 2, width)
        self.names = nn.Parameter(torch.zeros(places, width))

    def forward(
        self, pixels: Float[Tensor, "b 3 h w"], text: Float[Tensor, "b d"]
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n 2"]]:
        """The vector of each place, and how far across and down it is, from -1 to 1; pixels in [-1, 1]."""
        fine = self.fine(F.silu(self.stem(torch.cat([pixels, _coordinates(pixels)], 1))), text)
        deep = self.deep(F.silu(self.down(fine)), text)
        above = F.interpolate(self.top(deep), fine.shape[2:], mode="bilinear", align_corners=False)
        grid = F.silu(self.norm(self.lateral(fine) + above))
        share = self.maps(grid).flatten(2).softmax(2)
        seen = share @ torch.cat([grid, 4 * _coordinates(grid)], 1).flatten(2).movedim(1, 2)
        return self.out(seen) + self.names, seen[..., -2:] / 4


class HeadLayer(nn.Module):
    """Actions see each other, then the places, then an MLP; time scales and gates each (adaLN, arXiv 2212.09748)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.read = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, MLP_RATIO * width), nn.SiLU(), nn.Linear(MLP_RATIO * width, width)
        )  # fmt: skip
        self.offsets = nn.Parameter(torch.zeros(MODULATIONS, width))

    def prefix(self, places: Float[Tensor, "b n d"]) -> Float[Tensor, "b two n d"]:
        """Keys and values of the places, which do not depend on noise or time."""
        return torch.stack(self.key_value(places).chunk(2, 2), 1)

    def forward(
        self, x: Float[Tensor, "b h d"], prefix: Float[Tensor, "b two n d"], time: Float[Tensor, "b six d"]
    ) -> Float[Tensor, "b h d"]:
        """The same size; `prefix` as `self.prefix` gives it."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (time + self.offsets)[:, :, None].unbind(1)
        query, key, value = self.query_key_value(_norm(x) * (1 + scale) + shift).chunk(3, 2)
        x = x + gate * self.merge(self._attend(query, key, value))
        key, value = prefix.unbind(1)
        x = x + self.read(self._attend(self.query(_norm(x)), key, value))
        return x + gate_mlp * self.mlp(_norm(x) * (1 + scale_mlp) + shift_mlp)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (each.unflatten(2, (self.heads, -1)).movedim(2, 1) for each in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value).movedim(1, 2).flatten(2)


class ActionHead(nn.Module):
    """A transformer over the actions of a chunk: latent, time and places to a velocity.

    Args:
        horizon: actions in a chunk.
        latent_dim: numbers of an action.
        width: of the transformer.
        layers: of the transformer.
        heads: of each attention.
    """

    def __init__(self, horizon: int, latent_dim: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.into = nn.Linear(latent_dim, width)
        self.positions = nn.Parameter(torch.zeros(horizon, width))
        self.time = nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, MODULATIONS * width))
        self.layers = nn.ModuleList(HeadLayer(width, heads) for _ in range(layers))
        self.out = nn.Linear(width, latent_dim)

    def prefix(self, places: Float[Tensor, "b n d"]) -> Float[Tensor, "b l two n d"]:
        """What each layer reads of the places, once for all denoising steps."""
        return torch.stack([_layer(layer).prefix(places) for layer in self.layers], 1)

    def forward(
        self, x: Float[Tensor, "b h a"], t: Float[Tensor, " b"], prefix: Float[Tensor, "b l two n d"]
    ) -> Float[Tensor, "b h a"]:
        """The velocity."""
        time = self.time(_time_features(t)).unflatten(1, (MODULATIONS, -1))
        hidden = self.into(x) + self.positions
        for layer, part in zip(self.layers, prefix.unbind(1), strict=True):
            hidden = layer(hidden, part, time)
        return self.out(_norm(hidden))


def _layer(module: nn.Module) -> HeadLayer:
    assert isinstance(module, HeadLayer)
    return module


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


def _time_features(t: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
    half = TIME_WIDTH // 2
    rates = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * (math.log(200.0) / (half - 1)))
    angles = t[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


def _coordinates(like: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 2 h w"]:
    """Across and down, from -1 to 1."""
    rows, _, height, width = like.shape
    across = torch.linspace(-1, 1, width, device=like.device, dtype=like.dtype).expand(rows, 1, height, width)
    down = torch.linspace(-1, 1, height, device=like.device, dtype=like.dtype)[:, None].expand(rows, 1, height, width)
    return torch.cat([across, down], 1)
