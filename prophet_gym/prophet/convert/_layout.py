"""Rename released tensors to ours and report every name that fits nothing; make a Cosmos-Predict2 a starting point."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prophet_gym._checks import listed
from prophet_gym.errors import CheckpointError
from prophet_gym.prophet._action_frames import PooledActionFrames
from prophet_gym.prophet._action_stream import ActionStream
from prophet_gym.prophet._history import HistoryMemory
from prophet_gym.prophet._transformer import ProphetTransformer3DModel

PROPHET_ACTION_DIM = 14
"""Numbers per action of the released Prophet, whose scalar streams are named `action_embedder_*_agi`."""
COSMOS_ACTION_DIM = 7
"""Numbers per action of `nvidia/Cosmos-Predict2-2B-Sample-Action-Conditioned`, whose streams have the bare names."""
_PATCH = (1, 2, 2)
_SMALLEST_HEAD = 12
"""The rotary table splits a head in three, and needs two frequencies for height and for width."""

_OWN_STREAM = "action_embedder.to_embedding.linear_1.weight"
"""Of a transformer in our layout; a released one has it under another name."""
_AVERAGED = "net_ema."
"""Begins the names of the average of the weights, which training keeps beside them."""

_WRAPPERS = ("module.", "_orig_mod.")
_DROPPED = re.compile(r"(^|\.)(accum_\w+|pos_embedder\..*|.*_extra_state)$")
_PROPHET_STREAM = re.compile(r"(^|\.)action_embedder_B_D_\w+\.fc1\.weight$")
_RENAMES = (
    (r"^net\.", ""),
    (r"^blocks\.", "transformer_blocks."),
    (r"adaln_modulation_self_attn\.(\d)", r"norm1.linear_\1"),
    (r"adaln_modulation_cross_attn\.(\d)", r"norm2.linear_\1"),
    (r"adaln_modulation_mlp\.(\d)", r"norm3.linear_\1"),
    (r"\.self_attn\.", ".attn1."),
    (r"\.cross_attn\.", ".attn2."),
    (r"\.([qkv])_proj\.", r".to_\1."),
    (r"\.output_proj\.", ".to_out.0."),
    (r"\.([qk])_norm\.", r".norm_\1."),
    (r"\.mlp\.layer1\.", ".ff.net.0.proj."),
    (r"\.mlp\.layer2\.", ".ff.net.2."),
    (r"^t_embedder\.1\.", "time_embed.t_embedder."),
    (r"^t_embedding_norm\.", "time_embed.norm."),
    (r"^x_embedder\.proj\.1\.", "patch_embed.proj."),
    (r"^final_layer\.adaln_modulation\.(\d)", r"norm_out.linear_\1"),
    (r"^final_layer\.linear\.", "proj_out."),
    (r"^action_embedder_B_D(_\w+)?\.fc(\d)\.", r"action_embedder.to_embedding.linear_\2."),
    (r"^action_embedder_B_3D(_\w+)?\.fc(\d)\.", r"action_embedder.to_modulation.linear_\2."),
    (r"^action_latent_cond\.proj_in\.", "action_frame_embedder.proj_in."),
    (r"^action_latent_cond\.dw_spatial\.", "action_frame_embedder.depthwise."),
    (r"^action_latent_cond\.pw_spatial\.", "action_frame_embedder.pointwise."),
    (r"^action_latent_cond\.to_D\.", "action_frame_embedder.to_embedding."),
    (r"^action_latent_cond\.to_3D\.", "action_frame_embedder.to_modulation."),
    (r"^framepack_mem\.proj\.(\d)\.1\.", r"history_memory.levels.\1."),
    (r"^mem_to_([kv])\.", r"history_memory.to_\1."),
)


def is_counter(key: str) -> bool:
    """Return whether a released entry is a training counter, a cache or a constant that nothing needs."""
    return _DROPPED.search(key) is not None


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the released weights without what training and compiling put before every name.

    Raises:
        CheckpointError: It is a transformer in our layout already, there are two sets of weights, or adapters.
    """
    found = dict(state)
    # Compiling inside of data parallelism puts two of them before every name.
    while prefix := next((each for each in _WRAPPERS if found and all(k.startswith(each) for k in found)), None):
        found = {key.removeprefix(prefix): value for key, value in found.items()}
    averaged = {key: value for key, value in found.items() if key.startswith(_AVERAGED)}
    if averaged and len(averaged) < len(found):
        raise CheckpointError(
            f"the file holds two sets of weights, of training and their average ({listed(sorted(averaged))}): choose "
            f"one and save it alone, {{k: v for k, v in state.items() if k.startswith({_AVERAGED!r})}} for the average"
        )
    if averaged:
        found = {key.removeprefix(_AVERAGED): value for key, value in found.items()}
    adapters = sorted(key for key in found if ".lora_A." in key or ".lora_B." in key)
    if adapters:
        raise CheckpointError(
            f"the file holds low-rank adapters ({listed(adapters)}): add them to the weights first, with peft's "
            "merge_and_unload() or with `prophet merge`, and save the result"
        )
    if _OWN_STREAM in found:
        raise CheckpointError(
            f"the file is a transformer in the layout of this library already (it has {_OWN_STREAM}): there is nothing "
            "to convert; use the folder of its prophet.json, as in weights=FOLDER"
        )
    return found


