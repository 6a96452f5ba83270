"""Checkpoints of Prismatic policies: the published files, with every tensor accounted for, and our own.

Published, the language model's and the eyes' weights lie in safetensors, the head's and the state projector's in `.pt`
files of their training, statistics in `dataset_statistics.json`. A policy of ours is `config.json`, `model.safetensors`
(or shards of it) and `tokenizer.json`.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prophet_gym.errors import CheckpointError, MissingWeightsError, unknown_option
from prophrl_algos.vla._load import LoadOptions
from prophrl_algos.vla._lora import LoraPart, LoraTargets, lora_targets
from prophrl_algos.vla._merge import fitted
from prophrl_algos.vla.conventions import convention
from prophrl_algos.vla.io._saved import read_saved, saving
from prophrl_algos.vla.io._statistics import sound, tensors
from prophrl_algos.vla.io._weights import load_strictly, read_json, read_pt, read_safetensors, renamed, require_sizes
from prophrl_algos.vla.prismatic._policy import PrismaticConfig, PrismaticPolicy, rescale_output
from prophrl_algos.vla.prismatic._sequence import Tokenizer
from prophrl_algos.vla.prismatic._vision import HEADS, VitSize, vit_size

CONFIG = "config.json"
STATISTICS = "dataset_statistics.json"
HEAD, STATE = "action_head--*.pt", "proprio_projector--*.pt"
VISION_ENCODERS = ("vision_backbone.featurizer.", "vision_backbone.fused_featurizer.")
# The head of the language model, what the eyes have behind the features that are read, and a layer of the Pro head
# that its authors left in unused: none has an effect on the actions.
UNUSED = re.compile(r"language_model\.lm_head\.weight|vision_backbone\.\w+\.(norm|attn_pool)\..*")
UNUSED_IN_HEAD = re.compile(r".*\.film_gen\.0\.(weight|bias)")

Policy = TypeVar("Policy", bound=PrismaticPolicy)


def recognised(
    kind: type[PrismaticPolicy], language: str, files: Collection[str], config: Mapping[str, Any]
) -> str | None:
    """Why a folder is a checkpoint of this family; None if it is not."""
    if config.get("model_type") == _own(kind):
        return f"{CONFIG} says model_type {_own(kind)!r}"
    heads = [name for name in files if Path(name).match(HEAD) and "/" not in name]
    said = config.get("text_config")
    text = said.get("model_type") if isinstance(said, Mapping) else None
    if config.get("model_type") == "openvla" and text == language and heads:
        return f"{CONFIG} says openvla on {language}, and there is {heads[0]}"
    return None


def load_prismatic(kind: type[Policy], folder: Path, options: LoadOptions) -> Policy:
    """A policy from published files, or from what `save_prismatic` wrote; on the CPU, in eval mode.

    Raises:
        CheckpointError: a file is damaged, or tensors are missing, unexpected or of another shape.
        MissingWeightsError: a file is not there.
        ValueError: the options do not fit the checkpoint.
    """
    found = read_json(folder / CONFIG)
    require_sizes(found, folder / CONFIG)
    if found.get("model_type") == _own(kind):
        return _saved(kind, folder, found, options)
    policy = _published(kind, folder, found, options)
    choose_trained(policy, options.train)
    return policy.eval()


def save_prismatic(policy: PrismaticPolicy, folder: Path) -> None:
    """Write a policy with its adapters, if it has any; whole or not at all."""
    said = {
        "model_type": _own(type(policy)),
        "policy": asdict(policy.config),
        "lora": None if policy.lora is None else asdict(policy.lora),
    }
    with saving(folder, said, policy.state_dict()) as temporary:
        policy.tokenizer.save(temporary)


def _saved(kind: type[Policy], folder: Path, found: Mapping[str, Any], options: LoadOptions) -> Policy:
    try:
        said = dict(found["policy"])
        vision_encoders = {name: VitSize(**said.pop(name)) for name in ("first", "second")}
        config = PrismaticConfig(**vision_encoders, **said)
        _sound(config.actions, "actions", folder / CONFIG)
        if config.states is not None:
            _sound(config.states, "states", folder / CONFIG)
        lora = found["lora"] and LoraTargets(
            tuple(LoraPart(**part) for part in found["lora"]["parts"]), tuple(found["lora"]["whole"])
        )
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG} is not what was saved: {type(error).__name__} {error}") from error
    if options.benchmark != config.benchmark:
        raise ValueError(f"{folder} acts in {config.benchmark!r}, not {options.benchmark!r}; say so in the options")
    if options.head != config.head:
        raise ValueError(
            f"{folder} has a head of the kind {config.head!r}, not {options.head!r}; say so in the options"
        )
    chosen = {name: getattr(options, name) or getattr(config, name) for name in ("num_steps", "exec_steps")}
    config = replace(config, **chosen, without_state=options.without_state)
    state = read_saved(folder, found)
    policy = _empty(kind, config, folder, options)
    if lora and options.train == "none":
        policy.adapt(lora)
    # What is trained is chosen first: it takes its weights in float32.
    choose_trained(policy, options.train, lora=lora)
    load_strictly(policy, fitted(state, policy, lora or LoraTargets(()), source=folder), source=folder)
    return policy.eval()


def _published(kind: type[Policy], folder: Path, found: Mapping[str, Any], options: LoadOptions) -> Policy:
    if _one(folder, "vision_backbone--*.pt", needed=False) is not None:
        raise CheckpointError(f"{folder} has language-conditioned eyes (FiLM), which no adapter reads")
    names = found.get("timm_model_ids", [])
    if len(names) != len(VISION_ENCODERS) or not set(names) <= set(HEADS):
        raise CheckpointError(f"{folder / CONFIG} must name the eyes {sorted(HEADS)} as timm_model_ids, got {names}")
    weights = renamed(read_safetensors(folder), _our_name)
    vision_encoders = [
        vit_size(_below(weights, prefix), HEADS[name]) for prefix, name in zip(VISION_ENCODERS, names, strict=True)
    ]
    last = tuple(f"{prefix}blocks.{size.depth}." for prefix, size in zip(VISION_ENCODERS, vision_encoders, strict=True))
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(last)}
    head = _head(folder)
    weights |= {f"action_head.{name}": tensor for name, tensor in head.items()}
    state_file = _one(folder, STATE, needed=False)
    if state_file is not None:
        weights |= {f"proprio_projector.{name}": tensor for name, tensor in read_pt(state_file).items()}
    numbers = _statistics(folder, found, options)
    lacking = [name for name in ("action", *(["proprio"] if state_file else [])) if name not in numbers]
    if lacking:
        raise CheckpointError(
            f"the statistics of {folder} have none of {' and '.join(lacking)}: give others with "
            "LoadOptions(statistics=...)"
        )
    how = convention(options.benchmark, "prismatic")
    config = PrismaticConfig(
        text=found["text_config"],
        first=vision_encoders[0],
        second=vision_encoders[1],
        actions=numbers["action"],
        states=None if state_file is None else numbers["proprio"],
        benchmark=options.benchmark,
        horizon=how.exec_steps,
        exec_steps=options.exec_steps or how.exec_steps,
        num_steps=options.num_steps or 10,
        without_state=options.without_state,
        head="l1",
        settings=kind.published_settings(head),
    )
    policy = _empty(kind, config, folder, options)
    load_strictly(policy, weights, source=folder)
    rescale_output(policy.action_head.get_submodule("fc2"), config.actions)
    if options.head == "flow":
        policy.begin_flow()
    return policy


def _tokenizer(folder: Path, options: LoadOptions) -> Tokenizer:
    chosen = folder if options.tokenizer is None else options.tokenizer
    if isinstance(chosen, str | Path):
        return Tokenizer.from_folder(Path(chosen))
    return Tokenizer(chosen.backend_tokenizer.to_str())


def _head(folder: Path) -> dict[str, Tensor]:
    file = _one(folder, HEAD)
    assert file is not None
    return renamed(read_pt(file), lambda name: None if UNUSED_IN_HEAD.fullmatch(name) else name.removeprefix("model."))


def _below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _our_name(name: str) -> str | None:
    if UNUSED.fullmatch(name):
        return None
    name = name.replace(".scale_factor", ".gamma")
    return re.sub(r"^language_model\.model\.", "language_model.", name)


def _statistics(folder: Path, config: Mapping[str, Any], options: LoadOptions) -> Mapping[str, Any]:
    file = folder / STATISTICS if options.statistics is None else options.statistics
    sets = read_json(file) or config.get("norm_stats", {})
    if not sets:
        raise MissingWeightsError(f"there is no {file}; give another with the option `statistics`")
    names = list(sets) if options.unnorm_key is None else [options.unnorm_key]
    if len(names) != 1 or names[0] not in sets:
        raise unknown_option("data set of the statistics (option `unnorm_key`)", options.unnorm_key, sets)
    found = sets[names[0]]
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{file}: statistics of {names[0]!r} must be an object, got {found!r:.80}")
    return {feature: _sound(found.get(feature), feature, file) for feature in ("action", "proprio") if feature in found}


def _sound(numbers: Any, feature: str, source: Path) -> Mapping[str, Any]:
    """Return the statistics of a feature that are read, as plain lists; CheckpointError if they make no sense."""
    given = numbers if isinstance(numbers, Mapping) else {}
    read = tensors({name: given.get(name) for name in ("q01", "q99")}, feature, source)
    sound(read, "quantile", feature, source)
    plain: dict[str, Any] = {name: value.tolist() for name, value in read.items()}
    if given.get("mask") is None:
        return plain
    mask = given["mask"]
    if not isinstance(mask, list) or len(mask) != len(plain["q01"]) or not all(isinstance(e, bool) for e in mask):
        raise CheckpointError(
            f"{source}: mask of {feature!r} must be {len(plain['q01'])} times true or false, got {mask}"
        )
    return plain | {"mask": mask}


def _one(folder: Path, pattern: str, *, needed: bool = True) -> Path | None:
    found = sorted(folder.glob(pattern))
    if len(found) > 1:
        raise CheckpointError(f"{folder} must hold one {pattern}, got {[path.name for path in found]}")
    if needed and not found:
        raise MissingWeightsError(f"{folder} holds no {pattern}")
    return found[0] if found else None


def _empty(kind: type[Policy], config: PrismaticConfig, folder: Path, options: LoadOptions) -> Policy:
    """Make a policy with memory but no weights; what is trained in float32."""
    tokenizer = _tokenizer(folder, options)
    with _default(torch.float32 if options.train == "full" else options.dtype), torch.device("meta"):
        policy = _made(kind, config, tokenizer, folder)
    for part in _expert(policy):
        part.float()
    policy.to_empty(device="cpu")
    model = policy.language_model
    # Rotary frequencies are no weights; they are made, not loaded.
    model.rotary_emb = type(model.rotary_emb)(config=policy.text_config)
    return policy


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _made(kind: type[Policy], config: PrismaticConfig, tokenizer: Tokenizer, folder: Path) -> Policy:
    try:
        return kind(config, tokenizer)
    except ImportError:
        raise
    except Exception as error:  # whatever a damaged config makes the constructors of other libraries raise
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise CheckpointError(f"{folder / CONFIG} describes no {kind.__name__}: {reason}") from error


def choose_trained(policy: PrismaticPolicy, train: str, *, lora: LoraTargets | None = None) -> None:
    """Freeze what is not trained, and put what is into float32.

    Args:
        policy: changed in place.
        train: as in `LoadOptions`.
        lora: the layers that take adapters; the family's if not given.
    """
    policy.requires_grad_(requires_grad=train == "full")
    if train == "expert":
        for part in _expert(policy):
            part.requires_grad_(requires_grad=True)
    elif train == "lora":
        policy.adapt(lora or lora_targets(policy.FAMILY))
    _in_float32(policy)


def _expert(policy: PrismaticPolicy) -> list[nn.Module]:
    parts = [getattr(policy, name) for name in policy.EXPERT]
    return [part for part in parts if part is not None]


def _in_float32(policy: nn.Module) -> None:
    for weight in policy.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def _own(kind: type[PrismaticPolicy]) -> str:
    return f"prophrl-{kind.FAMILY}"
