"""Keys and values of a prefix as named tensors, and back as the cache that a network reads."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MASKED = -2.3819763e38
"""What is added to the scores of masked positions: openpi's number, big_vision's before."""


def cache_tensors(cache: Any) -> dict[str, Tensor]:
    """The keys and values of every layer, of a `DynamicCache` of any transformers or of lerobot's dict of layers."""
    if isinstance(cache, dict):
        pairs = [(layer["key_states"], layer["value_states"]) for layer in cache.values()]
    elif hasattr(cache, "layers"):
        pairs = [(layer.keys, layer.values) for layer in cache.layers]
    else:
        pairs = [cache[layer] for layer in range(len(cache))]
    named = {}
    for layer, (keys, values) in enumerate(pairs):
        named[f"key.{layer}"], named[f"value.{layer}"] = keys, values
    return named


def as_cache(context: Mapping[str, Tensor]) -> Any:
    """A new `DynamicCache`, which a network may append to without touching the context."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer in range(_layers(context)):
        cache.update(context[f"key.{layer}"], context[f"value.{layer}"], layer)
    return cache


def as_dict(context: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """A new dict of layers, as SmolVLA of lerobot up to 0.4 wants it."""
    return {
        layer: {"key_states": context[f"key.{layer}"], "value_states": context[f"value.{layer}"]}
        for layer in range(_layers(context))
    }


def may_attend(pad: Bool[Tensor, "b n"], starts_block: Bool[Tensor, "b n"]) -> Bool[Tensor, "b n n"]:
    """Who sees whom: a token sees the real tokens of its own block and of those before.

    Args:
        pad: which tokens are real.
        starts_block: which begin a new block.
    """
    block = starts_block.cumsum(1)
    return (block[:, None, :] <= block[:, :, None]) & pad[:, None, :] & pad[:, :, None]


def additive(allowed: Bool[Tensor, "b n m"]) -> Float[Tensor, "b 1 n m"]:
    """0 where allowed and a very large negative number where not."""
    return torch.where(allowed[:, None], 0.0, MASKED)


def _layers(context: Mapping[str, Tensor]) -> int:
    return sum(name.startswith("key.") for name in context)
