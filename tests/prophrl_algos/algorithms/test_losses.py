"""FA-GRPO and its baselines: ratios, clips, masks and gradients against independent computations (reference.md 4)."""

import math
from dataclasses import replace

import pytest
import torch

from prophrl_algos.algorithms import (
    FA_GRPO,
    FLOW_GRPO,
    PI_RL,
    FlowScale,
    group_advantages,
    leave_one_out_advantages,
    per_entry,
    per_trajectory,
)
from prophrl_algos.algorithms._algorithm import RatioStats
from prophrl_algos.algorithms._flow_grpo import guarded_log_prob
from prophrl_algos.algorithms.flowscale import scale_gradients
from prophrl_algos.flow import FlowScores

CLIP = {"clip_low": 0.2, "clip_high": 0.28}
LOSSES = [FA_GRPO.loss, FLOW_GRPO.loss, PI_RL.loss]


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Two other readings of FlowScale's printed loss, for comparison: weighted log-ratios, and Flow-GRPO with weights.
def scale_ratios(log_prob, old, weights):
    return old + weights[:, None, None] * (log_prob - old)


def keep_flow_steps(weights):
    return lambda log_ratio, mask: (log_ratio, mask[:, None, :, None] * weights[:, None, None].expand_as(log_ratio))


def batch(s=5, k=4, n=3, a=2):
    old = numbers(s, k, n, a)
    mask = torch.rand(s, n, generator=torch.Generator().manual_seed(1)) < 0.7
    mask[0] = False
    mask[1] = True
    return old, numbers(s, seed=2), mask


class TestAdvantages:
    def test_by_hand(self):
        found = group_advantages(torch.tensor([1.0, 0.0, 0.0, 3.0, 1.0]), torch.tensor([0, 0, 0, 1, 1]))
        spread = math.sqrt((4 / 9 + 1 / 9 + 1 / 9) / 2)
        expected = [2 / 3 / spread, -1 / 3 / spread, -1 / 3 / spread, 1 / math.sqrt(2), -1 / math.sqrt(2)]
        assert found.tolist() == pytest.approx(expected, abs=1e-5)

    def test_equal_returns_give_exactly_zero(self):
        assert group_advantages(torch.full((3,), 0.1), torch.zeros(3, dtype=torch.int64)).tolist() == [0, 0, 0]

    @pytest.mark.parametrize("advantage", [group_advantages, leave_one_out_advantages])
    def test_unjudged_rows_are_left_out_even_when_they_are_nan(self, advantage):
        groups, scored = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([True, True, False, True, False])
        found = advantage(torch.tensor([1.0, 0.0, torch.nan, 5.0, torch.nan]), groups, scored)
        alone = advantage(torch.tensor([1.0, 0.0]), torch.tensor([0, 0]))
        assert found.tolist() == [*alone.tolist(), 0, 0, 0]

    def test_groups_may_lie_in_any_order(self):
        returns, groups = numbers(6), torch.tensor([4, 9, 4, 9, 4, 9])
        found = group_advantages(returns, groups)
        torch.testing.assert_close(found[::2], group_advantages(returns[::2], groups[::2]))

    @pytest.mark.parametrize("returns", [torch.tensor([1, 0]), torch.tensor([1e8 + 8, 1e8])])
    def test_whole_numbers_and_large_ones_lose_nothing(self, returns):
        found = group_advantages(returns, torch.zeros(2, dtype=torch.int64))
        assert found.dtype == torch.float32
        assert found.tolist() == pytest.approx([0.5**0.5, -(0.5**0.5)], abs=1e-5)

    def test_leave_one_out_is_the_mean_of_the_others(self):
        found = leave_one_out_advantages(torch.tensor([3.0, 1.0, 2.0]), torch.zeros(3, dtype=torch.int64))
        assert found.tolist() == pytest.approx([1.5, -1.5, 0.0])


