"""pi_RL's Flow-SDE (arXiv 2510.25889): one random stochastic step per chunk, one ratio per chunk.

The random step is `prophrl_algos.flow.schedule.one_random_step`; the others follow the ODE and have no density.

Differences from the paper: the sum over chunks is divided by valid entries, as everywhere here, not by chunks.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from prophrl_algos.surrogate import Stats, clipped_surrogate, denominator_of, masked_log_ratio


def pi_rl_loss(
    flow_logp: Float[Tensor, "s k n a"],
    old: Float[Tensor, "s k n a"],
    advantages: Float[Tensor, " s"],
    mask: Bool[Tensor, "s n"],
    *,
    clip_low: float | int,
    clip_high: float | int,
    denominator: float | int | None = None,
) -> tuple[Float[Tensor, ""], Stats]:
    """-sum_s min(r A, clip(r) A) / denominator, r[s] = exp(sum_kna (l_k - l_k_old)).

    Arguments as `prophrl_algos.fa_grpo.fa_grpo_loss`. On policy its gradient is that of FA-GRPO on the same path.
    """
    log_ratio = masked_log_ratio(flow_logp, old, mask).sum((1, 2, 3))
    total, stats = clipped_surrogate(log_ratio, advantages, mask.any(1), clip_low=clip_low, clip_high=clip_high)
    return -total / denominator_of(mask, flow_logp.shape[3], denominator), stats
