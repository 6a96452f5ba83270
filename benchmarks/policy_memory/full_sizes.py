"""Published policies at full size, random weights; on the meta device shapes alone, which the plan measures."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor, nn

from prophrl_algos.flow import Context, FlowPolicy, FlowSpec, device_of
from prophrl_algos.vla._experts import Pi0Policy, SmolVLAPolicy, lerobot_module
from prophrl_algos.vla._prefix_policy import PrefixPolicy
from prophrl_algos.vla._processor import ImageConfig, ProcessorConfig
from prophrl_algos.vla._units import Affine
from prophrl_algos.vla.conventions import convention
from prophrl_algos.vla.prismatic import OpenVLAOFT, VLAAdapter
from prophrl_algos.vla.prismatic._config import PrismaticConfig
from prophrl_algos.vla.prismatic._policy import PrismaticPolicy
from prophrl_algos.vla.prismatic._vision import VitSize

META = torch.device("meta")
ACTIONS, STATE, PADDED = 7, 8, 32
# HuggingFaceTB/SmolVLM2-500M-Video-Instruct, config.json
SMOLVLM = {
    "text_config": {
        "model_type": "llama",
        "hidden_size": 960,
        "intermediate_size": 2560,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
        "num_hidden_layers": 32,
        "head_dim": 64,
        "vocab_size": 49280,
    },
    "vision_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "patch_size": 16,
        "image_size": 512,
    },
    "scale_factor": 4,
}
# Qwen/Qwen2.5-0.5B and meta-llama/Llama-2-7b-hf (64 words more), config.json; the eyes without their last blocks.
QWEN = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32064,
    "pad_token_id": 32000,
}
DINO = VitSize(width=1024, depth=23, heads=16, hidden=4096, grid=16, registers=4, dino=True)
SIGLIP = VitSize(width=1152, depth=26, heads=16, hidden=4304, grid=16)


@dataclass(frozen=True)
class FullSize:
    """Hold a policy with random weights, or of shapes alone.

    Attributes:
        policy: with what is trained requiring a gradient.
        encode: `(rows, views)`: the context of so many chunks.
        pixels: height and width of a stored picture; None if pictures are stored in the env's size.
        tokens: of a prompt, as stored.
    """

    policy: FlowPolicy
    encode: Callable[[int, int], Context]
    pixels: int | None
    tokens: int


def full_pi0(train: str, *, language: bool, device: torch.device = META) -> FullSize:
    """Pi0 as transformers has it; chunks of 50."""
    with device:
        network = Pi0Policy.make_network({})
    network.set_attn_implementation("eager")
    network.model.vlm.to(torch.bfloat16)
    policy = Pi0Policy(network, FlowSpec(50, PADDED, ACTIONS, 5, 10), _processor(224, 48))
    policy.let_train(train, language=language)
    return _published(policy, 48)


def full_pi05(train: str, *, language: bool, device: torch.device = META) -> FullSize:
    """Pi0.5 of LIBERO, chunks of 10: on transformers' pi0, whose layers are as wide, with pi0.5's time modulation."""
    spec, tokens = FlowSpec(10, PADDED, ACTIONS, 5, 10), 200
    with device:
        network = Pi0Policy.make_network({"chunk_size": spec.horizon})
        width = network.config.dit_config.hidden_size
        network.embed_action_time = _Embedded(width)
        for layer in network.model.dit.layers:
            layer.input_layernorm, layer.post_attention_layernorm = _Modulated(width), _Modulated(width)
        network.model.dit.norm = _Modulated(width)
    network.set_attn_implementation("eager")
    network.model.vlm.to(torch.bfloat16)
    policy = Pi0Policy(network, spec, _processor(224, tokens))
    policy.let_train(train, language=language)
    return _published(policy, tokens)


def full_smolvla(train: str, *, language: bool, device: torch.device = META) -> FullSize:
    """SmolVLA, chunks of 50; lerobot must be installed, nothing is fetched."""
    del language
    with smolvlm_of(SMOLVLM), device:
        network = SmolVLAPolicy.make_network({"chunk_size": 50})
    network.vlm_with_expert.vlm.to(torch.bfloat16)
    network.vlm_with_expert.embed_image = partial(_embedded_by_smolvlm, network.vlm_with_expert)
    policy = SmolVLAPolicy(network, FlowSpec(50, PADDED, ACTIONS, 10, 10), _processor(512, 48))
    policy.let_train(train)
    return _published(policy, 48)


@contextmanager
def smolvlm_of(sizes: Mapping[str, Any]) -> Iterator[None]:
    """Make lerobot's SmolVLA on a SmolVLM of the given sizes; lerobot would fetch its config and its tokenizer."""
    module = lerobot_module("smolvla.smolvlm_with_expert", "smolvla")
    from transformers import AutoConfig

    config = AutoConfig.for_model("smolvlm", **sizes, image_token_id=1, pad_token_id=0)
    words = SimpleNamespace(tokenizer=SimpleNamespace(fake_image_token_id=2, global_image_token_id=3))
    with ExitStack() as stack:
        for name, found in {"AutoConfig": config, "AutoProcessor": words}.items():
            stack.enter_context(patch.object(module, name, SimpleNamespace(from_pretrained=partial(_given, found))))
        yield


