"""Statistics of rankings: against scipy, by hand, and words in place of numbers that do not exist."""

import json

import numpy as np
import pytest
from scipy import stats

from prophet_gym.estimates import wilson
from prophet_gym.evaluation import rank
from prophet_gym.evaluation._ranking import bias, mmrv, pearson, spearman

NAN = float("nan")


def outcomes(rates: list[float], episodes: int = 20) -> np.ndarray:
    """The first of a policy's episodes succeed."""
    return np.stack([(np.arange(episodes) < rate * episodes).astype(float) for rate in rates])


def found(dream: np.ndarray, simulator: np.ndarray, **more):
    names = [f"policy {number}" for number in range(len(dream))]
    return rank(dream, simulator, names, [number % 2 for number in range(dream.shape[1])], **more)


def test_correlations_are_those_of_scipy_ties_included():
    random = np.random.default_rng(0)
    dream, simulator = random.integers(0, 6, (2, 30, 7)) / 5
    for line in range(30):
        one, other = dream[line], simulator[line]
        assert pearson(dream, simulator)[line] == pytest.approx(stats.pearsonr(one, other)[0])
        assert spearman(dream, simulator)[line] == pytest.approx(stats.spearmanr(one, other)[0])


def test_a_constant_has_no_correlation_whatever_its_rounding():
    third = np.full((1, 7), 0.1 + 0.2)
    assert np.isnan(pearson(third, np.arange(7.0)[None])).all()
    assert np.isnan(spearman(np.arange(7.0)[None], third)).all()


@pytest.mark.parametrize(
    ("dream", "simulator", "expected"),
    [
        ([0.1, 0.5, 0.9], [0.2, 0.3, 0.4], 0.0),
        # The first two change places: each violates by 0.1, the third by nothing.
        ([0.5, 0.1, 0.9], [0.2, 0.3, 0.4], 0.2 / 3),
        # All change places: 0.2, 0.1 and 0.2.
        ([0.9, 0.5, 0.1], [0.2, 0.3, 0.4], 0.5 / 3),
        # A tie in the dream violates where the simulator says greater, so for the second alone.
        ([0.5, 0.5, 0.9], [0.2, 0.3, 0.4], 0.1 / 3),
    ],
)
def test_rank_violations_by_hand(dream, simulator, expected):
    assert mmrv(np.array([dream]), np.array([simulator]))[0] == pytest.approx(expected)


def test_bias_is_signed():
    assert bias(np.array([[0.5, 0.2]]), np.array([[0.6, 0.5]]))[0] == pytest.approx(-0.2)


def test_a_dream_that_says_the_same_ranks_perfectly():
    table = outcomes([0.1, 0.4, 0.6, 0.9])
    report = found(table, table)
    assert report["pearson"]["mean"] == report["spearman"]["mean"] == report["pearson"]["low"] == 1.0
    assert report["mmrv"]["mean"] == report["mmrv"]["high"] == report["bias"]["high"] == 0.0
    first = report["policies"][0]
    assert (first["both"], first["neither"], first["only_dream"], first["only_simulator"]) == (2, 18, 0, 0)
    assert (first["dream"]["low"], first["dream"]["high"]) == pytest.approx(wilson(2, 20).interval, abs=1e-6)
    assert abs(report["permuted"]["mean"]) < 0.05
    assert report["permuted"]["low"] < -0.5 < 0.5 < report["permuted"]["high"]
    json.dumps(report, allow_nan=False)


def test_the_interval_of_a_correlation_is_wider_with_fewer_policies():
    rates = [0.1, 0.3, 0.5, 0.7, 0.9, 0.2, 0.4, 0.6, 0.8, 0.35, 0.55, 0.75]
    noisy = [rate + 0.1 * (-1) ** number for number, rate in enumerate(rates)]
    wide, narrow = (found(outcomes(noisy[:n]), outcomes(rates[:n]))["pearson"] for n in (5, 12))
    assert wide["high"] - wide["low"] > narrow["high"] - narrow["low"] > 0


def test_agreement_is_counted_start_by_start():
    dream = np.array([[1.0, 1.0, 0.0, 0.0, NAN, NAN]])
    simulator = np.array([[1.0, 0.0, 1.0, 0.0, 1.0, 0.0]])
    report = found(dream, simulator)
    policy, (first, second) = report["policies"][0], report["by_task"]
    assert (policy["both"], policy["neither"], policy["only_dream"], policy["only_simulator"]) == (1, 1, 1, 1)
    assert policy["unscored"] == 2
    assert (policy["dream"]["mean"], policy["dream"]["episodes"]) == (0.5, 4)
    assert (policy["simulator"]["mean"], policy["simulator"]["episodes"]) == (0.5, 6)
    assert policy["bias"]["mean"] == 0.0
    assert (first["name"], first["both"], first["only_simulator"], first["bias"]["mean"]) == ("task 0", 1, 1, -0.5)
    assert (second["name"], second["neither"], second["only_dream"], second["bias"]["mean"]) == ("task 1", 1, 1, 0.5)


@pytest.mark.parametrize(
    ("dream", "simulator", "why"),
    [
        ([1, 1, 1, 1], [0.1, 0.5, 0.6, 0.7], "all policies succeed in the dream"),
        ([0.1, 0.5, 0.6, 0.7], [0, 0, 0, 0], "all policies fail in the simulator"),
        ([0.5, 0.5, 0.5, 0.5], [0.1, 0.5, 0.6, 0.7], "all policies succeed equally often (50%) in the dream"),
        ([0.1, 0.5, 0.6], [0.1, 0.5, 0.6], "ranks need at least 4 policies, got 3"),
    ],
)
def test_what_is_undefined_is_said_in_words(dream, simulator, why):
    report = found(outcomes(dream), outcomes(simulator))
    for name in ("pearson", "spearman", "mmrv", "permuted"):
        assert report[name] == {"mean": None, "low": None, "high": None, "why": why}
    assert report["bias"]["mean"] == pytest.approx(np.mean(dream) - np.mean(simulator))


def test_a_policy_that_was_never_scored_leaves_nothing_to_rank():
    dream = outcomes([0.1, 0.4, 0.6, 0.9])
    dream[2] = NAN
    report = found(dream, outcomes([0.1, 0.4, 0.6, 0.9]))
    assert report["pearson"]["why"] == report["bias"]["why"] == "a policy has no scored episode in the dream"
    assert report["policies"][2]["dream"]["mean"] is None
    assert report["policies"][2]["unscored"] == 20
    json.dumps(report, allow_nan=False)


def test_the_control_is_compared_with_the_simulator():
    table, nothing = outcomes([0.1, 0.4, 0.6, 0.9]), np.zeros((4, 20))
    assert found(table, table)["control"] is None
    report = found(table, table, control=nothing)["control"]
    assert report["pearson"]["why"] == "all policies fail in the dream"
    assert [each["dream"]["mean"] for each in report["policies"]] == [0.0] * 4
    assert found(table, table, control=table[::-1])["control"]["pearson"]["mean"] == pytest.approx(-1, abs=0.05)


def test_tables_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"each table must be policies x episodes \(4, 20\)"):
        found(outcomes([0.1] * 4), outcomes([0.1] * 3))
