"""Turn a noisy chunk of actions, a time and context vectors into a velocity: a small diffusion transformer."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from prophet_gym._io.processor import attend

_TIME_WIDTH = 64
_MODULATIONS = 6


def flow_targets(
    x0: Float[Tensor, "b h d"], draws: int, generator: torch.Generator | None, least: float | int = 0
) -> tuple[Float[Tensor, "bn h d"], Float[Tensor, " bn"], Float[Tensor, "bn h d"]]:
    """Return x_t, t and the velocity to learn, for `draws` noises and times per action.

    Times from `least` to 1 have the density 1.5 sqrt(t) of pi0 (arXiv 2410.24164, app. B), denser towards noise.
    """
    x0 = x0.repeat_interleave(draws, 0)
    noise = torch.randn(x0.shape, generator=generator, dtype=torch.float32).to(x0.device)
    drawn = torch.rand(len(x0), generator=generator, dtype=torch.float32) ** (2 / 3)
    t = (drawn * (1 - least) + least).to(x0.device)
    return torch.lerp(x0, noise, t[:, None, None]), t, noise - x0


class HeadLayer(nn.Module):
    """Attend over the actions, then over the context, then apply an MLP; time scales and gates (adaLN, 2212.09748)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.read = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
        self.offsets = nn.Parameter(torch.zeros(_MODULATIONS, width))

    def prefix(self, vectors: Float[Tensor, "b n d"]) -> Float[Tensor, "b two n d"]:
        """Return keys and values of the context, which do not depend on noise or time."""
        return torch.stack(self.key_value(vectors).chunk(2, 2), 1)

    def forward(
        self, x: Float[Tensor, "b h d"], prefix: Float[Tensor, "b two n d"], time: Float[Tensor, "b six d"]
    ) -> Float[Tensor, "b h d"]:
        """Return the actions after the layer; `prefix` is what `self.prefix` returns."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (time + self.offsets)[:, :, None].unbind(1)
        query, key, value = self.query_key_value(_norm(x) * (1 + scale) + shift).chunk(3, 2)
        x = x + gate * self.merge(self._attend(query, key, value))
        key, value = prefix.unbind(1)
        x = x + self.read(self._attend(self.query(_norm(x)), key, value))
        return x + gate_mlp * self.mlp(_norm(x) * (1 + scale_mlp) + shift_mlp)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (each.unflatten(2, (self.heads, -1)).movedim(2, 1) for each in (query, key, value))
        return attend(query, key, value).movedim(1, 2).flatten(2)


class ActionHead(nn.Module):
    """Run a transformer over the actions of a chunk that reads context vectors."""

    def __init__(self, horizon: int, latent_dim: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.into = nn.Linear(latent_dim, width)
        self.positions = nn.Parameter(torch.zeros(horizon, width))
        self.time = nn.Sequential(nn.Linear(_TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, _MODULATIONS * width))
        self.layers = nn.ModuleList(HeadLayer(width, heads) for _ in range(layers))
        self.out = nn.Linear(width, latent_dim)

    def prefix(self, vectors: Float[Tensor, "b n d"]) -> Float[Tensor, "b l two n d"]:
        """Return what each layer reads of the context, once for all denoising steps."""
        return torch.stack([layer.prefix(vectors) for layer in self.layers if isinstance(layer, HeadLayer)], 1)

    def forward(
        self, x: Float[Tensor, "b h a"], t: Float[Tensor, " b"], prefix: Float[Tensor, "b l two n d"]
    ) -> Float[Tensor, "b h a"]:
        time = self.time(_time_features(t)).unflatten(1, (_MODULATIONS, -1))
        hidden = self.into(x) + self.positions
        for layer, part in zip(self.layers, prefix.unbind(1), strict=True):
            hidden = layer(hidden, part, time)
        return self.out(_norm(hidden))


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


def _time_features(t: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
    half = _TIME_WIDTH // 2
    # Periods from about 6 down to 0.03, since times lie in [0, 1].
    rates = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * (math.log(200.0) / (half - 1)))
    angles = t[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)
