"""pi_RL's Flow-SDE (arXiv 2510.25889): one random stochastic step per chunk, one ratio per chunk.

The random step is `one_random_step`; the others follow the ODE and have no density.
L = -sum_s min(r A, clip(r) A) / (valid entries), r[s] = exp(sum_kna (l_k - l_k_old)).

Differences from the paper: advantages are a group's, there is no critic; the sum over chunks is divided by valid
entries, as everywhere here, not by chunks.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from prophrl_algos.algorithms._algorithm import Algorithm
from prophrl_algos.flow import one_random_step


def sum_over_chunk(
    log_ratio: Float[Tensor, "s k n a"], mask: Bool[Tensor, "s n"]
) -> tuple[Float[Tensor, " s"], Float[Tensor, " s"]]:
    """Return one log-ratio per chunk: the sum of l_k - l_k_old over flow steps, actions and dimensions."""
    return log_ratio.sum((1, 2, 3)), mask.any(1).to(log_ratio)


PI_RL = Algorithm("pi-rl", "one random stochastic step, one ratio per chunk", sum_over_chunk, choose=one_random_step)
