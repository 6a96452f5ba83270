"""Build the action heads of VLA-Adapter and OpenVLA-OFT: the published ones, and flows around their actions.

A published L1 head says one action. As a flow it says N(action, spread^2): `gaussian_velocity` is the exact velocity of
that flow. A flow head that starts from it samples the published policy's action with a little noise before any
training; with a `spread` of 0 it is the published policy itself.

VLA-Adapter's head is bridge attention (arXiv 2509.09372). Its block i reads layer i of the language model: the states
of the action queries and the robot's state as they are, the states of the images through a gate. None of this depends
on noise or time, so keys and values are made once.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from prophrl_algos.flow import Context, TensorContext
from prophrl_algos.vla._action_head import ActionHead

_TIME_WIDTH = 256
_HEADS = 8
_SPREAD = 0.1
"""Deviation of the actions from the published head's before any training, in latent units: our choice."""


def gaussian_velocity(
    x: Float[Tensor, "b h d"], t: Float[Tensor, " b"], mean: Float[Tensor, "#b h d"], spread: float
) -> Float[Tensor, "b h d"]:
    """Return E[noise - action | x_t] for actions N(mean, spread^2), independent of each other and of the noise.

    A spread of 0 leads to the mean exactly, in any number of Euler steps.
    """
    # With a spread of 0 the velocity is (x - action) / t, which has no limit at t = 0.
    t = t[:, None, None].clamp(min=1e-4)
    variance = ((1 - t) * spread) ** 2 + t**2
    return (t - (1 - t) * spread**2) / variance * (x - (1 - t) * mean) - mean


def silence(layer: nn.Linear) -> None:
    """Make a layer say 0."""
    for weight in layer.parameters():
        nn.init.zeros_(weight)


