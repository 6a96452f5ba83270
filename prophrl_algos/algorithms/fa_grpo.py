"""FA-GRPO, the paper's algorithm: one ratio per executed action dimension, with the flow steps summed.

Paper: arXiv 2511.20633, section on FA-GRPO. r[s,n,a] = exp(sum_k l[s,k,n,a] - l_old[s,k,n,a]), and
L = -sum M[s,n] min(r A, clip(r) A) / (valid entries).

Differences from the paper: clipping is asymmetric, as in the SimpleVLA-RL family; the masked mean divides by the valid
entries of the whole batch; `FA_GRPO_CPS` samples by another kernel, and `FA_GRPO_FORWARD` scores another path.
"""

from dataclasses import replace

from jaxtyping import Bool, Float
from torch import Tensor

from prophrl_algos.algorithms._advantages import per_trajectory
from prophrl_algos.algorithms._algorithm import Algorithm
from prophrl_algos.flow import cps_step, no_step, renoised


def _sum_flow_steps(
    log_ratio: Float[Tensor, "s k n a"], mask: Bool[Tensor, "s n"]
) -> tuple[Float[Tensor, "s n a"], Float[Tensor, "s n a"]]:
    """Return one log-ratio per action dimension: sum_k (l_k - l_k_old)."""
    summed = log_ratio.sum(1)
    return summed, mask[:, :, None].expand_as(summed).to(summed)


FA_GRPO = Algorithm(
    "fa-grpo",
    "the paper's own (ProphRL): one ratio per action dimension, from log-ratios summed over flow steps",
    _sum_flow_steps,
)
FA_GRPO_CPS = replace(
    FA_GRPO, name="fa-grpo-cps", summary="FA-GRPO with coefficients-preserving noise (CPS)", kernel=cps_step
)
# The mean gradient of an error is not 0, unlike that of a log-density: with one weight per entry, failures would
# outweigh successes by being longer.
FA_GRPO_FORWARD = replace(
    FA_GRPO,
    name="fa-grpo-forward",
    summary="not the paper's, ours: FA-GRPO that scores how well noised actions are denoised (after FPO)",
    choose=no_step,
    path=renoised,
    loss_weights=per_trajectory,
)
