"""Fit weights with and without low-rank adapters (in peft's names) to models with and without them."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prophet_gym.errors import CheckpointError
from prophrl_algos.vla._lora import NAME, LoraTargets, has_lora

_DOWN, _UP = f".lora_A.{NAME}.weight", f".lora_B.{NAME}.weight"
_TRAINED = f".modules_to_save.{NAME}."
_BEFORE = ".original_module."
_BASE = ".base_layer."


def fitted(state: Mapping[str, Tensor], model: nn.Module, targets: LoraTargets, *, source: object) -> dict[str, Tensor]:
    """Return a state dict under the names of a model that may have adapters.

    Adapters that the model has no place for are added to the weights that they adapt. If the state dict has no
    adapters, those of the model begin at zero. In every case the model computes what the weights say.

    Args:
        state: Weights of the model before or after `add_lora`.
        model: The model they are for; the first matrices of its adapters are kept.
        targets: What the adapters in the state dict were made from.
        source: Where the weights are from, for error messages.

    Raises:
        CheckpointError: An adapter belongs to no layer, or to one that the targets do not name.
        ValueError: Adapters would be added to half-precision weights, which rounds away what was learnt.
    """
    wanted = model.state_dict()
    if not has_lora(model):
        _require_precision(state, wanted, source)
        return merged(state, targets, source=source)
    if {name: tensor.shape for name, tensor in state.items()} == {name: each.shape for name, each in wanted.items()}:
        return dict(state)
    _require_precision(state, wanted, source)
    # Both have adapters, but other ones: those of the state dict go into the weights, those of the model begin at zero.
    plain = merged(state, targets, source=source)
    found = {}
    for name, own in wanted.items():
        if name.endswith(_UP):
            found[name] = torch.zeros_like(own)
        elif name.endswith(_DOWN):
            found[name] = own
        elif plain_name(name) in plain:
            found[name] = plain[plain_name(name)]
    known = {plain_name(name) for name in wanted}
    # Names that the model does not know stay, so that the strict load reports them as unexpected.
    return found | {name: tensor for name, tensor in plain.items() if name not in known}


def merged(state: Mapping[str, Tensor], targets: LoraTargets, *, source: object) -> dict[str, Tensor]:
    """Return weights without adapters that compute the same; the sums are float32.

    Raises:
        CheckpointError: As in `fitted`.
    """
    # `_BEFORE` holds a module as it was before it was trained whole; the trained copy is what the model computes with.
    adapters = (_DOWN, _UP, _BEFORE)
    found = {plain_name(name): tensor for name, tensor in state.items() if not any(each in name for each in adapters)}
    for name, down in state.items():
        if not name.endswith(_DOWN):
            continue
        layer = name.removesuffix(_DOWN)
        up, weight = state.get(layer + _UP), found.get(f"{layer}.weight")
        if up is None or weight is None:
            raise CheckpointError(
                f"{source}: the adapter {name} has no {layer + _UP if up is None else layer + '.weight'}"
            )
        fits = up.ndim == down.ndim == 2 and up.shape[1] == len(down)
        if not fits or (len(up), down.shape[1]) != tuple(weight.shape):
            sizes = " and ".join(str(tuple(each.shape)) for each in (up, down))
            raise CheckpointError(
                f"{source}: the matrices of the adapter {name} are {sizes}, which do not fit each other and {layer} "
                f"of {tuple(weight.shape)}"
            )
        change = up.float() @ down.float()
        found[f"{layer}.weight"] = weight.float() + _scaling(layer, targets, len(down), source) * change
    return found


def plain_name(name: str) -> str:
    """Return the name that a weight has in the model without adapters.

    Example:
        >>> plain_name("block.q_proj.base_layer.weight"), plain_name("head.modules_to_save.default.bias")
        ('block.q_proj.weight', 'head.bias')
    """
    return name.replace(_BASE, ".").replace(_TRAINED, ".").replace(_BEFORE, ".")


def _require_precision(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: object) -> None:
    places = {plain_name(name): tensor for name, tensor in wanted.items() if _TRAINED not in name}
    for name in state:
        into = places.get(name.removesuffix(_DOWN) + ".weight") if name.endswith(_DOWN) else None
        if into is not None and into.dtype != torch.float32:
            raise ValueError(
                f"{source} has adapters on {name.removesuffix(_DOWN)}, whose weights are {str(into.dtype)[6:]} here, "
                "so that adding them would round away what was learnt: load the policy with train='lora' or 'none', "
                "or with dtype=torch.float32"
            )


def _scaling(layer: str, targets: LoraTargets, rank: int, source: object) -> float:
    # The weights do not tell alpha, so the adapters must be among known ones.
    for part in targets.parts:
        if part.rank == rank and re.fullmatch(part.pattern, layer):
            return part.alpha / part.rank
    known = "; ".join(f"{part.rank} on {part.pattern[:80]}" for part in targets.parts)
    raise CheckpointError(
        f"{source}: there is an adapter of rank {rank} on {layer}, and known are only those of rank {known}: "
        "load it into a policy with the same adapters"
    )
