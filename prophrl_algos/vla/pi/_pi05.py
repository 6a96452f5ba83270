"""Make a flow policy of Pi0.5, on lerobot's or openpi's port, which have the same layers and names.

lerobot's loader swallows errors and returns random weights; here every tensor of a checkpoint is accounted for.
"""

import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prophet_gym.errors import CheckpointError
from prophrl_algos.flow import FlowSpec, Obs, TensorContext
from prophrl_algos.vla._lora import PROJECTIONS, LoraPart, LoraTargets, cast_frozen
from prophrl_algos.vla._options import LoadOptions
from prophrl_algos.vla._prefix_policy import PrefixPolicy, additive, as_cache, may_attend, prefix_context
from prophrl_algos.vla._processor import ImageConfig, ProcessorConfig
from prophrl_algos.vla._tokenization import PALIGEMMA, line, task_and_state, tokenizer_of
from prophrl_algos.vla.conventions import convention
from prophrl_algos.vla.io._statistics import cut, published_scales, without_padding
from prophrl_algos.vla.io._weights import load_strictly, renamed

ACTION_DIM = 7
_OPENPI_HORIZON = 10
"""openpi training/config.py, pi05_libero: action_horizon=10; its checkpoints do not say."""
_OWN = ("paligemma_with_expert.", "action_", "time_mlp_", "state_proj.")
_EMBEDDING = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
_HEAD = "paligemma_with_expert.paligemma.lm_head.weight"
_EXPERT_HEAD = "paligemma_with_expert.gemma_expert.lm_head.weight"
# Ranks: openpi models/gemma.py, gemma_300m_lora and gemma_2b_lora. The time modulation (`dense` of the norms) stays
# frozen. lerobot's own pattern for pi0.5 names layers that it does not have and misses others.
_EXPERT = LoraPart(rf".*gemma_expert.*\.{PROJECTIONS}", 32, 32)
_LANGUAGE = LoraPart(rf".*paligemma.*language_model.*\.{PROJECTIONS}", 16, 16)
_WHOLE = (r"(.*\.)?(action_in_proj|action_out_proj|time_mlp_in|time_mlp_out)",)


