"""Flow-GRPO (arXiv 2505.05470): one ratio per decision and flow step, of the log-prob averaged over its dimensions.

L = -sum_sk N[s] min(r A, clip(r) A) / (K valid entries), r[s,k] = exp(mean_na (l_k - l_k_old)), with N[s] the valid
entries of a decision.

Differences from the paper: a decision counts as many times as it has valid entries, so that on policy the gradient is
FA-GRPO's divided by K, whatever the masks (at full chunks this is the paper's mean).
"""

from dataclasses import replace

from jaxtyping import Bool, Float, Int
from torch import Tensor

from prophrl_algos.algorithms._algorithm import Algorithm
from prophrl_algos.algorithms.fa_grpo import FA_GRPO_FORWARD
from prophrl_algos.flow import cps_step


def mean_over_chunk(
    log_ratio: Float[Tensor, "s k n a"], mask: Bool[Tensor, "s n"]
) -> tuple[Float[Tensor, "s k"], Bool[Tensor, "s k"]]:
    """Return one log-ratio per flow step: the mean of l_k - l_k_old over the valid entries of the chunk."""
    entries = mask.sum(1) * log_ratio.shape[3]
    # A sum over valid entries, since masked ones are 0 already.
    mean = log_ratio.sum((2, 3)) / entries.clamp(min=1)[:, None]
    return mean, (entries > 0)[:, None].expand_as(mean)


def mean_over_steps(
    terms: Float[Tensor, "s k"], entries: Int[Tensor, " s"], denominator: float | int
) -> Float[Tensor, ""]:
    """Return minus the mean over flow steps, with a decision counted once per valid entry."""
    return -(terms * entries[:, None]).sum() / (terms.shape[1] * denominator)


FLOW_GRPO = Algorithm("flow-grpo", "scores the sampled path, one ratio per flow step", mean_over_chunk, mean_over_steps)
FLOW_GRPO_CPS = replace(
    FLOW_GRPO, name="flow-grpo-cps", summary="Flow-GRPO with noise that keeps the flow's coefficients", kernel=cps_step
)
FLOW_GRPO_FORWARD = replace(
    FA_GRPO_FORWARD,
    name="flow-grpo-forward",
    summary="ours: Flow-GRPO's loss on how well the actions are denoised (after FPO)",
    reduce=mean_over_chunk,
    aggregate=mean_over_steps,
)
