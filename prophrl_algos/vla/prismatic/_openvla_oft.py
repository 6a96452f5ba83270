"""OpenVLA-OFT (arXiv 2502.19645): Llama-2-7B that sees both ways, 56 action slots, and a flow head on their states."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from prophrl_algos.flow.policy import Obs, TensorContext
from prophrl_algos.vla._load import LoadOptions
from prophrl_algos.vla.prismatic._files import load_prismatic, recognised
from prophrl_algos.vla.prismatic._flow_heads import SPREAD, flow_targets, gaussian_velocity
from prophrl_algos.vla.prismatic._policy import PrismaticConfig, PrismaticPolicy
from prophrl_algos.vla.prismatic._sequence import Prompt, windows
from prophrl_algos.vla.small._networks import ActionHead

L1_BLOCKS = 2
# Llama's tokenizer puts 29871, an empty token, before the action tokens; 2 ends a text.
PROMPT = Prompt("In: What action should the robot take to {task}?\nOut:", last=29871, stop=2)


class OftL1Head(nn.Module):
    """The published head, whose names of weights it keeps: the states of an action's slots to the action.

    As a flow it leads from any noise to that action.

    Args:
        width: of the language model.
        horizon: actions of a chunk.
        action_dim: numbers of an action, each with a slot.
    """

    def __init__(self, width: int, horizon: int, action_dim: int) -> None:
        super().__init__()
        self.horizon = horizon
        self.layer_norm1 = nn.LayerNorm(action_dim * width)
        self.fc1 = nn.Linear(action_dim * width, width)
        self.mlp_resnet_blocks = nn.ModuleList(_Residual(width) for _ in range(L1_BLOCKS))
        self.layer_norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, action_dim)

    def mean(self, states: Float[Tensor, "b q d"]) -> Float[Tensor, "b h a"]:
        """The action."""
        x = states.to(self.fc1.weight.dtype).unflatten(1, (self.horizon, -1)).flatten(2)
        x = F.relu(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        return self.fc2(self.layer_norm2(x)).float()

    def prefix(self, states: Float[Tensor, "b q d"]) -> TensorContext:
        """The action."""
        return TensorContext(mean=self.mean(states))

    def velocity(self, ctx: TensorContext, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        """Towards the action."""
        return gaussian_velocity(x, t, ctx["mean"], 0.0)

    def loss(
        self, ctx: TensorContext, x0: Float[Tensor, "b h d"], generator: torch.Generator | None
    ) -> Float[Tensor, ""]:
        """Mean absolute error, as the head was trained."""
        del generator
        return F.l1_loss(ctx["mean"], x0)


class OftFlowHead(nn.Module):
    """A small diffusion transformer over the actions that reads the slots' states, around the published head's action.

    Its velocity is that of N(action, spread^2) plus what the transformer adds, which is 0 before any training. No
    denoising step touches the language model.

    Args:
        width: of the language model.
        horizon: actions of a chunk.
        action_dim: numbers of an action.
        dit_width: of the transformer; 512, or the language model's where that is less, if not given.
        dit_layers: of the transformer.
        dit_heads: of each of its attentions.
        spread: deviation from the published action, latent units.
        draws: noises and times per demonstration in the loss; the states are made once for all of them.
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
        spread: float = SPREAD,
        draws: int = 4,
    ) -> None:
        super().__init__()
        self.spread, self.draws = spread, draws
        dit_width = min(512, width) if dit_width is None else dit_width
        self.published = OftL1Head(width, horizon, action_dim)
        self.norm = nn.LayerNorm(width)
        self.into = nn.Linear(width, dit_width)
        self.slots = nn.Parameter(0.02 * torch.randn(horizon * action_dim, dit_width))
        self.dit = ActionHead(horizon, action_dim, dit_width, dit_layers, dit_heads)
        nn.init.normal_(self.dit.positions, std=0.02)
        nn.init.zeros_(self.dit.out.weight)
        nn.init.zeros_(self.dit.out.bias)

    def start_from(self, head: OftL1Head) -> None:
        """Take the weights of a published head."""
        self.published.load_state_dict(head.state_dict())

    def prefix(self, states: Float[Tensor, "b q d"]) -> TensorContext:
        """The published action, and keys and values of the slots in every layer of the transformer."""
        slots = self.into(self.norm(states.to(self.into.weight.dtype))) + self.slots
        return TensorContext(mean=self.published.mean(states), prefix=self.dit.prefix(slots))

    def velocity(self, ctx: TensorContext, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        """v(x, t)."""
        return gaussian_velocity(x, t, ctx["mean"], self.spread) + self.dit(x, t, ctx["prefix"]).float()

    def loss(
        self, ctx: TensorContext, x0: Float[Tensor, "b h d"], generator: torch.Generator | None
    ) -> Float[Tensor, ""]:
        """Mean squared error of the velocity."""
        targets = flow_targets(x0, self.draws, generator)
        found = self.velocity(ctx.repeat_interleave(self.draws), targets.x, targets.t)
        return F.mse_loss(found, targets.velocity)


class OpenVLAOFT(PrismaticPolicy):
    """The policy; `load` makes one of a published checkpoint.

    The sequence is the prompt's first token, all patches, the robot's state, the rest of the prompt, one zero for each
    number of each action, a stop token; all see all. The head reads the last layer, one place early as published: the
    prompt's last token and all slots but the last.

    Args:
        config: sizes and statistics; `settings` are arguments of the head.
        tokenizer: the checkpoint's own.
    """

    FAMILY: ClassVar[str] = "openvla-oft"
    PROMPT: ClassVar[Prompt] = PROMPT
    CAUSAL: ClassVar[bool] = False
    EXPERT: ClassVar[tuple[str, ...]] = ("action_head",)

    @classmethod
    def published_settings(cls, head: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """There are none."""
        del head
        return {}

    def make_head(self, config: PrismaticConfig) -> nn.Module:
        """On the width of the language model."""
        kind = {"l1": OftL1Head, "flow": OftFlowHead}[config.head]
        return kind(self.text_config.hidden_size, config.horizon, config.action_dim, **config.settings)

    def states(self, obs: Obs) -> Float[Tensor, "b q d"]:
        """States of the action slots in the last layer."""
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


LAYOUT = "OpenVLA-OFT as published: config.json with a Llama text_config, safetensors, action_head--*.pt"


def recognises(files: Collection[str], config: Mapping[str, Any]) -> str | None:
    """As in `prophrl_algos.vla._load.Adapter`."""
    return recognised(OpenVLAOFT, "llama", files, config)


def load(folder: Path, options: LoadOptions) -> OpenVLAOFT:
    """As in `prophrl_algos.vla._load.Adapter`; a flow head begins as the published one."""
    return load_prismatic(OpenVLAOFT, folder, options)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.ffn(x) + x