def rename(key: str) -> str:
    """Return our name of a released tensor."""
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def convert_transformer(
    state_dict: dict[str, Tensor], action_dim: int | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Convert a released Prophet transformer, or the action-conditioned sample of Cosmos-Predict2.

    Args:
        state_dict: The released layout, with or without the `net.` prefix, in any dtype, which is kept.
        action_dim: Numbers per action; the layout's own if not given (Prophet 14, Cosmos sample 7). The file holds only
            its product with the chunk.

    Returns:
        The config that `ProphetTransformer3DModel.from_config` takes, and a state dict for `load_state_dict`.

    Raises:
        CheckpointError: Tensors are missing, unexpected or of the wrong shape; the message names the first ten of each.
    """
    state_dict = _unwrapped(state_dict)
    converted = _renamed(state_dict)
    config = _infer_config(converted, _own_action_dim(state_dict) if action_dim is None else action_dim)
    _require_layout(config, converted)
    return config, converted


@dataclass(frozen=True)
class NewParts:
    """Hold what a Cosmos-Predict2 model gets on its way to a Prophet, where it lacks it.

    Attributes:
        action_dim: Numbers per action.
        chunk: Actions per chunk.
        action_frames: Whether it reads images of the end effector.
        history: Whether it reads the history.
        seed: Of the random weights.
    """

    action_dim: int = PROPHET_ACTION_DIM
    chunk: int = 20
    action_frames: bool = True
    history: bool = True
    seed: int = 0


def convert_cosmos(state_dict: dict[str, Tensor], new: NewParts) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Make a starting point for training of a Cosmos-Predict2 Video2World model, plain or action-conditioned.

    Parts that are there are kept. New ones are silent: with the same text, the first output is the base model's,
    whatever the actions and action frames are. The history's values are zero too, but its tokens take their share of
    every softmax, as in the released architecture: with `history=None` the output is exactly the base's.

    Args:
        state_dict: The layout of Cosmos-Predict2's `.pt`, with or without the `net.` prefix.
        new: What to add.

    Returns:
        As `convert_transformer`.

    Raises:
        CheckpointError: As `convert_transformer`.
    """
    state_dict = _unwrapped(state_dict)
    converted = _renamed(state_dict)
    dim, like = _shape(converted, "patch_embed.proj.weight", 2)[0], next(iter(converted.values()))
    channels = _shape(converted, "proj_out.weight", 2)[0] // (_PATCH[0] * _PATCH[1] * _PATCH[2])
    has = {name.split(".")[0] for name in converted}
    parts: dict[str, nn.Module] = {}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(new.seed)
        if "action_embedder" not in has:
            parts["action_embedder"] = stream = ActionStream(new.action_dim, new.chunk, dim)
            _silence(stream.to_embedding.linear_2, stream.to_modulation.linear_2)
        if new.action_frames and "action_frame_embedder" not in has:
            parts["action_frame_embedder"] = embedder = PooledActionFrames(channels, dim)
            _silence(*embedder.to_embedding, *embedder.to_modulation)
        if new.history and "history_memory" not in has:
            parts["history_memory"] = memory = HistoryMemory(channels, dim, "oldest_finest")
            _silence(memory.to_v)
    for prefix, part in parts.items():
        converted |= {f"{prefix}.{name}": value.to(like.dtype) for name, value in part.state_dict().items()}
    config = _infer_config(converted, _own_action_dim(state_dict) if "action_embedder" in has else new.action_dim)
    _require_layout(config, converted)
    return config, converted


def _silence(*layers: nn.Module) -> None:
    """Make linear maps put out exactly zero, so that a new condition starts silent."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _own_action_dim(state_dict: Mapping[str, Tensor]) -> int:
    return PROPHET_ACTION_DIM if any(map(_PROPHET_STREAM.search, state_dict)) else COSMOS_ACTION_DIM


def without_text(config: dict[str, Any], state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Leave out the cross-attentions, which put out zero while text is off (reference.md: "Text")."""
    kept = {k: v for k, v in state.items() if ".attn2." not in k and ".norm2." not in k}
    return {**config, "text_embed_dim": None}, kept


def _infer_config(state: Mapping[str, Tensor], action_dim: int) -> dict[str, Any]:
    """Read the config off the shapes of a renamed state dict; raise CheckpointError where they fit no Prophet."""
    _require_names(state)
    dim = _shape(state, "patch_embed.proj.weight", 2)[0]
    head = _shape(state, "transformer_blocks.0.attn1.norm_q.weight", 1)[0]
    if head < _SMALLEST_HEAD or head % 2 or dim == 0 or dim % head:
        raise CheckpointError(
            f"the width {dim} must be a multiple of an even head size of at least {_SMALLEST_HEAD}, "
            f"got head size {head}"
        )
    text = "transformer_blocks.0.attn2.to_k.weight"
    flat_actions = _shape(state, "action_embedder.to_embedding.linear_1.weight", 2)[1]
    if action_dim < 1 or flat_actions % action_dim or flat_actions == 0:
        raise CheckpointError(
            f"the action stream reads {flat_actions} numbers, no whole number of actions of action_dim={action_dim}; "
            "give the action_dim it was trained with"
        )
    cells = _PATCH[0] * _PATCH[1] * _PATCH[2]
    return {
        "num_attention_heads": dim // head,
        "attention_head_dim": head,
        "num_layers": _count_blocks(state),
        "mlp_ratio": _shape(state, "transformer_blocks.0.ff.net.0.proj.weight", 2)[0] / dim,
        "text_embed_dim": _shape(state, text, 2)[1] if text in state else None,
        "adaln_lora_dim": _shape(state, "transformer_blocks.0.norm1.linear_1.weight", 2)[0],
        "latent_channels": _shape(state, "proj_out.weight", 2)[0] // cells,
        "patch_size": _PATCH,
        "action_dim": action_dim,
        "actions_per_slot": flat_actions // action_dim,
        "action_frames": "pooled" if "action_frame_embedder.proj_in.weight" in state else None,
        "history_order": "oldest_finest" if "history_memory.to_k.weight" in state else None,
    }


def _require_layout(config: dict[str, Any], state: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError, naming ten tensors of a kind, unless `state` is what a transformer of `config` loads."""
    with torch.device("meta"):
        expected = ProphetTransformer3DModel(**config).state_dict()
    missing = [f"{k} {tuple(v.shape)}" for k, v in expected.items() if k not in state]
    unexpected = [f"{k} {tuple(v.shape)}" for k, v in state.items() if k not in expected]
    wrong = [
        f"{k} has shape {tuple(v.shape)}, expected {tuple(expected[k].shape)}"
        for k, v in state.items()
        if k in expected and v.shape != expected[k].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": wrong}
    if any(problems.values()):
        said = "; ".join(f"{len(names)} {kind}: {listed(names)}" for kind, names in problems.items() if names)
        raise CheckpointError(f"not a Prophet transformer in the released layout: {said}")


def _renamed(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    converted: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        if is_counter(key):
            continue
        name = rename(key)
        if name in converted:
            raise CheckpointError(f"not a Prophet transformer in the released layout: {name} is there twice")
        is_level = name.startswith("history_memory.levels.") and name.endswith("weight") and value.ndim > 1
        # The released levels are 1x1x1 convolutions, ours linear maps of the same numbers.
        converted[name] = value.flatten(1) if is_level else value
    return converted


def _require_names(state: Mapping[str, Tensor]) -> None:
    needed = ("patch_embed.proj.weight", "transformer_blocks.0.attn1.norm_q.weight", "proj_out.weight",
              "transformer_blocks.0.norm1.linear_1.weight", "transformer_blocks.0.ff.net.0.proj.weight")  # fmt: skip
    stream = "action_embedder.to_embedding.linear_1.weight"
    missing = [name for name in needed if name not in state]
    if not missing and stream not in state:
        raise CheckpointError(
            f"not a Prophet transformer in the released layout: it lacks {stream}. If this is a plain Cosmos-Predict2 "
            "model, convert it as a starting point for training (convert_cosmos, prophet convert --starting-point)"
        )
    if missing:
        missing += [] if stream in state else [stream]
        raise CheckpointError(f"not a Prophet transformer in the released layout: it lacks {', '.join(missing)}")


def _shape(state: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    if name not in state:
        raise CheckpointError(f"not a Prophet transformer in the released layout: it lacks {name}")
    shape = tuple(state[name].shape)
    if len(shape) != axes:
        raise CheckpointError(f"not a Prophet transformer: {name} must have {axes} axes, got shape {shape}")
    return shape


def _count_blocks(state: Mapping[str, Tensor]) -> int:
    """Return the number of blocks; raise CheckpointError unless they are numbered from 0 without a gap."""
    numbers = {k.split(".")[1] for k in state if k.startswith("transformer_blocks.")}
    wrong = sorted(numbers - {str(i) for i in range(len(numbers))})
    if wrong:
        raise CheckpointError(
            f"the {len(numbers)} blocks must be numbered from 0 without a gap, got also {', '.join(wrong)}: "
            "the file is damaged or cut"
        )
    return len(numbers)
