"""Policies of published families as prophrl saves them: whatever was trained, with adapters or without.

`config.json` says what the network is made of, the scales and the adapters; `model.safetensors` (or shards) holds the
weights, each in the precision that it was trained in; `tokenizer/` the tokenizer.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from prophet_gym.errors import CheckpointError
from prophrl_algos.flow.policy import FlowSpec
from prophrl_algos.vla._load import LoadOptions
from prophrl_algos.vla._lora import LoraPart, LoraTargets, add_lora, targets_in
from prophrl_algos.vla._merge import fitted
from prophrl_algos.vla._policy import ImageConfig, ProcessorConfig, PublishedPolicy
from prophrl_algos.vla._tokenization import (
    PROMPTS,
    CharTokenizer,
    HuggingFaceTokens,
    Tokenize,
    pretrained_tokenizer,
    tokenizer_of,
)
from prophrl_algos.vla.conventions import Affine, convention
from prophrl_algos.vla.io._saved import read_saved, saving
from prophrl_algos.vla.io._weights import load_strictly, require_sizes, without_init

CONFIG = "config.json"
TOKENIZER = "tokenizer"

Policy = TypeVar("Policy", bound=PublishedPolicy)


def own_type(family: str) -> str:
    """Return the `model_type` of what prophrl saves of a family."""
    return f"prophrl-{family}"


def save_published(policy: PublishedPolicy, folder: Path) -> None:
    """Write a policy, whole or not at all.

    Raises:
        ValueError: it was made of parts that no file can describe: a network without a config, a prompt of one's own.
        CheckpointError: a weight is not finite.
    """
    processor = policy.processor
    prompt = next((name for name, known in PROMPTS.items() if known is processor.prompt), None)
    if policy.config is None or prompt is None:
        what = "its network's config is not known" if policy.config is None else "its prompt is a function of its own"
        raise ValueError(
            f"this policy cannot be saved, since {what}: make it with load_policy, or save its state_dict()"
        )
    lora = targets_in(policy.network)
    said = {
        "model_type": own_type(policy.FAMILY),
        "network": dict(policy.config),
        "spec": asdict(policy.spec),
        "benchmark": processor.convention.benchmark,
        "convention": processor.convention.family,
        "pictures": asdict(processor.images),
        "actions": _listed(processor.actions),
        "state": None if processor.state is None else _listed(processor.state),
        "state_columns": processor.state_columns,
        "prompt": prompt,
        "max_tokens": processor.max_tokens,
        "letters": processor.tokenize.vocabulary if isinstance(processor.tokenize, CharTokenizer) else None,
        "lora": None if lora is None else asdict(lora),
    }
    with saving(folder, said, policy.state_dict()) as temporary:
        if isinstance(processor.tokenize, HuggingFaceTokens):
            processor.tokenize.tokenizer.save_pretrained(temporary / TOKENIZER)


def load_saved(kind: type[Policy], folder: Path, said: Mapping[str, Any], options: LoadOptions) -> Policy:
    """Return a policy that `save_published` wrote, trained further in any way; on the CPU, in eval mode.

    With `train="lora"` or `"none"` adapters come back as they were; `"expert"` and `"full"` add them to the weights.

    Raises:
        CheckpointError: a file is damaged, or its tensors are not those of its config.
        MissingWeightsError: a file is not there.
        ValueError: the options do not fit.
    """
    if said.get("benchmark") != options.benchmark:
        raise ValueError(
            f"{folder} acts in {said.get('benchmark')!r}, not {options.benchmark!r}; say so with "
            f"LoadOptions(benchmark=...)"
        )
    require_sizes(said, folder / CONFIG)
    state = read_saved(folder, said)
    try:
        spec, processor = _parts(said)
        lora = _targets(said["lora"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder / CONFIG} is not what was saved: {type(error).__name__} {error}") from error
    chosen = {name: value for name in ("num_steps", "exec_steps") if (value := getattr(options, name)) is not None}
    processor = replace(processor, tokenize=_tokenize(folder, said, options), without_state=options.without_state)
    policy = kind(made_network(kind, said["network"], folder), replace(spec, **chosen), processor, said["network"])
    _require_agreement(policy, folder)
    # What is trained is chosen first: it takes its weights in float32, the rest in the precision asked for.
    if lora is not None and options.train == "none":
        add_lora(policy.network, lora)
    policy.let_train(options.train, language=options.language, lora=lora)
    policy.cast(options.dtype)
    own = {name.removeprefix("network."): tensor for name, tensor in state.items()}
    load_strictly(policy.network, fitted(own, policy.network, lora or LoraTargets(()), source=folder), source=folder)
    return policy.eval()


def _require_agreement(policy: PublishedPolicy, folder: Path) -> None:
    """Raise CheckpointError unless the sizes beside a network are its own."""
    spec, processor, own = policy.spec, policy.processor, getattr(policy.network, "config", None)
    sizes = {"chunk_size": spec.horizon, "max_action_dim": spec.latent_dim}
    if processor.state is not None and processor.prompt is PROMPTS["line"]:  # the network reads it, not the prompt
        sizes["max_state_dim"] = processor.state_columns
    wrong = [name for name, size in sizes.items() if getattr(own, name, size) != size]
    if wrong:
        said = ", ".join(f"{name} is {getattr(own, name)} in the network and {sizes[name]} beside it" for name in wrong)
        raise CheckpointError(f"{folder / CONFIG} is damaged: {said}")


def made_network(kind: type[PublishedPolicy], config: Any, folder: Path) -> nn.Module:
    """Return the network of a config, with memory but no weights; CheckpointError where there can be none."""
    require_sizes(config, folder / CONFIG)
    try:
        with without_init():
            return kind.make_network(config)
    except ImportError:
        raise
    except Exception as error:  # whatever a damaged config makes the constructors of other libraries raise
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise CheckpointError(f"{folder / CONFIG} describes no network of {kind.FAMILY}: {reason}") from error


def _parts(said: Mapping[str, Any]) -> tuple[FlowSpec, ProcessorConfig]:
    spec = FlowSpec(**said["spec"])
    actions = _affine(said["actions"], "actions", spec.action_dim)
    state = None if said["state"] is None else _affine(said["state"], "state", None)
    processor = ProcessorConfig(
        convention=convention(said["benchmark"], said["convention"]),
        images=ImageConfig(**said["pictures"]),
        actions=actions,
        state=state,
        state_columns=int(said["state_columns"]),
        tokenize=CharTokenizer(1),
        prompt=PROMPTS[said["prompt"]],
        max_tokens=int(said["max_tokens"]),
    )
    if state is not None and processor.state_columns < len(state.scale):
        raise ValueError(f"state_columns={processor.state_columns} must be at least {len(state.scale)}")
    return spec, processor


def _targets(said: Mapping[str, Any] | None) -> LoraTargets | None:
    if said is None:
        return None
    return LoraTargets(tuple(LoraPart(**part) for part in said["parts"]), tuple(said["whole"]))


def _tokenize(folder: Path, said: Mapping[str, Any], options: LoadOptions) -> Tokenize:
    if options.tokenizer is not None:
        return tokenizer_of(options.tokenizer, folder)
    if isinstance(said.get("letters"), int) and said["letters"] > 0:
        return CharTokenizer(said["letters"])
    if (folder / TOKENIZER).is_dir():
        return pretrained_tokenizer(folder / TOKENIZER)
    raise CheckpointError(
        f"{folder} holds no {TOKENIZER}/: it was saved with a function for a tokenizer; give it again with "
        "LoadOptions(tokenizer=...)"
    )


def _listed(by: Affine) -> dict[str, list[float]]:
    return {"offset": by.offset.tolist(), "scale": by.scale.tolist()}


def _affine(said: Mapping[str, Any], name: str, numbers: int | None) -> Affine:
    offset, scale = (torch.tensor(said[key], dtype=torch.float32) for key in ("offset", "scale"))
    sound = bool(offset.isfinite().all() and scale.isfinite().all() and (scale != 0).all())
    if offset.ndim != 1 or offset.shape != scale.shape or not sound or numbers not in (None, len(scale)):
        raise ValueError(f"{name} must be as many finite offsets as scales that are not 0, got {dict(said)}")
    return Affine(offset, scale)
