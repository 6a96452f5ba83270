"""`Algorithm`: everything an experiment swaps, as one object of functions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prophrl_algos.algorithms._advantages import group_advantages, per_entry
from prophrl_algos.flow import FlowPath, FlowScores, FlowSpec, Kernel, every_step, flow_sde_step
from prophrl_algos.flow._schedule import Choose, FlowSchedule

Path = Callable[[FlowPath, int], FlowPath]
"""`path(sampled, seed)`: the path that is scored; its scores are made again where it is not the sampled one."""

Score = Callable[[FlowScores, FlowScores, Float[Tensor, " times"]], Float[Tensor, "s k n a"]]
"""`score(new, old, times)`: the log-prob whose difference to `old.log_prob` is the log-ratio of each flow step."""

Reduce = Callable[[Float[Tensor, "s k n a"], Bool[Tensor, "s n"]], tuple[Float[Tensor, "s *r"], Float[Tensor, "s *r"]]]
"""`reduce(log_ratio, mask)`: the log-ratios to be clipped, and the weight of each, 0 where it does not count; the input
is 0 where masked."""

Advantages = Callable[[Float[Tensor, " b"], Int[Tensor, " b"], Bool[Tensor, " b"]], Float[Tensor, " b"]]
"""`advantages(returns, groups, scored)`; a rollout of advantage 0 is left out."""

LossWeights = Callable[[Bool[Tensor, "s n"], Int[Tensor, " s"]], Float[Tensor, " s"]]
"""`loss_weights(mask, trajectory)`: weight of each valid entry of a chunk in the loss."""


# exp(20) is half a billion: past it a ratio says nothing more, and its square would overflow in the gradient.
LOG_RATIO_LIMIT = 20.0


@dataclass(frozen=True)
class RatioStats:
    """Hold what happened to the ratios of a batch that counted; scalar tensors on the batch's device.

    `clipped_low` is the fraction with A < 0 and r < 1 - clip_low, `clipped_high` with A > 0 and r > 1 + clip_high.
    """

    ratios: Float[Tensor, ""]
    ratio_mean: Float[Tensor, ""]
    ratio_min: Float[Tensor, ""]
    ratio_max: Float[Tensor, ""]
    clipped_low: Float[Tensor, ""]
    clipped_high: Float[Tensor, ""]

    @staticmethod
    def merge(parts: Sequence["RatioStats"]) -> "RatioStats":
        """Combine the statistics of several microbatches; means are weighted by the number of ratios."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        ratios, mean, least, most, low, high = (torch.stack(each) for each in columns)
        fraction = ratios / ratios.sum().clamp(min=1)
        mean, low, high = ((each * fraction).sum() for each in (mean, low, high))
        return RatioStats(ratios.sum(), mean, least.min(), most.max(), low, high)


def sampled_path(path: FlowPath, seed: int) -> FlowPath:
    """Return the sampled path itself."""
    del seed
    return path


def plain_log_prob(new: FlowScores, old: FlowScores, times: Float[Tensor, " times"]) -> Float[Tensor, "s k n a"]:
    """Return the log-probs as they are."""
    del old, times
    return new.log_prob


