"""Paired comparisons against known answers."""

import numpy as np
import pytest

from prophrl_algos.paired import mcnemar, paired_gain


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