class TimeEmbedding(nn.Module):
    """Turn a time in [0, 1] into a scale and a shift, which are 0 before any training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into = nn.Linear(_TIME_WIDTH, width)
        self.out = nn.Linear(width, 2 * width)
        silence(self.out)

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b two d"]:
        half = _TIME_WIDTH // 2
        rates = torch.exp(-math.log(1e4) * torch.arange(half, device=t.device) / half)
        angles = 1000 * t[:, None] * rates
        waves = torch.cat([angles.cos(), angles.sin()], 1)
        return self.out(F.silu(self.into(waves))).unflatten(1, (2, -1))


class SharedContext(Context):
    """Hold tensors whose rows each stand for `copies` rows side by side, so that repeating costs no memory."""

    def __init__(self, tensors: tuple[Tensor, ...], copies: int = 1) -> None:
        self.tensors, self.copies = tensors, copies

    def select(self, rows: Int[Tensor, " r"]) -> "SharedContext":
        own = rows // self.copies
        return SharedContext(tuple(tensor[own.to(tensor.device)] for tensor in self.tensors))

    def repeat_interleave(self, repeats: int) -> "SharedContext":
        return SharedContext(self.tensors, self.copies * repeats)


class _Bridge(nn.Module):
    """Attend over the actions and what is read, then apply one layer with a ReLU and no residual around it.

    The first release has one key and one value layer for everything and no positions; the Pro release has rotary
    positions and layers of its own for the actions, for queries and state, and for the images.
    """

    def __init__(self, width: int, *, pro: bool) -> None:
        super().__init__()
        self.ffn = _ffn(width)
        self.q_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)
        self.gating_factor = nn.Parameter(torch.zeros(1))
        self.turned = rotated if pro else nn.Identity()
        self.sources = ("self", "adapter", "task") if pro else ("proj", "proj", "proj")
        for source in dict.fromkeys(self.sources):
            for kind in "kv":
                self.add_module(f"{kind}_{source}", nn.Linear(width, width))

    def read(self, action: Float[Tensor, "b q d"], task: Float[Tensor, "b t d"]) -> tuple[Tensor, Tensor]:
        """Return keys and values of what is read, by head: action queries and state, then the gated images."""
        _, adapter, images = self.sources
        keys, values = self._keys_values(adapter, action)
        image_keys, image_values = self._keys_values(images, task)
        gate = torch.tanh(self.gating_factor)
        return torch.cat([keys, gate * image_keys], 2), torch.cat([values, image_values], 2)

    def forward(
        self,
        x: Float[Tensor, "bc h d"],
        keys: Float[Tensor, "b n s e"],
        values: Float[Tensor, "b n s e"],
        modulation: Float[Tensor, "bc two d"] | None = None,
    ) -> Float[Tensor, "bc h d"]:
        """Return the actions after the block; several rows of them (copies c) may share a row of what is read."""
        key, value = self._keys_values(self.sources[0], x)
        query = self.turned(_heads(self.q_proj(x)))
        query = query / math.sqrt(query.shape[-1])
        copies = len(x) // len(keys)
        read = _apart(_together(query, copies) @ keys.transpose(2, 3), copies)
        # One softmax over both, as published: the actions compete with what is read.
        weights = torch.cat([query @ key.transpose(2, 3), read], 3).softmax(3)
        own, read = weights.split([x.shape[1], keys.shape[2]], 3)
        found = own @ value + _apart(_together(read, copies) @ values, copies)
        hidden = self.ffn[0](self.o_proj(found.transpose(1, 2).flatten(2)) + x)
        if modulation is not None:
            scale, shift = modulation[:, :, None].unbind(1)
            hidden = hidden * (1 + scale) + shift
        return self.ffn[2](self.ffn[1](hidden))

    def _keys_values(self, source: str, x: Float[Tensor, "b n d"]) -> tuple[Tensor, Tensor]:
        keys, values = (_heads(self.get_submodule(f"{kind}_{source}")(x)) for kind in "kv")
        return self.turned(keys), values


class BridgeFlowHead(nn.Module):
    """Predict the mean of the actions given a noisy action and a time, with the blocks of the published head.

    The velocity is that of a flow around this mean. Noise and time enter through layers that are 0 before any training,
    so the head starts as the published one.
    """

    spread = _SPREAD

    def __init__(self, width: int, blocks: int, horizon: int, action_dim: int, *, pro: bool) -> None:
        super().__init__()
        if width % _HEADS:
            raise ValueError(f"width={width} must be a multiple of the {_HEADS} heads of bridge attention")
        self.query = nn.Parameter(torch.zeros(width))
        self.noise = nn.Linear(action_dim, width)
        self.positions = nn.Parameter(torch.zeros(horizon, width))
        self.time = TimeEmbedding(width)
        self.offsets = nn.Parameter(torch.zeros(blocks, 2, width))
        self.blocks = nn.ModuleList(_Bridge(width, pro=pro) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, action_dim)
        silence(self.noise)

    def prefix(
        self,
        task: Sequence[Float[Tensor, "b t d"]],
        action: Sequence[Float[Tensor, "b q d"]],
        state: Float[Tensor, "b d"] | None,
    ) -> SharedContext:
        """Return keys and values of every block, of the states of images and action queries, and the robot's."""
        dtype = self.query.dtype
        token = [] if state is None else [state[:, None].to(dtype)]
        read: list[Tensor] = []
        for block, seen, queries in zip(self.blocks, task, action, strict=True):
            assert isinstance(block, _Bridge)
            read.extend(block.read(torch.cat([queries.to(dtype), *token], 1), seen.to(dtype)))
        return SharedContext(tuple(read))

    def velocity(self, ctx: SharedContext, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        read, time = ctx.tensors, self.time(t)
        hidden = self.query + self.positions + self.noise(x)
        for block, keys, values, offset in zip(self.blocks, read[::2], read[1::2], self.offsets, strict=True):
            hidden = block(hidden, keys, values, time + offset)
        return gaussian_velocity(x, t, self.out(self.norm(hidden)).float(), self.spread)


class OftFlowHead(nn.Module):
    """Run a small diffusion transformer that reads the slots' states, around the published head's action.

    The velocity is that of N(action, spread^2) plus what the transformer adds, which is 0 before any training. No
    denoising step touches the language model. The transformer is 512 wide, or as the language model where that is less.
    """

    spread = _SPREAD

    def __init__(self, width: int, horizon: int, action_dim: int) -> None:
        super().__init__()
        dit_width = min(512, width)
        self.horizon = horizon
        self.published = nn.ModuleDict(
            {
                "layer_norm1": nn.LayerNorm(action_dim * width),
                "fc1": nn.Linear(action_dim * width, width),
                "mlp_resnet_blocks": nn.ModuleList(nn.ModuleDict({"ffn": _ffn(width)}) for _ in range(2)),
                "layer_norm2": nn.LayerNorm(width),
                "fc2": nn.Linear(width, action_dim),
            }
        )
        self.norm = nn.LayerNorm(width)
        self.into = nn.Linear(width, dit_width)
        self.slots = nn.Parameter(0.02 * torch.randn(horizon * action_dim, dit_width))
        self.dit = ActionHead(horizon, action_dim, dit_width, layers=8, heads=8)
        nn.init.normal_(self.dit.positions, std=0.02)
        silence(self.dit.out)

    @property
    def out(self) -> nn.Module:
        return self.published["fc2"]

    def prefix(self, states: Float[Tensor, "b q d"]) -> TensorContext:
        slots = self.into(self.norm(states.to(self.into.weight.dtype))) + self.slots
        return TensorContext(mean=self.mean(states), prefix=self.dit.prefix(slots))

    def mean(self, states: Float[Tensor, "b q d"]) -> Float[Tensor, "b h a"]:
        """Return the action of the published head, from the states of its slots, one per dimension."""
        head = self.published
        x = states.to(self.into.weight.dtype).unflatten(1, (self.horizon, -1)).flatten(2)
        x = F.relu(head["fc1"](head["layer_norm1"](x)))
        for block in head["mlp_resnet_blocks"].children():
            x = x + block.get_submodule("ffn")(x)
        return head["fc2"](head["layer_norm2"](x)).float()

    def velocity(self, ctx: TensorContext, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        return gaussian_velocity(x, t, ctx["mean"], self.spread) + self.dit(x, t, ctx["prefix"]).float()


def rotated(x: Float[Tensor, "b n s e"]) -> Float[Tensor, "b n s e"]:
    """Apply rotary positions as in the training of the released heads: neighbours are turned, by angles of two halves.

    The tables are rounded to bfloat16 like those of the published code, whose buffers are cast with the weights. Beyond
    position 256 even the positions are rounded, and the heads were trained so.
    """
    size = x.shape[-1]
    frequencies = (1 / 10000.0 ** (torch.arange(0, size, 2, device=x.device).float() / size)).bfloat16()
    places = torch.arange(x.shape[2], device=x.device).bfloat16()
    angles = (places[:, None] * frequencies).repeat(1, 2)
    first, second = x[..., ::2], x[..., 1::2]
    turned = torch.stack([-second, first], -1).flatten(-2)
    return x * angles.cos().to(x.dtype) + turned * angles.sin().to(x.dtype)


def _ffn(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(2, (_HEADS, -1)).transpose(1, 2)


def _together(x: Tensor, copies: int) -> Tensor:
    """Rearrange (b copies) heads rows ... -> b heads (copies rows) ..."""
    return x.unflatten(0, (-1, copies)).transpose(1, 2).flatten(2, 3)


def _apart(x: Tensor, copies: int) -> Tensor:
    """Rearrange b heads (copies rows) ... -> (b copies) heads rows ..."""
    return x.unflatten(2, (copies, -1)).transpose(1, 2).flatten(0, 1)
