"""The clipped surrogate that all algorithms share; they differ in what a ratio is taken over."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

# exp(20) is half a billion: past it a ratio says nothing more, and its square would overflow in the gradient.
LOG_RATIO_LIMIT = 20.0


@dataclass(frozen=True)
class Stats:
    """What happened to the ratios of a batch; tensors without axes, on the batch's device.

    Attributes:
        ratios: how many unmasked ratios there were.
        ratio_mean: their mean.
        ratio_min: their minimum.
        ratio_max: their maximum.
        clipped_low: share of them that were clipped from below (A < 0 and r < 1 - clip_low).
        clipped_high: share of them that were clipped from above (A > 0 and r > 1 + clip_high).
    """

    ratios: Float[Tensor, ""]
    ratio_mean: Float[Tensor, ""]
    ratio_min: Float[Tensor, ""]
    ratio_max: Float[Tensor, ""]
    clipped_low: Float[Tensor, ""]
    clipped_high: Float[Tensor, ""]

    @staticmethod
    def merge(parts: Sequence["Stats"]) -> "Stats":
        """Of several microbatches: means weighted by the number of ratios, the least and the greatest."""
        counts = torch.stack([part.ratios for part in parts])
        total = counts.sum()
        share = counts / total.clamp(min=1)
        means = {
            name: (torch.stack([getattr(part, name) for part in parts]) * share).sum()
            for name in ("ratio_mean", "clipped_low", "clipped_high")
        }
        return Stats(
            ratios=total,
            ratio_min=torch.stack([part.ratio_min for part in parts]).min(),
            ratio_max=torch.stack([part.ratio_max for part in parts]).max(),
            **means,
        )


def masked_log_ratio(
    flow_logp: Float[Tensor, "s k n a"], old: Float[Tensor, "s k n a"], mask: Bool[Tensor, "s n"]
) -> Float[Tensor, "s k n a"]:
    """l_k - l_k_old of every step, 0 where masked: what is masked may be NaN and gets no gradient, nor does `old`."""
    return torch.where(mask[:, None, :, None], flow_logp - old.detach(), 0.0)


def clipped_surrogate(
    log_ratio: Float[Tensor, "s *r"],
    advantages: Float[Tensor, " s"],
    mask: Bool[Tensor, "s *r"],
    weight: Num[Tensor, "s *r"] | float | int = 1.0,
    *,
    clip_low: float | int,
    clip_high: float | int,
    dual_clip: float | int | None = None,
) -> tuple[Float[Tensor, ""], Stats]:
    """Sum of weight * min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) over what is not masked, and its statistics.

    Args:
        log_ratio: log r; 0 where masked.
        advantages: A of each decision; may be NaN where everything is masked.
        mask: what counts.
        weight: of each ratio.
        clip_low: how far below 1 a ratio earns; from 1 on there is no bound.
        clip_high: how far above.
        dual_clip: c > 1: where A < 0 the term is at least c A (arXiv 1912.09729); none if not given.
    """
    if not (clip_low > 0 and clip_high > 0):
        raise ValueError(f"clip_low and clip_high must be above 0, got {clip_low} and {clip_high}")
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(f"dual_clip must be above 1 or None, got {dual_clip}")
    ratio = torch.exp(log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    advantage = advantages.view(-1, *[1] * (log_ratio.ndim - 1)).expand_as(ratio)
    advantage = torch.where(mask, advantage, 0.0)
    term = torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)
    if dual_clip is not None:
        term = torch.where(advantage < 0, torch.maximum(term, dual_clip * advantage), term)
    total = torch.where(mask, term * weight, 0.0).sum()
    return total, _stats(ratio.detach(), advantage, mask, clip_low, clip_high)


def denominator_of(mask: Bool[Tensor, "s n"], dims: int, given: float | int | None) -> float | int:
    """What a loss divides by: what is given, else the valid (s, n, a) entries, at least 1."""
    if given is not None and not given > 0:
        raise ValueError(f"denominator must be above 0 or None (the valid entries of these decisions), got {given}")
    return float(max(int(mask.sum()) * dims, 1)) if given is None else given


def _stats(ratio: Tensor, advantage: Tensor, mask: Tensor, clip_low: float | int, clip_high: float | int) -> Stats:
    count = mask.sum().to(ratio.dtype)
    some = count.clamp(min=1)
    low = mask & (advantage < 0) & (ratio < 1 - clip_low)
    high = mask & (advantage > 0) & (ratio > 1 + clip_high)
    return Stats(
        ratios=count,
        ratio_mean=torch.where(mask, ratio, 0.0).sum() / some,
        ratio_min=torch.where(mask, ratio, torch.inf).amin() if ratio.numel() else ratio.new_tensor(torch.inf),
        ratio_max=torch.where(mask, ratio, 0.0).amax() if ratio.numel() else ratio.new_tensor(0.0),
        clipped_low=low.sum() / some,
        clipped_high=high.sum() / some,
    )
