"""GRPO-Guard (arXiv 2510.22319): log-ratios of flow steps centred and brought to one scale, before Flow-GRPO's loss.

A step's log-ratio has mean -|mu - mu_old|^2 / 2h^2 with h the step's std, and a spread that grows as 1 / h; so clipping
from above hardly ever happens and late steps dominate. Ratio = exp[(l - l_old + b) h] with b = |mu - mu_old|^2 / 2h^2,
each step's gradient divided by dt.

Differences from the paper: the division by dt acts on gradients (`scale_gradients`) and is relative to the mean step.
"""

from jaxtyping import Float
from torch import Tensor

from prophrl_algos.flow.policy import FlowScores
from prophrl_algos.flowscale import scale_gradients


def guarded_log_prob(new: FlowScores, old: FlowScores, times: Float[Tensor, " times"]) -> Float[Tensor, "s k n a"]:
    """Log-probs whose difference to `old.log_prob` is the guarded log-ratio; for `flow_grpo_loss`.

    Args:
        new: of the policy to be improved.
        old: of the policy that sampled.
        times: of the schedule.
    """
    std = old.std
    moves = std > 0
    drift = ((new.mean - old.mean) ** 2) / (2 * std.masked_fill(~moves, 1.0) ** 2)
    guarded = old.log_prob + ((new.log_prob - old.log_prob) + drift) * std
    dt = (times[:-1] - times[1:]).to(guarded)
    return scale_gradients(guarded, dt.mean() / dt)
