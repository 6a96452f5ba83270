"""The transformer: Cosmos DiT blocks that also read memory and actions, and what one call of it reads."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from prophet_gym._io.processor import attend
from prophet_gym.prophet._action_frames import PooledActionFrames
from prophet_gym.prophet._diffusers import (
    ConfigMixin,
    CosmosAdaLayerNorm,
    CosmosEmbedding,
    CosmosPatchEmbed,
    CosmosRotaryPosEmbed,
    CosmosTransformerBlock,
    LightModelMixin,
    apply_rotary_emb,
    register_to_config,
)

SIGMA_COND = 1e-4  # noise label of the given slot (reference.md: "One call")
HistoryOrder = Literal["oldest_finest", "newest_finest"]
# Spatial average-pool sizes of the three levels, fine to coarse (reference.md: "History").
_POOLS = (2, 4, 8)
_MAX_TOKENS = 1024
_Memory = tuple[Tensor, Tensor]  # for all blocks what keys and values are made of, or one block's own, split into heads


@dataclass(frozen=True)
class Conditions:
    """Hold the inputs of the transformer but for the noisy slots."""

    given: Float[Tensor, "b c 1 h w"]
    history: Float[Tensor, "b c s h w"] | None  # oldest first
    actions: Float[Tensor, "b n a"]
    # Images of the end effector, as latents or drawn at their size.
    action_frames: Float[Tensor, "b f t h w"] | None
    # The batch elements that have such images, where not all do.
    drawn: Bool[Tensor, " b"] | None = field(default=None, kw_only=True)
    # What `remember` made of the history, which is then None.
    memory: Float[Tensor, "b l 2 heads past e"] | None = field(default=None, kw_only=True)


def history_levels(frames: int, order: HistoryOrder) -> list[int]:
    """Return the level (0 fine .. 2 coarse) of each latent frame, oldest first: `min(round(log2(i + 1)), 2)`.

    `i` counts from the oldest frame in the released weights, from the newest in ours.
    """
    levels = [min(round(math.log2(i + 1)), len(_POOLS) - 1) for i in range(frames)]
    return levels if order == "oldest_finest" else levels[::-1]


class HistoryMemory(nn.Module):
    """Turn history latents into tokens that every self-attention may read.

    Differences from the paper: `order="newest_finest"` is ours, for models we train.
    """

    def __init__(self, channels: int, dim: int, order: HistoryOrder) -> None:
        super().__init__()
        if order not in get_args(HistoryOrder):
            raise ValueError(f"history_order must be one of {', '.join(get_args(HistoryOrder))}, got {order!r}")
        self.order: HistoryOrder = order
        self.levels = nn.ModuleList(nn.Linear(channels, dim) for _ in _POOLS)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)

    def forward(self, history: Float[Tensor, "b c t h w"]) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n d"]]:
        """Return the key source and the value source, tokens of level 0 first, cut to 1024 tokens."""
        levels = history_levels(history.shape[2], self.order)
        tokens = []
        for level, (pool, proj) in enumerate(zip(_POOLS, self.levels, strict=True)):
            # A level may have no frame: a short history is all fine.
            chosen = [i for i, own in enumerate(levels) if own == level]
            if chosen:
                frames = history[:, :, chosen].transpose(1, 2)
                pooled = F.avg_pool2d(frames.flatten(0, 1), pool)
                pooled = pooled.unflatten(0, frames.shape[:2]).permute(0, 1, 3, 4, 2).flatten(1, 3)
                tokens.append(proj(pooled))
        memory = torch.cat(tokens, dim=1)[:, :_MAX_TOKENS]
        return self.to_k(memory), self.to_v(memory)


class _ActionMLP(nn.Module):
    """Apply two linear maps with GELU(tanh) between them (reference.md: "Scalar stream")."""

    def __init__(self, in_features: int, dim: int, out_features: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_features, 4 * dim)
        self.activation = nn.GELU(approximate="tanh")
        self.linear_2 = nn.Linear(4 * dim, out_features)

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """Return the features of flattened actions."""
        return self.linear_2(self.activation(self.linear_1(x)))


class ActionStream(nn.Module):
    """Read `actions_per_slot` actions a call with two MLPs, one for the embedding and one for the modulation.

    Differences from the paper: there one call reads the whole chunk for all latent frames. With `per_frame=True` each
    one has its own call, on the actions that lead to its own video frames: small models learn to obey faster with it.
    """

    def __init__(self, action_dim: int, actions_per_slot: int, dim: int, *, per_frame: bool = False) -> None:
        super().__init__()
        self.per_frame = per_frame
        self.to_embedding = _ActionMLP(action_dim * actions_per_slot, dim, dim)
        self.to_modulation = _ActionMLP(action_dim * actions_per_slot, dim, 3 * dim)

    def forward(
        self, actions: Float[Tensor, "b k a"], frames: int
    ) -> tuple[Float[Tensor, "b _ d"], Float[Tensor, "b _ d3"]]:
        """Return what is added to the embedding and to the modulation, `b 1 d` (shared) or `b frames d` (per frame)."""
        slots = frames if self.per_frame else 1
        flat = actions.reshape(actions.shape[0], slots, -1)
        expected = self.to_embedding.linear_1.in_features
        if flat.shape[-1] != expected:
            raise ValueError(
                f"actions must hold {slots} x {expected} numbers for each batch element, got shape "
                f"{tuple(actions.shape)}; check the chunk length and action_dim against the transformer's config"
            )
        return self.to_embedding(flat), self.to_modulation(flat)


class ProphetTransformer3DModel(LightModelMixin, ConfigMixin):
    """Predict the flow of a chunk's latents from noisy latents, actions and memory (reference.md section 1).

    diffusers' Cosmos blocks, driven with one AdaLN modulation per latent frame (not per token), a history memory
    prepended to the keys and values of every self-attention, and two action streams. Sizes are (t, h, w) in latent
    cells; without `text_embed_dim` there are no cross-attentions, and without `history_order` there is no memory.

    Differences from the paper: `action_stream="frame"` (not shared by all latent frames), `action_frames="input"`
    (extra channels beside the latents) and `history_order="newest_finest"` are ours, for small models; the released
    model has "chunk", "pooled" and "oldest_finest".
    """

    _no_split_modules = ("ProphetBlock",)
    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        *,
        num_attention_heads: int = 16,
        attention_head_dim: int = 128,
        num_layers: int = 28,
        mlp_ratio: float = 4.0,
        text_embed_dim: int | None = 1024,
        adaln_lora_dim: int = 256,
        latent_channels: int = 16,
        max_size: Sequence[int] = (128, 240, 240),
        patch_size: Sequence[int] = (1, 2, 2),
        rope_scale: Sequence[float] = (1.0, 3.0, 3.0),
        action_dim: int = 14,
        actions_per_slot: int = 20,
        action_stream: Literal["chunk", "frame"] = "chunk",
        action_frames: Literal["pooled", "input"] | None = None,
        action_frame_channels: int = 16,
        history_order: HistoryOrder | None = None,
    ) -> None:
        super().__init__()
        dim = num_attention_heads * attention_head_dim
        drawn = action_frame_channels if action_frames == "input" else 0
        self.patch_embed = CosmosPatchEmbed(latent_channels + 2 + drawn, dim, _triple(patch_size), bias=False)
        self.rope = CosmosRotaryPosEmbed(
            hidden_size=attention_head_dim,
            max_size=_triple(max_size),
            patch_size=_triple(patch_size),
            rope_scale=_triple(rope_scale),
        )
        self.time_embed = CosmosEmbedding(dim, dim)
        self.transformer_blocks = nn.ModuleList(
            ProphetBlock(
                num_attention_heads=num_attention_heads,
                attention_head_dim=attention_head_dim,
                cross_attention_dim=text_embed_dim or dim,
                mlp_ratio=mlp_ratio,
                adaln_lora_dim=adaln_lora_dim,
            )
            for _ in range(num_layers)
        )
        for block in self.transformer_blocks:
            # Text is off in every Prophet that dreams: a fifth of the weights that would put out zero.
            if text_embed_dim is None:
                del block.attn2, block.norm2
            norms: list[Any] = [m for name, m in block.named_modules() if name.endswith(("norm_q", "norm_k"))]
            for norm in norms:
                norm.eps = 1e-6  # as the original, where diffusers' Attention takes 1e-5
        self.norm_out = CosmosAdaLayerNorm(dim, adaln_lora_dim)
        self.proj_out = nn.Linear(dim, patch_size[0] * patch_size[1] * patch_size[2] * latent_channels, bias=False)
        self.action_embedder = ActionStream(action_dim, actions_per_slot, dim, per_frame=action_stream == "frame")
        self.action_frame_embedder = (
            PooledActionFrames(action_frame_channels, dim) if action_frames == "pooled" else None
        )
        self.history_memory = HistoryMemory(latent_channels, dim, history_order) if history_order else None
        self.gradient_checkpointing = False

    def forward(
        self,
        hidden_states: Float[Tensor, "b c t h w"],
        timestep: Float[Tensor, "b t"],
        encoder_hidden_states: Float[Tensor, "b n e"] | None = None,
        *,
        condition_mask: Float[Tensor, "b 1 t h w"],
        actions: Float[Tensor, "b k a"],
        action_frames: Float[Tensor, "b f t h w"] | None = None,
        history: Float[Tensor, "b c s h w"] | None = None,
        action_frames_mask: Bool[Tensor, " b"] | None = None,
        memory: Float[Tensor, "b l 2 heads past e"] | None = None,
    ) -> Float[Tensor, "b c t h w"]:
        """Return the raw network output of scaled noisy latents and the noise label c_noise of every latent frame.

        Masks are 1 on given slots, and for batch elements that have action frames: others are computed as without any,
        whatever theirs hold. What is None is left out; `memory` stands for the history that `remember` read.
        """
        if action_frames_mask is not None and self.action_frame_embedder is None:
            raise ValueError('action_frames_mask must be None: this model does not have action_frames="pooled"')
        frames, size = hidden_states.shape[2], hidden_states.shape[3:]
        # The channel after the mask says where an image is padding: nowhere.
        channels = [hidden_states, condition_mask, torch.zeros_like(condition_mask)]
        if self.config["action_frames"] == "input":
            if action_frames is None:
                raise ValueError('action_frames must be given: this model has action_frames="input"')
            channels.append(action_frames)
        x = torch.cat([each.to(hidden_states.dtype) for each in channels], dim=1)
        rope = self.rope(x)
        x = self.patch_embed(x)
        grid = x.shape[1:4]
        x = x.flatten(2, 3)
        # The conditions join the embedding before its norm, where the released weights expect them.
        time = self.time_embed.time_proj(timestep.flatten()).to(x.dtype).unflatten(0, timestep.shape)
        embedding, modulation = self.action_embedder(actions, frames)
        embedding, modulation = time + embedding, self.time_embed.t_embedder(time) + modulation
        if self.action_frame_embedder is not None and action_frames is not None:
            drawn = self.action_frame_embedder(action_frames, condition_mask)
            if action_frames_mask is not None:
                # Chosen, not multiplied: what a masked element holds may be NaN.
                drawn = [torch.where(action_frames_mask[:, None, None], each, 0) for each in drawn]
            embedding, modulation = embedding + drawn[0], modulation + drawn[1]
        embedding, modulation = self.time_embed.norm(embedding)[:, :, None], modulation[:, :, None]
        sources = self.history_memory(history) if self.history_memory is not None and history is not None else None
        for number, block in enumerate(self.transformer_blocks):
            read = sources if memory is None else (memory[:, number, 0], memory[:, number, 1])
            inputs = (x, embedding, modulation, rope, read, encoder_hidden_states)
            # Not diffusers' own checkpointing, which knows its forward alone and not this loop.
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, *inputs, use_reentrant=False)
            else:
                x = block(*inputs)
        x = self.norm_out(x, embedding, modulation)
        return self._unpatchify(self.proj_out(x), grid, size)

    def remember(self, history: Float[Tensor, "b c s h w"]) -> Float[Tensor, "b l 2 heads past e"] | None:
        """Return the keys and values that each block makes of the history: `memory` of every call on it.

        None where the model has no memory.
        """
        if self.history_memory is None:
            return None
        sources = self.history_memory(history)
        blocks: list[Any] = [*self.transformer_blocks]
        return torch.stack([torch.stack(block.remember(sources), dim=1) for block in blocks], dim=1)

    def _unpatchify(self, x: Tensor, grid: torch.Size, size: torch.Size) -> Tensor:
        p_t, p_h, p_w = self.config["patch_size"]
        x = x.unflatten(2, grid[1:]).unflatten(-1, (p_h, p_w, p_t, -1))
        x = x.permute(0, 7, 1, 6, 2, 4, 3, 5)
        return x.reshape(x.shape[0], x.shape[1], grid[0] * p_t, *size)


class ProphetBlock(CosmosTransformerBlock):
    """Run one Cosmos block on tokens grouped by latent frame; its self-attention also reads the memory."""

    entries = ("remember",)
    """Methods that compute beside `forward`, which sharding must know of."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Float[Tensor, "b t n d"],
        embedding: Float[Tensor, "b t 1 d"],
        modulation: Float[Tensor, "b t 1 d3"],
        rope: tuple[Tensor, Tensor],
        memory: _Memory | None,
        text: Tensor | None,
    ) -> Float[Tensor, "b t n d"]:
        shape = x.shape[1:3]
        normed, gate = self.norm1(x, embedding, modulation)
        x = x + gate * _attend(self.attn1, normed.flatten(1, 2), rope, memory).unflatten(1, shape)
        if text is not None:
            normed, gate = self.norm2(x, embedding, modulation)
            x = x + gate * self.attn2(normed.flatten(1, 2), encoder_hidden_states=text).unflatten(1, shape)
        normed, gate = self.norm3(x, embedding, modulation)
        return x + gate * self.ff(normed)

    def remember(self, sources: _Memory) -> _Memory:
        """Return the keys, normed, and values of the history."""
        return _keys_values(self.attn1, sources)


