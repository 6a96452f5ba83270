"""Make a flow policy of SmolVLA, on lerobot's network."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prophet_gym.errors import CheckpointError
from prophrl_algos.flow import FlowSpec, Obs, TensorContext
from prophrl_algos.vla._lora import PROJECTIONS, LoraPart, LoraTargets
from prophrl_algos.vla._options import LoadOptions
from prophrl_algos.vla._prefix_policy import PrefixPolicy, as_cache, as_dict, may_attend, prefix_context
from prophrl_algos.vla._processor import ImageConfig, ProcessorConfig
from prophrl_algos.vla._tokenization import line, tokenizer_of
from prophrl_algos.vla.conventions import convention
from prophrl_algos.vla.io._statistics import cut, published_scales, without_padding
from prophrl_algos.vla.io._weights import load_strictly, renamed

_SMOLVLM = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"
"""lerobot policies/smolvla/configuration_smolvla.py, vlm_model_name; a checkpoint may name another one."""
_WORD_HEAD = "vlm_with_expert.vlm.lm_head.weight"
_TARGETS = LoraTargets(
    (LoraPart(rf".*lm_expert.*\.{PROJECTIONS}", 32, 32),),
    (r"(.*\.)?(action_in_proj|action_out_proj|action_time_mlp_in|action_time_mlp_out|state_proj)",),
)


class SmolVLAPolicy(PrefixPolicy):
    """Denoise actions with an expert that reads SmolVLM's layers; the state is part of the prefix.

    The network is lerobot's `VLAFlowMatching`.
    """

    FAMILY: ClassVar[str] = "smolvla"
    LAYOUT: ClassVar[str] = "lerobot's config.json with type smolvla, model.safetensors and policy_*processor.json"
    BACKBONE: ClassVar[str] = "vlm_with_expert.vlm"
    LANGUAGE: ClassVar[str] = "vlm_with_expert.vlm.model.text_model"
    ALSO_BEFORE: ClassVar[tuple[str, ...]] = ("state_proj.",)
    LORA: ClassVar[LoraTargets] = _TARGETS
    LORA_WITH_LANGUAGE: ClassVar[LoraTargets] = _TARGETS

    def _take_over(self, network: Any) -> None:
        both = network.vlm_with_expert
        # No word is predicted: the head would only take memory.
        both.vlm.lm_head = nn.Identity()
        # lerobot up to 0.4 keeps a dict of layers and is told to fill it; later versions keep a DynamicCache.
        self._fills_dict = "fill_kv_cache" in inspect.signature(both.forward).parameters

    @staticmethod
    def fill(network: nn.Module, state: Mapping[str, Tensor], *, source: object) -> None:
        """Load lerobot's state dict, with every tensor accounted for; the word head is not read."""
        found = renamed(state, lambda name: name.removeprefix("model."))
        load_strictly(network, found, may_miss={_WORD_HEAD}, may_ignore={_WORD_HEAD}, source=source)

    @staticmethod
    def require_lerobot() -> None:
        """Raise ImportError, with what to install, unless lerobot's SmolVLA can be imported."""
        try:
            import lerobot.policies.smolvla.modeling_smolvla  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "SmolVLA needs lerobot's network: `make test-vla` shows pins that work on Python 3.11, and on 3.12 "
                "`pip install 'lerobot[smolvla]'` does"
            ) from error

    @staticmethod
    def make_network(config: Mapping[str, Any]) -> Any:
        """Return the network of a lerobot config; SmolVLM's own config and tokenizer are fetched by their name."""
        SmolVLAPolicy.require_lerobot()
        from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
        from lerobot.policies.smolvla.modeling_smolvla import VLAFlowMatching

        # Only what shapes the network: other fields differ between lerobot's releases.
        names = ("chunk_size", "max_action_dim", "max_state_dim", "num_steps", "vlm_model_name", "attention_mode",
                 "add_image_special_tokens", "prefix_length", "num_expert_layers", "num_vlm_layers",
                 "self_attn_every_n_layers", "expert_width_multiplier", "min_period", "max_period")  # fmt: skip
        given = {name: config[name] for name in names if name in config}
        steps = int(given.get("chunk_size", 50))
        return VLAFlowMatching(SmolVLAConfig(n_action_steps=steps, load_vlm_weights=False, device="cpu", **given))

    @classmethod
    def load_published(cls, folder: Path, config: Mapping[str, Any], options: LoadOptions) -> "SmolVLAPolicy":
        """Return the policy of a checkpoint in lerobot's layout."""
        how = convention(options.benchmark, "smolvla")
        scales = published_scales(folder, how, options, lerobot=True)
        state = scales.require_state("SmolVLA", folder)
        if config.get("adapt_to_pi_aloha"):
            raise CheckpointError("this checkpoint speaks Aloha's joints, which no env here takes")
        horizon, latent_dim = int(config.get("chunk_size", 50)), int(config.get("max_action_dim", 32))
        action_dim, columns = int(config["output_features"]["action"]["shape"][0]), int(config.get("max_state_dim", 32))
        exec_steps = min(int(config.get("n_action_steps", how.exec_steps)), horizon)
        spec = FlowSpec(horizon, latent_dim, action_dim, exec_steps, int(config.get("num_steps", 10)))
        network = cls.published_network(config, folder)
        processor = ProcessorConfig(
            convention=how,
            images=ImageConfig(int(config.get("resize_imgs_with_padding", (512, 512))[0]), centred=False),
            actions=cut(scales.actions, action_dim, "actions", folder),
            state=without_padding(state, columns),
            state_columns=columns,
            tokenize=tokenizer_of(options.tokenizer, config.get("vlm_model_name", _SMOLVLM)),
            prompt=line,
            max_tokens=int(config.get("tokenizer_max_length", 48)),
            without_state=options.without_state,
        )
        return cls(network, options.sized(spec), processor, config)

    def prefix(self, images: Sequence[Float[Tensor, "b 3 h w"]], obs: Obs, device: torch.device) -> TensorContext:
        """Return SmolVLM's keys and values and the mask of real tokens."""
        network: Any = self.network
        real = torch.ones(len(obs["tokens"]), dtype=torch.bool, device=device)
        embedded, pad, starts = network.embed_prefix(
            list(images), [real] * len(images), obs["tokens"], obs["token_mask"], state=obs["state"].to(device)
        )
        how = {"fill_kv_cache": True} if self._fills_dict else {}
        return prefix_context(network.vlm_with_expert, embedded, pad, may_attend(pad, starts), **how)

    def velocity(self, ctx: TensorContext, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        """Return v(x, t) in float32; the network's time and sign are those of `FlowPolicy`."""
        cache, network = as_dict(ctx) if self._fills_dict else as_cache(ctx), cast(Any, self.network)
        return network.denoise_step(prefix_pad_masks=ctx["pad"], past_key_values=cache, x_t=x, timestep=t).float()