def full_vla_adapter(train: str, *, language: bool, device: torch.device = META) -> FullSize:
    """Build VLA-Adapter's Pro release with its flow head."""
    del language
    return _prismatic(VLAAdapter, QWEN, {"pro": True}, train, device)


def full_openvla_oft(train: str, *, language: bool, device: torch.device = META) -> FullSize:
    """OpenVLA-OFT with its flow head."""
    del language
    return _prismatic(OpenVLAOFT, LLAMA, {}, train, device)


FULL_SIZES: Mapping[str, Callable[..., FullSize]] = {
    "pi0": full_pi0,
    "pi05": full_pi05,
    "smolvla": full_smolvla,
    "vla-adapter": full_vla_adapter,
    "openvla-oft": full_openvla_oft,
}


def _processor(pixels: int, tokens: int) -> ProcessorConfig:
    one = Affine(torch.zeros(ACTIONS), torch.ones(ACTIONS))
    return ProcessorConfig(convention("libero", "openpi"), ImageConfig(pixels), one, None, PADDED, None, "line", tokens)


def _published(policy: PrefixPolicy, tokens: int) -> FullSize:
    size, flow = policy.processor.images.size, cast(FlowPolicy, policy)
    device = device_of(flow)

    def encode(rows: int, views: int) -> Context:
        images = [torch.zeros(rows, 3, size, size, device=device) for _ in range(views)]
        obs = {
            "tokens": torch.zeros(rows, tokens, dtype=torch.int64, device=device),
            "token_mask": torch.ones(rows, tokens, dtype=torch.bool, device=device),
            "state": torch.zeros(rows, PADDED, device=device),
        }
        return policy.prefix(images, obs, device)

    return FullSize(flow, encode, None, tokens)


def _prismatic(
    kind: type[PrismaticPolicy], text: Mapping[str, Any], settings: dict, train: str, device: torch.device
) -> FullSize:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    config = PrismaticConfig(
        text={"bos_token_id": 1, "eos_token_id": 2, **text},
        first=DINO,
        second=SIGLIP,
        actions={"q01": [-1.0] * ACTIONS, "q99": [1.0] * ACTIONS, "mask": [True] * (ACTIONS - 1) + [False]},
        states={"q01": [-1.0] * STATE, "q99": [1.0] * STATE},
        settings=settings,
    )
    with device:
        policy = kind(config, Tokenizer(WordLevel({"": 0}, ""))).to(torch.bfloat16)
    policy.let_train(train)
    tokens = 48

    def encode(rows: int, views: int) -> Context:
        size = policy.vision_backbone.image_size
        images = torch.zeros(rows * views, size, size, 3, dtype=torch.uint8, device=device)
        with patch.object(policy, "pieces", lambda obs: _pieces(policy, obs)):
            return policy.encode(
                {"image": images, "tokens": torch.zeros(rows, tokens, dtype=torch.int64, device=device),
                 "state": torch.zeros(rows, STATE, device=device)},
                grad=torch.is_grad_enabled(),
            )  # fmt: skip

    return FullSize(cast(FlowPolicy, policy), encode, policy.vision_backbone.image_size, tokens)


def _pieces(policy: PrismaticPolicy, obs: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Build the policy's sequence where the whole batch has the same views and tokens; no values are read."""
    rows = len(obs["tokens"])
    patches = policy.projector(policy.vision_backbone(obs["image"])).flatten(0, 1)
    words = policy.language_model.get_input_embeddings()(obs["tokens"])
    return list(patches.chunk(rows)), list(words)


class _Modulated(nn.Module):
    """Scale a norm by time, as pi0.5 does, in the place of pi0's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift, _ = self.dense(x[:, :1]).chunk(3, -1)
        return x * x.square().mean(-1, keepdim=True).rsqrt() * (1 + scale) + shift


class _Embedded(nn.Module):
    """Pi0.5's way of reading actions and time; it reads no state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.action_in_proj = nn.Linear(PADDED, width)
        self.time_mlp_in, self.time_mlp_out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, state: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        del timestep
        told = self.time_mlp_out(self.time_mlp_in(state.new_zeros(len(state), 1, self.time_mlp_in.in_features)))
        return torch.cat([told, self.action_in_proj(noise)], 1)


def _embedded_by_smolvlm(both: Any, image: Tensor) -> Tensor:
    """Embed images as lerobot's `embed_image` does, whose way through SmolVLM reads values of a mask."""
    vision = both.vlm.model.vision_model
    patches = vision.embeddings.patch_embedding(image.to(vision.dtype)).flatten(2).transpose(1, 2)
    states = vision.encoder(inputs_embeds=patches + vision.embeddings.position_embedding.weight).last_hidden_state
    return both.vlm.model.connector(vision.post_layernorm(states))


def _given(found: Any, *_: Any, **__: Any) -> Any:
    return found
