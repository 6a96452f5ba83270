"""FlowScale: every flow step's share of the gradient, balanced by the step's noise.

Paper: arXiv 2511.20633, section on FlowScale. The score of a Gaussian step grows as 1 / std, so the late steps of
little noise dominate the gradient; weights that grow with std balance them.

Differences from the paper: its printed loss f_clip(r, w_k A) is a constant factor if read literally, because r has
summed over k. Three readings stand here as three functions: `scale_gradients` (the default: the weight multiplies the
gradient of each step's log-prob and leaves every value as it was), `scale_ratios` (the weight multiplies each step's
log-ratio) and `per_step_loss` (weighted Flow-GRPO). With one on-policy optimiser step all three have the same gradient.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prophrl_algos.surrogate import Stats, clipped_surrogate, denominator_of, masked_log_ratio

EPS = 1e-6


@dataclass(frozen=True)
class FlowScale:
    """How strongly steps are balanced.

    Attributes:
        alpha: mixes towards equal weights; 1 is off.
        power: p of (std^2 + eps)^p; 0.5 makes a weight grow as std.
        w_min: least weight.
        w_max: greatest weight.
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
    """w[k] = clip((1 - alpha) w~[k] / mean w~ + alpha, w_min, w_max) with w~ = (std^2 + eps)^power; no gradient.

    Args:
        stds: of the sampler's steps, with sqrt(dt) in them; a step of std 0 is left out of the mean and gets weight 0.
        c: the settings.

    Example:
        >>> stds = torch.tensor([0.5, 0.433013, 0.25, 0.144338])  # K = 4, noise level 0.5
        >>> flowscale_weights(stds, FlowScale(alpha=0.0))
        tensor([1.5068, 1.3049, 0.7534, 0.5000])
    """
    stds = stds.detach()
    moves = stds > 0
    raw = torch.where(moves, (stds**2 + EPS) ** c.power, 0.0)
    mean = raw.sum() / moves.sum().clamp(min=1)
    mixed = (1 - c.alpha) * raw / mean.clamp(min=torch.finfo(raw.dtype).tiny) + c.alpha
    return torch.where(moves, mixed.clamp(c.w_min, c.w_max), 0.0)


def scale_gradients(logp: Float[Tensor, "*b k n a"], weights: Float[Tensor, " k"]) -> Float[Tensor, "*b k n a"]:
    """sg(l_k) + w_k (l_k - sg(l_k)): the same value to the bit, w_k times the gradient."""
    fixed = logp.detach()
    return fixed + _per_step(weights, logp) * (logp - fixed)


def scale_ratios(
    logp: Float[Tensor, "*b k n a"], old: Float[Tensor, "*b k n a"], weights: Float[Tensor, " k"]
) -> Float[Tensor, "*b k n a"]:
    """l_k_old + w_k (l_k - l_k_old), so that log r = sum_k w_k (l_k - l_k_old)."""
    return old + _per_step(weights, logp) * (logp - old)


def per_step_loss(
    flow_logp: Float[Tensor, "s k n a"],
    old: Float[Tensor, "s k n a"],
    advantages: Float[Tensor, " s"],
    mask: Bool[Tensor, "s n"],
    weights: Float[Tensor, " k"],
    *,
    clip_low: float | int,
    clip_high: float | int,
    denominator: float | int | None = None,
) -> tuple[Float[Tensor, ""], Stats]:
    """-sum_k w_k M min(r_k A, clip(r_k) A) / denominator with one ratio per (s, k, n, a); summed over k.

    Arguments as `prophrl_algos.fa_grpo.fa_grpo_loss`, and the weights of the steps.
    """
    log_ratio = masked_log_ratio(flow_logp, old, mask)
    entries = mask[:, None, :, None].expand_as(log_ratio)
    weight = _per_step(weights, log_ratio).expand_as(log_ratio)
    total, stats = clipped_surrogate(log_ratio, advantages, entries, weight, clip_low=clip_low, clip_high=clip_high)
    return -total / denominator_of(mask, flow_logp.shape[3], denominator), stats


def _per_step(weights: Tensor, logp: Tensor) -> Tensor:
    return weights.to(logp)[:, None, None]