class TestRatio:
    @pytest.mark.parametrize("loss", LOSSES)
    def test_at_the_first_update_it_is_exactly_one(self, loss):
        old, advantages, mask = batch()
        _, stats = loss(old.clone(), old, advantages, mask, **CLIP)
        assert stats.ratio_min == stats.ratio_max == stats.ratio_mean == 1
        assert stats.clipped_low == stats.clipped_high == 0

    def test_fa_grpo_has_one_per_number_with_the_steps_summed(self):
        old, new = torch.zeros(1, 2, 1, 2), torch.tensor([[[[0.1, -0.3]], [[0.05, 0.1]]]])
        value, stats = FA_GRPO.loss(new, old, torch.tensor([2.0]), torch.tensor([[True]]), **CLIP)
        ratios = [math.exp(0.15), math.exp(-0.2)]
        assert value.item() == pytest.approx(-2 * sum(ratios) / 2, rel=1e-6)
        assert stats.ratios == 2
        assert stats.ratio_max.item() == pytest.approx(ratios[0])

    def test_flow_grpo_has_one_per_step_and_pi_rl_one_per_chunk(self):
        old, new = torch.zeros(1, 2, 1, 2), torch.tensor([[[[0.1, -0.3]], [[0.05, 0.1]]]])
        advantage, mask = torch.tensor([2.0]), torch.tensor([[True]])
        value, stats = FLOW_GRPO.loss(new, old, advantage, mask, **CLIP)
        assert value.item() == pytest.approx(-2 * (math.exp(-0.1) + math.exp(0.075)) / 2, rel=1e-6)
        assert stats.ratios == 2
        value, stats = PI_RL.loss(new, old, advantage, mask, **CLIP)
        assert value.item() == pytest.approx(-2 * math.exp(-0.05) / 2, rel=1e-6)
        assert stats.ratios == 1

    def test_the_log_ratio_is_a_sum_of_differences(self):
        # Each l_k is near 1e4, where float32 steps are 1e-3; their differences are exact, their sums are not.
        old = torch.full((1, 10, 1, 1), 1e4) + torch.arange(10.0)[None, :, None, None]
        new = old + torch.tensor(2.0**-9)
        _, stats = FA_GRPO.loss(new, old, torch.ones(1), torch.ones(1, 1, dtype=torch.bool), **CLIP)
        assert stats.ratio_max.item() == pytest.approx(math.exp(10 * 2.0**-9), abs=1e-6)


class TestClipping:
    @pytest.mark.parametrize(
        ("log_ratio", "advantage", "kept", "low", "high"),
        [(0.5, 1.0, False, 0, 1), (0.5, -1.0, True, 0, 0), (-0.5, -1.0, False, 1, 0), (-0.5, 1.0, True, 0, 0)],
    )
    def test_a_clipped_entry_gives_no_gradient(self, log_ratio, advantage, kept, low, high):
        new = torch.full((1, 1, 1, 1), log_ratio, requires_grad=True)
        value, stats = FA_GRPO.loss(
            new, torch.zeros(1, 1, 1, 1), torch.tensor([advantage]), torch.ones(1, 1, dtype=torch.bool), **CLIP
        )
        value.backward()
        assert (new.grad.abs().sum() > 0) == kept
        assert (stats.clipped_low, stats.clipped_high) == (low, high)
        bounded = min(max(math.exp(log_ratio), 0.8), 1.28)
        worst = min(math.exp(log_ratio) * advantage, bounded * advantage)
        assert value.item() == pytest.approx(-worst)

    @pytest.mark.parametrize("jump", [1e4, -1e4])
    @pytest.mark.parametrize("loss", LOSSES)
    def test_a_huge_ratio_stays_finite(self, loss, jump):
        for advantage in (1.0, -1.0):
            new = torch.full((1, 2, 1, 1), jump, requires_grad=True)
            value, _ = loss(
                new, torch.zeros(1, 2, 1, 1), torch.tensor([advantage]), torch.ones(1, 1, dtype=torch.bool), **CLIP
            )
            value.backward()
            assert torch.isfinite(value)
            assert torch.isfinite(new.grad).all()

    @pytest.mark.parametrize("clip", [{"clip_low": 0.0, "clip_high": 0.2}, {"clip_low": 0.2, "clip_high": -0.1}])
    def test_clips_must_be_positive(self, clip):
        old, advantages, mask = batch()
        with pytest.raises(ValueError, match="clip_low and clip_high must be above 0"):
            FA_GRPO.loss(old, old, advantages, mask, **clip)


