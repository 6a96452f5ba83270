"""Pi0.5 as a flow policy: lerobot's port and openpi's, which have the same layers and names.

Neither's sampler nor loader is used: the network's `embed_prefix` and `denoise_step` are, and every tensor of a
checkpoint is accounted for (lerobot's loader swallows errors and returns random weights).
"""

import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prophet_gym.errors import CheckpointError
from prophrl_algos.flow.policy import FlowSpec, Obs, TensorContext
from prophrl_algos.vla._load import LoadOptions
from prophrl_algos.vla._lora import LoraTargets, cast_frozen, let_train, lora_targets
from prophrl_algos.vla._policy import ImageConfig, ProcessorConfig, PublishedPolicy
from prophrl_algos.vla._prefix_cache import additive, as_cache, cache_tensors, may_attend
from prophrl_algos.vla._tokenization import PALIGEMMA, line, task_and_state, tokenizer_of
from prophrl_algos.vla.conventions import Affine, convention
from prophrl_algos.vla.io._policies import load_saved, made_network, own_type
from prophrl_algos.vla.io._statistics import Scales, cut, lerobot_scales, openpi_scales, without_padding
from prophrl_algos.vla.io._weights import has_weights, load_strictly, read_json, read_safetensors, renamed

LAYOUT = (
    "lerobot's config.json with type pi05, model.safetensors and policy_*processor.json; or openpi's and RLinf's "
    "model.safetensors with paligemma_with_expert.* and time_mlp_*"
)
ACTION_DIM = 7
OPENPI_HORIZON = 10
"""openpi training/config.py, pi05_libero: action_horizon=10; its checkpoints do not say."""
NEEDED = (
    "pi0.5 needs lerobot's or openpi's network: `make test-vla` shows pins that work on Python 3.11, and on 3.12 "
    "`pip install 'lerobot[pi]'` does"
)
_OWN = ("paligemma_with_expert.", "action_", "time_mlp_", "state_proj.")
_EMBEDDING = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
_HEAD = "paligemma_with_expert.paligemma.lm_head.weight"
_EXPERT_HEAD = "paligemma_with_expert.gemma_expert.lm_head.weight"
_PREFIX = "paligemma_with_expert.paligemma."


def recognises(files: Collection[str], config: Mapping[str, Any]) -> str | None:
    """Lerobot says it in `config.json`."""
    if not has_weights(files):
        return None
    if config.get("model_type") == own_type("pi05"):
        return "config.json says model_type prophrl-pi05, as prophrl writes it"
    if config.get("type") == "pi05":
        return "config.json says type pi05, as lerobot writes it"
    return None


def recognises_tensors(names: Collection[str]) -> str | None:
    """Openpi's and RLinf's files say it by the names of their tensors only."""
    if {"paligemma_with_expert.gemma_expert.model.norm.dense.weight", "action_in_proj.weight"} <= set(names):
        return "paligemma_with_expert with a time modulation (norm.dense), as openpi and RLinf write pi0.5"
    return None


