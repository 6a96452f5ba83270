"""FA-GRPO: group-relative advantages and one ratio per executed action number, with the flow steps summed.

Paper: arXiv 2511.20633, section on FA-GRPO. r[s,n,a] = exp(sum_k l[s,k,n,a] - l_old[s,k,n,a]).

Differences from the paper: asymmetric clipping, and groups whose returns are all equal get advantage 0, as the
SimpleVLA-RL family does; the masked mean divides by the valid entries of the whole batch.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from prophrl_algos.surrogate import Stats, clipped_surrogate, denominator_of, masked_log_ratio

STD_FLOOR = 1e-6


def group_advantages(
    returns: Num[Tensor, " b"], groups: Int[Tensor, " b"], scored: Bool[Tensor, " b"] | None = None
) -> Float[Tensor, " b"]:
    """A = (R - mean) / (std + eps) within each group of rollouts of one start and instruction; std is unbiased.

    Rows without a valid verdict are left out of their group and get 0, as does a group of equal returns or of one row.

    Args:
        returns: one return per rollout; may be NaN where not valid.
        groups: the group of each rollout.
        scored: which rollouts were judged; all if not given.

    Example:
        >>> group_advantages(torch.tensor([1.0, 0.0, 0.5, 0.5]), torch.tensor([3, 3, 7, 7]))
        tensor([ 0.7071, -0.7071,  0.0000,  0.0000])
    """
    return _per_group(returns, groups, scored, _standardised)


def leave_one_out_advantages(
    returns: Num[Tensor, " b"], groups: Int[Tensor, " b"], scored: Bool[Tensor, " b"] | None = None
) -> Float[Tensor, " b"]:
    """A = R - mean of the other rollouts of the group (RLOO, arXiv 2402.14740); arguments as `group_advantages`."""
    return _per_group(returns, groups, scored, _against_others)


def fa_grpo_loss(
    flow_logp: Float[Tensor, "s k n a"],
    old: Float[Tensor, "s k n a"],
    advantages: Float[Tensor, " s"],
    mask: Bool[Tensor, "s n"],
    *,
    clip_low: float | int,
    clip_high: float | int,
    denominator: float | int | None = None,
    dual_clip: float | int | None = None,
) -> tuple[Float[Tensor, ""], Stats]:
    """L = -sum M[s,n] min(r A, clip(r) A) / denominator, with r[s,n,a] = exp(sum_k (l_k - l_k_old)).

    Args:
        flow_logp: log-densities of the policy to be improved; what is masked may be NaN.
        old: of the policy that sampled.
        advantages: one per decision: its rollout's.
        mask: actions that were executed in a rollout that had not ended.
        clip_low: e.g. 0.2.
        clip_high: e.g. 0.28.
        denominator: valid entries (s, n, a) of the whole batch, so that the losses of microbatches add up to its own;
            of these decisions if not given.
        dual_clip: c > 1: where A < 0 a term costs at most c |A| (arXiv 1912.09729); off if not given.
    """
    log_ratio = masked_log_ratio(flow_logp, old, mask).sum(1)
    entries = mask[:, :, None].expand_as(log_ratio)
    total, stats = clipped_surrogate(
        log_ratio, advantages, entries, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
    )
    return -total / denominator_of(mask, flow_logp.shape[3], denominator), stats


def per_entry(mask: Bool[Tensor, "s n"], trajectory: Int[Tensor, " s"]) -> Float[Tensor, " s"]:
    """Every valid entry counts the same: the masked mean. Arguments as `per_trajectory`."""
    del trajectory
    return torch.ones(len(mask), device=mask.device, dtype=torch.float32)


def per_trajectory(mask: Bool[Tensor, "s n"], trajectory: Int[Tensor, " s"]) -> Float[Tensor, " s"]:
    """Every trajectory counts the same, however long it was: 1 / the valid actions of a decision's trajectory.

    The losses are linear in the size of the advantages, so `advantages * shares` with the denominator
    `shares @ mask.sum(1) * dims` is the mean over trajectories of the mean over each one's valid entries.

    Args:
        mask: of the whole batch.
        trajectory: of each decision.
    """
    numbers, inverse = torch.unique(trajectory, return_inverse=True)
    valid = torch.zeros(len(numbers), device=mask.device, dtype=torch.float32).index_add(
        0, inverse, mask.sum(1).float()
    )
    return torch.where(valid > 0, 1 / valid.clamp(min=1), 0.0)[inverse]


def _per_group(returns: Tensor, groups: Tensor, scored: Tensor | None, advantage: Callable[[Tensor], Tensor]) -> Tensor:
    scored = torch.ones_like(groups, dtype=torch.bool) if scored is None else scored
    # In float64, since returns may be large beside their differences.
    returns, kind = returns.detach().double(), returns.dtype if returns.is_floating_point() else torch.float32
    advantages = torch.zeros_like(returns)
    for group in torch.unique(groups).tolist():
        rows = torch.nonzero((groups == group) & scored)[:, 0]
        inside = returns[rows]
        if len(rows) > 1 and not torch.equal(inside, inside[:1].expand_as(inside)):
            advantages[rows] = advantage(inside)
    return advantages.to(kind)


def _standardised(returns: Tensor) -> Tensor:
    return (returns - returns.mean()) / (returns.std() + STD_FLOOR)


def _against_others(returns: Tensor) -> Tensor:
    return (returns - returns.mean()) * (len(returns) / (len(returns) - 1))
