"""The transformer: Cosmos DiT blocks that also read memory and actions, and what one call of it reads."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from prophet_gym.prophet._action_frames import PooledActionFrames
from prophet_gym.prophet._action_stream import ActionStream
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
from prophet_gym.prophet._history import HistoryMemory, HistoryOrder

SIGMA_COND = 1e-4
"""Noise label of the given slot (reference.md: "One call")."""
_Memory = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Conditions:
    """Hold the inputs of the transformer but for the noisy slots.

    Attributes:
        given: The latent frame that a chunk starts from.
        history: The latent frames before, oldest first; None without memory.
        actions: What the action stream reads.
        action_frames: Images of the end effector, as latents or drawn at their size; None without them.
        drawn: The batch elements that have such images, where not all do.
    """

    given: Float[Tensor, "b c 1 h w"]
    history: Float[Tensor, "b c s h w"] | None
    actions: Float[Tensor, "b n a"]
    action_frames: Float[Tensor, "b f t h w"] | None
    drawn: Bool[Tensor, " b"] | None = field(default=None, kw_only=True)


class ProphetTransformer3DModel(LightModelMixin, ConfigMixin):
    """Predict the flow of a chunk's latents from noisy latents, actions and memory (reference.md section 1).

    diffusers' Cosmos blocks, driven with one AdaLN modulation per latent frame (not per token), a history memory
    prepended to the keys and values of every self-attention, and two action streams.

    Args:
        num_attention_heads: Heads; the width D is heads times head size.
        attention_head_dim: Size of a head.
        num_layers: Blocks.
        mlp_ratio: MLP width over D.
        text_embed_dim: Width of the text context; None leaves the cross-attentions out.
        adaln_lora_dim: Rank of the AdaLN modulations.
        latent_channels: Channels of the latents.
        max_size: Largest latent size (t, h, w) that the rotary table covers.
        patch_size: Latent cells per token (t, h, w).
        rope_scale: Rotary extrapolation (t, h, w).
        action_dim: Dimensions of a model action.
        actions_per_slot: Actions that one call of the scalar stream reads (the chunk, or those of one latent frame).
        action_stream: "chunk" (the paper: shared by all latent frames) or "frame".
        action_frames: "pooled" (released), "input" (extra channels beside the latents) or None.
        action_frame_channels: Channels of the action-frame input.
        history_order: Which end of the history is finest, or None for a model without memory.

    Differences from the paper: `action_stream="frame"`, `action_frames="input"` and `history_order="newest_finest"` are
    ours, for small models; the released model has "chunk", "pooled" and "oldest_finest".

    Example:
        >>> import torch
        >>> model = ProphetTransformer3DModel(
        ...     num_attention_heads=2, attention_head_dim=12, num_layers=1, text_embed_dim=None, adaln_lora_dim=4,
        ...     action_dim=7, actions_per_slot=8)
        >>> latents, mask = torch.zeros(1, 16, 3, 4, 4), torch.zeros(1, 1, 3, 4, 4)
        >>> model(latents, torch.ones(1, 3), condition_mask=mask, actions=torch.zeros(1, 8, 7)).shape
        torch.Size([1, 16, 3, 4, 4])
    """

    _no_split_modules = ("CosmosTransformerBlock",)
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
            CosmosTransformerBlock(
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
        padding_mask: Float[Tensor, "b 1 h w"] | None = None,
        action_frames_mask: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c t h w"]:
        """Return the raw network output.

        Args:
            hidden_states: Scaled noisy latents, the given slots clean.
            timestep: Noise label c_noise of every latent frame.
            encoder_hidden_states: Text context; None means off, and the cross-attentions are skipped.
            condition_mask: 1 on given slots, 0 on generated ones.
            actions: See `ActionStream`.
            action_frames: Latents of the action video, or drawn channels with `action_frames="input"`.
            history: Latents of past frames, oldest first; None leaves the memory out.
            padding_mask: 1 where the image is padding; None means nowhere.
            action_frames_mask: Which batch elements have action frames; the others, whatever their `action_frames`
                hold, are computed as without any. None means all. For `action_frames="pooled"` alone.

        Raises:
            ValueError: What the config's choice of action frames needs is missing, or cannot be masked.
        """
        if action_frames_mask is not None and self.action_frame_embedder is None:
            raise ValueError('action_frames_mask must be None: this model does not have action_frames="pooled"')
        frames, size = hidden_states.shape[2], hidden_states.shape[3:]
        x = self._input_channels(hidden_states, condition_mask, action_frames, padding_mask)
        rope = self.rope(x)
        x = self.patch_embed(x)
        grid = x.shape[1:4]
        x = x.flatten(2, 3)
        # The conditions join the embedding before its norm, where the released weights expect them.
        embedding, modulation = self._condition(timestep, actions, frames, x.dtype)
        if self.action_frame_embedder is not None and action_frames is not None:
            drawn = self.action_frame_embedder(action_frames, condition_mask)
            embedding, modulation = _add_drawn(embedding, modulation, drawn, action_frames_mask)
        embedding, modulation = self.time_embed.norm(embedding)[:, :, None], modulation[:, :, None]
        memory = self.history_memory(history) if self.history_memory is not None and history is not None else None
        for block in self.transformer_blocks:
            inputs = (block, x, embedding, modulation, rope, memory, encoder_hidden_states)
            # Not diffusers' own checkpointing, which knows its forward alone and not this loop.
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(_run_block, *inputs, use_reentrant=False)
            else:
                x = _run_block(*inputs)
        x = self.norm_out(x, embedding, modulation)
        return self._unpatchify(self.proj_out(x), grid, size)

    def _input_channels(
        self, latents: Tensor, condition_mask: Tensor, action_frames: Tensor | None, padding_mask: Tensor | None
    ) -> Tensor:
        """Concatenate latents, condition mask, padding mask and, where the config says so, the drawn action frames."""
        padding = torch.zeros_like(condition_mask)
        if padding_mask is not None:
            resized = F.interpolate(padding_mask.to(latents.dtype), size=latents.shape[-2:], mode="nearest")
            padding = resized[:, :, None].expand_as(condition_mask)
        channels = [latents, condition_mask.to(latents.dtype), padding.to(latents.dtype)]
        if self.config["action_frames"] == "input":
            if action_frames is None:
                raise ValueError('action_frames must be given: this model has action_frames="input"')
            channels.append(action_frames.to(latents.dtype))
        return torch.cat(channels, dim=1)

    def _condition(
        self,
        timestep: Tensor,
        actions: Tensor,
        frames: int,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """Return timestep embedding before its norm and shared AdaLN vector per latent frame, `b t d` and `b t 3d`."""
        time = self.time_embed.time_proj(timestep.flatten()).to(dtype).unflatten(0, timestep.shape)
        embedding, modulation = self.action_embedder(actions, frames)
        return time + embedding, self.time_embed.t_embedder(time) + modulation

    def _unpatchify(self, x: Tensor, grid: torch.Size, size: torch.Size) -> Tensor:
        p_t, p_h, p_w = self.config["patch_size"]
        x = x.unflatten(2, grid[1:]).unflatten(-1, (p_h, p_w, p_t, -1))
        x = x.permute(0, 7, 1, 6, 2, 4, 3, 5)
        return x.reshape(x.shape[0], x.shape[1], grid[0] * p_t, *size)


def _add_drawn(
    embedding: Float[Tensor, "b t d"],
    modulation: Float[Tensor, "b t d3"],
    drawn: tuple[Float[Tensor, "b t d"], Float[Tensor, "b t d3"]],
    mask: Bool[Tensor, " b"] | None,
) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b t d3"]]:
    """Add what the action frames say where the mask is set, everywhere without one; the rest stays to the bit."""
    if mask is not None:
        # Chosen, not multiplied: what a masked element holds may be NaN.
        rows = mask[:, None, None]
        drawn = (torch.where(rows, drawn[0], 0), torch.where(rows, drawn[1], 0))
    return embedding + drawn[0], modulation + drawn[1]


def _triple(values: Sequence[Any]) -> tuple[Any, Any, Any]:
    """Return three numbers of a config, which JSON holds as a list."""
    first, second, third = values
    return first, second, third


def _run_block(
    block: Any,
    x: Float[Tensor, "b t n d"],
    embedding: Float[Tensor, "b t 1 d"],
    modulation: Float[Tensor, "b t 1 d3"],
    rope: tuple[Tensor, Tensor],
    memory: _Memory | None,
    text: Tensor | None,
) -> Float[Tensor, "b t n d"]:
    """Run one Cosmos block on tokens grouped by latent frame; its self-attention also reads the memory."""
    shape = x.shape[1:3]
    normed, gate = block.norm1(x, embedding, modulation)
    x = x + gate * _attend(block.attn1, normed.flatten(1, 2), rope, memory).unflatten(1, shape)
    if text is not None:
        normed, gate = block.norm2(x, embedding, modulation)
        x = x + gate * block.attn2(normed.flatten(1, 2), encoder_hidden_states=text).unflatten(1, shape)
    normed, gate = block.norm3(x, embedding, modulation)
    return x + gate * block.ff(normed)


def _attend(
    attn: Any, x: Float[Tensor, "b n d"], rope: tuple[Tensor, Tensor], memory: _Memory | None
) -> Float[Tensor, "b n d"]:
    """Attend with the memory's keys (normed, unrotated) and values prepended (reference.md: "History")."""

    # Written out, because diffusers' processor would rotate the memory's keys too, which have no place in the grid.
    def heads(tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (attn.heads, -1)).transpose(1, 2)

    def rotate(tokens: Tensor) -> Tensor:
        rotated: Any = apply_rotary_emb(tokens, rope, use_real=True, use_real_unbind_dim=-2)  # pyright: ignore[reportArgumentType]
        return rotated

    query = rotate(attn.norm_q(heads(attn.to_q(x))))
    key = rotate(attn.norm_k(heads(attn.to_k(x))))
    value = heads(attn.to_v(x))
    if memory is not None:
        # Tokens of the past have no place in the grid of this chunk, so they are not rotated.
        key = torch.cat([attn.norm_k(heads(attn.to_k(memory[0]))), key], dim=2)
        value = torch.cat([heads(attn.to_v(memory[1])), value], dim=2)
    out = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    return attn.to_out[0](out)


def predict_velocity(
    transformer: ProphetTransformer3DModel,
    inputs: Conditions,
    noisy: Float[Tensor, "b c t h w"],
    time: Float[Tensor, " b"],
) -> Float[Tensor, "b c t h w"]:
    """Return the transformer's velocity (source minus data) on the generated slots.

    Args:
        transformer: The network.
        inputs: The rest of its inputs.
        noisy: Latents on the way from source (time 1) to data (time 0).
        time: Flow time of each batch element, tau = sigma / (1 + sigma).
    """
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
    )
    return out[:, :, 1:]
