"""Make a flow policy of Pi0, on the network of transformers; it needs no other library.

Checkpoints of lerobot and of openpi's port have the same layers under other names and are read too.
"""

import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prophrl_algos.flow import FlowSpec, Obs, TensorContext
from prophrl_algos.vla._lora import PROJECTIONS, LoraPart, LoraTargets
from prophrl_algos.vla._options import LoadOptions
from prophrl_algos.vla._prefix_policy import PrefixPolicy, as_cache, cache_tensors
from prophrl_algos.vla._processor import ImageConfig, ProcessorConfig
from prophrl_algos.vla._tokenization import PALIGEMMA, line, tokenizer_of
from prophrl_algos.vla.conventions import convention
from prophrl_algos.vla.io._statistics import cut, published_scales, transformers_scales, without_padding
from prophrl_algos.vla.io._weights import has_weights, load_strictly, renamed

ACTION_DIM = 7
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
# Ranks: openpi models/gemma.py, gemma_300m_lora and gemma_2b_lora.
_EXPERT = LoraPart(rf"model\.dit\..*\.{PROJECTIONS}", 32, 32)
_LANGUAGE = LoraPart(rf"model\.vlm\..*language_model.*\.{PROJECTIONS}", 16, 16)
_WHOLE = (r"(.*\.)?(action_in_proj|action_out_proj|action_time_mlp_in|action_time_mlp_out|state_proj)",)


class Pi0Policy(PrefixPolicy):
    """Denoise actions with an expert that reads the state and PaliGemma's keys and values.

    The network is `transformers.PI0ForConditionalGeneration`.
    """

    FAMILY: ClassVar[str] = "pi0"
    LAYOUT: ClassVar[str] = (
        "config.json with model_type pi0 (transformers) or type pi0 (lerobot), or openpi's model.safetensors with "
        "paligemma_with_expert.* and state_proj.*"
    )
    BACKBONE: ClassVar[str] = "model.vlm"
    LANGUAGE: ClassVar[str] = "model.vlm.language_model"
    LORA: ClassVar[LoraTargets] = LoraTargets((_EXPERT,), _WHOLE)
    LORA_WITH_LANGUAGE: ClassVar[LoraTargets] = LoraTargets((_EXPERT, _LANGUAGE), _WHOLE)

    def _take_over(self, network: Any) -> None:
        # The expert reads no words: its word embedding would only take memory.
        network.model.dit.embed_tokens = nn.Identity()
        # transformers 5.24 renamed the argument and the output; later ones do not know the old name.
        self._cache = "cache" if "cache" in inspect.signature(network.forward).parameters else "past_key_values"

    @staticmethod
    def make_network(config: Mapping[str, Any]) -> Any:
        """Return the network of a transformers config, of a lerobot config, or of openpi's sizes for an empty one."""
        try:
            from transformers import PI0Config, PI0ForConditionalGeneration
        except ImportError as error:
            raise ImportError("pi0 needs transformers >= 5.4: pip install 'transformers>=5.4'") from error
        if config.get("model_type") == "pi0":
            return PI0ForConditionalGeneration(PI0Config.from_dict(dict(config)))
        names = ("chunk_size", "max_action_dim", "max_state_dim", "num_inference_steps", "min_period", "max_period")
        return PI0ForConditionalGeneration(PI0Config(**{name: config[name] for name in names if name in config}))

    @staticmethod
    def fill(network: nn.Module, state: Mapping[str, Tensor], *, source: object) -> None:
        heads = {name: tensor for name, tensor in state.items() if name.endswith("paligemma.lm_head.weight")}
        found = renamed({name: tensor for name, tensor in state.items() if name not in heads}, _own_name)
        # The language model's embedding may be stored as the head that it is tied to; it wins where a file holds both.
        for name, tensor in heads.items():
            found.setdefault(_own_name(name), tensor)
        unread = {_EXPERT_EMBEDDING}
        load_strictly(network, found, may_miss=unread, may_ignore=unread, source=source)

    @classmethod
    def recognises(cls, files: Collection[str], config: Mapping[str, Any]) -> str | None:
        if has_weights(files) and config.get("model_type") == "pi0":
            return "config.json says model_type pi0, as transformers writes it"
        return super().recognises(files, config)

    @classmethod
    def recognises_tensors(cls, names: Collection[str]) -> str | None:
        # openpi writes no config.
        if {"paligemma_with_expert.gemma_expert.model.norm.weight", "state_proj.weight"} <= set(names):
            return "paligemma_with_expert with a state_proj and no time modulation, as openpi writes pi0"
        return None

    @classmethod
    def load_published(cls, folder: Path, config: Mapping[str, Any], options: LoadOptions) -> "Pi0Policy":
        how = convention(options.benchmark, "openpi")
        if options.statistics is None and config.get("model_type") == "pi0":
            scales = transformers_scales(folder)
        else:
            # openpi training/config.py: every model but pi0 is scaled by quantiles.
            scaled = replace(how, scaling="mean std", eps=1e-6)
            scales = published_scales(folder, scaled, options, lerobot=config.get("type") == "pi0")
        state = scales.require_state("pi0", folder)
        network = cls.published_network(config, folder)
        own, horizon = network.config, network.config.chunk_size
        exec_steps = min(how.exec_steps, horizon)
        spec = FlowSpec(horizon, own.max_action_dim, ACTION_DIM, exec_steps, own.num_inference_steps)
        processor = ProcessorConfig(
            convention=how,
            images=ImageConfig(own.vlm_config.vision_config.image_size, antialias="type" not in config),
            actions=cut(scales.actions, ACTION_DIM, "actions", folder),
            state=without_padding(state, own.max_state_dim),
            state_columns=own.max_state_dim,
            tokenize=tokenizer_of(options.tokenizer, PALIGEMMA),
            prompt=line,
            max_tokens=int(config.get("tokenizer_max_length", 48)),
            without_state=options.without_state,
        )
        return cls(network, options.sized(spec), processor, config)

    def prefix(self, images: Sequence[Float[Tensor, "b 3 h w"]], obs: Obs, device: torch.device) -> TensorContext:
        model: Any = cast(Any, self.network).model
        config, rows = model.config.vlm_config, len(obs["tokens"])
        pixels = torch.stack(list(images), 1).to(model.vlm.dtype)
        places = len(images) * (pixels.shape[-1] // config.vision_config.patch_size) ** 2
        image_tokens = torch.full((rows, places), config.image_token_id, device=device)
        mask = torch.cat([torch.ones_like(image_tokens, dtype=torch.bool), obs["token_mask"]], 1)
        seen = torch.ones(rows, len(images), dtype=torch.bool, device=device)
        embedded = model.embed_prefix(torch.cat([image_tokens, obs["tokens"]], 1), pixels, seen)
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
        cache = {self._cache: as_cache(ctx)}
        found = self.network(state=ctx["state"], noise=x, timestep=t, attention_mask=ctx["mask"], **cache)
        return found.logits.float()


def _own_name(name: str) -> str:
    """Return the network's name of a tensor of lerobot's, openpi's or transformers' files."""
    for pattern, new in _RENAMES:
        name = re.sub(pattern, new, name)
    return name
