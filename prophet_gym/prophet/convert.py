"""Released `.pt` names -> ours, every unmatched name reported."""

import re
from typing import Any

import torch
from torch import Tensor

from prophet_gym.prophet.transformer import ProphetTransformer3DModel

_DROPPED = re.compile(r"(^|\.)(accum_\w+|pos_embedder\..*|.*_extra_state)$")
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


def rename(key: str) -> str:
    """Return our name of a released tensor."""
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def convert_transformer(state_dict: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Convert a released Prophet transformer.

    Args:
        state_dict: the released layout, with or without the `net.` prefix.

    Returns:
        The config that `ProphetTransformer3DModel.from_config` takes, and a state dict for `load_state_dict`.

    Raises:
        ValueError: tensors are missing, unexpected or of the wrong shape; the message names all of them.
    """
    converted = {rename(k): v for k, v in state_dict.items() if not _DROPPED.search(k)}
    for name in [k for k in converted if k.startswith("history_memory.levels.") and k.endswith("weight")]:
        converted[name] = converted[name].flatten(1)
    config = infer_config(converted)
    with torch.device("meta"):
        expected = ProphetTransformer3DModel(**config).state_dict()
    problems = [f"missing {k} {tuple(v.shape)}" for k, v in expected.items() if k not in converted]
    problems += [f"unexpected {k} {tuple(v.shape)}" for k, v in converted.items() if k not in expected]
    problems += [
        f"{k} has shape {tuple(v.shape)}, expected {tuple(expected[k].shape)}"
        for k, v in converted.items()
        if k in expected and v.shape != expected[k].shape
    ]
    if problems:
        raise ValueError("not a Prophet transformer in the released layout: " + "; ".join(problems))
    return config, converted


def infer_config(state: dict[str, Tensor]) -> dict[str, Any]:
    """Read the config off the shapes of a renamed state dict.

    Raises:
        ValueError: a tensor that every Prophet has is not there.
    """
    patch = (1, 2, 2)
    needed = ("patch_embed.proj.weight", "transformer_blocks.0.attn1.norm_q.weight", "proj_out.weight",
              "transformer_blocks.0.norm1.linear_1.weight", "transformer_blocks.0.ff.net.0.proj.weight",
              "action_embedder.to_embedding.linear_1.weight")  # fmt: skip
    missing = [name for name in needed if name not in state]
    if missing:
        raise ValueError(f"not a Prophet transformer in the released layout: it lacks {', '.join(missing)}")
    dim = state["patch_embed.proj.weight"].shape[0]
    head = state["transformer_blocks.0.attn1.norm_q.weight"].shape[0]
    text = state.get("transformer_blocks.0.attn2.to_k.weight")
    flat_actions = state["action_embedder.to_embedding.linear_1.weight"].shape[1]
    action_dim = 14 if flat_actions % 14 == 0 else 7
    return {
        "num_attention_heads": dim // head,
        "attention_head_dim": head,
        "num_layers": 1 + max(int(k.split(".")[1]) for k in state if k.startswith("transformer_blocks.")),
        "mlp_ratio": state["transformer_blocks.0.ff.net.0.proj.weight"].shape[0] / dim,
        "text_embed_dim": None if text is None else text.shape[1],
        "adaln_lora_dim": state["transformer_blocks.0.norm1.linear_1.weight"].shape[0],
        "latent_channels": state["proj_out.weight"].shape[0] // (patch[0] * patch[1] * patch[2]),
        "patch_size": patch,
        "action_dim": action_dim,
        "actions_per_slot": flat_actions // action_dim,
        "action_frames": "pooled" if "action_frame_embedder.proj_in.weight" in state else None,
        "history_order": "oldest_finest" if "history_memory.to_k.weight" in state else None,
    }
