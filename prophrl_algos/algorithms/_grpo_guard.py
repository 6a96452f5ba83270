"""GRPO-Guard (arXiv 2510.22319): Flow-GRPO on log-ratios that are centred and brought to one scale.

A step's log-ratio has mean -|mu - mu_old|^2 / 2h^2 with h the step's std, and a spread that grows as 1 / h; so clipping
from above hardly ever happens and late steps dominate. Ratio = exp[(l - l_old + b) h] with b = |mu - mu_old|^2 / 2h^2,
each step's gradient divided by dt.

Differences from the paper: the division by dt acts on gradients (`scale_gradients`) and is relative to the mean step.
"""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from prophrl_algos.algorithms._flow_grpo import FLOW_GRPO
from prophrl_algos.algorithms.flowscale import scale_gradients
from prophrl_algos.flow import FlowScores


def guarded_log_prob(new: FlowScores, old: FlowScores, times: Float[Tensor, " times"]) -> Float[Tensor, "s k n a"]:
    """Return log-probs whose difference to `old.log_prob` is the guarded log-ratio."""
    std = old.std
    # Steps without noise have no density: 1 stands in for their std, and their log-ratio stays 0.
    moves = std > 0
    drift = ((new.mean - old.mean) ** 2) / (2 * std.masked_fill(~moves, 1.0) ** 2)
    guarded = old.log_prob + ((new.log_prob - old.log_prob) + drift) * std
    dt = (times[:-1] - times[1:]).to(guarded)
    return scale_gradients(guarded, dt.mean() / dt)


GRPO_GUARD = replace(
    FLOW_GRPO, name="grpo-guard", summary="Flow-GRPO with centred and scaled ratios", score=guarded_log_prob
)