class Pi05Policy(PublishedPolicy):
    """Pictures and prompt as a prefix of PaliGemma; an expert that denoises the actions and reads its keys and values.

    Args:
        network: lerobot's `PI05Pytorch` or openpi's `PI0Pytorch(pi05=True)`; its word heads, which nothing reads, are
            taken off.
        spec: the sizes.
        processor: pictures, prompt, scales and signs.
    """

    FAMILY = "pi05"
    before = (_PREFIX,)

    def __init__(
        self, network: nn.Module, spec: FlowSpec, processor: ProcessorConfig, config: Mapping[str, Any] | None = None
    ) -> None:
        """Take a network over, in place."""
        super().__init__(network, spec, processor, config)
        both = cast(Any, network).paligemma_with_expert
        both.paligemma.lm_head = both.gemma_expert.lm_head = nn.Identity()
        # Both are given a mask of every pair of tokens, which only this implementation takes.
        both.paligemma.model.language_model.config._attn_implementation = "eager"
        both.gemma_expert.model.config._attn_implementation = "eager"
        self._wants_state = "state" in inspect.signature(cast(Any, network).denoise_step).parameters

    @staticmethod
    def make_network(config: Mapping[str, Any]) -> nn.Module:
        """As `make_network`."""
        return make_network(config, precision="float32")

    def let_train(self, train: str, *, language: bool = False, lora: LoraTargets | None = None) -> None:
        """As `choose_trained`."""
        choose_trained(self.network, train, language=language, lora=lora)

    def cast(self, dtype: torch.dtype) -> None:
        """Change the precision of PaliGemma, and of an expert that is not trained, as the network's own code does."""
        both = cast(Any, self.network).paligemma_with_expert
        if dtype == torch.bfloat16:
            cast_frozen(self.network, lambda: both.to_bfloat16_for_selected_params("bfloat16"))

    def prefix(
        self, images: Sequence[Float[Tensor, "b 3 h w"]], obs: Obs, device: torch.device
    ) -> TensorContext:  # fmt: skip
        """Keys and values of PaliGemma, and which tokens are real."""
        network: Any = self.network
        real = torch.ones(len(obs["tokens"]), dtype=torch.bool, device=device)
        embedded, pad, starts = network.embed_prefix(
            list(images), [real] * len(images), obs["tokens"], obs["token_mask"]
        )
        _, cache = network.paligemma_with_expert.forward(
            attention_mask=additive(may_attend(pad, starts)),
            position_ids=pad.cumsum(1) - 1,
            past_key_values=None,
            inputs_embeds=[embedded, None],
            use_cache=True,
        )
        return TensorContext(pad=pad, **cache_tensors(cache))

    def velocity(self, ctx: TensorContext, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        """v(x, t) in float32; time and sign are the network's own."""
        given = {"prefix_pad_masks": ctx["pad"], "past_key_values": as_cache(ctx), "x_t": x, "timestep": t}
        if self._wants_state:
            given["state"] = x.new_zeros(len(x), x.shape[2])
        return cast(Any, self.network).denoise_step(**given).float()


def choose_trained(
    network: nn.Module, train: str, *, language: bool = False, lora: LoraTargets | None = None
) -> list[str]:
    """Let what is trained require a gradient, in float32; its names.

    Args:
        network: as in `Pi05Policy`.
        train: `expert` (the action expert with its projections), `lora`, `full` or `none`.
        language: whether `lora` is put into PaliGemma's language model too.
        lora: other layers for the adapters.
    """
    unread = _unread(len(cast(Any, network).paligemma_with_expert.paligemma.model.language_model.layers))
    targets = lora or lora_targets("pi05" if language else "pi05-expert")
    return let_train(network, train, targets=targets, backbone=_PREFIX, unread=unread)


def _unread(layers: int) -> re.Pattern[str]:
    """What no action depends on: of the last layer only keys and values are read, and no word is predicted."""
    last = rf".*paligemma\.model\.language_model\.layers\.{layers - 1}\.(self_attn\.[qo]_proj|mlp|post_attention_lay)"
    return re.compile(rf"{last}|.*paligemma\.model\.language_model\.norm\.|.*lm_head\.")


def load(folder: Path, options: LoadOptions) -> Pi05Policy:
    """A published checkpoint; see `LAYOUT`."""
    config = read_json(folder / "config.json")
    if config.get("model_type") == own_type(Pi05Policy.FAMILY):
        return load_saved(Pi05Policy, folder, config, options)
    ours = config if config.get("type") == "pi05" else {}
    how = convention(options.benchmark, "openpi")
    scales = _scales(folder, options, from_lerobot=bool(ours))
    network = made_network(Pi05Policy, ours, folder)
    fill(network, read_safetensors(folder), source=folder)
    horizon = int(ours.get("chunk_size", OPENPI_HORIZON))
    steps = options.exec_steps or min(how.exec_steps, horizon)
    width = int(ours.get("max_action_dim", 32))
    count = options.num_steps or int(ours.get("num_inference_steps", 10))
    spec = FlowSpec(horizon, width, ACTION_DIM, steps, count)
    state = _state(scales, ours)
    processor = ProcessorConfig(
        convention=how,
        images=ImageConfig(int(ours.get("image_resolution", (224, 224))[0]), antialias=not ours),
        actions=cut(scales.actions, ACTION_DIM, "actions", folder),
        state=state,
        state_columns=_state_columns(state, ours),
        tokenize=tokenizer_of(options.tokenizer, PALIGEMMA),
        prompt=task_and_state if ours else line,
        max_tokens=int(ours.get("tokenizer_max_length", 200)),
        without_state=options.without_state,
    )
    policy = Pi05Policy(network, spec, processor, ours)
    policy.let_train(options.train, language=options.language)
    policy.cast(options.dtype)
    return policy.eval()


def fill(network: nn.Module, state: Mapping[str, Tensor], *, source: object) -> None:
    """Put a state dict of any of the layouts into a network; every tensor is accounted for.

    lerobot's names begin with `model.`; the language model's embedding may be there as the head that it is tied to;
    heads that predict words are not read; a state projection, which pi0 has and pi0.5 has not, is left out.

    Raises:
        CheckpointError: names what is missing, unexpected or of another shape.
    """
    found = renamed(state, _own_name)
    if _EMBEDDING not in found and _HEAD in found:
        found[_EMBEDDING] = found[_HEAD]
    unread = {_HEAD, _EXPERT_HEAD}
    dropped = unread | {name for name in found if name.startswith("state_proj.")}
    load_strictly(network, found, may_miss=unread, may_ignore=dropped, source=source)


def make_network(config: Mapping[str, Any], *, precision: str) -> nn.Module:
    """The network of a lerobot config, of lerobot's classes, or of openpi's where lerobot is not installed."""
    horizon = int(config.get("chunk_size", OPENPI_HORIZON))
    try:
        from lerobot.policies.pi05.configuration_pi05 import PI05Config
        from lerobot.policies.pi05.modeling_pi05 import PI05Pytorch
    except ImportError:
        return _openpi_network(horizon, precision)
    names = ("paligemma_variant", "action_expert_variant", "max_action_dim", "max_state_dim", "image_resolution",
             "min_period", "max_period")  # fmt: skip
    given = {name: config[name] for name in names if name in config}
    if "image_resolution" in given:
        given["image_resolution"] = tuple(given["image_resolution"])
    return PI05Pytorch(PI05Config(chunk_size=horizon, n_action_steps=horizon, dtype=precision, device="cpu", **given))


def require_lerobot() -> None:
    """ImportError, with what to install, unless lerobot's pi0.5 can be imported."""
    try:
        import lerobot.policies.pi05.modeling_pi05  # noqa: F401
    except ImportError as error:
        raise ImportError(NEEDED) from error


def _openpi_network(horizon: int, precision: str) -> nn.Module:
    try:
        from openpi.models_pytorch.pi0_pytorch import PI0Pytorch
    except ImportError as error:
        raise ImportError(NEEDED) from error
    config = SimpleNamespace(
        pi05=True,
        paligemma_variant="gemma_2b",
        action_expert_variant="gemma_300m",
        dtype=precision,
        action_horizon=horizon,
        action_dim=32,
    )
    return PI0Pytorch(config)


def _own_name(name: str) -> str:
    inner = name.removeprefix("model.")
    own = inner if inner.startswith(_OWN) else name
    return re.sub(r"^action_time_mlp_", "time_mlp_", own)


def _scales(folder: Path, options: LoadOptions, *, from_lerobot: bool) -> Scales:
    if from_lerobot and options.statistics is None:
        return lerobot_scales(folder)
    how = convention(options.benchmark, "openpi")
    return openpi_scales(folder, how.scaling, how.eps, given=options.statistics, key=options.unnorm_key)


def _state(scales: Scales, config: Mapping[str, Any]) -> Affine | None:
    """Openpi trains its LIBERO and BRIDGE policies with discrete_state_input=False: they read no state."""
    if config.get("use_relative_actions"):
        raise CheckpointError("this checkpoint predicts actions relative to the state, which no env here takes")
    if config and scales.state is None:
        raise CheckpointError("this checkpoint's prompt names the state, and its processor has no statistics of it")
    return without_padding(scales.state, int(config.get("max_state_dim", 32))) if config and scales.state else None


def _state_columns(state: Affine | None, config: Mapping[str, Any]) -> int:
    """Lerobot up to 0.4 padded the state to 32 numbers in the prompt; configs that know relative actions are later."""
    if state is None:
        return 0
    return len(state.scale) if "use_relative_actions" in config else int(config.get("max_state_dim", 32))
