"""Carry the keys and values of a prefix as named tensors, and rebuild the cache that a network reads."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_MASKED = -2.3819763e38
"""Score of a masked position: the number of openpi and of big_vision before it."""


def cache_tensors(cache: Any) -> dict[str, Tensor]:
    """Return the keys and values of every layer by name.

    Args:
        cache: A `DynamicCache` of any transformers release, or lerobot's dict of layers.
    """
    if isinstance(cache, dict):
        pairs = [(layer["key_states"], layer["value_states"]) for layer in cache.values()]
    elif hasattr(cache, "layers"):
        pairs = [(layer.keys, layer.values) for layer in cache.layers]
    else:
        pairs = [cache[layer] for layer in range(len(cache))]
    return {
        f"{kind}.{layer}": tensor
        for layer, pair in enumerate(pairs)
        for kind, tensor in zip(("key", "value"), pair, strict=True)
    }


def as_cache(context: Mapping[str, Tensor]) -> Any:
    """Return a new `DynamicCache`: networks append to their cache in place, which must not change the context."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer in range(_layers(context)):
        cache.update(context[f"key.{layer}"], context[f"value.{layer}"], layer)
    return cache


def as_dict(context: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Return a new dict of layers, which SmolVLA of lerobot up to 0.4 reads."""
    return {
        layer: {"key_states": context[f"key.{layer}"], "value_states": context[f"value.{layer}"]}
        for layer in range(_layers(context))
    }


def may_attend(pad: Bool[Tensor, "b n"], starts_block: Bool[Tensor, "b n"]) -> Bool[Tensor, "b n n"]:
    """Return which token sees which: the real tokens of its own block and of the blocks before it.

    Args:
        pad: True where a token is real.
        starts_block: True where a token begins a new block.
    """
    block = starts_block.cumsum(1)  # number of the block that each token is in
    return (block[:, None, :] <= block[:, :, None]) & pad[:, None, :] & pad[:, :, None]


def additive(allowed: Bool[Tensor, "b n m"]) -> Float[Tensor, "b 1 n m"]:
    """Return a mask that is added to attention scores."""
    return torch.where(allowed[:, None], 0.0, _MASKED)


def _layers(context: Mapping[str, Tensor]) -> int:
    return sum(name.startswith("key.") for name in context)
