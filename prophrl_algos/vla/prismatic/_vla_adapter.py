"""Make a flow policy of VLA-Adapter (arXiv 2509.09372): Qwen2.5-0.5B, 64 action queries and bridge attention."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from prophrl_algos.flow import Obs
from prophrl_algos.vla._lora import PROJECTIONS, LoraPart, LoraTargets
from prophrl_algos.vla.prismatic._bridge import BridgeFlowHead, BridgeL1Head, BridgeStates
from prophrl_algos.vla.prismatic._config import PrismaticConfig
from prophrl_algos.vla.prismatic._policy import PrismaticPolicy
from prophrl_algos.vla.prismatic._sequence import Prompt, Tokenizer, windows

_QUERIES = 64


class VLAAdapter(PrismaticPolicy):
    """Act with VLA-Adapter; `prophrl_algos.load_policy` makes one of a published checkpoint.

    The sequence is causal: the prompt's first token, all patches, the rest of the prompt, 64 learned queries, a stop
    token. The head reads every layer, each window one place early, as published: the first token and all patches but
    the last, and the prompt's last token and all queries but the last.
    """

    FAMILY: ClassVar[str] = "vla-adapter"
    LAYOUT: ClassVar[str] = (
        "VLA-Adapter as published: config.json with a Qwen2 text_config, model.safetensors, action_head--*.pt"
    )
    LANGUAGE: ClassVar[str] = "qwen2"
    PROMPT: ClassVar[Prompt] = Prompt(
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nWhat action should the robot take to {task}?<|im_end|>\n<|im_start|>assistant\n",
        last=None,
        stop=2,
    )
    CAUSAL: ClassVar[bool] = True
    EXPERT: ClassVar[tuple[str, ...]] = ("action_head", "proprio_projector")
    # The flow head is new and trained whole; the rank is OpenVLA-OFT's (vla-scripts/finetune.py).
    LORA: ClassVar[LoraTargets] = LoraTargets(
        (LoraPart(rf".*language_model.*\.{PROJECTIONS}", 32, 32),), (r"(.*\.)?action_queries", r"(.*\.)?action_head")
    )
    LORA_WITH_LANGUAGE: ClassVar[LoraTargets] = LORA

    def __init__(self, config: PrismaticConfig, tokenizer: Tokenizer) -> None:
        super().__init__(config, tokenizer)
        self.action_queries = nn.Embedding(_QUERIES, self.text_config.hidden_size)

    @classmethod
    def published_settings(cls, weights: Collection[str]) -> Mapping[str, Any]:
        return {"pro": any(".k_self." in name for name in weights)}

    def make_head(self, config: PrismaticConfig) -> nn.Module:
        kind = {"l1": BridgeL1Head, "flow": BridgeFlowHead}[config.head]
        width, layers = self.text_config.hidden_size, self.text_config.num_hidden_layers
        return kind(width, layers, config.horizon, config.action_dim, **config.settings)

    def states(self, obs: Obs) -> BridgeStates:
        """Return the states of patches and queries in every layer, and the robot's state, which the head alone sees."""
        patches, prompts = self.pieces(obs)
        queries = self.action_queries(torch.arange(_QUERIES, device=self.device)).to(patches[0])
        stop = self.stop()
        # Each row is put together by itself and padded behind, so that a batch says what its rows say alone.
        rows = [[text[:1], seen, text[1:], queries, stop] for seen, text in zip(patches, prompts, strict=True)]
        layers, lengths = self.run(rows, every_layer=True)
        counts = torch.tensor([len(seen) for seen in patches], device=self.device)
        most = max(map(len, patches))
        token = None
        if self.proprio_projector is not None:
            token = self.proprio_projector(obs["state"].to(self.proprio_projector.fc1.weight))
        return BridgeStates(
            [layer[:, :most] for layer in layers],
            torch.arange(most, device=self.device) < counts[:, None],
            # One early: -1 for the stop token, -1 for the window.
            [windows(layer, lengths - _QUERIES - 2, _QUERIES) for layer in layers],
            token,
        )