def _triple(values: Sequence[Any]) -> tuple[Any, Any, Any]:
    """Return three numbers of a config, which JSON holds as a list."""
    first, second, third = values
    return first, second, third


def _attend(
    attn: Any, x: Float[Tensor, "b n d"], rope: tuple[Tensor, Tensor], memory: _Memory | None
) -> Float[Tensor, "b n d"]:
    """Attend with the memory's keys (normed, unrotated) and values prepended (reference.md: "History")."""

    # Written out, because diffusers' processor would rotate the memory's keys too, which have no place in the grid.
    def rotate(tokens: Tensor) -> Tensor:
        rotated: Any = apply_rotary_emb(tokens, rope, use_real=True, use_real_unbind_dim=-2)  # pyright: ignore[reportArgumentType]
        return rotated

    query = rotate(attn.norm_q(_heads(attn, attn.to_q(x))))
    key, value = _keys_values(attn, (x, x))
    key = rotate(key)
    if memory is not None:
        # Tokens of the past have no place in the grid of this chunk, so they are not rotated.
        past = _keys_values(attn, memory) if memory[0].ndim == 3 else memory
        key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
    out = attend(query, key, value).transpose(1, 2).flatten(2)
    return attn.to_out[0](out)


def _keys_values(attn: Any, sources: _Memory) -> _Memory:
    """Return a block's keys, normed, and values of what they are made of, split into heads."""
    return attn.norm_k(_heads(attn, attn.to_k(sources[0]))), _heads(attn, attn.to_v(sources[1]))


