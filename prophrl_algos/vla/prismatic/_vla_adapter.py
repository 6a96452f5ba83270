"""VLA-Adapter (arXiv 2509.09372): Qwen2.5-0.5B, 64 action queries, bridge attention, and a flow head on its weights."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prophrl_algos.flow.policy import Obs
from prophrl_algos.vla._load import LoadOptions
from prophrl_algos.vla.prismatic._bridge import BridgeFlowHead, BridgeL1Head, BridgeStates
from prophrl_algos.vla.prismatic._files import load_prismatic, recognised
from prophrl_algos.vla.prismatic._policy import PrismaticConfig, PrismaticPolicy
from prophrl_algos.vla.prismatic._sequence import Prompt, Tokenizer, windows

QUERIES = 64
PROMPT = Prompt(
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nWhat action should the robot take to {task}?<|im_end|>\n<|im_start|>assistant\n",
    last=None,
    stop=2,
)


class VLAAdapter(PrismaticPolicy):
    """The policy; `load` makes one of a published checkpoint.

    The sequence is the prompt's first token, all patches, the rest of the prompt, 64 learnt queries, a stop token, and
    causal. The head reads every layer, each window one place early, as published: the first token and all patches but
    the last, and the prompt's last token and all queries but the last.

    Args:
        config: sizes and statistics; `settings` has `pro` and, for a flow head, may have `spread` and `draws`.
        tokenizer: the checkpoint's own.
    """

    FAMILY: ClassVar[str] = "vla-adapter"
    PROMPT: ClassVar[Prompt] = PROMPT
    CAUSAL: ClassVar[bool] = True
    EXPERT: ClassVar[tuple[str, ...]] = ("action_head", "proprio_projector")

    def __init__(self, config: PrismaticConfig, tokenizer: Tokenizer) -> None:
        super().__init__(config, tokenizer)
        self.action_queries = nn.Embedding(QUERIES, self.text_config.hidden_size)

    @classmethod
    def published_settings(cls, head: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """Whether it is the Pro release's."""
        return {"pro": any(".k_self." in name for name in head)}

    def make_head(self, config: PrismaticConfig) -> nn.Module:
        """One block per layer of the language model."""
        kind = {"l1": BridgeL1Head, "flow": BridgeFlowHead}[config.head]
        width, layers = self.text_config.hidden_size, self.text_config.num_hidden_layers
        return kind(width, layers, config.horizon, config.action_dim, **config.settings)

    def states(self, obs: Obs) -> BridgeStates:
        """States of patches and queries in every layer, and the robot's state, which the head alone sees."""
        patches, prompts = self.pieces(obs)
        queries = self.action_queries(torch.arange(QUERIES, device=self.device)).to(patches[0])
        stop = self.stop()
        rows = [
            [words[:1], seen, words[1:], queries, stop] for seen, words in zip(patches, prompts, strict=True)
        ]  # fmt: skip
        layers, lengths = self.run(rows, every_layer=True)
        counts = torch.tensor([len(seen) for seen in patches], device=self.device)
        most = max(map(len, patches))
        token = None
        if self.proprio_projector is not None:
            token = self.proprio_projector(obs["state"].to(self.proprio_projector.fc1.weight))
        return BridgeStates(
            [layer[:, :most] for layer in layers],
            torch.arange(most, device=self.device) < counts[:, None],
            [windows(layer, lengths - QUERIES - 2, QUERIES) for layer in layers],
            token,
        )


LAYOUT = "VLA-Adapter as published: config.json with a Qwen2 text_config, model.safetensors, action_head--*.pt"


def recognises(files: Collection[str], config: Mapping[str, Any]) -> str | None:
    """As in `prophrl_algos.vla._load.Adapter`."""
    return recognised(VLAAdapter, "qwen2", files, config)


def load(folder: Path, options: LoadOptions) -> VLAAdapter:
    """As in `prophrl_algos.vla._load.Adapter`; a flow head begins as the published one."""
    return load_prismatic(VLAAdapter, folder, options)
