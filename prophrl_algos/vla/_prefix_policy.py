"""Make a flow policy of a published network that reads a prefix once and denoises actions with an expert."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from prophet_gym.errors import CheckpointError
from prophrl_algos.flow import FlowSpec, Obs, TensorContext
from prophrl_algos.vla._action_head import flow_targets
from prophrl_algos.vla._base import PublishedPolicy
from prophrl_algos.vla._lora import cast_frozen
from prophrl_algos.vla._options import LoadOptions
from prophrl_algos.vla._processor import ProcessorConfig, resized
from prophrl_algos.vla._tokenization import PROMPTS, HuggingFaceTokens, padded_tokens, saved_tokenizer
from prophrl_algos.vla._units import env_to_policy, normalise, shown_state
from prophrl_algos.vla.io._saved import CONFIG, as_saved, constructing, own_type
from prophrl_algos.vla.io._weights import has_weights, read_safetensors, require_sizes, without_init

_MASKED = -2.3819763e38
"""Score of a masked position: the number of openpi and of big_vision before it."""
_KINDS = ("key", "value")


class PrefixPolicy(PublishedPolicy):
    """Wrap a network of pi0's kind: PaliGemma or SmolVLM reads images and prompt, an expert denoises the actions.

    Without the plain `config` that `make_network` made the network of, the policy cannot be saved.
    """

    PREFIX: ClassVar[str] = "network."
    BACKBONE: ClassVar[str]
    """Name of the pretrained model in the network."""
    LANGUAGE: ClassVar[str]
    """Name of its language model."""
    ALSO_BEFORE: ClassVar[tuple[str, ...]] = ()
    """Prefixes of the names of weights outside the pretrained model that the prefix depends on."""

    def __init__(
        self, network: nn.Module, spec: FlowSpec, processor: ProcessorConfig, config: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        numbers = processor.actions.scale.shape[0]
        if numbers != spec.action_dim:
            raise ValueError(f"the statistics are of {numbers} action dimensions, the policy has {spec.action_dim}")
        self.network, self.spec, self.processor, self.config = network, spec, processor, config
        self.convention, self.action_scale = processor.convention, processor.actions
        self._take_over(network)

    def _take_over(self, network: Any) -> None:
        """Take off what no action depends on, and note how the installed release calls what is read."""
        raise NotImplementedError

    @staticmethod
    def make_network(config: Mapping[str, Any]) -> nn.Module:
        """Return the network of a config in float32; ImportError if its library is not installed."""
        raise NotImplementedError

    @staticmethod
    def fill(network: nn.Module, state: Mapping[str, Tensor], *, source: object) -> None:
        """Load a published state dict of any layout, with every tensor accounted for."""
        raise NotImplementedError

    def prefix(self, images: Sequence[Float[Tensor, "b 3 h w"]], obs: Obs, device: torch.device) -> TensorContext:
        """Return what `velocity` reads of images (-1 to 1), tokens and state."""
        raise NotImplementedError

    def velocity(self, ctx: TensorContext, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        """Return v(x, t) in float32; the networks' time and sign are those of `FlowPolicy`."""
        raise NotImplementedError

    @classmethod
    def recognises(cls, files: Collection[str], config: Mapping[str, Any]) -> str | None:
        """Return why a folder is of this family: lerobot and prophrl say it in `config.json`."""
        if not has_weights(files):
            return None
        if config.get("model_type") == own_type(cls.FAMILY):
            return f"config.json says model_type {own_type(cls.FAMILY)}, as prophrl writes it"
        return f"config.json says type {cls.FAMILY}, as lerobot writes it" if config.get("type") == cls.FAMILY else None

    @classmethod
    def published_network(cls, config: Mapping[str, Any], folder: Path) -> Any:
        """Return the network of a published checkpoint with its weights."""
        network = cls.empty_network(config, folder)
        cls.fill(network, read_safetensors(folder), source=folder)
        return network

    @classmethod
    def make_saved(cls, folder: Path, said: Mapping[str, Any], options: LoadOptions) -> "PrefixPolicy":
        options.require_benchmark(said.get("benchmark"), folder)
        tokenize = saved_tokenizer(folder, said, options.tokenizer)
        with as_saved(folder):
            spec = FlowSpec(**said["spec"])
            processor = ProcessorConfig.from_json(said, spec.action_dim, tokenize, options.without_state)
            network = said["network"]
        policy = cls(cls.empty_network(network, folder), options.sized(spec), processor, network)
        policy._require_agreement(folder)
        return policy

    def describe(self) -> dict[str, Any]:
        if self.config is None:
            raise ValueError("this policy cannot be saved, since its network's config is not known: use load_policy")
        return {"network": dict(self.config), "spec": asdict(self.spec), **self.processor.to_json()}

    def save_tokenizer(self, folder: Path) -> None:
        if isinstance(self.processor.tokenize, HuggingFaceTokens):  # other tokenizers are no files
            self.processor.tokenize.save(folder)

    def in_expert(self, name: str) -> bool:
        return not name.startswith(f"{self.BACKBONE}.")

    def unread(self) -> re.Pattern[str]:
        # Only keys and values of the language model's last layer are read, and no word is predicted.
        last = len(list(self.network.get_submodule(f"{self.LANGUAGE}.layers").children())) - 1
        layer = rf"layers\.{last}\.(self_attn\.[qo]_proj|mlp|post_attention_lay)"
        return re.compile(rf"{re.escape(self.LANGUAGE)}\.(norm\.|{layer})")

    def cast(self, dtype: torch.dtype) -> None:
        cast_frozen(self.network, lambda: self.network.get_submodule(self.BACKBONE).to(dtype))

    @property
    def adapted(self) -> nn.Module:
        return self.network

    @classmethod
    def empty_network(cls, config: Any, folder: Path) -> Any:
        """Return the network of a config with memory but no weights; CheckpointError if the config describes none."""
        require_sizes(config, folder / CONFIG)
        with constructing(f"network of {cls.FAMILY}", folder), without_init():
            return cls.make_network(config)

    def reads_gradient(self) -> bool:
        """Return whether something that is trained lies before the velocity, so that the prefix needs a gradient."""
        before = (f"{self.BACKBONE}.", *self.ALSO_BEFORE)
        weights = self.network.named_parameters()
        return any(weight.requires_grad for name, weight in weights if name.startswith(before))

    def prepare(self, env_obs: Mapping[str, Any], instructions: Sequence[str]) -> Obs:
        """Return images in the env's size, tokens of the prompt, and the normalised state."""
        processor = self.processor
        # A view that the env does not have is left out, which has the same effect as masking it.
        obs = {name: frames.contiguous() for name, frames in self.views(env_obs, len(instructions)).items()}
        state = self._state(env_obs, len(instructions))
        states = [None] * len(instructions) if state is None else state.unbind(0)
        texts = [processor.prompt(text, each) for text, each in zip(instructions, states, strict=True)]
        obs["tokens"], obs["token_mask"] = padded_tokens(processor.tokenize(texts), processor.max_tokens, texts)
        return obs if state is None else {**obs, "state": state}

    def encode(self, obs: Obs, *, grad: bool) -> TensorContext:
        """Return the prefix of images, prompt and state; without a gradient where nothing of it is trained."""
        device = next(self.network.parameters()).device
        with torch.set_grad_enabled(grad and torch.is_grad_enabled() and self.reads_gradient()):
            views = [obs[name] for name in self.convention.views if name in obs]
            images = [resized(view.to(device), self.processor.images) for view in views]
            # Stored tokens have one length for all rows; columns of padding alone would only cost time.
            length = max(int(obs["token_mask"].sum(1).max()), 1)
            tokens = {name: obs[name][:, :length].to(device) for name in ("tokens", "token_mask")}
            return self.prefix(images, {**obs, **tokens}, device)

    def sft_loss(
        self, obs: Obs, actions: Float[Tensor, "b h a"], *, generator: torch.Generator | None
    ) -> Float[Tensor, ""]:
        """Return the mean squared error of the velocity on the real dimensions, at one time per row."""
        device = next(self.network.parameters()).device
        latents = normalise(env_to_policy(actions.to(device).float(), self.convention), self.action_scale)
        # Padded dimensions are noised like the others, since the network reads them, but they are not scored.
        x0 = F.pad(latents, (0, self.spec.latent_dim - self.spec.action_dim))
        # openpi, lerobot and transformers draw times from 0.001 on.
        x, t, velocity = flow_targets(x0, 1, generator, least=0.001)
        found, real = self.velocity(self.encode(obs, grad=True), x, t), (..., slice(self.spec.action_dim))
        return F.mse_loss(found[real], velocity[real])

    def _state(self, env_obs: Mapping[str, Any], rows: int) -> Float[Tensor, "b s"] | None:
        processor = self.processor
        if processor.state is None:
            return None
        numbers = len(processor.state.scale)
        given = shown_state(env_obs, rows, numbers, processor.without_state)
        # Normalised, the middle of the training data is zero.
        if given is None:
            return torch.zeros(rows, processor.state_columns)
        return F.pad(normalise(given, processor.state), (0, processor.state_columns - numbers))

    def _require_agreement(self, folder: Path) -> None:
        """Raise CheckpointError unless the sizes that are saved beside a network are its own."""
        own = getattr(self.network, "config", None)
        sizes = {"chunk_size": self.spec.horizon, "max_action_dim": self.spec.latent_dim}
        # With the other prompt the state is text, which may be padded to any size.
        if self.processor.state is not None and self.processor.prompt is PROMPTS["line"]:
            sizes["max_state_dim"] = self.processor.state_columns
        for name, size in sizes.items():
            if (found := getattr(own, name, size)) != size:
                raise CheckpointError(f"{folder / CONFIG}: {name} is {found} in the network and {size} beside it")


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


def additive(allowed: Bool[Tensor, "b n m"]) -> Float[Tensor, "b 1 n m"]:
    """Return a mask that is added to attention scores."""
    return torch.where(allowed[:, None], 0.0, _MASKED)


def _pairs(context: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    layers = sum(name.startswith("key.") for name in context)
    return [(context[f"key.{n}"], context[f"value.{n}"]) for n in range(layers)]
