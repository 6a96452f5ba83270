"""Rename released tensors to ours and report every name that fits nothing."""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prophet_gym._checks import listed
from prophet_gym._io.configs import misfits
from prophet_gym._io.tensor_files import unwrapped
from prophet_gym.errors import CheckpointError
from prophet_gym.prophet._transformer import ProphetTransformer3DModel

# Numbers per action of the released Prophet, whose scalar streams are named `action_embedder_*_agi`.
PROPHET_ACTION_DIM = 14
# Those of `nvidia/Cosmos-Predict2-2B-Sample-Action-Conditioned`, whose streams have the bare names.
COSMOS_ACTION_DIM = 7
_PATCH = (1, 2, 2)
# The rotary table splits a head in three, and needs two frequencies for height and for width.
_SMALLEST_HEAD = 12
_NO_PROPHET = "not a Prophet transformer"

# Of a transformer in our layout; a released one has it under another name.
_OWN_STREAM = "action_embedder.to_embedding.linear_1.weight"
# Begins the names of the average of the weights, which training keeps beside them.
_AVERAGED = "net_ema."
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
    """Return the released weights without what training and compiling put before every name."""
    found = unwrapped(state)
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
    """Return config and state of a released Prophet transformer, or of Cosmos-Predict2's action-conditioned sample.

    The dtype is kept. The file holds only the product of action dimensions and chunk; without `action_dim` it is the
    layout's own (Prophet 14, Cosmos sample 7).
    """
    state_dict = _unwrapped(state_dict)
    if action_dim is None:
        action_dim = PROPHET_ACTION_DIM if any(map(_PROPHET_STREAM.search, state_dict)) else COSMOS_ACTION_DIM
    return _described(_renamed(state_dict), action_dim)


def without_text(config: dict[str, Any], state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Leave out the cross-attentions, which put out zero while text is off (reference.md: "Text")."""
    kept = {k: v for k, v in state.items() if ".attn2." not in k and ".norm2." not in k}
    return {**config, "text_embed_dim": None}, kept


def _described(state: dict[str, Tensor], action_dim: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the config that the shapes of a renamed state dict say, and the dict; CheckpointError if they fit none."""
    dim = _shape(state, "patch_embed.proj.weight", 2)[0]
    head = _shape(state, "transformer_blocks.0.attn1.norm_q.weight", 1)[0]
    if head < _SMALLEST_HEAD or head % 2 or dim == 0 or dim % head:
        raise CheckpointError(
            f"the width {dim} must be a multiple of an even head size of at least {_SMALLEST_HEAD}, "
            f"got head size {head}"
        )
    if _OWN_STREAM not in state:
        raise CheckpointError(
            f"{_NO_PROPHET} in the released layout: it lacks {_OWN_STREAM}. A plain Cosmos-Predict2 model "
            "follows no actions: give a Prophet that was trained from it, as prophet-pretrained.pt"
        )
    flat_actions = _shape(state, _OWN_STREAM, 2)[1]
    if action_dim < 1 or flat_actions % action_dim or flat_actions == 0:
        raise CheckpointError(
            f"the action stream reads {flat_actions} numbers, no whole number of actions of action_dim={action_dim}; "
            "give the action_dim it was trained with"
        )
    text = "transformer_blocks.0.attn2.to_k.weight"
    config = {
        "num_attention_heads": dim // head,
        "attention_head_dim": head,
        "num_layers": len({name.split(".")[1] for name in state if name.startswith("transformer_blocks.")}),
        "mlp_ratio": _shape(state, "transformer_blocks.0.ff.net.0.proj.weight", 2)[0] / dim,
        "text_embed_dim": _shape(state, text, 2)[1] if text in state else None,
        "adaln_lora_dim": _shape(state, "transformer_blocks.0.norm1.linear_1.weight", 2)[0],
        "latent_channels": _shape(state, "proj_out.weight", 2)[0] // math.prod(_PATCH),
        "patch_size": _PATCH,
        "action_dim": action_dim,
        "actions_per_slot": flat_actions // action_dim,
        "action_frames": "pooled" if "action_frame_embedder.proj_in.weight" in state else None,
        "history_order": "oldest_finest" if "history_memory.to_k.weight" in state else None,
    }
    with torch.device("meta"):
        expected = ProphetTransformer3DModel(**config).state_dict()
    if wrong := misfits(expected, state):
        raise CheckpointError(f"{_NO_PROPHET} in the released layout: {wrong}")
    return config, state


def _renamed(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    converted: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        if is_counter(key):
            continue
        name = rename(key)
        if name in converted:
            raise CheckpointError(f"{_NO_PROPHET} in the released layout: {name} is there twice")
        is_level = name.startswith("history_memory.levels.") and name.endswith("weight") and value.ndim > 1
        # The released levels are 1x1x1 convolutions, ours linear maps of the same numbers.
        converted[name] = value.flatten(1) if is_level else value
    return converted


def _shape(state: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    if name not in state:
        raise CheckpointError(f"{_NO_PROPHET} in the released layout: it lacks {name}")
    shape = tuple(state[name].shape)
    if len(shape) != axes:
        raise CheckpointError(f"{_NO_PROPHET}: {name} must have {axes} axes, got shape {shape}")
    return shape
