"""Intervals: exact where nothing varies, close to theory where something does; paired comparisons."""

import math

import numpy as np
import pytest

from prophet_gym.estimates import bootstrap, mcnemar, paired_gain, wilson


def test_interval_of_a_mean_agrees_with_the_central_limit():
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    found = bootstrap(values)
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.05)
    assert found.high == pytest.approx(values.mean() + half, abs=0.05)


def test_differences_are_paired():
    level = np.random.default_rng(1).normal(0.0, 50.0, 40)
    found = bootstrap(level + 3.0, level, statistic=lambda a, b: a - b)
    assert (found.mean, found.low, found.high) == pytest.approx((3.0, 3.0, 3.0))


def test_ratios_are_of_means():
    found = bootstrap(np.array([1.0, 3.0]), np.array([2.0, 6.0]), statistic=lambda a, b: a / b)
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_episodes_without_a_value_are_left_out_and_counted():
    found = bootstrap(np.array([1.0, np.nan, 1.0]), np.array([np.nan, 5.0, 1.0]), statistic=lambda a, b: a - b)
    assert (found.mean, found.episodes) == (0.0, 1)
    nothing = bootstrap(np.array([np.nan]))
    assert nothing.episodes == 0
    assert np.isnan(nothing.mean)


def test_wilson_by_hand():
    # 8 of 10 at z = 1.96: centre (0.8 + 0.192) / 1.384, half 1.96 sqrt(0.016 + 0.0096) / 1.384.
    z2 = 1.959964**2
    centre, half = (0.8 + z2 / 20) / (1 + z2 / 10), math.sqrt(z2 * (0.016 + z2 / 400)) / (1 + z2 / 10)
    found = wilson(8, 10)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half))
    assert wilson(0, 10).low == 0
    assert wilson(10, 10).high == 1
    assert math.isnan(wilson(0, 0).mean)


def test_mcnemar_is_the_two_sided_binomial_tail_of_the_pairs_that_changed():
    before = [False] * 8 + [True] * 2 + [True] * 30 + [False] * 10
    after = [True] * 8 + [False] * 2 + [True] * 30 + [False] * 10
    # 10 changed, 2 of them lost: 2 (1 + 10 + 45) / 2^10
    assert mcnemar(before, after) == pytest.approx(2 * 56 / 1024)
    assert mcnemar(after, before) == pytest.approx(2 * 56 / 1024)
    assert mcnemar(before, before) == 1.0


def test_the_gain_is_paired_so_that_starts_which_differ_in_difficulty_do_not_widen_it():
    hard = np.tile([0.0, 1.0], 100)[:, None]
    same = paired_gain(hard, hard)
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)


def test_the_interval_is_that_of_a_mean_of_differences():
    random = np.random.default_rng(0)
    before = (random.random((400, 1)) < 0.4).astype(float)
    after = (random.random((400, 1)) < 0.6).astype(float)
    gain = paired_gain(before, after)
    difference = (after - before)[:, 0]
    error = 1.96 * difference.std() / np.sqrt(400)
    assert gain.mean == pytest.approx(difference.mean())
    assert gain.low == pytest.approx(gain.mean - error, abs=0.01)
    assert gain.high == pytest.approx(gain.mean + error, abs=0.01)


def test_seeds_that_disagree_widen_it():
    before = np.zeros((200, 1))
    agree, disagree = np.full((200, 3), 0.5), np.tile([0.0, 0.5, 1.0], (200, 1))
    assert paired_gain(before, agree).high - paired_gain(before, agree).low == 0
    wide = paired_gain(before, disagree)
    assert wide.mean == 0.5
    assert wide.high - wide.low > 0.5


def test_other_starts_are_refused():
    with pytest.raises(ValueError, match="same starts, got 2 and 3"):
        paired_gain(np.zeros((2, 1)), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="same episodes"):
        mcnemar([True], [True, False])