def _heads(attn: Any, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b heads n e"]:
    return tokens.unflatten(2, (attn.heads, -1)).transpose(1, 2)


def predict_velocity(
    transformer: Callable[..., Tensor], inputs: Conditions, noisy: Float[Tensor, "b c t h w"], time: Float[Tensor, " b"]
) -> Float[Tensor, "b c t h w"]:
    """Return the velocity (source minus data) of the generated slots, noisy at flow time sigma / (1 + sigma)."""
    latents = torch.cat([inputs.given, noisy], dim=2)
    mask = torch.zeros_like(latents[:, :1])
    mask[:, :, :1] = 1
    label = time[:, None].repeat(1, latents.shape[2])
    # The given slot is clean, but was labelled with a little noise in training.
    label[:, 0] = SIGMA_COND
    out = transformer(
        latents,
        label,
        condition_mask=mask,
        actions=inputs.actions,
        action_frames=inputs.action_frames,
        history=inputs.history,
        action_frames_mask=inputs.drawn,
        memory=inputs.memory,
    )
    return out[:, :, 1:]


def predict_clean(
    transformer: Callable[..., Tensor], inputs: Conditions, x: Float[Tensor, "b c t h w"], sigma: float
) -> Float[Tensor, "b c t h w"]:
    """Return the clean latents expected behind `x`, which carries noise of standard deviation `sigma`."""
    tau = sigma / (1 + sigma)
    noisy = (1 - tau) * x
    time = torch.full((x.shape[0],), tau, device=x.device)
    return noisy - tau * predict_velocity(transformer, inputs, noisy.to(inputs.given.dtype), time).to(x)


def beyond_table(latents: Sequence[int], max_size: Sequence[int]) -> dict[str, bool]:
    """Return the problem of latents (t, h, w) that the transformer's rotary table does not cover."""
    too_large = any(side > most for side, most in zip(latents, max_size, strict=True))
    return {f"a chunk has latents of {latents}, but the transformer's table ends at {max_size}": too_large}
