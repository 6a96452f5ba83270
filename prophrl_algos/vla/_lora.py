"""Put low-rank adapters (peft) on a policy's networks, and fit weights to models with and without them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prophet_gym.errors import CheckpointError

_NAME = "default"
"""peft's name for the adapters."""
_DOWN, _UP = f".lora_A.{_NAME}.weight", f".lora_B.{_NAME}.weight"
_TRAINED = f".modules_to_save.{_NAME}."
_BEFORE = ".original_module."
_BASE = ".base_layer."
PROJECTIONS = r"(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""Pattern of the linear layers of attention and MLP in language models of transformers."""


@dataclass(frozen=True)
class LoraPart:
    """Describe linear layers, those whose whole name a pattern matches, that take adapters scaled by alpha / rank."""

    pattern: str
    rank: int
    alpha: int


@dataclass(frozen=True)
class LoraTargets:
    """Describe what is trained in the mode `lora`: parts with adapters, and patterns of small modules without."""

    parts: tuple[LoraPart, ...]
    whole: tuple[str, ...] = ()


def add_lora(model: nn.Module, targets: LoraTargets) -> None:
    """Freeze a model and add adapters in place.

    An adapter begins as zero, so the model computes the same as before. There is no dropout, since the ratio must be 1
    before the first step. Adapters are float32 whatever the model is: RL steps are too small for bfloat16.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.utils import ModulesToSaveWrapper

    modules = dict(model.named_modules())
    if has_lora(model):
        raise ValueError("the model has adapters already; make the model again to give it others")
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    sized = {name: part for part in targets.parts for name in linear if re.fullmatch(part.pattern, name)}
    whole = sorted(name for name in modules if any(re.fullmatch(pattern, name) for pattern in targets.whole))
    patterns = [*(part.pattern for part in targets.parts), *targets.whole]
    if empty := [each for each in patterns if not any(re.fullmatch(each, name) for name in (*sized, *whole))]:
        raise ValueError(f"no layer of the model is named like {' or '.join(empty)}; linear layers: {linear[:8]} ...")
    model.requires_grad_(requires_grad=False)
    if sized:
        config = LoraConfig(
            target_modules=sorted(sized),
            lora_dropout=0.0,
            rank_pattern={re.escape(name): part.rank for name, part in sized.items()},
            alpha_pattern={re.escape(name): part.alpha for name, part in sized.items()},
        )
        # The same adapters every time, whatever was drawn before: a run that resumes makes them again.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            inject_adapter_in_model(config, model, _NAME)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    # peft's own option for these matches the ends of names only.
    for name in whole:
        parent, _, child = name.rpartition(".")
        wrapper = ModulesToSaveWrapper(model.get_submodule(name), _NAME)
        setattr(model.get_submodule(parent), child, wrapper)
        wrapper.modules_to_save.requires_grad_(requires_grad=True)


def cast_frozen(network: nn.Module, cast: Callable[[], object]) -> None:
    """Change the precision of frozen weights by `cast`, which may change all; trained weights keep every digit."""
    trained = {name: weight.data for name, weight in network.named_parameters() if weight.requires_grad}
    cast()
    for name, weight in network.named_parameters():
        weight.data = trained.get(name, weight.data)


def has_lora(model: nn.Module) -> bool:
    """Return whether a model has adapters or modules that are trained beside them."""
    return any("lora_A." in name or ".modules_to_save." in name for name, _ in model.named_parameters())


def fitted(state: Mapping[str, Tensor], model: nn.Module, targets: LoraTargets, *, source: object) -> dict[str, Tensor]:
    """Return weights under the names of a model that may have adapters; it then computes what the weights say.

    Adapters of `targets` that the model has no place for are added to the weights that they adapt; its own begin at
    zero unless the state dict has just these.
    """
    wanted = model.state_dict()
    if {n: each.shape for n, each in state.items()} == {n: each.shape for n, each in wanted.items()}:
        return dict(state)
    places = {_plain_name(name): tensor for name, tensor in wanted.items() if _TRAINED not in name}
    # `_BEFORE` holds a module as it was before it was trained whole; the trained copy is what the model computes with.
    adapters = (_DOWN, _UP, _BEFORE)
    plain = {_plain_name(name): tensor for name, tensor in state.items() if not any(each in name for each in adapters)}
    for layer in [name.removesuffix(_DOWN) for name in state if name.endswith(_DOWN)]:
        into = places.get(f"{layer}.weight")
        if into is not None and into.dtype != torch.float32:
            raise ValueError(
                f"{source} has adapters on {layer}, whose weights are {str(into.dtype)[6:]} here: adding them would "
                "round away what was learned; load the policy with train='lora' or 'none', or with dtype=torch.float32"
            )
        plain[f"{layer}.weight"] = _merged(layer, plain, state, targets, source=source)
    # Adapters that the model has begin at zero.
    own = {name: each for name, each in wanted.items() if name.endswith((_DOWN, _UP))}
    begun = {name: torch.zeros_like(each) if name.endswith(_UP) else each for name, each in own.items()}
    placed = {name: plain[_plain_name(name)] for name in wanted if _plain_name(name) in plain}
    # Names that the model does not know stay, so that the strict load reports them as unexpected.
    known = set(map(_plain_name, wanted))
    return begun | placed | {name: tensor for name, tensor in plain.items() if name not in known}


def _merged(
    layer: str, plain: Mapping[str, Tensor], state: Mapping[str, Tensor], targets: LoraTargets, *, source: object
) -> Tensor:
    """Return the weight of a layer that computes what it does with the adapter in `state`; the sum is float32."""
    down, up, weight = state[layer + _DOWN], state.get(layer + _UP), plain.get(f"{layer}.weight")
    if up is None or weight is None:
        lacking = layer + _UP if up is None else f"{layer}.weight"
        raise CheckpointError(f"{source}: the adapter {layer}{_DOWN} has no {lacking}")
    fits = up.ndim == down.ndim == 2 and up.shape[1] == len(down)
    if not fits or (len(up), down.shape[1]) != tuple(weight.shape):
        sizes = " and ".join(str(tuple(each.shape)) for each in (up, down))
        raise CheckpointError(
            f"{source}: the matrices of the adapter {layer}{_DOWN} are {sizes}, which do not fit each other and "
            f"{layer} of {tuple(weight.shape)}"
        )
    # The weights do not tell alpha, so the adapters must be among known ones.
    for part in targets.parts:
        if part.rank == len(down) and re.fullmatch(part.pattern, layer):
            return weight.float() + part.alpha / part.rank * (up.float() @ down.float())
    known = "; ".join(f"{part.rank} on {part.pattern[:80]}" for part in targets.parts)
    raise CheckpointError(
        f"{source}: there is an adapter of rank {len(down)} on {layer}, and the known ranks are {known}"
    )


def _plain_name(name: str) -> str:
    """Return the name that a weight has in the model without adapters."""
    return name.replace(_BASE, ".").replace(_TRAINED, ".").replace(_BEFORE, ".")
