"""Which past frames are kept, and the multi-scale memory tokens they become (FramePack-like history)."""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

HistoryOrder = Literal["oldest_finest", "newest_finest"]
# Spatial average-pool sizes of the three levels, fine to coarse (reference.md: "History").
_POOLS = (2, 4, 8)
_MAX_TOKENS = 1024


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
