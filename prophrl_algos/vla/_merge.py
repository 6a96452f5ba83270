"""Weights with low-rank adapters (peft's names) and without: each into a model with adapters or without."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prophet_gym.errors import CheckpointError
from prophrl_algos.vla._lora import NAME, LoraTargets

_DOWN, _UP = f".lora_A.{NAME}.weight", f".lora_B.{NAME}.weight"
_TRAINED = f".modules_to_save.{NAME}."
_BEFORE = ".original_module."
_BASE = ".base_layer."


def fitted(state: Mapping[str, Tensor], model: nn.Module, targets: LoraTargets, *, source: object) -> dict[str, Tensor]:
    """Return a state dict under the names of a model that has adapters or has none.

    Adapters that the model has no place for are added to the weights that they adapt; the model's own adapters begin at
    zero where the state dict has none. What the model computes is what the weights say in every case.

    Args:
        state: weights of the model before or after `add_lora`.
        model: where they are to go; its adapters' first matrices are kept.
        targets: what the adapters of the state dict were made from.
        source: named in errors.

    Raises:
        CheckpointError: an adapter is of no layer, or of one that the targets do not name.
        ValueError: adapters would be added to weights in half precision, which rounds away what was learnt.
    """
    wanted = model.state_dict()
    if not has_adapters(wanted):
        _require_precision(state, wanted, source)
        return merged(state, targets, source=source)
    shapes = {name: tensor.shape for name, tensor in wanted.items()}
    if {name: tensor.shape for name, tensor in state.items()} == shapes:
        return dict(state)
    _require_precision(state, wanted, source)
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
    # What the model does not know stays, so that it is named as unexpected.
    return found | {name: tensor for name, tensor in plain.items() if name not in known}


def merged(state: Mapping[str, Tensor], targets: LoraTargets, *, source: object) -> dict[str, Tensor]:
    """Return the weights without adapters that compute the same; the sums are made in float32.

    Raises:
        CheckpointError: as in `fitted`.
    """
    found = {}
    for name, tensor in state.items():
        if _DOWN in name or _UP in name or _BEFORE in name:
            continue
        found[plain_name(name)] = tensor
    for name in state:
        if not name.endswith(_DOWN):
            continue
        layer = name.removesuffix(_DOWN)
        up, weight = state.get(layer + _UP), found.get(f"{layer}.weight")
        if up is None or weight is None:
            raise CheckpointError(
                f"{source}: the adapter {name} has no {layer + _UP if up is None else layer + '.weight'}"
            )
        if up.ndim != 2 or state[name].ndim != 2 or up.shape[1] != len(state[name]):
            sizes = f"{tuple(up.shape)} and {tuple(state[name].shape)}"
            raise CheckpointError(f"{source}: the two matrices of the adapter {name} do not fit each other: {sizes}")
        change = up.float() @ state[name].float()
        if change.shape != weight.shape:
            raise CheckpointError(
                f"{source}: the adapter {name} changes {tuple(change.shape)} numbers of {layer}, which has "
                f"{tuple(weight.shape)}"
            )
        scaling = _scaling(layer, targets, len(state[name]), source)
        found[f"{layer}.weight"] = weight.float() + scaling * change
    return found


def has_adapters(state: Mapping[str, object]) -> bool:
    """Whether a state dict has adapters or copies of modules that are trained whole."""
    return any(_DOWN in name or _TRAINED in name for name in state)


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
    for part in targets.parts:
        if part.rank == rank and re.fullmatch(part.pattern, layer):
            return part.alpha / part.rank
    known = "; ".join(f"{part.rank} on {part.pattern[:80]}" for part in targets.parts)
    raise CheckpointError(
        f"{source}: there is an adapter of rank {rank} on {layer}, and known are only those of rank {known}: "
        "load it into a policy with the same adapters"
    )
