"""Low-rank adapters on a policy's networks (peft)."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prophet_gym.errors import unknown_option

NAME = "default"
_ATTENTION_AND_MLP = r"(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True)
class LoraPart:
    """Layers that get adapters of one size.

    Attributes:
        pattern: a regular expression that the whole name of a linear layer must match.
        rank: of the adapters.
        alpha: scales them by alpha / rank.
    """

    pattern: str
    rank: int
    alpha: int


@dataclass(frozen=True)
class LoraTargets:
    """What of a family of policies is trained when its weights are not.

    Attributes:
        parts: layers with adapters.
        whole: small modules that are trained as they are; patterns, as for layers.
    """

    parts: tuple[LoraPart, ...]
    whole: tuple[str, ...] = ()


_PI_EXPERT = LoraPart(rf".*gemma_expert.*\.{_ATTENTION_AND_MLP}", 32, 32)
_PI_LANGUAGE = LoraPart(rf".*paligemma.*language_model.*\.{_ATTENTION_AND_MLP}", 16, 16)
_PI05_WHOLE = (r"(.*\.)?(action_in_proj|action_out_proj|time_mlp_in|time_mlp_out)",)
_PI0_WHOLE = (r"(.*\.)?(action_in_proj|action_out_proj|action_time_mlp_in|action_time_mlp_out|state_proj)",)
_LLAMA_LIKE = rf".*language_model.*\.{_ATTENTION_AND_MLP}"

# Ranks of pi0 and pi0.5: openpi models/gemma.py, gemma_300m_lora and gemma_2b_lora. The time modulation (`dense` of the
# norms) stays as it is. lerobot's own pattern for pi0.5 names layers that it does not have and misses others.
TARGETS: Mapping[str, LoraTargets] = {
    "pi05-expert": LoraTargets((_PI_EXPERT,), _PI05_WHOLE),
    "pi05": LoraTargets((_PI_EXPERT, _PI_LANGUAGE), _PI05_WHOLE),
    "pi0-expert": LoraTargets((LoraPart(rf"model\.dit\..*\.{_ATTENTION_AND_MLP}", 32, 32),), _PI0_WHOLE),
    "pi0": LoraTargets(
        (
            LoraPart(rf"model\.dit\..*\.{_ATTENTION_AND_MLP}", 32, 32),
            LoraPart(rf"model\.vlm\..*language_model.*\.{_ATTENTION_AND_MLP}", 16, 16),
        ),
        _PI0_WHOLE,
    ),
    "smolvla": LoraTargets((LoraPart(rf".*lm_expert.*\.{_ATTENTION_AND_MLP}", 32, 32),), _PI0_WHOLE),
    # OpenVLA-OFT vla-scripts/finetune.py: rank 32, alpha min(rank, 16); the flow head is new and trained whole.
    "vla-adapter": LoraTargets((LoraPart(_LLAMA_LIKE, 32, 32),), (r"(.*\.)?action_queries", r"(.*\.)?action_head")),
    "openvla-oft": LoraTargets((LoraPart(_LLAMA_LIKE, 32, 16),), (r"(.*\.)?action_head",)),
}
"""Per family; all of it is meant to be changed with `dataclasses.replace` or written anew."""


def lora_targets(family: str) -> LoraTargets:
    """The targets of a family by name; UnknownOptionError if there are none."""
    if family not in TARGETS:
        raise unknown_option("family of policies", family, TARGETS)
    return TARGETS[family]


def add_lora(model: nn.Module, targets: LoraTargets) -> list[str]:
    """Freeze a model and put adapters into it, in place; the names of what is trained now, sorted.

    Names of modules stay as they were. There is no dropout: the ratio must be 1 before the first step. An adapter
    begins as zero, so nothing that the model computes changes.

    Args:
        model: of any precision; adapters are float32, since steps of RL are too small for bfloat16.
        targets: what is trained.

    Raises:
        ValueError: a pattern matches nothing, or the model has adapters.
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
    config = LoraConfig(
        target_modules=sorted({name for names in found.values() for name in names}),
        lora_dropout=0.0,
        rank_pattern={re.escape(name): part.rank for part in targets.parts for name in found[part.pattern]},
        alpha_pattern={re.escape(name): part.alpha for part in targets.parts for name in found[part.pattern]},
    )
    if targets.parts:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same adapters every time, whatever was drawn before
            inject_adapter_in_model(config, model, NAME)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    for name in sorted({name for names in whole.values() for name in names}):
        parent, _, child = name.rpartition(".")
        wrapper = ModulesToSaveWrapper(model.get_submodule(name), NAME)
        setattr(model.get_submodule(parent), child, wrapper)
        wrapper.modules_to_save.requires_grad_(requires_grad=True)
    return sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def let_train(
    network: nn.Module, train: str, *, targets: LoraTargets, backbone: str, unread: re.Pattern[str]
) -> list[str]:
    """Let what is trained require a gradient, in float32; its names.

    Args:
        network: of a published policy.
        train: `expert` (all but the backbone), `lora`, `full` or `none`.
        targets: which layers take adapters.
        backbone: what names of the pretrained model's weights begin with.
        unread: matches names, from their beginning, of weights on which no action depends.
    """
    if train == "lora":
        add_lora(network, targets)
    for name, weight in network.named_parameters():
        if train != "lora":
            weight.requires_grad = train == "full" or (train == "expert" and not name.startswith(backbone))
        if unread.match(name):
            weight.requires_grad = False
        if weight.requires_grad:
            weight.data = weight.data.float()
    return sorted(name for name, weight in network.named_parameters() if weight.requires_grad)


def cast_frozen(network: nn.Module, cast: Callable[[], object]) -> None:
    """Change the precision of what is not trained; what is trained keeps every digit.

    Args:
        network: of which `cast` changes any part, in place.
        cast: changes it.
    """
    trained = {name: weight.data for name, weight in network.named_parameters() if weight.requires_grad}
    cast()
    for name, weight in network.named_parameters():
        if name in trained:
            weight.data = trained[name]


def targets_in(model: nn.Module) -> LoraTargets | None:
    """Return what `add_lora` puts the same adapters into the same model with; None if it has none."""
    if not has_lora(model):
        return None
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    layers: dict[tuple[int, int], list[str]] = {}
    whole = []
    for name, module in model.named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            whole.append(re.escape(name))
        elif isinstance(module, BaseTunerLayer):
            each: Any = module
            layers.setdefault((each.r[NAME], each.lora_alpha[NAME]), []).append(re.escape(name))
    parts = tuple(LoraPart("|".join(names), rank, alpha) for (rank, alpha), names in sorted(layers.items()))
    return LoraTargets(parts, tuple(whole))


def has_lora(model: nn.Module) -> bool:
    """Whether `add_lora` was here."""
    return any("lora_A." in name or ".modules_to_save." in name for name, _ in model.named_parameters())


def _matching(names: list[str], pattern: str) -> list[str]:
    return [name for name in names if re.fullmatch(pattern, name)]
