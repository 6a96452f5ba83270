"""Carry the keys and values of a prefix as named tensors, and rebuild the cache that a network reads."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prophrl_algos.flow import TensorContext

_MASKED = -2.3819763e38
"""Score of a masked position: the number of openpi and of big_vision before it."""
_KINDS = ("key", "value")


def cache_tensors(cache: Any) -> dict[str, Tensor]:
    """Return keys and values of every layer of a `DynamicCache` of any transformers release, or of lerobot's dict."""
    if isinstance(cache, dict):
        pairs = [(layer["key_states"], layer["value_states"]) for layer in cache.values()]
    elif hasattr(cache, "layers"):
        pairs = [(layer.keys, layer.values) for layer in cache.layers]
    else:
        pairs = [cache[layer] for layer in range(len(cache))]
    return {f"{kind}.{n}": each for n, pair in enumerate(pairs) for kind, each in zip(_KINDS, pair, strict=True)}


def as_cache(context: Mapping[str, Tensor]) -> Any:
    """Return a new `DynamicCache`: networks append to their cache in place, which must not change the context."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer, pair in enumerate(_pairs(context)):
        cache.update(*pair, layer)
    return cache


def as_dict(context: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Return a new dict of layers, which SmolVLA of lerobot up to 0.4 reads."""
    return {n: {"key_states": key, "value_states": value} for n, (key, value) in enumerate(_pairs(context))}


def prefix_context(
    both: Any,
    embedded: Float[Tensor, "b n d"],
    pad: Bool[Tensor, "b n"],
    starts: Bool[Tensor, "b n"],
    mask: Callable[[Tensor], Tensor] = torch.clone,
    **how: bool,
) -> TensorContext:
    """Run lerobot's pair of models on what `embed_prefix` gave; return keys, values and the mask of real tokens."""
    _, cache = both.forward(
        attention_mask=mask(may_attend(pad, starts)),
        position_ids=pad.cumsum(1) - 1,
        past_key_values=None,
        inputs_embeds=[embedded, None],
        use_cache=True,
        **how,
    )
    return TensorContext(pad=pad, **cache_tensors(cache))


def may_attend(pad: Bool[Tensor, "b n"], starts_block: Bool[Tensor, "b n"]) -> Bool[Tensor, "b n n"]:
    """Return which token sees which: the real ones (`pad` is True) of its own block and of the blocks before it."""
    block = starts_block.cumsum(1)  # number of the block that each token is in
    return (block[:, None, :] <= block[:, :, None]) & pad[:, None, :] & pad[:, :, None]


def additive(allowed: Bool[Tensor, "b n m"]) -> Float[Tensor, "b 1 n m"]:
    """Return a mask that is added to attention scores."""
    return torch.where(allowed[:, None], 0.0, _MASKED)


def _pairs(context: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    layers = sum(name.startswith("key.") for name in context)
    return [(context[f"key.{n}"], context[f"value.{n}"]) for n in range(layers)]
