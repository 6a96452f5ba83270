"""What an experiment swaps: how paths are sampled, what a ratio is, the loss, the advantages and the mean."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from prophrl_algos.fa_grpo import fa_grpo_loss, group_advantages, per_entry, per_trajectory
from prophrl_algos.flow.forward import renoised
from prophrl_algos.flow.policy import FlowPath, FlowScores, FlowSpec
from prophrl_algos.flow.schedule import Choose, every_step, no_step, one_random_step
from prophrl_algos.flow.sde import Kernel, cps_step, flow_sde_step
from prophrl_algos.flow_grpo import flow_grpo_loss
from prophrl_algos.grpo_guard import guarded_log_prob
from prophrl_algos.pi_rl import pi_rl_loss
from prophrl_algos.reinflow import LearnedNoise
from prophrl_algos.surrogate import Stats


@runtime_checkable
class Loss(Protocol):
    """The signature that `fa_grpo_loss`, `flow_grpo_loss` and `pi_rl_loss` share."""

    def __call__(
        self,
        flow_logp: Float[Tensor, "s k n a"],
        old: Float[Tensor, "s k n a"],
        advantages: Float[Tensor, " s"],
        mask: Bool[Tensor, "s n"],
        *,
        clip_low: float | int,
        clip_high: float | int,
        denominator: float | int | None = None,
    ) -> tuple[Float[Tensor, ""], Stats]:
        """Loss and statistics of the ratios."""
        ...


LogProb = Callable[[FlowScores, FlowScores, Float[Tensor, " times"]], Float[Tensor, "s k n a"]]
"""Of the scores now, those at sampling, and the schedule's times."""

Advantages = Callable[[Float[Tensor, " b"], Int[Tensor, " b"], Bool[Tensor, " b"]], Float[Tensor, " b"]]
"""Of the returns, the groups and which of the rollouts were judged; a rollout of advantage 0 is left out."""

Aggregation = Callable[[Bool[Tensor, "s n"], Int[Tensor, " s"]], Float[Tensor, " s"]]
"""How much a valid entry of each decision counts in the mean, by the mask and the decision's trajectory."""


Scored = Callable[[FlowPath, int], FlowPath]
"""Of the sampled paths and a seed."""


def plain_log_prob(new: FlowScores, old: FlowScores, times: Float[Tensor, " times"]) -> Float[Tensor, "s k n a"]:
    """The log-probs as they are."""
    del old, times
    return new.log_prob


@dataclass(frozen=True)
class Algorithm:
    """A way to learn from groups of rollouts.

    Attributes:
        name: as `prophrl train --algo` takes it; a run that goes on must have the name that it began with.
        loss: of log-probs and advantages.
        kernel: the stochastic step of the sampler; one with weights is trained too.
        choose: which steps are stochastic.
        log_prob: what the loss takes a ratio of, e.g. `guarded_log_prob`.
        advantages: `group_advantages` or `leave_one_out_advantages`.
        aggregation: `per_entry`, the masked mean, or `per_trajectory`.
        scored: what is scored instead of the sampled paths, e.g. `renoised`; they themselves if not given.

    Example:
        >>> from dataclasses import replace
        >>> from functools import partial
        >>> from prophrl_algos.fa_grpo import leave_one_out_advantages, per_trajectory
        >>> loo = replace(FA_GRPO, name="fa-grpo-loo", advantages=leave_one_out_advantages)
        >>> dual = replace(FA_GRPO, name="fa-grpo-dual", loss=partial(fa_grpo_loss, dual_clip=3.0))
        >>> even = replace(FLOW_GRPO, name="flow-grpo-even", aggregation=per_trajectory)
    """

    name: str
    loss: Loss
    kernel: Kernel = flow_sde_step
    choose: Choose = every_step
    log_prob: LogProb = plain_log_prob
    advantages: Advantages = group_advantages
    aggregation: Aggregation = per_entry
    scored: Scored | None = None


FA_GRPO = Algorithm("fa-grpo", fa_grpo_loss)
FA_GRPO_CPS = Algorithm("fa-grpo-cps", fa_grpo_loss, kernel=cps_step)
FLOW_GRPO = Algorithm("flow-grpo", flow_grpo_loss)
FLOW_GRPO_CPS = Algorithm("flow-grpo-cps", flow_grpo_loss, kernel=cps_step)
# Unlike a log-density's, an error's mean gradient is not 0: failures must not outweigh successes by being longer.
FA_GRPO_FORWARD = Algorithm(
    "fa-grpo-forward", fa_grpo_loss, choose=no_step, aggregation=per_trajectory, scored=renoised
)
FLOW_GRPO_FORWARD = replace(FA_GRPO_FORWARD, name="flow-grpo-forward", loss=flow_grpo_loss)
GRPO_GUARD = Algorithm("grpo-guard", flow_grpo_loss, log_prob=guarded_log_prob)
PI_RL = Algorithm("pi-rl", pi_rl_loss, choose=one_random_step)


def reinflow(spec: FlowSpec) -> Algorithm:
    """ReinFlow with fresh weights of its noise network."""
    return Algorithm("reinflow", pi_rl_loss, kernel=LearnedNoise(spec.latent_dim))
