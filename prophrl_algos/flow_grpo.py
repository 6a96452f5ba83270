"""Flow-GRPO (arXiv 2505.05470): one ratio per decision and flow step, of the log-prob averaged over its numbers.

Differences from the paper: a decision counts as many times as it has valid entries, so that on policy the gradient is
FA-GRPO's divided by K, whatever the masks (at full chunks this is the paper's mean).
"""

from jaxtyping import Bool, Float
from torch import Tensor

from prophrl_algos.surrogate import Stats, clipped_surrogate, denominator_of, masked_log_ratio


def flow_grpo_loss(
    flow_logp: Float[Tensor, "s k n a"],
    old: Float[Tensor, "s k n a"],
    advantages: Float[Tensor, " s"],
    mask: Bool[Tensor, "s n"],
    *,
    clip_low: float | int,
    clip_high: float | int,
    denominator: float | int | None = None,
) -> tuple[Float[Tensor, ""], Stats]:
    """-sum_sk N[s] min(r A, clip(r) A) / (K denominator), r[s,k] = exp(mean_na (l_k - l_k_old)), N valid entries.

    Arguments as `prophrl_algos.fa_grpo.fa_grpo_loss`.
    """
    steps, dims = flow_logp.shape[1], flow_logp.shape[3]
    entries = mask.sum(1) * dims
    log_ratio = masked_log_ratio(flow_logp, old, mask).sum((2, 3)) / entries.clamp(min=1)[:, None]
    live = (entries > 0)[:, None].expand_as(log_ratio)
    weight = entries[:, None].expand_as(log_ratio)
    total, stats = clipped_surrogate(log_ratio, advantages, live, weight, clip_low=clip_low, clip_high=clip_high)
    return -total / (steps * denominator_of(mask, dims, denominator)), stats
