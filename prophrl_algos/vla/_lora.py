"""Put low-rank adapters (peft) on a policy's networks and choose what is trained."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

NAME = "default"
"""peft's name for the adapters."""
PROJECTIONS = r"(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""Pattern of the linear layers of attention and MLP in language models of transformers."""


@dataclass(frozen=True)
class LoraPart:
    """Describe layers that take adapters of one size.

    Attributes:
        pattern: Regular expression that matches the whole name of each linear layer.
        rank: Rank of the adapters.
        alpha: Adapters are scaled by alpha / rank.
    """

    pattern: str
    rank: int
    alpha: int


@dataclass(frozen=True)
class LoraTargets:
    """Describe what is trained of a policy in the mode `lora`.

    Attributes:
        parts: Layers with adapters.
        whole: Patterns of small modules that are trained without adapters.
    """

    parts: tuple[LoraPart, ...]
    whole: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, said: Mapping[str, Any] | None) -> "LoraTargets | None":
        """Return the targets that `dataclasses.asdict` described; KeyError or TypeError if they are damaged."""
        if said is None:
            return None
        return cls(tuple(LoraPart(**part) for part in said["parts"]), tuple(said["whole"]))


def add_lora(model: nn.Module, targets: LoraTargets) -> list[str]:
    """Freeze a model, add adapters in place, and return the sorted names of the trained parameters.

    Modules keep their names. There is no dropout, since the ratio must be 1 before the first step. An adapter begins as
    zero, so the model computes the same as before.

    Args:
        model: A model of any precision; its adapters are float32, since RL steps are too small for bfloat16.
        targets: What is trained.

    Raises:
        ValueError: A pattern matches nothing, or the model already has adapters.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ValueError("the model has adapters already; make it anew to give it others")
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    found = {part.pattern: _matching(linear, part.pattern) for part in targets.parts}
    whole = {pattern: _matching([name for name, _ in model.named_modules()], pattern) for pattern in targets.whole}
    empty = [pattern for pattern, names in (found | whole).items() if not names]
    if empty:
        raise ValueError(f"no layer of the model is named like {' or '.join(empty)}; linear layers: {linear[:8]} ...")
    model.requires_grad_(requires_grad=False)
    if targets.parts:
        config = LoraConfig(
            target_modules=sorted({name for names in found.values() for name in names}),
            lora_dropout=0.0,
            rank_pattern={re.escape(name): part.rank for part in targets.parts for name in found[part.pattern]},
            alpha_pattern={re.escape(name): part.alpha for part in targets.parts for name in found[part.pattern]},
        )
        # The same adapters every time, whatever was drawn before: a run that resumes makes them again.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            inject_adapter_in_model(config, model, NAME)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    # peft's own option for these matches the ends of names only.
    for name in sorted({name for names in whole.values() for name in names}):
        parent, _, child = name.rpartition(".")
        wrapper = ModulesToSaveWrapper(model.get_submodule(name), NAME)
        setattr(model.get_submodule(parent), child, wrapper)
        wrapper.modules_to_save.requires_grad_(requires_grad=True)
    return sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def choose_trained(network: nn.Module, train: str, *, backbone: str, unread: re.Pattern[str]) -> None:
    """Let the trained weights require a gradient, and hold them in float32.

    Args:
        network: The network of a policy, changed in place.
        train: `LoadOptions.train`; `expert` trains all but the backbone, and `lora` is what `add_lora` left.
        backbone: Prefix of the names of the pretrained model's weights.
        unread: Pattern of the beginnings of names of weights on which no action depends.
    """
    for name, weight in network.named_parameters():
        if train != "lora":
            weight.requires_grad = train == "full" or (train == "expert" and not name.startswith(backbone))
        # A weight without a gradient would only be moved by weight decay.
        if unread.match(name):
            weight.requires_grad = False
        if weight.requires_grad:
            weight.data = weight.data.float()


def cast_frozen(network: nn.Module, cast: Callable[[], object]) -> None:
    """Change the precision of frozen weights; trained weights keep every digit.

    Args:
        network: The network.
        cast: Changes the precision of any part of the network, in place.
    """
    trained = {name: weight.data for name, weight in network.named_parameters() if weight.requires_grad}
    cast()
    for name, weight in network.named_parameters():
        if name in trained:
            weight.data = trained[name]


def has_lora(model: nn.Module) -> bool:
    """Return whether a model has adapters or modules that are trained beside them."""
    return any("lora_A." in name or ".modules_to_save." in name for name, _ in model.named_parameters())


def _matching(names: list[str], pattern: str) -> list[str]:
    return [name for name in names if re.fullmatch(pattern, name)]