class TestMasks:
    @pytest.mark.parametrize("loss", LOSSES)
    def test_nan_in_masked_entries_never_leaks(self, loss):
        old, advantages, mask = batch()
        clean = (old + 0.1 * numbers(*old.shape, seed=5)).requires_grad_()
        value, _ = loss(clean, old, advantages, mask, **CLIP)
        value.backward()
        hidden = ~mask[:, None, :, None].expand_as(old)
        dirty = torch.where(hidden, torch.nan, clean.detach()).requires_grad_()
        advantages = torch.where(mask.any(1), advantages, torch.nan)
        again, stats = loss(dirty, torch.where(hidden, torch.nan, old), advantages, mask, **CLIP)
        again.backward()
        assert torch.equal(value, again)
        assert torch.equal(clean.grad, dirty.grad)
        assert (dirty.grad[hidden] == 0).all()
        assert torch.isfinite(torch.stack([stats.ratio_mean, stats.ratio_min, stats.ratio_max])).all()

    @pytest.mark.parametrize("loss", LOSSES)
    def test_microbatches_add_up_to_the_whole_batch(self, loss):
        old, advantages, mask = batch(s=7)
        new = (old + 0.3 * numbers(*old.shape, seed=5)).requires_grad_()
        whole, stats = loss(new, old, advantages, mask, **CLIP)
        whole.backward()
        entries = float(mask.sum() * old.shape[3])
        parts, seen = [], []
        again = new.detach().clone().requires_grad_()
        for rows in ([0], [1, 2, 3], [4, 5], [6]):
            part, part_stats = loss(again[rows], old[rows], advantages[rows], mask[rows], denominator=entries, **CLIP)
            part.backward()
            parts.append(part.detach())
            seen.append(part_stats)
        torch.testing.assert_close(torch.stack(parts).sum(), whole.detach())
        torch.testing.assert_close(again.grad, new.grad)
        merged = RatioStats.merge(seen)
        for name in ("ratios", "ratio_mean", "ratio_min", "ratio_max", "clipped_low", "clipped_high"):
            torch.testing.assert_close(getattr(merged, name), getattr(stats, name))

    @pytest.mark.parametrize("loss", LOSSES)
    @pytest.mark.parametrize("denominator", [0, -1.0, float("nan")])
    def test_a_denominator_must_be_positive(self, loss, denominator):
        old, advantages, mask = batch()
        with pytest.raises(ValueError, match="denominator must be above 0"):
            loss(old, old, advantages, mask, denominator=denominator, **CLIP)

    @pytest.mark.parametrize("loss", LOSSES)
    def test_no_decision_at_all_is_a_loss_of_zero(self, loss):
        value, stats = loss(
            torch.zeros(0, 4, 3, 2), torch.zeros(0, 4, 3, 2), torch.zeros(0), torch.ones(0, 3) > 0, **CLIP
        )
        assert value == stats.ratios == 0

    @pytest.mark.parametrize("loss", LOSSES)
    def test_nothing_valid_is_a_loss_of_zero(self, loss):
        old, advantages, _ = batch()
        value, stats = loss(old, old, advantages, torch.zeros(5, 3, dtype=torch.bool), **CLIP)
        assert value == 0
        assert stats.ratios == 0

    @pytest.mark.parametrize("loss", [FA_GRPO.loss, FLOW_GRPO.loss])
    def test_per_trajectory_every_rollout_counts_the_same(self, loss):
        mask = torch.tensor([[True, True], [True, True], [True, False], [False, False]])
        trajectory = torch.tensor([7, 7, 3, 5])
        assert per_trajectory(mask, trajectory).tolist() == [1 / 4, 1 / 4, 1, 0]
        zeros, advantages = torch.zeros(4, 1, 2, 2), torch.tensor([1.0, 1.0, -3.0, 0.0])
        for reduction, expected in ((per_trajectory, (1.0 - 3.0) / 2), (per_entry, (4 * 1.0 - 3.0) / 5)):
            shares = reduction(mask, trajectory)
            count = float(shares @ mask.sum(1).float()) * 2
            value, _ = loss(zeros, zeros, advantages, mask, loss_weights=shares, denominator=count, **CLIP)
            assert value.item() == pytest.approx(-expected)

    @pytest.mark.parametrize("loss", LOSSES)
    def test_the_policy_that_sampled_gets_no_gradient(self, loss):
        old, advantages, mask = batch()
        new, old = old.clone().requires_grad_(), old.requires_grad_()
        loss(new, old, advantages, mask, **CLIP)[0].backward()
        assert new.grad.abs().sum() > 0
        assert old.grad is None


