"""Bootstrap intervals: exact where nothing varies, close to theory where something does."""

import numpy as np
import pytest

from prophet_gym.estimates import bootstrap


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
