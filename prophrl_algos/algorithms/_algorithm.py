"""`Algorithm`: everything an experiment swaps, as one object of functions."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from jaxtyping import Bool, Float, Int
from torch import Tensor

from prophrl_algos.algorithms._advantages import group_advantages, per_entry
from prophrl_algos.algorithms._surrogate import RatioStats, clipped_surrogate, masked_log_ratio
from prophrl_algos.flow import FlowPath, FlowScores, FlowSpec, Kernel, every_step, flow_sde_step
from prophrl_algos.flow._schedule import Choose

Path = Callable[[FlowPath, int], FlowPath]
"""`path(sampled, seed)`: the path that is scored; its scores are made again where it is not the sampled one."""

Score = Callable[[FlowScores, FlowScores, Float[Tensor, " times"]], Float[Tensor, "s k n a"]]
"""`score(new, old, times)`: the log-prob whose difference to `old.log_prob` is the log-ratio of each flow step."""

Reduce = Callable[[Float[Tensor, "s k n a"], Bool[Tensor, "s n"]], tuple[Float[Tensor, "s *r"], Bool[Tensor, "s *r"]]]
"""`reduce(log_ratio, mask)`: the log-ratios to be clipped, and which of them count; the input is 0 where masked."""

Aggregate = Callable[[Float[Tensor, "s *r"], Int[Tensor, " s"], float | int], Float[Tensor, ""]]
"""`aggregate(terms, entries, denominator)`: the loss, from the valid (n, a) entries of each decision."""

Advantages = Callable[[Float[Tensor, " b"], Int[Tensor, " b"], Bool[Tensor, " b"]], Float[Tensor, " b"]]
"""`advantages(returns, groups, scored)`; a rollout of advantage 0 is left out."""

LossWeights = Callable[[Bool[Tensor, "s n"], Int[Tensor, " s"]], Float[Tensor, " s"]]
"""`loss_weights(mask, trajectory)`: weight of each valid entry of a decision in the loss."""


def sampled_path(path: FlowPath, seed: int) -> FlowPath:
    """Return the sampled path itself."""
    del seed
    return path


def plain_log_prob(new: FlowScores, old: FlowScores, times: Float[Tensor, " times"]) -> Float[Tensor, "s k n a"]:
    """Return the log-probs as they are."""
    del old, times
    return new.log_prob


def mean_over_entries(
    terms: Float[Tensor, "s *r"], entries: Int[Tensor, " s"], denominator: float | int
) -> Float[Tensor, ""]:
    """Return minus the sum of the terms over the denominator."""
    del entries
    return -terms.sum() / denominator


@dataclass(frozen=True)
class Algorithm:
    """A way to learn from groups of rollouts: what is sampled, what a ratio is, and how the ratios become a loss.

    Five published algorithms differ in `reduce` alone, or in `reduce` and one more field.

    Attributes:
        name: Name for `prophrl train --algo`; a run that is resumed must have the name it began with.
        summary: One line on what it is, for the command's overview.
        reduce: From the log-ratio of every flow step to those that are clipped.
        aggregate: From the clipped terms to the loss.
        kernel: The sampler's stochastic step; a kernel with weights is trained too.
        choose: Which flow steps are stochastic.
        path: What is scored: `sampled_path`, or `renoised` for the forward process.
        score: What the ratio is taken of, for example `guarded_log_prob`.
        advantages: `group_advantages` or `leave_one_out_advantages`.
        loss_weights: `per_entry`, the masked mean, or `per_trajectory`.
        make_kernel: Makes a kernel with weights, whose size depends on the policy; see `sized`.

    Example:
        >>> from dataclasses import replace
        >>> from prophrl_algos.algorithms import FA_GRPO, leave_one_out_advantages, per_trajectory
        >>> leave_one_out = replace(FA_GRPO, name="fa-grpo-loo", advantages=leave_one_out_advantages)
        >>> even = replace(FA_GRPO, name="fa-grpo-even", loss_weights=per_trajectory)
    """

    name: str
    summary: str
    reduce: Reduce
    aggregate: Aggregate = mean_over_entries
    kernel: Kernel = flow_sde_step
    choose: Choose = every_step
    path: Path = sampled_path
    score: Score = plain_log_prob
    advantages: Advantages = group_advantages
    loss_weights: LossWeights = per_entry
    make_kernel: Callable[[FlowSpec], Kernel] | None = None

    def sized(self, spec: FlowSpec) -> "Algorithm":
        """Return the algorithm for a policy's sizes: with fresh weights, where its kernel has any."""
        return self if self.make_kernel is None else replace(self, kernel=self.make_kernel(spec), make_kernel=None)

    def loss(
        self,
        log_prob: Float[Tensor, "s k n a"],
        old: Float[Tensor, "s k n a"],
        advantages: Float[Tensor, " s"],
        mask: Bool[Tensor, "s n"],
        *,
        clip_low: float | int,
        clip_high: float | int,
        loss_weights: Float[Tensor, " s"] | None = None,
        denominator: float | int | None = None,
    ) -> tuple[Float[Tensor, ""], RatioStats]:
        """Return the clipped loss and what happened to its ratios.

        Args:
            log_prob: Of the policy that is improved; may be NaN where masked.
            old: Of the policy that sampled.
            advantages: Of each decision: its rollout's.
            mask: Actions that were executed in a rollout that had not ended.
            clip_low: Lower clipping range of the ratio, for example 0.2.
            clip_high: Upper clipping range of the ratio, for example 0.28.
            loss_weights: Of each decision, at least 0; 1 if not given.
            denominator: Weighted valid entries (s, n, a) of the whole minibatch, so that the losses of microbatches
                add up to its loss; the valid entries of these decisions if not given.

        Raises:
            ValueError: A clipping range or the denominator is not above 0.
        """
        if denominator is not None and not denominator > 0:
            raise ValueError(f"denominator must be above 0 or None (the valid entries given here), got {denominator}")
        entries = mask.sum(1) * log_prob.shape[3]
        log_ratio, counts = self.reduce(masked_log_ratio(log_prob, old, mask), mask)
        terms, stats = clipped_surrogate(
            log_ratio, advantages, counts, loss_weights, clip_low=clip_low, clip_high=clip_high
        )
        # Every algorithm divides by entries, whatever its ratios are of, so that their gradients can be compared.
        own = float(max(int(entries.sum()), 1)) if denominator is None else denominator
        return self.aggregate(terms, entries, own), stats
