"""Make a flow policy of a published network that reads a prefix once and denoises actions with an expert."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from prophet_gym.errors import CheckpointError
from prophrl_algos.flow import FlowSpec, Obs, TensorContext, device_of
from prophrl_algos.vla._base import PublishedPolicy
from prophrl_algos.vla._lora import PROJECTIONS, LoraPart, LoraTargets, cast_frozen
from prophrl_algos.vla._options import LoadOptions
from prophrl_algos.vla._processor import TOKENIZER, ProcessorConfig, padded_tokens, prompt_text, resized, tokenizer_of
from prophrl_algos.vla.conventions import convention
from prophrl_algos.vla.io._statistics import cut, lerobot_scales, openpi_scales, transformers_scales, without_padding
from prophrl_algos.vla.io._weights import CONFIG, load_strictly, read_safetensors, renamed, without_init

ACTION_DIM = 7
_REFUSED = {
    "use_relative_actions": "predicts actions relative to the state",
    "adapt_to_pi_aloha": "speaks Aloha's joints",
}
"""Options of lerobot's configs -> what they mean."""


class PrefixPolicy(PublishedPolicy):
    """Wrap a network of pi0's kind: PaliGemma or SmolVLM reads images and prompt, an expert denoises the actions.

    Without the plain `config` that `make_network` made the network of, the policy cannot be saved.
    """

    NETWORK: ClassVar[str] = "network"
    # openpi, lerobot and transformers draw times from 0.001 on.
    LEAST_TIME: ClassVar[float] = 0.001
    # Ranks: openpi models/gemma.py, gemma_300m_lora. lerobot's own patterns name layers that it does not have and miss
    # others. The time modulation of pi0.5 (`dense` of the norms) stays frozen.
    LORA: ClassVar[LoraTargets] = LoraTargets(
        (LoraPart(rf".*(gemma_expert|model\.dit|lm_expert)\..*\.{PROJECTIONS}", 32, 32),),
        (r"(.*\.)?(action_in_proj|action_out_proj|(action_)?time_mlp_(in|out)|state_proj)",),
    )
    CONVENTION: ClassVar[str] = "openpi"
    """Name of the family in the table of conventions."""
    EXECUTED: ClassVar[str] = ""
    """Key of the config that says how many actions of a chunk are executed, where it does."""
    TOKENIZER: ClassVar[str] = "google/paligemma-3b-pt-224"
    """Hub repository of the tokenizer, where the config names no other model."""
    BACKBONE: ClassVar[str]
    LANGUAGE: ClassVar[str]
    """Name of the language model in the network."""
    IGNORED: ClassVar[str]
    """Pattern of the weights that a file may hold or lack, since no action depends on them."""

    network: Any

    def __init__(
        self, network: nn.Module, spec: FlowSpec, processor: ProcessorConfig, config: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.network, self.spec, self.processor, self.config = network, spec, processor, config
        self.convention, self.action_scale, self.state_scale = processor.convention, processor.actions, processor.state
        self._take_over(network)

    def _take_over(self, network: Any) -> None:
        """Take off what no action depends on, and note how the installed release calls what is read."""
        raise NotImplementedError

    @staticmethod
    def make_network(config: Mapping[str, Any]) -> nn.Module:
        """Return the network of a config in float32; ImportError if its library is not installed."""
        raise NotImplementedError

    @classmethod
    def fill(cls, network: nn.Module, state: Mapping[str, Tensor], *, source: object) -> None:
        """Load a published state dict of any layout, with every tensor accounted for.

        lerobot's own loader swallows errors and goes on with random weights.
        """
        found = renamed(state, cls.RENAMES)
        # The language model's embedding may be stored as the head that it is tied to.
        if (head := f"{cls.BACKBONE}.lm_head.weight") in found:
            found.setdefault(f"{cls.LANGUAGE}.embed_tokens.weight", found[head])
        ignored = {name for name in (*found, *network.state_dict()) if re.fullmatch(cls.IGNORED, name)}
        load_strictly(network, found, may_miss=ignored, may_ignore=ignored, source=source)

    def prefix(self, images: Sequence[Float[Tensor, "b 3 h w"]], obs: Obs, device: torch.device) -> TensorContext:
        """Return what `velocity` reads of images (-1 to 1), tokens and state."""
        raise NotImplementedError

    @classmethod
    def processing(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of `ProcessorConfig` that differ between families: `images`, and others with a default.

        0 for `state_columns` means that no state is read, None that it is not padded.
        """
        raise NotImplementedError

    @classmethod
    def recognises(cls, config: Mapping[str, Any]) -> str | None:
        for key, author in {"type": "lerobot", "model_type": "transformers"}.items():
            if config.get(key) == cls.FAMILY:
                return f"{CONFIG} says {key} {cls.FAMILY}, as {author} writes it"
        return super().recognises(config)

    @classmethod
    def load_published(cls, folder: Path, config: Mapping[str, Any], options: LoadOptions) -> "PrefixPolicy":
        if cls.FAMILY not in (config.get("type"), config.get("model_type")):
            config = {}  # openpi and RLinf write none
        for name, said in _REFUSED.items():
            if config.get(name):
                raise CheckpointError(f"this checkpoint {said}, which no env here takes")
        how, state = convention(options.benchmark, cls.CONVENTION), read_safetensors(folder)
        if options.statistics is None and config:
            scales = lerobot_scales(folder) if "type" in config else transformers_scales(folder)
        else:
            scales = openpi_scales(folder, how.scaling, how.eps, given=options.statistics, key=options.unnorm_key)
        with without_init():
            network: Any = cls.make_network(config)
        cls.fill(network, state, source=folder)
        own = network.config
        num_steps = int(config.get("num_steps", config.get("num_inference_steps", 10)))
        exec_steps = min(int(config.get(cls.EXECUTED, how.exec_steps)), own.chunk_size)
        spec = FlowSpec(own.chunk_size, own.max_action_dim, ACTION_DIM, exec_steps, num_steps)
        given = {"prompt": "line", "max_tokens": 48, "state_columns": own.max_state_dim} | cls.processing(config)
        if "tokenizer_max_length" in config:
            given["max_tokens"] = int(config["tokenizer_max_length"])
        state_scale = None
        if given["state_columns"] != 0:
            if scales.state is None:
                raise CheckpointError(f"{cls.FAMILY} reads the robot's state, and {folder} has no statistics of it")
            state_scale = without_padding(scales.state, own.max_state_dim)
            given["state_columns"] = given["state_columns"] or len(state_scale.scale)
        processor = ProcessorConfig(
            convention=how,
            actions=cut(scales.actions, ACTION_DIM, "actions", folder),
            state=state_scale,
            tokenizer=tokenizer_of(options.tokenizer, config.get("vlm_model_name", cls.TOKENIZER)),
            **given,
        )
        return cls(network, spec, processor, config)

    @classmethod
    def make_saved(cls, folder: Path, said: Mapping[str, Any], options: LoadOptions) -> "PrefixPolicy":
        tokenizer = tokenizer_of(options.tokenizer, folder / TOKENIZER)
        spec = FlowSpec(**said["spec"])
        processor = ProcessorConfig.from_json(said, spec.action_dim, tokenizer)
        with without_init():
            network: Any = cls.make_network(said["network"])
        sizes = {"chunk_size": spec.horizon, "max_action_dim": spec.latent_dim}
        # With the other prompt the state is text, which may be padded to any size.
        if processor.state is not None and processor.prompt == "line":
            sizes["max_state_dim"] = processor.state_columns
        for name, size in sizes.items():
            if (found := getattr(network.config, name)) != size:
                raise CheckpointError(f"{folder / CONFIG}: {name} is {found} in the network and {size} beside it")
        return cls(network, spec, processor, said["network"])

    def describe(self) -> dict[str, Any]:
        if self.config is None:
            raise ValueError("this policy cannot be saved, since its network's config is not known: use load_policy")
        return {"network": dict(self.config), "spec": asdict(self.spec), **self.processor.to_json()}

    def save_tokenizer(self, folder: Path) -> None:
        self.processor.tokenizer.save_pretrained(folder / TOKENIZER)

    def unread(self) -> re.Pattern[str]:
        # Only keys and values of the language model's last layer are read, and no word is predicted.
        last = len(list(self.network.get_submodule(f"{self.LANGUAGE}.layers").children())) - 1
        layer = rf"layers\.{last}\.(self_attn\.[qo]_proj|mlp|post_attention_lay)"
        return re.compile(rf"{re.escape(self.LANGUAGE)}\.(norm\.|{layer})")

    def cast(self, dtype: torch.dtype) -> None:
        cast_frozen(self.network, lambda: self.network.get_submodule(self.BACKBONE).to(dtype))

    def prepare(self, env_obs: Mapping[str, Any], instructions: Sequence[str]) -> Obs:
        """Return images in the env's size, tokens of the prompt, and the normalised state."""
        processor = self.processor
        # A view that the env does not have is left out, which has the same effect as masking it.
        obs = {name: frames.contiguous() for name, frames in self.views(env_obs, len(instructions)).items()}
        states: Sequence[Tensor | None] = [None] * len(instructions)
        if self.state_scale is not None:
            state = self.shown_state(env_obs, len(instructions))
            obs["state"] = F.pad(state, (0, processor.state_columns - state.shape[1]))
            states = obs["state"].unbind(0)
        texts = [prompt_text(processor.prompt, text, each) for text, each in zip(instructions, states, strict=True)]
        tokens = processor.tokenizer(texts)["input_ids"]
        obs["tokens"], obs["token_mask"] = padded_tokens(tokens, processor.max_tokens, texts)
        return obs

    def context(self, obs: Obs) -> TensorContext:
        device = device_of(self)
        images = [resized(obs[n].to(device), self.processor.images) for n in self.convention.views if n in obs]
        # Stored tokens have one length for all rows; columns of padding alone would only cost time.
        length = max(int(obs["token_mask"].sum(1).max()), 1)
        tokens = {name: obs[name][:, :length].to(device) for name in ("tokens", "token_mask")}
        return self.prefix(images, {**obs, **tokens}, device)
