"""Make flow policies of VLA-Adapter (arXiv 2509.09372) and OpenVLA-OFT (arXiv 2502.19645)."""

from typing import Any, ClassVar

import torch
from torch import nn

from prophrl_algos.flow import Context, Obs
from prophrl_algos.vla._lora import PROJECTIONS, LoraPart, LoraTargets
from prophrl_algos.vla.prismatic._config import PrismaticConfig
from prophrl_algos.vla.prismatic._heads import BridgeFlowHead, L1Head, OftFlowHead, OftL1Head, bridge_blocks
from prophrl_algos.vla.prismatic._policy import PrismaticPolicy, windows

_QUERIES = 64


class VLAAdapter(PrismaticPolicy):
    """Act with VLA-Adapter, on Qwen2.5-0.5B; `prophrl_algos.load_policy` makes one of a published checkpoint.

    The sequence is causal: the prompt's first token, all patches, the rest of the prompt, 64 learned queries, a stop
    token. The head reads every layer, each window one place early, as published: the first token and all patches but
    the last, and the prompt's last token and all queries but the last.
    """

    FAMILY: ClassVar[str] = "vla-adapter"
    LAYOUT: ClassVar[str] = (
        "VLA-Adapter as published: config.json with a Qwen2 text_config, model.safetensors, action_head--*.pt"
    )
    LANGUAGE: ClassVar[str] = "qwen2"
    PROMPT: ClassVar[str] = (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nWhat action should the robot take to {task}?<|im_end|>\n<|im_start|>assistant\n"
    )
    LAST: ClassVar[int | None] = None
    CAUSAL: ClassVar[bool] = True
    EXPERT: ClassVar[tuple[str, ...]] = ("action_head", "proprio_projector")
    # The flow head is new and trained whole; the rank is OpenVLA-OFT's (vla-scripts/finetune.py).
    LORA: ClassVar[LoraTargets] = LoraTargets(
        (LoraPart(rf".*language_model.*\.{PROJECTIONS}", 32, 32),), (r"(.*\.)?action_queries", r"(.*\.)?action_head")
    )

    def __init__(self, config: PrismaticConfig, tokenizer: Any) -> None:
        super().__init__(config, tokenizer)
        self.action_queries = nn.Embedding(_QUERIES, self.text_config.hidden_size)

    def make_head(self, config: PrismaticConfig) -> nn.Module:
        width, layers = self.text_config.hidden_size, self.text_config.num_hidden_layers
        if config.head == "l1":
            return L1Head(width, config.horizon, config.action_dim, bridge_blocks(width, layers, **config.settings))
        return BridgeFlowHead(width, layers, config.horizon, config.action_dim, **config.settings)

    def context(self, obs: Obs) -> Context:
        patches, prompts = self.pieces(obs)
        queries = self.action_queries(torch.arange(_QUERIES, device=self.device)).to(patches[0])
        # Each row is put together by itself and padded behind, so that a batch says what its rows say alone.
        rows = [[text[:1], seen, text[1:], queries] for seen, text in zip(patches, prompts, strict=True)]
        layers, lengths = self.run(rows, every_layer=True)
        token = self.state_token(obs)
        # The head alone sees the robot's state.
        return self.action_head.prefix(
            [layer[:, : len(patches[0])] for layer in layers],
            # One early: -1 for the stop token, -1 for the window.
            [windows(layer, lengths - _QUERIES - 2, _QUERIES) for layer in layers],
            token,
        )


class OpenVLAOFT(PrismaticPolicy):
    """Act with OpenVLA-OFT, on Llama-2-7B; `prophrl_algos.load_policy` makes one of a published checkpoint.

    The sequence is the prompt's first token, all patches, the robot's state, the rest of the prompt, one zero for each
    number of each action, and a stop token; all see all. The head reads the last layer one place early, as published:
    the prompt's last token and all slots but the last.
    """

    FAMILY: ClassVar[str] = "openvla-oft"
    LAYOUT: ClassVar[str] = (
        "OpenVLA-OFT as published: config.json with a Llama text_config, safetensors, action_head--*.pt"
    )
    LANGUAGE: ClassVar[str] = "llama"
    PROMPT: ClassVar[str] = "In: What action should the robot take to {task}?\nOut:"
    # Llama's tokenizer puts 29871, an empty token, before the action tokens.
    LAST: ClassVar[int | None] = 29871
    CAUSAL: ClassVar[bool] = False
    EXPERT: ClassVar[tuple[str, ...]] = ("action_head",)
    # OpenVLA-OFT vla-scripts/finetune.py: rank 32, alpha min(rank, 16); the flow head is new and trained whole.
    LORA: ClassVar[LoraTargets] = LoraTargets(
        (LoraPart(rf".*language_model.*\.{PROJECTIONS}", 32, 16),), (r"(.*\.)?action_head",)
    )

    def make_head(self, config: PrismaticConfig) -> nn.Module:
        kind = {"l1": OftL1Head, "flow": OftFlowHead}[config.head]
        return kind(self.text_config.hidden_size, config.horizon, config.action_dim)

    def context(self, obs: Obs) -> Context:
        patches, prompts = self.pieces(obs)
        slots = self.config.horizon * self.config.action_dim
        zeros = patches[0].new_zeros(slots, patches[0].shape[1])
        state = self.state_token(obs)
        tokens = [[] for _ in patches] if state is None else [[row] for row in state[:, None].to(zeros)]
        rows = [
            [words[:1], seen, *token, words[1:], zeros]
            for seen, token, words in zip(patches, tokens, prompts, strict=True)
        ]
        (last,), lengths = self.run(rows, every_layer=False)
        return self.action_head.prefix(windows(last, lengths - slots - 2, slots))
