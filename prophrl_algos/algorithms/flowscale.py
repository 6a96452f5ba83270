"""FlowScale: the share of every flow step in the gradient, balanced by the step's noise.

Paper: arXiv 2511.20633, section on FlowScale. The score of a Gaussian step grows as 1 / std, so the late steps of
little noise dominate the gradient; weights that grow with std balance them.

Differences from the paper: its printed loss f_clip(r, w_k A) is a constant factor if read literally, because r has
summed over k. Three readings stand here. `scale_gradients` is what the trainer does: the weight multiplies the gradient
of each step's log-prob and leaves every value as it was. `scale_ratios` multiplies each step's log-ratio instead, and
`per_step` is weighted Flow-GRPO with one ratio per flow step and entry; both are for comparison. With one on-policy
optimizer step all three have the same gradient.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_EPS = 1e-6


@dataclass(frozen=True)
class FlowScale:
    """How strongly the flow steps are balanced.

    Attributes:
        alpha: Mixes towards equal weights, in [0, 1]; 1 switches FlowScale off.
        power: p of (std^2 + eps)^p; 0.5 makes a weight grow as std.
        w_min: Lower bound of a weight, at most 1.
        w_max: Upper bound of a weight, at least 1.
    """

    alpha: float | int = 0.5
    power: float | int = 0.5
    w_min: float | int = 0.5
    w_max: float | int = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1] (1 switches FlowScale off), got {self.alpha}")
        if not math.isfinite(self.power):
            raise ValueError(f"power must be a finite number, got {self.power}; 0.5 makes a weight grow as std")
        if not 0 <= self.w_min <= 1 <= self.w_max:
            raise ValueError(f"w_min must be in [0, 1] and w_max at least 1, got {self.w_min} and {self.w_max}")


def flowscale_weights(stds: Float[Tensor, " k"], c: FlowScale) -> Float[Tensor, " k"]:
    """Return w[k] = clip((1 - alpha) w~[k] / mean w~ + alpha, w_min, w_max) with w~ = (std^2 + eps)^power.

    Args:
        stds: Of the sampler's steps, with sqrt(dt) in them; a step of std 0 is left out of the mean and gets weight 0.
        c: The settings.

    Example:
        >>> stds = torch.tensor([0.5, 0.433013, 0.25, 0.144338])  # K = 4, noise level 0.5
        >>> flowscale_weights(stds, FlowScale(alpha=0.0))
        tensor([1.5068, 1.3049, 0.7534, 0.5000])
    """
    # Detached: learned noise must not be drawn to where its weight is small.
    stds = stds.detach()
    moves = stds > 0
    raw = torch.where(moves, (stds**2 + _EPS) ** c.power, 0.0)
    mean = raw.sum() / moves.sum().clamp(min=1)
    mixed = (1 - c.alpha) * raw / mean.clamp(min=torch.finfo(raw.dtype).tiny) + c.alpha
    return torch.where(moves, mixed.clamp(c.w_min, c.w_max), 0.0)


def scale_gradients(log_prob: Float[Tensor, "*b k n a"], weights: Float[Tensor, " k"]) -> Float[Tensor, "*b k n a"]:
    """Return sg(l_k) + w_k (l_k - sg(l_k)): the same value to the bit, and w_k times the gradient."""
    fixed = log_prob.detach()
    return fixed + _over_steps(weights, log_prob) * (log_prob - fixed)


def scale_ratios(
    log_prob: Float[Tensor, "*b k n a"], old: Float[Tensor, "*b k n a"], weights: Float[Tensor, " k"]
) -> Float[Tensor, "*b k n a"]:
    """Return l_k_old + w_k (l_k - l_k_old), so that log r = sum_k w_k (l_k - l_k_old)."""
    return old + _over_steps(weights, log_prob) * (log_prob - old)


def keep_flow_steps(
    log_ratio: Float[Tensor, "s k n a"], mask: Bool[Tensor, "s n"]
) -> tuple[Float[Tensor, "s k n a"], Bool[Tensor, "s k n a"]]:
    """Return one log-ratio per flow step and action dimension: reduce nothing, for `per_step`."""
    return log_ratio, mask[:, None, :, None].expand_as(log_ratio)


def per_step(weights: Float[Tensor, " k"]) -> Callable[[Tensor, Int[Tensor, " s"], float | int], Float[Tensor, ""]]:
    """Return the `aggregate` of weighted Flow-GRPO, -sum_k w_k min(r_k A, clip(r_k) A); goes with `keep_flow_steps`."""

    def aggregate(
        terms: Float[Tensor, "s k n a"], entries: Int[Tensor, " s"], denominator: float | int
    ) -> Float[Tensor, ""]:
        del entries
        return -(terms * _over_steps(weights, terms)).sum() / denominator

    return aggregate


def _over_steps(weights: Tensor, like: Tensor) -> Tensor:
    return weights.to(like)[:, None, None]
