"""Make a flow policy of SmolVLA, on lerobot's network."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prophrl_algos.flow import Obs, TensorContext
from prophrl_algos.vla._lora import PROJECTIONS, LoraPart, LoraTargets
from prophrl_algos.vla._options import LoadOptions
from prophrl_algos.vla._prefix_policy import (
    PrefixPolicy,
    as_cache,
    as_dict,
    lerobot_module,
    may_attend,
    prefix_context,
)
from prophrl_algos.vla._processor import ImageConfig


class SmolVLAPolicy(PrefixPolicy):
    """Denoise actions with an expert that reads SmolVLM's layers; the state is part of the prefix.

    The network is lerobot's `VLAFlowMatching`.
    """

    FAMILY: ClassVar[str] = "smolvla"
    LAYOUT: ClassVar[str] = "lerobot's config.json with type smolvla, model.safetensors and policy_*processor.json"
    CONVENTION: ClassVar[str] = "smolvla"
    # lerobot policies/smolvla/configuration_smolvla.py, vlm_model_name.
    TOKENIZER: ClassVar[str] = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"
    BACKBONE: ClassVar[str] = "vlm_with_expert.vlm"
    LANGUAGE: ClassVar[str] = "vlm_with_expert.vlm.model.text_model"
    RENAMES: ClassVar[tuple[tuple[str, str], ...]] = ((r"^model\.", ""),)
    IGNORED: ClassVar[str] = r"vlm_with_expert\.vlm\.lm_head\.weight"
    LORA: ClassVar[LoraTargets] = LoraTargets(
        (LoraPart(rf".*lm_expert.*\.{PROJECTIONS}", 32, 32),),
        (r"(.*\.)?(action_in_proj|action_out_proj|action_time_mlp_in|action_time_mlp_out|state_proj)",),
    )

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
    def load_published(cls, folder: Path, config: Mapping[str, Any], options: LoadOptions) -> "PrefixPolicy":
        """Return the policy of a checkpoint of lerobot, which says how many actions of a chunk are executed."""
        exec_steps = options.exec_steps or config.get("n_action_steps")
        return super().load_published(folder, config, replace(options, exec_steps=exec_steps))

    @classmethod
    def processing(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the images' size and where they are padded."""
        size = int(config.get("resize_imgs_with_padding", (512, 512))[0])
        return {"images": ImageConfig(size, centred=False)}

    def prefix(self, images: Sequence[Float[Tensor, "b 3 h w"]], obs: Obs, device: torch.device) -> TensorContext:
        """Return SmolVLM's keys and values and the mask of real tokens."""
        network, real = self.network, torch.ones(len(obs["tokens"]), dtype=torch.bool, device=device)
        embedded, pad, starts = network.embed_prefix(
            list(images), [real] * len(images), obs["tokens"], obs["token_mask"], state=obs["state"].to(device)
        )
        how = {"fill_kv_cache": True} if self._fills_dict else {}
        return prefix_context(network.vlm_with_expert, embedded, pad, may_attend(pad, starts), **how)

    def velocity(self, ctx: TensorContext, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        """Return v(x, t) in float32; the network's time and sign are those of `FlowPolicy`."""
        cache = as_dict(ctx) if self._fills_dict else as_cache(ctx)
        return self.network.denoise_step(prefix_pad_masks=ctx["pad"], past_key_values=cache, x_t=x, timestep=t).float()
