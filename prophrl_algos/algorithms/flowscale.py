"""FlowScale: the share of every flow step in the gradient, balanced by the step's noise.

Paper: arXiv 2511.20633, section on FlowScale. The score of a Gaussian step grows as 1 / std, so the late steps of
little noise dominate the gradient; weights that grow with std balance them.

Differences from the paper: its printed loss f_clip(r, w_k A) is a constant factor if read literally, because r has
summed over k. Here the weight multiplies the gradient of each step's log-prob and leaves every value as it was; weights
on the log-ratios, or weighted Flow-GRPO, have the same gradient in an on-policy step.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_EPS = 1e-6


@dataclass(frozen=True)
class FlowScale:
    """Configure how strongly the flow steps are balanced.

    Attributes:
        alpha: Fraction of equal weights in the mixture, in [0, 1]; 1 switches FlowScale off.
        power: Exponent p of the weight (std^2 + eps)^p; with 0.5 a weight is proportional to std.
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

    The sampler's stds have sqrt(dt) in them; a step of std 0 is left out of the mean and gets weight 0.

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
    return fixed + weights.to(log_prob)[:, None, None] * (log_prob - fixed)
