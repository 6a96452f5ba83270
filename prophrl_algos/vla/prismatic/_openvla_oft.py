"""Make a flow policy of OpenVLA-OFT (arXiv 2502.19645): a Llama-2-7B that sees both ways and 56 action slots."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from prophrl_algos.flow import Obs, TensorContext
from prophrl_algos.vla._action_head import ActionHead
from prophrl_algos.vla._lora import PROJECTIONS, LoraPart, LoraTargets
from prophrl_algos.vla.prismatic._config import PrismaticConfig
from prophrl_algos.vla.prismatic._flow_heads import FlowHead, L1Head, gaussian_velocity, silence
from prophrl_algos.vla.prismatic._policy import PrismaticPolicy
from prophrl_algos.vla.prismatic._sequence import Prompt, windows


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.ffn(x) + x


class OftL1Head(L1Head):
    """Predict as the published head: from the states of an action's slots, one per dimension, to the action."""

    def __init__(self, width: int, horizon: int, action_dim: int) -> None:
        blocks = nn.ModuleList(_Residual(width) for _ in range(2))
        super().__init__(width, horizon, action_dim, blocks)

    def mean(self, states: Float[Tensor, "b q d"]) -> Float[Tensor, "b h a"]:
        x = states.to(self.fc1.weight.dtype).unflatten(1, (self.horizon, -1)).flatten(2)
        x = F.relu(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        return self.fc2(self.layer_norm2(x)).float()


class OftFlowHead(FlowHead):
    """Run a small diffusion transformer that reads the slots' states, around the published head's action.

    The velocity is that of N(action, spread^2) plus what the transformer adds, which is 0 before any training. No
    denoising step touches the language model. Widths are those of the language model and of the transformer, whose own
    is by default 512, or the language model's where that is less.
    """

    def __init__(
        self,
        width: int,
        horizon: int,
        action_dim: int,
        *,
        dit_width: int | None = None,
        dit_layers: int = 8,
        dit_heads: int = 8,
    ) -> None:
        super().__init__()
        dit_width = min(512, width) if dit_width is None else dit_width
        self.published = OftL1Head(width, horizon, action_dim)
        self.norm = nn.LayerNorm(width)
        self.into = nn.Linear(width, dit_width)
        self.slots = nn.Parameter(0.02 * torch.randn(horizon * action_dim, dit_width))
        self.dit = ActionHead(horizon, action_dim, dit_width, dit_layers, dit_heads)
        nn.init.normal_(self.dit.positions, std=0.02)
        silence(self.dit.out)

    def start_from(self, head: OftL1Head) -> None:
        """Take the weights of a published head."""
        self.published.load_state_dict(head.state_dict())

    def prefix(self, states: Float[Tensor, "b q d"]) -> TensorContext:
        slots = self.into(self.norm(states.to(self.into.weight.dtype))) + self.slots
        return TensorContext(mean=self.published.mean(states), prefix=self.dit.prefix(slots))

    def velocity(self, ctx: TensorContext, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        return gaussian_velocity(x, t, ctx["mean"], self.spread) + self.dit(x, t, ctx["prefix"]).float()


class OpenVLAOFT(PrismaticPolicy):
    """Act with OpenVLA-OFT; `prophrl_algos.load_policy` makes one of a published checkpoint.

    The sequence is the prompt's first token, all patches, the robot's state, the rest of the prompt, one zero for each
    number of each action, and a stop token; all see all. The head reads the last layer one place early, as published:
    the prompt's last token and all slots but the last.
    """

    FAMILY: ClassVar[str] = "openvla-oft"
    LAYOUT: ClassVar[str] = (
        "OpenVLA-OFT as published: config.json with a Llama text_config, safetensors, action_head--*.pt"
    )
    LANGUAGE: ClassVar[str] = "llama"
    # Llama's tokenizer puts 29871, an empty token, before the action tokens; 2 ends a text.
    PROMPT: ClassVar[Prompt] = Prompt("In: What action should the robot take to {task}?\nOut:", last=29871, stop=2)
    CAUSAL: ClassVar[bool] = False
    EXPERT: ClassVar[tuple[str, ...]] = ("action_head",)
    # OpenVLA-OFT vla-scripts/finetune.py: rank 32, alpha min(rank, 16); the flow head is new and trained whole.
    LORA: ClassVar[LoraTargets] = LoraTargets(
        (LoraPart(rf".*language_model.*\.{PROJECTIONS}", 32, 16),), (r"(.*\.)?action_head",)
    )
    LORA_WITH_LANGUAGE: ClassVar[LoraTargets] = LORA

    def make_head(self, config: PrismaticConfig) -> nn.Module:
        kind = {"l1": OftL1Head, "flow": OftFlowHead}[config.head]
        return kind(self.text_config.hidden_size, config.horizon, config.action_dim, **config.settings)

    def states(self, obs: Obs) -> Float[Tensor, "b q d"]:
        """Return the states of the action slots in the last layer."""
        patches, prompts = self.pieces(obs)
        slots = self.config.horizon * self.config.action_dim
        zeros, stop = patches[0].new_zeros(slots, patches[0].shape[1]), self.stop()
        tokens: list[list[Tensor]] = [[] for _ in patches]
        if self.proprio_projector is not None:
            state = self.proprio_projector(obs["state"].to(self.proprio_projector.fc1.weight))
            tokens = [[row] for row in state[:, None].to(zeros)]
        rows = [
            [words[:1], seen, *token, words[1:], zeros, stop]
            for seen, token, words in zip(patches, tokens, prompts, strict=True)
        ]
        (last,), lengths = self.run(rows, every_layer=False)
        return windows(last, lengths - slots - 2, slots)
