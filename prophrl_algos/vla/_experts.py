"""Make flow policies of Pi0.5 and SmolVLA, on lerobot's networks, and of Pi0, on that of transformers."""

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from prophrl_algos.flow import Obs, TensorContext
from prophrl_algos.vla._lora import PROJECTIONS, LoraPart, cast_frozen
from prophrl_algos.vla._prefix_policy import PrefixPolicy
from prophrl_algos.vla._processor import ImageConfig
from prophrl_algos.vla.io._weights import Renames

_OPENPI_HORIZON = 10
"""openpi training/config.py, pi05_libero: action_horizon=10; its checkpoints do not say."""
_MASKED = -2.3819763e38
"""Score of a masked position: the number of openpi and of big_vision before it."""
_KINDS = ("key", "value")
_GEMMA_LORA = LoraPart(rf".*\.language_model\..*\.{PROJECTIONS}", 16, 16)
"""Ranks of openpi models/gemma.py, gemma_2b_lora."""


class Pi05Policy(PrefixPolicy):
    """Denoise by lerobot's `PI05Pytorch`: an expert, modulated by time, reads PaliGemma's keys and values."""

    FAMILY: ClassVar[str] = "pi05"
    LAYOUT: ClassVar[str] = (
        "lerobot's config.json with type pi05, model.safetensors and policy_*processor.json; or openpi's and RLinf's "
        "model.safetensors with paligemma_with_expert.* and time_mlp_*"
    )
    BACKBONE: ClassVar[str] = "paligemma_with_expert.paligemma"
    LANGUAGE: ClassVar[str] = "paligemma_with_expert.paligemma.model.language_model"
    RENAMES: ClassVar[Renames] = (
        (r"^model\.(?=paligemma_with_expert|action_|time_mlp_|state_proj)", ""),
        (r"^action_time_mlp_", "time_mlp_"),
    )
    # No word is predicted; and a state projection is pi0's.
    IGNORED: ClassVar[str] = r"paligemma_with_expert\.(paligemma|gemma_expert)\.lm_head\.weight|state_proj\..*"
    LANGUAGE_LORA: ClassVar[tuple[LoraPart, ...]] = (_GEMMA_LORA,)

    def _take_over(self, network: Any) -> None:
        both = network.paligemma_with_expert
        # No word is predicted: the heads would only take memory.
        both.paligemma.lm_head = both.gemma_expert.lm_head = nn.Identity()
        # Both are given a mask of every pair of tokens, which only this implementation takes.
        both.paligemma.model.language_model.config._attn_implementation = "eager"
        both.gemma_expert.model.config._attn_implementation = "eager"

    @staticmethod
    def make_network(config: Mapping[str, Any]) -> nn.Module:
        """Return the network of a lerobot config, or of openpi's sizes for an empty one."""
        network = lerobot_module("pi05.modeling_pi05", "pi").PI05Pytorch
        sizes = lerobot_module("pi05.configuration_pi05", "pi").PI05Config
        horizon = int(config.get("chunk_size", _OPENPI_HORIZON))
        names = ("paligemma_variant", "action_expert_variant", "max_action_dim", "max_state_dim", "image_resolution",
                 "min_period", "max_period")  # fmt: skip
        given = {name: config[name] for name in names if name in config}
        if "image_resolution" in given:
            given["image_resolution"] = tuple(given["image_resolution"])
        return network(sizes(chunk_size=horizon, n_action_steps=horizon, dtype="float32", device="cpu", **given))

    @classmethod
    def processing(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        size = int(config.get("image_resolution", (224, 224))[0])
        given = {"images": ImageConfig(size, antialias=not config), "max_tokens": 200}
        if not config:  # openpi's LIBERO and BRIDGE policies read no state; lerobot's prompt names it.
            return given | {"state_columns": 0}
        # lerobot up to 0.4, whose configs know no relative actions, pads the state to 32.
        columns = None if "use_relative_actions" in config else config.get("max_state_dim", 32)
        return given | {"prompt": "task_and_state", "state_columns": columns}

    def cast(self, dtype: torch.dtype) -> None:
        both = self.network.paligemma_with_expert
        if dtype == torch.bfloat16:  # the network's own code keeps some of it float32
            cast_frozen(self.network, lambda: both.to_bfloat16_for_selected_params("bfloat16"))

    def prefix(self, images: Sequence[Float[Tensor, "b 3 h w"]], obs: Obs, device: torch.device) -> TensorContext:
        network = self.network
        real = [torch.ones(len(obs["tokens"]), dtype=torch.bool, device=device)] * len(images)
        embedded, pad, starts = network.embed_prefix(list(images), real, obs["tokens"], obs["token_mask"])
        mask = torch.where(may_attend(pad, starts)[:, None], 0.0, _MASKED)
        return prefix_context(network.paligemma_with_expert, embedded, pad, mask)

    def velocity(self, ctx: TensorContext, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        return self.network.denoise_step(
            prefix_pad_masks=ctx["pad"], past_key_values=as_cache(ctx), x_t=x, timestep=t
        ).float()


class Pi0Policy(PrefixPolicy):
    """Denoise by transformers' `PI0ForConditionalGeneration`: an expert reads the state and PaliGemma's cache."""

    FAMILY: ClassVar[str] = "pi0"
    LAYOUT: ClassVar[str] = (
        "config.json with model_type pi0 (transformers) or type pi0 (lerobot), or openpi's model.safetensors with "
        "paligemma_with_expert.* and state_proj.*"
    )
    CONVENTION: ClassVar[str] = "pi0"
    BACKBONE: ClassVar[str] = "model.vlm"
    LANGUAGE: ClassVar[str] = "model.vlm.language_model"
    # lerobot's and openpi's names.
    RENAMES: ClassVar[Renames] = (
        (r"^model\.(?=paligemma_with_expert|action_|state_proj)", ""),
        (r"^(state_proj|action_in_proj|action_time_mlp_in|action_time_mlp_out)\.", r"embed_action_time.\1."),
        (r"^paligemma_with_expert\.gemma_expert\.lm_head\.weight$", "model.dit.embed_tokens.weight"),
        (r"^paligemma_with_expert\.paligemma\.(model\.)?", "model.vlm."),
        (r"^paligemma_with_expert\.gemma_expert\.model\.", "model.dit."),
        (r"^model\.vlm\.language_model\.model\.", "model.vlm.language_model."),
        (r"^model\.vlm\.vision_tower\.vision_model\.", "model.vlm.vision_tower."),
    )
    # Neither is a word predicted, nor read by the expert.
    IGNORED: ClassVar[str] = r"model\.vlm\.lm_head\.weight|model\.dit\.embed_tokens\.weight"
    LANGUAGE_LORA: ClassVar[tuple[LoraPart, ...]] = (_GEMMA_LORA,)

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

    @classmethod
    def processing(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        vision = config.get("vlm_config", {}).get("vision_config", {})
        return {"images": ImageConfig(vision.get("image_size", 224), antialias="type" not in config)}

    def prefix(self, images: Sequence[Float[Tensor, "b 3 h w"]], obs: Obs, device: torch.device) -> TensorContext:
        model = self.network.model
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


class SmolVLAPolicy(PrefixPolicy):
    """Denoise by lerobot's `VLAFlowMatching`: an expert reads SmolVLM's layers; the state is part of the prefix."""

    FAMILY: ClassVar[str] = "smolvla"
    LAYOUT: ClassVar[str] = "lerobot's config.json with type smolvla, model.safetensors and policy_*processor.json"
    CONVENTION: ClassVar[str] = "smolvla"
    EXECUTED: ClassVar[str] = "n_action_steps"
    # lerobot policies/smolvla/configuration_smolvla.py, vlm_model_name.
    TOKENIZER: ClassVar[str] = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"
    BACKBONE: ClassVar[str] = "vlm_with_expert.vlm"
    LANGUAGE: ClassVar[str] = "vlm_with_expert.vlm.model.text_model"
    RENAMES: ClassVar[Renames] = ((r"^model\.", ""),)
    IGNORED: ClassVar[str] = r"vlm_with_expert\.vlm\.lm_head\.weight"

    def _take_over(self, network: Any) -> None:
        both = network.vlm_with_expert
        # No word is predicted: the head would only take memory.
        both.vlm.lm_head = nn.Identity()
        # lerobot up to 0.4 keeps a dict of layers and is told to fill it; later versions keep a DynamicCache.
        self._fills_dict = "fill_kv_cache" in inspect.signature(both.forward).parameters

    @staticmethod
    def make_network(config: Mapping[str, Any]) -> Any:
        """Return the network of a lerobot config; SmolVLM's own config and tokenizer are fetched by their name."""
        network = lerobot_module("smolvla.modeling_smolvla", "smolvla").VLAFlowMatching
        sizes = lerobot_module("smolvla.configuration_smolvla", "smolvla").SmolVLAConfig
        # Only what shapes the network: other fields differ between lerobot's releases.
        names = ("chunk_size", "max_action_dim", "max_state_dim", "num_steps", "vlm_model_name", "attention_mode",
                 "add_image_special_tokens", "prefix_length", "num_expert_layers", "num_vlm_layers",
                 "self_attn_every_n_layers", "expert_width_multiplier", "min_period", "max_period")  # fmt: skip
        given = {name: config[name] for name in names if name in config}
        steps = int(given.get("chunk_size", 50))
        return network(sizes(n_action_steps=steps, load_vlm_weights=False, device="cpu", **given))

    @classmethod
    def processing(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        size = int(config.get("resize_imgs_with_padding", (512, 512))[0])
        return {"images": ImageConfig(size, centred=False)}

    def prefix(self, images: Sequence[Float[Tensor, "b 3 h w"]], obs: Obs, device: torch.device) -> TensorContext:
        network, real = self.network, torch.ones(len(obs["tokens"]), dtype=torch.bool, device=device)
        embedded, pad, starts = network.embed_prefix(
            list(images), [real] * len(images), obs["tokens"], obs["token_mask"], state=obs["state"].to(device)
        )
        how = {"fill_kv_cache": True} if self._fills_dict else {}
        return prefix_context(network.vlm_with_expert, embedded, pad, may_attend(pad, starts), **how)

    def velocity(self, ctx: TensorContext, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        cache = as_dict(ctx) if self._fills_dict else as_cache(ctx)
        return self.network.denoise_step(prefix_pad_masks=ctx["pad"], past_key_values=cache, x_t=x, timestep=t).float()


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


def prefix_context(both: Any, embedded: Tensor, pad: Bool[Tensor, "b n"], mask: Tensor, **how: bool) -> TensorContext:
    """Run lerobot's pair of models on an embedded prefix; return keys, values and the mask of real tokens."""
    _, cache = both.forward(
        attention_mask=mask,
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


def lerobot_module(name: str, extra: str) -> Any:
    """Return a module of `lerobot.policies`; ImportError says what to install."""
    try:
        return import_module(f"lerobot.policies.{name}")
    except ImportError as error:
        raise ImportError(
            f"{name.split('.')[0]} needs lerobot's network: `make test-vla` shows pins that work on Python 3.11, and "
            f"on 3.12 `pip install 'lerobot[{extra}]'` does"
        ) from error


def _pairs(context: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    layers = sum(name.startswith("key.") for name in context)
    return [(context[f"key.{n}"], context[f"value.{n}"]) for n in range(layers)]
