"""Pi0 as a flow policy, on the network of transformers itself: it needs no other library.

Checkpoints of lerobot and of openpi's port have the same layers under other names, and are read too.
"""

import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prophet_gym.errors import CheckpointError
from prophrl_algos.flow.policy import FlowSpec, Obs, TensorContext
from prophrl_algos.vla._load import LoadOptions
from prophrl_algos.vla._lora import LoraTargets, cast_frozen, let_train, lora_targets
from prophrl_algos.vla._policy import ImageConfig, ProcessorConfig, PublishedPolicy
from prophrl_algos.vla._prefix_cache import as_cache, cache_tensors
from prophrl_algos.vla._tokenization import PALIGEMMA, line, tokenizer_of
from prophrl_algos.vla.conventions import convention
from prophrl_algos.vla.io._policies import load_saved, made_network, own_type
from prophrl_algos.vla.io._statistics import (
    Scales,
    cut,
    lerobot_scales,
    openpi_scales,
    transformers_scales,
    without_padding,
)
from prophrl_algos.vla.io._weights import has_weights, load_strictly, read_json, read_safetensors, renamed

LAYOUT = (
    "config.json with model_type pi0 (transformers) or type pi0 (lerobot), or openpi's model.safetensors with "
    "paligemma_with_expert.* and state_proj.*"
)
ACTION_DIM = 7
_PREFIX = "model.vlm."
_EMBEDDING = "model.vlm.language_model.embed_tokens.weight"
_EXPERT_EMBEDDING = "model.dit.embed_tokens.weight"
_RENAMES = (
    (r"^model\.(?=paligemma_with_expert|action_|state_proj)", ""),
    (r"^(state_proj|action_in_proj|action_time_mlp_in|action_time_mlp_out)\.", r"embed_action_time.\1."),
    (r"^paligemma_with_expert\.paligemma\.lm_head\.weight$", _EMBEDDING),
    (r"^paligemma_with_expert\.gemma_expert\.lm_head\.weight$", _EXPERT_EMBEDDING),
    (r"^paligemma_with_expert\.paligemma\.(model\.)?", "model.vlm."),
    (r"^paligemma_with_expert\.gemma_expert\.model\.", "model.dit."),
    (r"^model\.vlm\.language_model\.model\.", "model.vlm.language_model."),
    (r"^model\.vlm\.vision_tower\.vision_model\.", "model.vlm.vision_tower."),
)


def recognises(files: Collection[str], config: Mapping[str, Any]) -> str | None:
    """Transformers and lerobot say it in `config.json`."""
    if not has_weights(files):
        return None
    if config.get("model_type") == own_type("pi0"):
        return "config.json says model_type prophrl-pi0, as prophrl writes it"
    if config.get("model_type") == "pi0":
        return "config.json says model_type pi0, as transformers writes it"
    return "config.json says type pi0, as lerobot writes it" if config.get("type") == "pi0" else None


def recognises_tensors(names: Collection[str]) -> str | None:
    """Openpi's files say it by the names of their tensors only."""
    if {"paligemma_with_expert.gemma_expert.model.norm.weight", "state_proj.weight"} <= set(names):
        return "paligemma_with_expert with a state_proj and no time modulation, as openpi writes pi0"
    return None


