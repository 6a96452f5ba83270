"""SmolVLA as a flow policy, on lerobot's network."""

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
from prophrl_algos.vla._prefix_cache import as_cache, as_dict, cache_tensors, may_attend
from prophrl_algos.vla._tokenization import line, tokenizer_of
from prophrl_algos.vla.conventions import convention
from prophrl_algos.vla.io._policies import load_saved, made_network, own_type
from prophrl_algos.vla.io._statistics import cut, lerobot_scales, openpi_scales, without_padding
from prophrl_algos.vla.io._weights import has_weights, load_strictly, read_json, read_safetensors, renamed

LAYOUT = "lerobot's config.json with type smolvla, model.safetensors and policy_*processor.json"
SMOLVLM = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"
"""lerobot policies/smolvla/configuration_smolvla.py, vlm_model_name; a checkpoint may name another one."""
_VLM = "vlm_with_expert.vlm."
_WORD_HEAD = "vlm_with_expert.vlm.lm_head.weight"


def recognises(files: Collection[str], config: Mapping[str, Any]) -> str | None:
    """Lerobot says it in `config.json`."""
    if not has_weights(files):
        return None
    if config.get("model_type") == own_type("smolvla"):
        return "config.json says model_type prophrl-smolvla, as prophrl writes it"
    if config.get("type") == "smolvla":
        return "config.json says type smolvla, as lerobot writes it"
    return None


