"""Advantages of rollouts within their groups, and the weights of their chunks in the loss."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

_STD_FLOOR = 1e-6


def group_advantages(
    returns: Num[Tensor, " b"], groups: Int[Tensor, " b"], scored: Bool[Tensor, " b"] | None = None
) -> Float[Tensor, " b"]:
    """Return A = (R - mean) / (std + eps) within each group of rollouts of one initial state; std is unbiased.

    Paper: arXiv 2511.20633, section on FA-GRPO.

    Differences from the paper: rollouts without a reward are left out of their group and get 0, as does a group of
    equal returns or of one rollout, as in the SimpleVLA-RL family. A return may be NaN where `scored` is not true.
    """
    return _per_group(returns, groups, scored, lambda inside: (inside - inside.mean()) / (inside.std() + _STD_FLOOR))


def leave_one_out_advantages(
    returns: Num[Tensor, " b"], groups: Int[Tensor, " b"], scored: Bool[Tensor, " b"] | None = None
) -> Float[Tensor, " b"]:
    """Return A = R - mean of the other rollouts of the group (RLOO, arXiv 2402.14740)."""
    return _per_group(
        returns, groups, scored, lambda inside: (inside - inside.mean()) * (len(inside) / (len(inside) - 1))
    )


def per_entry(mask: Bool[Tensor, "s n"], trajectory: Int[Tensor, " s"]) -> Float[Tensor, " s"]:
    """Return weights of 1, so that every valid entry counts the same: the masked mean."""
    del trajectory
    return torch.ones(len(mask), device=mask.device, dtype=torch.float32)


def per_trajectory(mask: Bool[Tensor, "s n"], trajectory: Int[Tensor, " s"]) -> Float[Tensor, " s"]:
    """Return 1 / the valid actions of each chunk's trajectory: the mean over trajectories of each one's mean."""
    inverse = torch.unique(trajectory, return_inverse=True)[1]
    actions = torch.bincount(inverse, mask.sum(1).float()).float()
    return torch.where(actions > 0, 1 / actions.clamp(min=1), 0.0)[inverse]


def _per_group(returns: Tensor, groups: Tensor, scored: Tensor | None, advantage: Callable[[Tensor], Tensor]) -> Tensor:
    scored = torch.ones_like(groups, dtype=torch.bool) if scored is None else scored
    # In float64, since returns may be large beside their differences.
    returns, kind = returns.detach().double(), returns.dtype if returns.is_floating_point() else torch.float32
    advantages = torch.zeros_like(returns)
    for group in torch.unique(groups).tolist():
        members = torch.nonzero((groups == group) & scored)[:, 0]
        inside = returns[members]
        # Compared for equality, not by their std: equal returns may have a std of 1e-17, which eps would not hide.
        if len(members) > 1 and not torch.equal(inside, inside[:1].expand_as(inside)):
            advantages[members] = advantage(inside)
    return advantages.to(kind)