@dataclass(frozen=True)
class Algorithm:
    """Define how to learn from groups of rollouts: sampling, ratio, advantages and loss.

    Five published algorithms differ in `reduce` alone, or in `reduce` and one more field.

    Attributes:
        name: Name for `prophrl train --algo`; a resumed run must have the name that it began with.
        summary: One line of description, for the overview of `prophrl`.
        reduce: Maps the log-ratios of all flow steps to those that are clipped, and their weights in the loss.
        kernel: The sampler's stochastic step; if it has weights, they are trained too.
        choose: Chooses the flow steps that are stochastic.
        path: Chooses the path that is scored: `sampled_path`, or `renoised` for the forward process.
        score: Returns the quantity whose ratio is taken, for example `guarded_log_prob`.
        advantages: `group_advantages` or `leave_one_out_advantages`.
        loss_weights: `per_entry`, the masked mean, or `per_trajectory`.
        make_kernel: Makes a kernel with weights for a policy's sizes, see `sized`.

    Example:
        >>> from dataclasses import replace
        >>> from prophrl_algos.algorithms import FA_GRPO, leave_one_out_advantages, per_trajectory
        >>> leave_one_out = replace(FA_GRPO, name="fa-grpo-loo", advantages=leave_one_out_advantages)
        >>> even = replace(FA_GRPO, name="fa-grpo-even", loss_weights=per_trajectory)
    """

    name: str
    summary: str
    reduce: Reduce
    kernel: Kernel = flow_sde_step
    choose: Choose = every_step
    path: Path = sampled_path
    score: Score = plain_log_prob
    advantages: Advantages = group_advantages
    loss_weights: LossWeights = per_entry
    make_kernel: Callable[[FlowSpec], Kernel] | None = None

    def sized(self, spec: FlowSpec) -> "Algorithm":
        """Return the algorithm for a policy's sizes, with new weights if its kernel has any."""
        return self if self.make_kernel is None else replace(self, kernel=self.make_kernel(spec), make_kernel=None)

    def schedule(self, spec: FlowSpec, noise_level: float | int) -> FlowSchedule:
        """Return how the paths of a policy are sampled."""
        return FlowSchedule(spec.num_steps, noise_level, kernel=self.kernel, choose=self.choose)

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

        `mask` has the actions that were executed; log-probs may be NaN elsewhere. A chunk has its rollout's
        advantage, and a weight of at least 0 (1 if not given). The loss is divided by `denominator`, the weighted valid
        entries (s, n, a) of the whole minibatch, so that the losses of microbatches add up to its loss; if it is not
        given, by the valid entries of these chunks.

        Raises:
            ValueError: A clipping range or the denominator is not above 0.
        """
        if denominator is not None and not denominator > 0:
            raise ValueError(f"denominator must be above 0 or None (the valid entries given here), got {denominator}")
        # Subtracted before anything is summed: each log-prob is large, and float32 would lose the ratio in the sums.
        difference = torch.where(mask[:, None, :, None], log_prob - old.detach(), 0.0)
        log_ratio, weights = self.reduce(difference, mask)
        terms, stats = clipped_surrogate(log_ratio, advantages, weights > 0, clip_low=clip_low, clip_high=clip_high)
        if loss_weights is not None:
            weights = weights * loss_weights.view(-1, *[1] * (weights.ndim - 1))
        # Every algorithm divides by entries, whatever its ratios are of, so that their gradients can be compared.
        own = float(max(int(mask.sum()) * log_prob.shape[3], 1)) if denominator is None else denominator
        return -(terms * weights).sum() / own, stats


def clipped_surrogate(
    log_ratio: Float[Tensor, "s *r"],
    advantages: Float[Tensor, " s"],
    counts: Bool[Tensor, "s *r"],
    *,
    clip_low: float | int,
    clip_high: float | int,
) -> tuple[Float[Tensor, "s *r"], RatioStats]:
    """Return min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) for every ratio, 0 where it does not count.

    A may be NaN where none of a chunk's ratios counts; from clip_low = 1 on there is no lower bound.
    """
    if not (clip_low > 0 and clip_high > 0):
        raise ValueError(f"clip_low and clip_high must be above 0, got {clip_low} and {clip_high}")
    ratio = torch.exp(log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    advantage = torch.where(counts, advantages.view(-1, *[1] * (log_ratio.ndim - 1)).expand_as(ratio), 0.0)
    terms = torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)
    terms, ratio = torch.where(counts, terms, 0.0), ratio.detach()
    number = counts.sum().to(ratio.dtype)
    some = number.clamp(min=1)
    low = counts & (advantage < 0) & (ratio < 1 - clip_low)
    high = counts & (advantage > 0) & (ratio > 1 + clip_high)
    return terms, RatioStats(
        ratios=number,
        ratio_mean=torch.where(counts, ratio, 0.0).sum() / some,
        ratio_min=torch.where(counts, ratio, torch.inf).amin() if ratio.numel() else ratio.new_tensor(torch.inf),
        ratio_max=torch.where(counts, ratio, 0.0).amax() if ratio.numel() else ratio.new_tensor(0.0),
        clipped_low=low.sum() / some,
        clipped_high=high.sum() / some,
    )
