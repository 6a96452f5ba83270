"""Build the action heads that VLA-Adapter and OpenVLA-OFT share: the published one, and a flow around its action.

A published L1 head says one action. As a flow it says N(action, spread^2): `gaussian_velocity` is the exact velocity of
that flow. A flow head that starts from it samples the published policy's action with a little noise before any
training; with a spread of 0 it is the published policy itself.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from prophrl_algos.flow import Context, TensorContext
from prophrl_algos.vla._action_head import flow_targets

_TIME_WIDTH = 256


def gaussian_velocity(
    x: Float[Tensor, "b h d"], t: Float[Tensor, " b"], mean: Float[Tensor, "#b h d"], spread: float
) -> Float[Tensor, "b h d"]:
    """Return E[noise - action | x_t] for actions N(mean, spread^2), independent of each other and of the noise.

    A spread of 0 leads to the mean exactly, in any number of Euler steps.
    """
    # With a spread of 0 the velocity is (x - action) / t, which has no limit at t = 0.
    t = t[:, None, None].clamp(min=1e-4)
    variance = ((1 - t) * spread) ** 2 + t**2
    return (t - (1 - t) * spread**2) / variance * (x - (1 - t) * mean) - mean


class L1Head(nn.Module):
    """Predict an action, with the published names of weights; as a flow it leads from any noise to this action.

    The width is that of the language model, as for all heads.
    """

    def __init__(self, width: int, horizon: int, action_dim: int, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.horizon = horizon
        self.layer_norm1 = nn.LayerNorm(action_dim * width)
        self.fc1 = nn.Linear(action_dim * width, width)
        self.mlp_resnet_blocks = blocks
        self.layer_norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, action_dim)

    def mean(self, states: Any) -> Float[Tensor, "b h a"]:
        """Return the action that the states lead to."""
        raise NotImplementedError

    def prefix(self, states: Any) -> TensorContext:
        return TensorContext(mean=self.mean(states))

    def velocity(self, ctx: TensorContext, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        return gaussian_velocity(x, t, ctx["mean"], 0.0)

    def loss(
        self, ctx: TensorContext, x0: Float[Tensor, "b h d"], generator: torch.Generator | None
    ) -> Float[Tensor, ""]:
        """Return the mean absolute error, with which the published heads were trained."""
        del generator
        return F.l1_loss(ctx["mean"], x0)


class FlowHead(nn.Module):
    """Predict a velocity; subclasses say how."""

    spread = 0.1
    """Deviation of the actions from the published head's before any training, in latent units: our choice."""
    draws = 4
    """Number of noises and times per demonstration in the loss; the context is computed once for all of them."""

    def velocity(self, ctx: Any, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        """Return v(x, t) in float32."""
        raise NotImplementedError

    def loss(
        self, ctx: Context, x0: Float[Tensor, "b h d"], generator: torch.Generator | None
    ) -> Float[Tensor, ""]:  # fmt: skip
        """Return the mean squared error of the velocity."""
        x, t, velocity = flow_targets(x0, self.draws, generator)
        return F.mse_loss(self.velocity(ctx.repeat_interleave(self.draws), x, t), velocity)


def silence(layer: nn.Linear) -> None:
    """Make a layer say 0."""
    for weight in layer.parameters():
        nn.init.zeros_(weight)


class TimeEmbedding(nn.Module):
    """Turn a time in [0, 1] into a scale and a shift, which are 0 before any training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into = nn.Linear(_TIME_WIDTH, width)
        self.out = nn.Linear(width, 2 * width)
        silence(self.out)

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b two d"]:
        half = _TIME_WIDTH // 2
        rates = torch.exp(-math.log(1e4) * torch.arange(half, device=t.device) / half)
        angles = 1000 * t[:, None] * rates
        waves = torch.cat([angles.cos(), angles.sin()], 1)
        return self.out(F.silu(self.into(waves))).unflatten(1, (2, -1))


class SharedContext(Context):
    """Hold tensors whose rows each stand for `copies` rows side by side, so that repeating costs no memory."""

    def __init__(self, tensors: tuple[Tensor, ...], copies: int = 1) -> None:
        self.tensors, self.copies = tensors, copies

    def select(self, rows: Int[Tensor, " r"]) -> "SharedContext":
        own = rows // self.copies
        return SharedContext(tuple(tensor[own.to(tensor.device)] for tensor in self.tensors))

    def repeat_interleave(self, repeats: int) -> "SharedContext":
        return SharedContext(self.tensors, self.copies * repeats)
