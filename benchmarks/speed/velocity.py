"""Build the transformer for inference: the same function of the same weights, what never changes computed once.

`ProphetTransformer3DModel` is written to be trained and read; this is written to be run, by PyTorch or exported.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from prophet_gym.prophet._history import history_levels
from prophet_gym.prophet._transformer import SIGMA_COND, ProphetTransformer3DModel

_EPS = 1e-6
_POOLS = (2, 4, 8)


class VelocityNetwork(nn.Module):
    """Predict the velocity of a small Prophet's generated slots, as `predict_velocity` does, to float32's rounding.

    Projections that read the same tokens are one matrix, and so are those that follow one another (of a history level
    to a memory token to a block's key); norms' weights are part of the rotary tables; in the last block the given
    slot, whose velocity nobody asks for, is a key but no query.

    Args:
        transformer: One with a history memory and `action_frames="input"`, without text.
        history_slots: Latent frames of its history.
        grid: Latent frames of a call, the given one included, then tokens down and across.

    Raises:
        ValueError: The transformer is of another kind.
    """

    def __init__(self, transformer: ProphetTransformer3DModel, history_slots: int, grid: tuple[int, int, int]) -> None:
        super().__init__()
        config, memory = transformer.config, transformer.history_memory
        if memory is None or config["action_frames"] != "input" or config["text_embed_dim"] is not None:
            raise ValueError("VelocityNetwork needs a transformer with memory and drawn action frames, without text")
        self.heads, self.grid, self.patch = config["num_attention_heads"], grid, tuple(config["patch_size"])
        self.levels = history_levels(history_slots, memory.order)
        self.patch_embed, self.time_embed = transformer.patch_embed, transformer.time_embed
        self.action_embedder = transformer.action_embedder
        self.norm_out, self.proj_out = transformer.norm_out, transformer.proj_out
        blocks = list(transformer.transformer_blocks)
        norms = [norm for block in blocks for norm in (block.norm1, block.norm3)]
        self.adaln_down = _constant(torch.cat([norm.linear_1.weight for norm in norms]))
        self.adaln_up = _constant(torch.stack([norm.linear_2.weight.T for norm in norms]))
        sides = (grid[0] * self.patch[0], grid[1] * self.patch[1], grid[2] * self.patch[2])
        cos, sin = transformer.rope(torch.zeros(1, 1, *sides))
        self.blocks = nn.ModuleList(_Block(block, cos, sin, self.heads) for block in blocks)
        # Keys and values of all blocks, straight from a level's pooled latents; folded in float64, then rounded once.
        sources = [
            (projection.weight.double() @ source.weight.double())
            for block in blocks
            for source, projection in ((memory.to_k, block.attn1.to_k), (memory.to_v, block.attn1.to_v))
        ]
        self.memory = nn.ParameterList()
        self.memory_bias = nn.ParameterList()
        for level in memory.levels:
            self.memory.append(_constant(torch.cat([source @ level.weight.double() for source in sources]).float()))
            self.memory_bias.append(_constant(torch.cat([source @ level.bias.double() for source in sources]).float()))

    def forward(
        self,
        given: Float[Tensor, "b c 1 h w"],
        noisy: Float[Tensor, "b c t h w"],
        history: Float[Tensor, "b c s h w"],
        actions: Float[Tensor, "b k a"],
        action_frames: Float[Tensor, "b f n h w"],
        time: Float[Tensor, " b"],
    ) -> Float[Tensor, "b c t h w"]:
        """Return source minus data on the generated slots; see `predict_velocity`."""
        latents = torch.cat([given, noisy], dim=2)
        is_given = torch.zeros_like(latents[:, :1])
        is_given[:, :, :1] = 1
        label = torch.cat([torch.full_like(time, SIGMA_COND)[:, None], time[:, None].expand(-1, noisy.shape[2])], dim=1)
        x = self.patch_embed(torch.cat([latents, is_given, torch.zeros_like(is_given), action_frames], dim=1))
        slot = self.grid[1] * self.grid[2]
        x = x.flatten(2, 3)
        projected = self.time_embed.time_proj(label.flatten()).to(x.dtype).unflatten(0, label.shape)
        embedding, modulation = self.action_embedder(actions, label.shape[1])
        embedding = self.time_embed.norm(projected + embedding)
        modulation = self.time_embed.t_embedder(projected) + modulation
        down = F.linear(F.silu(embedding), self.adaln_down).unflatten(-1, (len(self.adaln_up), -1))
        adaln = torch.einsum("btnr,nrd->nbtd", down, self.adaln_up) + modulation
        memory = self._memory(history)
        for index, block in enumerate(self.blocks):
            # The last block need not move the given slot any further.
            first = 1 if index == len(self.blocks) - 1 else 0
            x = block(x, adaln[2 * index], adaln[2 * index + 1], memory[:, :, index], first, slot)
        x = self.proj_out(self.norm_out(x, embedding[:, 1:, None], modulation[:, 1:, None]))
        t, p_h, p_w = self.patch
        x = x.unflatten(2, self.grid[1:]).unflatten(-1, (p_h, p_w, t, -1)).permute(0, 7, 1, 6, 2, 4, 3, 5)
        return x.reshape(noisy.shape)

    def _memory(self, history: Float[Tensor, "b c s h w"]) -> Float[Tensor, "b m n 2 heads e"]:
        """Return keys (neither normed nor rotated) and values of the history's tokens for every block."""
        tokens = []
        for level, pool in enumerate(_POOLS):
            chosen = [i for i, own in enumerate(self.levels) if own == level]
            if chosen:
                frames = history[:, :, chosen].transpose(1, 2)
                pooled = F.avg_pool2d(frames.flatten(0, 1), pool)
                pooled = pooled.unflatten(0, frames.shape[:2]).permute(0, 1, 3, 4, 2).flatten(1, 3)
                tokens.append(F.linear(pooled, self.memory[level], self.memory_bias[level]))
        return torch.cat(tokens, dim=1).unflatten(-1, (len(self.blocks), 2, self.heads, -1))


class _Block(nn.Module):
    """Compute a Cosmos block with joined projections and the norms' weights in its rotary tables."""

    def __init__(self, block: nn.Module, cos: Tensor, sin: Tensor, heads: int) -> None:
        super().__init__()
        attention, half = block.attn1, cos.shape[-1] // 2
        self.heads = heads
        self.qkv = _constant(torch.cat([attention.to_q.weight, attention.to_k.weight, attention.to_v.weight]))
        self.out, self.up, self.down = attention.to_out[0], block.ff.net[0].proj, block.ff.net[2]
        self.norm_k = _constant(attention.norm_k.weight)
        sign = torch.cat([-torch.ones(half), torch.ones(half)])
        # rotate(w * x) = x * (w cos) + swap(x) * (swap(w) sign sin), where swap exchanges the halves.
        for name, norm in (("query", attention.norm_q), ("key", attention.norm_k)):
            setattr(self, f"{name}_cos", _constant(cos * norm.weight))
            setattr(self, f"{name}_sin", _constant(sin * sign * norm.weight.roll(half)))

    def forward(
        self,
        x: Float[Tensor, "b t n d"],
        attend: Float[Tensor, "b t d3"],
        feed: Float[Tensor, "b t d3"],
        memory: Float[Tensor, "b m 2 heads e"],
        first: int,
        slot: int,
    ) -> Float[Tensor, "b u n d"]:
        """Return the tokens of the slots from `first` on."""
        shift, scale, gate = attend[:, :, None].chunk(3, dim=-1)
        normed = F.layer_norm(x, x.shape[-1:], eps=_EPS) * (1 + scale) + shift
        query, key, value = F.linear(normed.flatten(1, 2), self.qkv).unflatten(-1, (3, self.heads, -1)).unbind(2)
        query = _rotated(query[:, first * slot :], self.query_cos[first * slot :], self.query_sin[first * slot :])
        old = memory[:, :, 0]
        old = old * torch.rsqrt(old.square().mean(-1, keepdim=True) + _EPS) * self.norm_k
        key = torch.cat([old, _rotated(key, self.key_cos, self.key_sin)], dim=1)
        value = torch.cat([memory[:, :, 1], value], dim=1)
        seen = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (query, key, value)))
        x = x[:, first:]
        x = x + gate[:, first:] * self.out(seen.transpose(1, 2).flatten(2)).unflatten(1, (-1, slot))
        shift, scale, gate = feed[:, first:, None].chunk(3, dim=-1)
        normed = F.layer_norm(x, x.shape[-1:], eps=_EPS) * (1 + scale) + shift
        return x + gate * self.down(F.gelu(self.up(normed)))


def _rotated(
    tokens: Float[Tensor, "b n heads e"], cos: Float[Tensor, "n e"], sin: Float[Tensor, "n e"]
) -> Float[Tensor, "b n heads e"]:
    """Return tokens after their RMS norm and rotary embedding."""
    half = tokens.shape[-1] // 2
    swapped = torch.cat([tokens[..., half:], tokens[..., :half]], dim=-1)
    rotated = tokens * cos[:, None] + swapped * sin[:, None]
    return rotated * torch.rsqrt(tokens.square().mean(-1, keepdim=True) + _EPS)


def _constant(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)