class SmolVLAPolicy(PublishedPolicy):
    """Pictures, prompt and state as a prefix of SmolVLM; an expert that denoises the actions and reads its layers.

    Args:
        network: lerobot's `VLAFlowMatching`; its word head, which nothing reads, is taken off.
        spec: the sizes.
        processor: pictures, prompt, scales and signs.
    """

    FAMILY = "smolvla"
    before = (_VLM, "state_proj.")

    def __init__(
        self, network: nn.Module, spec: FlowSpec, processor: ProcessorConfig, config: Mapping[str, Any] | None = None
    ) -> None:
        """Take a network over, in place."""
        super().__init__(network, spec, processor, config)
        both = cast(Any, network).vlm_with_expert
        both.vlm.lm_head = nn.Identity()
        # lerobot up to 0.4 keeps a dict of layers and is told to fill it; later versions keep a DynamicCache.
        self._fills_dict = "fill_kv_cache" in inspect.signature(both.forward).parameters

    @staticmethod
    def make_network(config: Mapping[str, Any]) -> nn.Module:
        """As `make_network`."""
        return make_network(config)

    def let_train(self, train: str, *, language: bool = False, lora: LoraTargets | None = None) -> None:
        """As `choose_trained`; there are no layers of the language model to choose."""
        del language
        choose_trained(self.network, train, lora=lora)

    def cast(self, dtype: torch.dtype) -> None:
        """Change the precision of SmolVLM where it is not trained."""
        cast_frozen(self.network, lambda: cast(Any, self.network).vlm_with_expert.vlm.to(dtype))

    def prefix(
        self, images: Sequence[Float[Tensor, "b 3 h w"]], obs: Obs, device: torch.device
    ) -> TensorContext:  # fmt: skip
        """Keys and values of SmolVLM, and which tokens are real."""
        network: Any = self.network
        real = torch.ones(len(obs["tokens"]), dtype=torch.bool, device=device)
        embedded, pad, starts = network.embed_prefix(
            list(images), [real] * len(images), obs["tokens"], obs["token_mask"], state=obs["state"].to(device)
        )
        how = {"fill_kv_cache": True} if self._fills_dict else {}
        _, cache = network.vlm_with_expert.forward(
            attention_mask=may_attend(pad, starts),
            position_ids=pad.cumsum(1) - 1,
            past_key_values=None,
            inputs_embeds=[embedded, None],
            use_cache=True,
            **how,
        )
        return TensorContext(pad=pad, **cache_tensors(cache))

    def velocity(self, ctx: TensorContext, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        """v(x, t) in float32; time and sign are the network's own."""
        cache = as_dict(ctx) if self._fills_dict else as_cache(ctx)
        found = cast(Any, self.network).denoise_step(
            prefix_pad_masks=ctx["pad"], past_key_values=cache, x_t=x, timestep=t
        )
        return found.float()


def choose_trained(network: nn.Module, train: str, *, lora: LoraTargets | None = None) -> list[str]:
    """Let what is trained require a gradient, in float32; its names.

    Args:
        network: as in `SmolVLAPolicy`.
        train: `expert` (the action expert with its projections), `lora`, `full` or `none`.
        lora: other layers for the adapters.
    """
    last = len(cast(Any, network).vlm_with_expert.vlm.model.text_model.layers) - 1
    # Of the last layer only keys and values are read, and no word is predicted.
    unread = re.compile(
        rf"vlm_with_expert\.vlm\.(lm_head\.|model\.text_model\.(norm\.|layers\.{last}\."
        r"(self_attn\.[qo]_proj\.|mlp\.|post_attention_layernorm\.)))"
    )
    return let_train(network, train, targets=lora or lora_targets("smolvla"), backbone=_VLM, unread=unread)


def load(folder: Path, options: LoadOptions) -> SmolVLAPolicy:
    """A published checkpoint; see `LAYOUT`."""
    config = read_json(folder / "config.json")
    if config.get("model_type") == own_type(SmolVLAPolicy.FAMILY):
        return load_saved(SmolVLAPolicy, folder, config, options)
    how = convention(options.benchmark, "smolvla")
    if options.statistics is None:
        scales = lerobot_scales(folder)
    else:
        scales = openpi_scales(folder, how.scaling, how.eps, given=options.statistics, key=options.unnorm_key)
    if scales.state is None:
        raise CheckpointError(f"SmolVLA reads the robot's state, and {folder} has no statistics of it")
    if config.get("adapt_to_pi_aloha"):
        raise CheckpointError("this checkpoint speaks Aloha's joints, which no env here takes")
    network = made_network(SmolVLAPolicy, config, folder)
    fill(network, read_safetensors(folder), source=folder)
    horizon = int(config.get("chunk_size", 50))
    numbers = int(config["output_features"]["action"]["shape"][0])
    spec = FlowSpec(
        horizon=horizon,
        latent_dim=int(config.get("max_action_dim", 32)),
        action_dim=numbers,
        exec_steps=options.exec_steps or min(int(config.get("n_action_steps", how.exec_steps)), horizon),
        num_steps=options.num_steps or int(config.get("num_steps", 10)),
    )
    processor = ProcessorConfig(
        convention=how,
        images=ImageConfig(int(config.get("resize_imgs_with_padding", (512, 512))[0]), centred=False),
        actions=cut(scales.actions, numbers, "actions", folder),
        state=without_padding(scales.state, int(config.get("max_state_dim", 32))),
        state_columns=int(config.get("max_state_dim", 32)),
        tokenize=tokenizer_of(options.tokenizer, config.get("vlm_model_name", SMOLVLM)),
        prompt=line,
        max_tokens=int(config.get("tokenizer_max_length", 48)),
        without_state=options.without_state,
    )
    policy = SmolVLAPolicy(network, spec, processor, config)
    policy.let_train(options.train)
    policy.cast(options.dtype)
    return policy.eval()


def make_network(config: Mapping[str, Any]) -> Any:
    """The network of a lerobot config; SmolVLM's own config and tokenizer are fetched by the name in it."""
    require_lerobot()
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
    from lerobot.policies.smolvla.modeling_smolvla import VLAFlowMatching

    names = ("chunk_size", "max_action_dim", "max_state_dim", "num_steps", "vlm_model_name", "attention_mode",
             "add_image_special_tokens", "prefix_length", "num_expert_layers", "num_vlm_layers",
             "self_attn_every_n_layers", "expert_width_multiplier", "min_period", "max_period")  # fmt: skip
    given = {name: config[name] for name in names if name in config}
    steps = int(given.get("chunk_size", 50))
    return VLAFlowMatching(SmolVLAConfig(n_action_steps=steps, load_vlm_weights=False, device="cpu", **given))


def require_lerobot() -> None:
    """ImportError, with what to install, unless lerobot's SmolVLA can be imported."""
    try:
        import lerobot.policies.smolvla.modeling_smolvla  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "SmolVLA needs lerobot's network: `make test-vla` shows pins that work on Python 3.11, and on 3.12 "
            "`pip install 'lerobot[smolvla]'` does"
        ) from error


def fill(network: nn.Module, state: Mapping[str, Tensor], *, source: object) -> None:
    """Put lerobot's state dict into a network; every tensor is accounted for, the word head is not read.

    Raises:
        CheckpointError: names what is missing, unexpected or of another shape.
    """
    found = renamed(state, lambda name: name.removeprefix("model."))
    load_strictly(network, found, may_miss={_WORD_HEAD}, may_ignore={_WORD_HEAD}, source=source)