class Pi0Policy(PublishedPolicy):
    """Pictures and prompt as a prefix of PaliGemma; an expert that reads the state and denoises the actions.

    Args:
        network: `transformers.PI0ForConditionalGeneration`; the expert's word embedding, which nothing reads, is taken
            off.
        spec: the sizes.
        processor: pictures, prompt, scales and signs.
    """

    FAMILY = "pi0"
    before = (_PREFIX,)

    def __init__(
        self, network: nn.Module, spec: FlowSpec, processor: ProcessorConfig, config: Mapping[str, Any] | None = None
    ) -> None:
        """Take a network over, in place."""
        super().__init__(network, spec, processor, config)
        cast(Any, network).model.dit.embed_tokens = nn.Identity()
        # transformers 5.24 renamed the argument and the output; later ones do not know the old name.
        self._cache = "cache" if "cache" in inspect.signature(network.forward).parameters else "past_key_values"

    @staticmethod
    def make_network(config: Mapping[str, Any]) -> nn.Module:
        """As `make_network`."""
        return make_network(config)

    def let_train(self, train: str, *, language: bool = False, lora: LoraTargets | None = None) -> None:
        """As `choose_trained`."""
        choose_trained(self.network, train, language=language, lora=lora)

    def cast(self, dtype: torch.dtype) -> None:
        """Change the precision of PaliGemma where it is not trained."""
        cast_frozen(self.network, lambda: cast(Any, self.network).model.vlm.to(dtype))

    def prefix(
        self, images: Sequence[Float[Tensor, "b 3 h w"]], obs: Obs, device: torch.device
    ) -> TensorContext:  # fmt: skip
        """Keys and values of PaliGemma, which tokens are real, and the state."""
        model: Any = cast(Any, self.network).model
        config, rows = model.config.vlm_config, len(obs["tokens"])
        pixels = torch.stack(list(images), 1).to(model.vlm.dtype)
        places = len(images) * (pixels.shape[-1] // config.vision_config.patch_size) ** 2
        pictured = torch.full((rows, places), config.image_token_id, device=device)
        mask = torch.cat([torch.ones_like(pictured, dtype=torch.bool), obs["token_mask"]], 1)
        seen = torch.ones(rows, len(images), dtype=torch.bool, device=device)
        embedded = model.embed_prefix(torch.cat([pictured, obs["tokens"]], 1), pixels, seen)
        read = model.vlm(
            inputs_embeds=embedded,
            attention_mask=mask,
            position_ids=mask.cumsum(1) - 1,
            # All 0: every token of the prefix sees every other one.
            token_type_ids=torch.zeros_like(mask, dtype=torch.int64),
            use_cache=True,
        )
        return TensorContext(mask=mask, state=obs["state"].to(device), **cache_tensors(read[self._cache]))

    def velocity(self, ctx: TensorContext, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        """v(x, t) in float32; time and sign are the network's own."""
        cache = {self._cache: as_cache(ctx)}
        found = self.network(state=ctx["state"], noise=x, timestep=t, attention_mask=ctx["mask"], **cache)
        return found.logits.float()


def choose_trained(
    network: nn.Module, train: str, *, language: bool = False, lora: LoraTargets | None = None
) -> list[str]:
    """Let what is trained require a gradient; its names.

    Args:
        network: as in `Pi0Policy`.
        train: `expert` (the action expert with its projections), `lora`, `full` or `none`.
        language: whether `lora` is put into PaliGemma's language model too.
        lora: other layers for the adapters.
    """
    last = len(cast(Any, network).model.vlm.language_model.layers) - 1
    # Of the last layer only keys and values are read, and no word is predicted.
    unread = re.compile(
        rf"model\.vlm\.language_model\.(layers\.{last}\.(self_attn\.[qo]_proj|mlp|post_attention_lay)|norm\.)"
    )
    targets = lora or lora_targets("pi0" if language else "pi0-expert")
    return let_train(network, train, targets=targets, backbone=_PREFIX, unread=unread)


def load(folder: Path, options: LoadOptions) -> Pi0Policy:
    """A published checkpoint; see `LAYOUT`."""
    config = read_json(folder / "config.json")
    if config.get("model_type") == own_type(Pi0Policy.FAMILY):
        return load_saved(Pi0Policy, folder, config, options)
    how = convention(options.benchmark, "openpi")
    scales = _scales(folder, options, config)
    if scales.state is None:
        raise CheckpointError(f"pi0 reads the robot's state, and {folder} has no statistics of it")
    network: Any = made_network(Pi0Policy, config, folder)
    fill(network, read_safetensors(folder), source=folder)
    sizes = network.config
    spec = FlowSpec(
        horizon=sizes.chunk_size,
        latent_dim=sizes.max_action_dim,
        action_dim=ACTION_DIM,
        exec_steps=options.exec_steps or min(how.exec_steps, sizes.chunk_size),
        num_steps=options.num_steps or sizes.num_inference_steps,
    )
    processor = ProcessorConfig(
        convention=how,
        images=ImageConfig(sizes.vlm_config.vision_config.image_size, antialias="type" not in config),
        actions=cut(scales.actions, ACTION_DIM, "actions", folder),
        state=without_padding(scales.state, sizes.max_state_dim),
        state_columns=sizes.max_state_dim,
        tokenize=tokenizer_of(options.tokenizer, PALIGEMMA),
        prompt=line,
        max_tokens=int(config.get("tokenizer_max_length", 48)),
        without_state=options.without_state,
    )
    policy = Pi0Policy(network, spec, processor, config)
    policy.let_train(options.train, language=options.language)
    policy.cast(options.dtype)
    return policy.eval()


def make_network(config: Mapping[str, Any]) -> Any:
    """The network of a transformers config, of a lerobot config, or of openpi's sizes where there is none."""
    try:
        from transformers import PI0Config, PI0ForConditionalGeneration
    except ImportError as error:
        raise ImportError(
            "pi0 needs transformers >= 5.4, which has its network: pip install 'transformers>=5.4'"
        ) from error
    if config.get("model_type") == "pi0":
        return PI0ForConditionalGeneration(PI0Config.from_dict(dict(config)))
    names = ("chunk_size", "max_action_dim", "max_state_dim", "num_inference_steps", "min_period", "max_period")
    return PI0ForConditionalGeneration(PI0Config(**{name: config[name] for name in names if name in config}))


def fill(network: nn.Module, state: Mapping[str, Tensor], *, source: object) -> None:
    """Put a state dict of any of the layouts into a network; every tensor is accounted for.

    The language model's embedding may be there as the head that it is tied to; the expert's is not read.

    Raises:
        CheckpointError: names what is missing, unexpected or of another shape.
    """
    native = {name: tensor for name, tensor in state.items() if not name.endswith("paligemma.lm_head.weight")}
    found = renamed(native, own_name)
    for name, tensor in state.items():
        found.setdefault(own_name(name), tensor)
    unread = {_EXPERT_EMBEDDING}
    load_strictly(network, found, may_miss=unread, may_ignore=unread, source=source)


def own_name(name: str) -> str:
    """A tensor's name in lerobot's, openpi's or transformers' files to that of the network.

    Example:
        >>> own_name("model.paligemma_with_expert.gemma_expert.model.norm.weight")
        'model.dit.norm.weight'
    """
    for pattern, new in _RENAMES:
        name = re.sub(pattern, new, name)
    return name


def _scales(folder: Path, options: LoadOptions, config: Mapping[str, Any]) -> Scales:
    if options.statistics is None and config.get("type") == "pi0":
        return lerobot_scales(folder)
    if options.statistics is None and config.get("model_type") == "pi0":
        return transformers_scales(folder)
    # openpi training/config.py: quantiles for every model but pi0
    return openpi_scales(folder, "mean std", 1e-6, given=options.statistics, key=options.unnorm_key)