class Pi05Policy(PrefixPolicy):
    """Denoise actions with an expert that reads PaliGemma's keys and values and is modulated by time.

    The network is lerobot's `PI05Pytorch` or openpi's `PI0Pytorch(pi05=True)`.
    """

    FAMILY: ClassVar[str] = "pi05"
    LAYOUT: ClassVar[str] = (
        "lerobot's config.json with type pi05, model.safetensors and policy_*processor.json; or openpi's and RLinf's "
        "model.safetensors with paligemma_with_expert.* and time_mlp_*"
    )
    BACKBONE: ClassVar[str] = "paligemma_with_expert.paligemma"
    LANGUAGE: ClassVar[str] = "paligemma_with_expert.paligemma.model.language_model"
    LORA: ClassVar[LoraTargets] = LoraTargets((_EXPERT,), _WHOLE)
    LORA_WITH_LANGUAGE: ClassVar[LoraTargets] = LoraTargets((_EXPERT, _LANGUAGE), _WHOLE)

    def _take_over(self, network: Any) -> None:
        both = network.paligemma_with_expert
        # No word is predicted: the heads would only take memory.
        both.paligemma.lm_head = both.gemma_expert.lm_head = nn.Identity()
        # Both are given a mask of every pair of tokens, which only this implementation takes.
        both.paligemma.model.language_model.config._attn_implementation = "eager"
        both.gemma_expert.model.config._attn_implementation = "eager"
        self._wants_state = "state" in inspect.signature(network.denoise_step).parameters

    @staticmethod
    def make_network(config: Mapping[str, Any]) -> nn.Module:
        """Return the network of a lerobot config, of lerobot's classes or of openpi's where these are installed."""
        horizon = int(config.get("chunk_size", _OPENPI_HORIZON))
        try:
            from lerobot.policies.pi05.configuration_pi05 import PI05Config
            from lerobot.policies.pi05.modeling_pi05 import PI05Pytorch
        except ImportError:
            return openpi_network(horizon)
        names = ("paligemma_variant", "action_expert_variant", "max_action_dim", "max_state_dim", "image_resolution",
                 "min_period", "max_period")  # fmt: skip
        given = {name: config[name] for name in names if name in config}
        if "image_resolution" in given:
            given["image_resolution"] = tuple(given["image_resolution"])
        sizes = PI05Config(chunk_size=horizon, n_action_steps=horizon, dtype="float32", device="cpu", **given)
        return PI05Pytorch(sizes)

    @staticmethod
    def fill(network: nn.Module, state: Mapping[str, Tensor], *, source: object) -> None:
        found = renamed(state, _own_name)
        # The language model's embedding may be stored as the head that it is tied to.
        if _EMBEDDING not in found and _HEAD in found:
            found[_EMBEDDING] = found[_HEAD]
        unread = {_HEAD, _EXPERT_HEAD}
        # Nor is a state projection read, which pi0 has and pi0.5 does not.
        dropped = unread | {name for name in found if name.startswith("state_proj.")}
        load_strictly(network, found, may_miss=unread, may_ignore=dropped, source=source)

    @classmethod
    def recognises_tensors(cls, names: Collection[str]) -> str | None:
        # openpi and RLinf write no config.
        if {"paligemma_with_expert.gemma_expert.model.norm.dense.weight", "action_in_proj.weight"} <= set(names):
            return "paligemma_with_expert with a time modulation (norm.dense), as openpi and RLinf write pi0.5"
        return None

    @classmethod
    def load_published(cls, folder: Path, config: Mapping[str, Any], options: LoadOptions) -> "Pi05Policy":
        config = config if config.get("type") == "pi05" else {}
        how = convention(options.benchmark, "openpi")
        scales = published_scales(folder, how, options, lerobot=bool(config))
        columns = int(config.get("max_state_dim", 32))
        if config.get("use_relative_actions"):
            raise CheckpointError("this checkpoint predicts actions relative to the state, which no env here takes")
        # openpi's LIBERO and BRIDGE policies read no state; lerobot's prompt names it.
        state = without_padding(scales.require_state("lerobot's pi0.5", folder), columns) if config else None
        horizon, latent_dim = int(config.get("chunk_size", _OPENPI_HORIZON)), int(config.get("max_action_dim", 32))
        num_steps = int(config.get("num_inference_steps", 10))
        spec = FlowSpec(horizon, latent_dim, ACTION_DIM, min(how.exec_steps, horizon), num_steps)
        network = cls.published_network(config, folder)
        processor = ProcessorConfig(
            convention=how,
            images=ImageConfig(int(config.get("image_resolution", (224, 224))[0]), antialias=not config),
            actions=cut(scales.actions, ACTION_DIM, "actions", folder),
            state=state,
            # lerobot up to 0.4, whose configs know no relative actions, pads the state to 32.
            state_columns=len(state.scale) if state and "use_relative_actions" in config else columns if state else 0,
            tokenize=tokenizer_of(options.tokenizer, PALIGEMMA),
            prompt=task_and_state if config else line,
            max_tokens=int(config.get("tokenizer_max_length", 200)),
            without_state=options.without_state,
        )
        return cls(network, options.sized(spec), processor, config)

    def cast(self, dtype: torch.dtype) -> None:
        both = cast(Any, self.network).paligemma_with_expert
        if dtype == torch.bfloat16:  # the network's own code keeps some of it float32
            cast_frozen(self.network, lambda: both.to_bfloat16_for_selected_params("bfloat16"))

    def prefix(self, images: Sequence[Float[Tensor, "b 3 h w"]], obs: Obs, device: torch.device) -> TensorContext:
        network: Any = self.network
        real = [torch.ones(len(obs["tokens"]), dtype=torch.bool, device=device)] * len(images)
        embedded, pad, starts = network.embed_prefix(list(images), real, obs["tokens"], obs["token_mask"])
        return prefix_context(network.paligemma_with_expert, embedded, pad, additive(may_attend(pad, starts)))

    def velocity(self, ctx: TensorContext, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        given = {"prefix_pad_masks": ctx["pad"], "past_key_values": as_cache(ctx), "x_t": x, "timestep": t}
        if self._wants_state:  # openpi's pi0.5 takes a state and ignores it
            given["state"] = x.new_zeros(len(x), x.shape[2])
        return cast(Any, self.network).denoise_step(**given).float()


def openpi_network(horizon: int) -> nn.Module:
    """Return openpi's network at its full size."""
    try:
        from openpi.models_pytorch.pi0_pytorch import PI0Pytorch
    except ImportError as error:
        raise ImportError(
            "pi0.5 needs lerobot's or openpi's network: `make test-vla` shows pins that work on Python 3.11, and on "
            "3.12 `pip install 'lerobot[pi]'` does"
        ) from error
    variants = {"paligemma_variant": "gemma_2b", "action_expert_variant": "gemma_300m"}
    return PI0Pytorch(SimpleNamespace(pi05=True, dtype="float32", action_horizon=horizon, action_dim=32, **variants))


def _own_name(name: str) -> str:
    inner = name.removeprefix("model.")
    own = inner if inner.startswith(_OWN) else name
    return re.sub(r"^action_time_mlp_", "time_mlp_", own)