class TestGradients:
    def gaussian(self, theta):
        """log N(x; theta[k, n, a], std_k) of fixed samples: a policy whose score is known by hand."""
        x, std = numbers(5, 4, 3, 2), torch.tensor([0.9, 0.5, 0.3, 0.1])[:, None, None]
        return torch.distributions.Normal(theta, std).log_prob(x), (x - theta.detach()) / std**2

    def test_on_policy_fa_grpo_is_reinforce(self):
        _, advantages, mask = batch()
        theta = numbers(4, 3, 2, seed=9).requires_grad_()
        logp, score = self.gaussian(theta)
        FA_GRPO.loss(logp, logp.detach(), advantages, mask, **CLIP)[0].backward()
        weight = advantages[:, None, None, None] * mask[:, None, :, None]
        reinforce = -(weight * score).sum(0) / (mask.sum() * 2)
        torch.testing.assert_close(theta.grad, reinforce, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize(("loss", "scale"), [(FLOW_GRPO.loss, 1 / 4), (PI_RL.loss, 1.0)])
    def test_on_policy_the_baselines_have_the_same_gradient_up_to_scale(self, loss, scale):
        _, advantages, mask = batch()
        found = []
        for each in (FA_GRPO.loss, loss):
            theta = numbers(4, 3, 2, seed=9).requires_grad_()
            logp = self.gaussian(theta)[0]
            each(logp, logp.detach(), advantages, mask, **CLIP)[0].backward()
            found.append(theta.grad)
        torch.testing.assert_close(found[1], scale * found[0], rtol=1e-4, atol=1e-6)

    def test_off_policy_they_differ(self):
        _, advantages, mask = batch()
        found = []
        for each in (FA_GRPO.loss, FLOW_GRPO.loss):
            theta = numbers(4, 3, 2, seed=9).requires_grad_()
            logp = self.gaussian(theta)[0]
            old = logp.detach() - 0.1 * numbers(*logp.shape, seed=3)
            each(logp, old, advantages, mask, **CLIP)[0].backward()
            found.append(theta.grad / theta.grad.norm())
        assert (found[0] - found[1]).norm() > 0.05

    def test_the_three_readings_of_flowscale_agree_on_policy(self):
        _, advantages, mask = batch()
        weights = torch.tensor([1.5, 1.2, 0.8, 0.5])
        found = []
        for reading in ("gradient", "ratio", "per step"):
            theta = numbers(4, 3, 2, seed=9).requires_grad_()
            logp = self.gaussian(theta)[0]
            old = logp.detach()
            if reading == "per step":
                weighted = replace(FA_GRPO, reduce=keep_flow_steps(weights))
                value, _ = weighted.loss(logp, old, advantages, mask, **CLIP)
            else:
                scaled = scale_gradients(logp, weights) if reading == "gradient" else scale_ratios(logp, old, weights)
                value, _ = FA_GRPO.loss(scaled, old, advantages, mask, **CLIP)
            value.backward()
            found.append(theta.grad)
        plain = numbers(4, 3, 2, seed=9).requires_grad_()
        logp = self.gaussian(plain)[0]
        FA_GRPO.loss(logp, logp.detach(), advantages, mask, **CLIP)[0].backward()
        for gradient in found:
            torch.testing.assert_close(gradient, weights[:, None, None] * plain.grad, rtol=1e-4, atol=1e-6)

    def test_flowscale_leaves_the_loss_value_bit_equal_off_policy(self):
        old, advantages, mask = batch()
        new = old + 0.3 * numbers(*old.shape, seed=5)
        weights = torch.tensor([1.5, 1.2, 0.8, 0.5])
        plain, stats = FA_GRPO.loss(new, old, advantages, mask, **CLIP)
        scaled, scaled_stats = FA_GRPO.loss(scale_gradients(new, weights), old, advantages, mask, **CLIP)
        assert torch.equal(plain, scaled)
        assert torch.equal(stats.clipped_high, scaled_stats.clipped_high)


class TestGuard:
    def scores(self, theta, seed=0):
        x, std = numbers(500, 3, 2, 2, seed=seed), torch.tensor([0.9, 0.4, 0.1])[:, None, None].expand(500, 3, 2, 2)
        mean = theta.expand(500, 3, 2, 2)
        return FlowScores(torch.distributions.Normal(mean, std).log_prob(std * x), mean, std), x

    def test_the_guarded_log_ratio_is_the_drift_times_the_noise(self):
        # l - l_old + |d|^2 / 2h^2 = d z / h with z the noise that was drawn, so times h it is d z.
        old, z = self.scores(torch.zeros(3, 2, 2))
        drift = 0.05 * numbers(3, 2, 2, seed=4)
        new, _ = self.scores(drift)
        found = guarded_log_prob(new, old, torch.linspace(1, 0, 4)) - old.log_prob
        torch.testing.assert_close(found, drift * z, atol=2e-5, rtol=1e-3)
        plain = (new.log_prob - old.log_prob).mean(0)
        assert (plain[-1] < 0).all()
        assert found.mean(0).abs().max() < 0.02

    def test_on_policy_nothing_changes_in_value(self):
        old, _ = self.scores(torch.zeros(3, 2, 2))
        assert torch.equal(guarded_log_prob(old, old, torch.linspace(1, 0, 4)), old.log_prob)

    def test_steps_without_density_stay_out(self):
        still = FlowScores(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
        moved = FlowScores(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
        assert guarded_log_prob(moved, still, torch.tensor([1.0, 0.0])).item() == 0


def test_flowscale_settings_are_checked():
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\]"):
        FlowScale(alpha=1.5)
    with pytest.raises(ValueError, match="power must be a finite number"):
        FlowScale(power=float("nan"))
    with pytest.raises(ValueError, match="w_max at least 1"):
        FlowScale(w_max=0.9)
