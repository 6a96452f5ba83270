"""Build VLA-Adapter's bridge attention (arXiv 2509.09372): as published, and as a flow head with its weights.

Block i of the head reads layer i of the language model: the states of the action queries and the robot's state as they
are, the states of the images through a gate. None of this depends on noise or time, so keys and values are made once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from prophrl_algos.vla.prismatic import _flow_heads as heads
from prophrl_algos.vla.prismatic._flow_heads import FlowHead, L1Head, SharedContext

_HEADS = 8


@dataclass(frozen=True)
class BridgeStates:
    """Hold what a bridge head reads: states of images and action queries in every block, the robot's as a token."""

    task: Sequence[Float[Tensor, "b t d"]]
    seen: Bool[Tensor, "b t"]
    """True where the states of images are no padding."""
    action: Sequence[Float[Tensor, "b q d"]]
    state: Float[Tensor, "b d"] | None


class _Bridge(nn.Module):
    """Attend over the actions and what is read, then apply one layer with a ReLU and no residual around it.

    As in the first release: one key and one value layer for everything, no positions.
    """

    SOURCES: ClassVar[tuple[str, ...]] = ("proj",)
    k_proj: nn.Linear
    v_proj: nn.Linear

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())
        self.q_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)
        self.gating_factor = nn.Parameter(torch.zeros(1))
        for source in self.SOURCES:
            for kind in "kv":
                self.add_module(f"{kind}_{source}", nn.Linear(width, width))

    def own(self, x: Float[Tensor, "b h d"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, key and value of the actions, by head."""
        return _heads(self.q_proj(x)), _heads(self.k_proj(x)), _heads(self.v_proj(x))

    def read(self, action: Float[Tensor, "b q d"], task: Float[Tensor, "b t d"]) -> tuple[Tensor, Tensor]:
        """Return keys and values of what is read, by head: action queries and state, then the gated images."""
        gate = torch.tanh(self.gating_factor)
        keys = torch.cat([self.k_proj(action), gate * self.k_proj(task)], 1)
        return _heads(keys), _heads(self.v_proj(torch.cat([action, task], 1)))

    def forward(
        self,
        x: Float[Tensor, "bc h d"],
        keys: Float[Tensor, "b n s e"],
        values: Float[Tensor, "b n s e"],
        bias: Float[Tensor, "b s"],
        modulation: Float[Tensor, "bc two d"] | None = None,
    ) -> Float[Tensor, "bc h d"]:
        """Return the actions after the block; several rows of them (copies c) may share a row of what is read."""
        query, key, value = self.own(x)
        query = query / math.sqrt(query.shape[-1])
        copies = len(x) // len(keys)
        read = _apart(_together(query, copies) @ keys.transpose(2, 3) + bias[:, None, None], copies)
        # One softmax over both, as published: the actions compete with what is read.
        weights = torch.cat([query @ key.transpose(2, 3), read], 3).softmax(3)
        own, read = weights.split([x.shape[1], keys.shape[2]], 3)
        found = own @ value + _apart(_together(read, copies) @ values, copies)
        hidden = self.ffn[0](self.o_proj(found.transpose(1, 2).flatten(2)) + x)
        if modulation is not None:
            scale, shift = modulation[:, :, None].unbind(1)
            hidden = hidden * (1 + scale) + shift
        return self.ffn[2](self.ffn[1](hidden))


class _ProBridge(_Bridge):
    """Attend as in the Pro release: own key and value layers for each of the three sources, and rotary positions."""

    SOURCES: ClassVar[tuple[str, ...]] = ("self", "adapter", "task")
    k_self: nn.Linear
    v_self: nn.Linear
    k_adapter: nn.Linear
    v_adapter: nn.Linear
    k_task: nn.Linear
    v_task: nn.Linear

    def own(self, x: Float[Tensor, "b h d"]) -> tuple[Tensor, Tensor, Tensor]:
        return rotated(_heads(self.q_proj(x))), rotated(_heads(self.k_self(x))), _heads(self.v_self(x))

    def read(self, action: Float[Tensor, "b q d"], task: Float[Tensor, "b t d"]) -> tuple[Tensor, Tensor]:
        gate = torch.tanh(self.gating_factor)
        keys = [rotated(_heads(self.k_adapter(action))), gate * rotated(_heads(self.k_task(task)))]
        values = [_heads(self.v_adapter(action)), _heads(self.v_task(task))]
        return torch.cat(keys, 2), torch.cat(values, 2)


class BridgeL1Head(L1Head):
    """Predict as the published head: a constant in, one block per layer of the language model, one action out."""

    def __init__(self, width: int, blocks: int, horizon: int, action_dim: int, *, pro: bool) -> None:
        super().__init__(width, horizon, action_dim, _blocks(width, blocks, pro=pro))

    def query(self) -> Float[Tensor, " d"]:
        """Return what every action starts from: the head is given zeros, and the norm turns them into its bias."""
        return F.relu(self.fc1(self.layer_norm1.bias))

    def mean(self, states: BridgeStates) -> Float[Tensor, "b h a"]:
        bias, *read = _read(self.mlp_resnet_blocks, states)
        x = self.query().expand(len(bias), self.horizon, -1)
        for block, keys, values in zip(self.mlp_resnet_blocks, read[::2], read[1::2], strict=True):
            x = block(x, keys, values, bias)
        return self.fc2(self.layer_norm2(x)).float()


class BridgeFlowHead(FlowHead):
    """Predict the mean of the actions given a noisy action and a time, with the blocks of the published head.

    The velocity is that of a flow around this mean. Noise and time enter through layers that are 0 before any training,
    so the head starts as the published one.
    """

    def __init__(self, width: int, blocks: int, horizon: int, action_dim: int, *, pro: bool) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width))
        self.noise = nn.Linear(action_dim, width)
        self.positions = nn.Parameter(torch.zeros(horizon, width))
        self.time = heads.TimeEmbedding(width)
        self.offsets = nn.Parameter(torch.zeros(blocks, 2, width))
        self.blocks = _blocks(width, blocks, pro=pro)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, action_dim)
        heads.silence(self.noise)

    def start_from(self, head: BridgeL1Head) -> None:
        """Take the weights of a published head; its first layer becomes the constant that it gave."""
        self.blocks.load_state_dict(head.mlp_resnet_blocks.state_dict())
        self.norm.load_state_dict(head.layer_norm2.state_dict())
        self.out.load_state_dict(head.fc2.state_dict())
        with torch.no_grad():
            self.query.copy_(head.query())

    def prefix(self, states: BridgeStates) -> SharedContext:
        return SharedContext(_read(self.blocks, states))

    def mean(self, ctx: SharedContext, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        """Return the mean of the actions given x_t."""
        bias, *read = ctx.tensors
        time = self.time(t)
        hidden = self.query + self.positions + self.noise(x)
        for block, keys, values, offset in zip(self.blocks, read[::2], read[1::2], self.offsets, strict=True):
            hidden = block(hidden, keys, values, bias, time + offset)
        return self.out(self.norm(hidden)).float()

    def velocity(self, ctx: SharedContext, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        return heads.gaussian_velocity(x, t, self.mean(ctx, x, t), self.spread)


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


def _blocks(width: int, blocks: int, *, pro: bool) -> nn.ModuleList:
    if width % _HEADS:
        raise ValueError(f"width={width} must be a multiple of the {_HEADS} heads of bridge attention")
    kind = _ProBridge if pro else _Bridge
    return nn.ModuleList(kind(width) for _ in range(blocks))


def _read(blocks: nn.ModuleList, states: BridgeStates) -> tuple[Tensor, ...]:
    """Return the bias of the scores, then keys and values of every block."""
    dtype = next(blocks.parameters()).dtype
    state = [] if states.state is None else [states.state[:, None].to(dtype)]
    read: list[Tensor] = []
    for block, task, action in zip(blocks, states.task, states.action, strict=True):
        assert isinstance(block, _Bridge)
        read.extend(block.read(torch.cat([action.to(dtype), *state], 1), task.to(dtype)))
    # The images stand last; all before them is real.
    real = F.pad(states.seen, (read[0].shape[2] - states.seen.shape[1], 0), value=True)
    bias = torch.zeros(real.shape, dtype=dtype, device=real.device)
    return bias.masked_fill(~real, torch.finfo(dtype).min), *read


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(2, (_HEADS, -1)).transpose(1, 2)


def _together(x: Tensor, copies: int) -> Tensor:
    """Rearrange (b copies) heads rows ... -> b heads (copies rows) ..."""
    return x.unflatten(0, (-1, copies)).transpose(1, 2).flatten(2, 3)


def _apart(x: Tensor, copies: int) -> Tensor:
    """Rearrange b heads (copies rows) ... -> (b copies) heads rows ..."""
    return x.unflatten(2, (copies, -1)).transpose(1, 2).flatten(0, 1)
