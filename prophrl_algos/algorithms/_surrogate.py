"""The clipped surrogate of PPO, which every algorithm here shares; they differ in what a ratio is taken over."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# exp(20) is half a billion: past it a ratio says nothing more, and its square would overflow in the gradient.
LOG_RATIO_LIMIT = 20.0


@dataclass(frozen=True)
class RatioStats:
    """What happened to the ratios of a batch that counted; scalar tensors on the batch's device.

    `clipped_low` is the fraction with A < 0 and r < 1 - clip_low, `clipped_high` with A > 0 and r > 1 + clip_high.
    """

    ratios: Float[Tensor, ""]
    ratio_mean: Float[Tensor, ""]
    ratio_min: Float[Tensor, ""]
    ratio_max: Float[Tensor, ""]
    clipped_low: Float[Tensor, ""]
    clipped_high: Float[Tensor, ""]

    @staticmethod
    def merge(parts: Sequence["RatioStats"]) -> "RatioStats":
        """Combine the statistics of several microbatches; means are weighted by the number of ratios."""
        stacked = {each.name: torch.stack([getattr(part, each.name) for part in parts]) for each in fields(RatioStats)}
        total = stacked["ratios"].sum()
        fraction = stacked["ratios"] / total.clamp(min=1)
        means = {name: (stacked[name] * fraction).sum() for name in ("ratio_mean", "clipped_low", "clipped_high")}
        return RatioStats(
            ratios=total, ratio_min=stacked["ratio_min"].min(), ratio_max=stacked["ratio_max"].max(), **means
        )


def masked_log_ratio(
    log_prob: Float[Tensor, "s k n a"], old: Float[Tensor, "s k n a"], mask: Bool[Tensor, "s n"]
) -> Float[Tensor, "s k n a"]:
    """Return l_k - l_k_old of every flow step, and 0 where masked.

    The difference is taken before anything is summed: each l_k is large, and float32 would lose the ratio in the sums.
    What is masked may be NaN; it gets no gradient, nor does `old`.
    """
    return torch.where(mask[:, None, :, None], log_prob - old.detach(), 0.0)


def clipped_surrogate(
    log_ratio: Float[Tensor, "s *r"],
    advantages: Float[Tensor, " s"],
    counts: Bool[Tensor, "s *r"],
    loss_weights: Float[Tensor, " s"] | None = None,
    *,
    clip_low: float | int,
    clip_high: float | int,
) -> tuple[Float[Tensor, "s *r"], RatioStats]:
    """Return w min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) for every ratio, 0 where it does not count.

    A may be NaN where none of a decision's ratios counts; w >= 0, and 1 if not given; from clip_low = 1 on there is no
    lower bound.
    """
    if not (clip_low > 0 and clip_high > 0):
        raise ValueError(f"clip_low and clip_high must be above 0, got {clip_low} and {clip_high}")
    ratio = torch.exp(log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    # w >= 0 commutes with the minimum; multiplied into A first, it costs one product per decision.
    weighted = advantages if loss_weights is None else advantages * loss_weights
    advantage = torch.where(counts, weighted.view(-1, *[1] * (log_ratio.ndim - 1)).expand_as(ratio), 0.0)
    terms = torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)
    terms, ratio = torch.where(counts, terms, 0.0), ratio.detach()
    number = counts.sum().to(ratio.dtype)
    some = number.clamp(min=1)
    low = counts & (advantage < 0) & (ratio < 1 - clip_low)
    high = counts & (advantage > 0) & (ratio > 1 + clip_high)
    return terms, RatioStats(
        ratios=number,
        ratio_mean=torch.where(counts, ratio, 0.0).sum() / some,
        ratio_min=torch.where(counts, ratio, torch.inf).amin() if ratio.numel() else ratio.new_tensor(torch.inf),
        ratio_max=torch.where(counts, ratio, 0.0).amax() if ratio.numel() else ratio.new_tensor(0.0),
        clipped_low=low.sum() / some,
        clipped_high=high.sum() / some,
    )
