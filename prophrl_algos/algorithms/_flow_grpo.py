"""Flow-GRPO (arXiv 2505.05470): one ratio per chunk and flow step, of the log-prob averaged over its dimensions.

And GRPO-Guard (arXiv 2510.22319), which brings its log-ratios to one scale.

L = -sum_sk N[s] min(r A, clip(r) A) / (K valid entries), r[s,k] = exp(mean_na (l_k - l_k_old)), with N[s] the valid
entries of a chunk.

Differences from the paper: a chunk counts as many times as it has valid entries, so that on policy the gradient is
FA-GRPO's divided by K, whatever the masks (at full chunks this is the paper's mean).
"""

from dataclasses import replace

from jaxtyping import Bool, Float
from torch import Tensor

from prophrl_algos.algorithms._algorithm import Algorithm
from prophrl_algos.algorithms.fa_grpo import FA_GRPO_FORWARD
from prophrl_algos.algorithms.flowscale import scale_gradients
from prophrl_algos.flow import FlowScores, cps_step


def mean_over_chunk(
    log_ratio: Float[Tensor, "s k n a"], mask: Bool[Tensor, "s n"]
) -> tuple[Float[Tensor, "s k"], Float[Tensor, "s k"]]:
    """Return one log-ratio per flow step: the mean of l_k - l_k_old over the valid entries of the chunk.

    Its weight is the valid entries over the flow steps: a mean over steps, a chunk counted once per valid entry.
    """
    entries = (mask.sum(1) * log_ratio.shape[3])[:, None]
    # A sum over valid entries, since masked ones are 0 already.
    mean = log_ratio.sum((2, 3)) / entries.clamp(min=1)
    return mean, (entries / log_ratio.shape[1]).expand_as(mean).to(mean)


def guarded_log_prob(new: FlowScores, old: FlowScores, times: Float[Tensor, " times"]) -> Float[Tensor, "s k n a"]:
    """Return log-probs whose difference to `old.log_prob` is GRPO-Guard's log-ratio, centred and brought to one scale.

    A step's log-ratio has mean -|mu - mu_old|^2 / 2h^2 with h the step's std, and a spread that grows as 1 / h; so
    clipping from above hardly ever happens and late steps dominate. Ratio = exp[(l - l_old + b) h] with
    b = |mu - mu_old|^2 / 2h^2, each step's gradient divided by dt.

    Differences from the paper: the division by dt acts on gradients (`scale_gradients`) and is relative to the mean
    step.
    """
    std = old.std
    # Steps without noise have no density: 1 stands in for their std, and their log-ratio stays 0.
    moves = std > 0
    drift = ((new.mean - old.mean) ** 2) / (2 * std.masked_fill(~moves, 1.0) ** 2)
    guarded = old.log_prob + ((new.log_prob - old.log_prob) + drift) * std
    dt = (times[:-1] - times[1:]).to(guarded)
    return scale_gradients(guarded, dt.mean() / dt)


FLOW_GRPO = Algorithm("flow-grpo", "scores the sampled path, one ratio per flow step", mean_over_chunk)
FLOW_GRPO_CPS = replace(
    FLOW_GRPO, name="flow-grpo-cps", summary="Flow-GRPO with coefficients-preserving noise (CPS)", kernel=cps_step
)
FLOW_GRPO_FORWARD = replace(
    FA_GRPO_FORWARD,
    name="flow-grpo-forward",
    summary="ours: Flow-GRPO that scores how well noised actions are denoised (after FPO)",
    reduce=mean_over_chunk,
)
GRPO_GUARD = replace(
    FLOW_GRPO, name="grpo-guard", summary="Flow-GRPO with centred and scaled ratios", score=guarded_log_prob
)
