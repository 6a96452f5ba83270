"""The reward-robustness benchmark: a learner under a useful and a useless reward, and the grid of what can exist."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def robustness():
    path = Path(__file__).parents[2] / "benchmarks" / "reward_robustness.py"
    spec = importlib.util.spec_from_file_location("reward_robustness_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_a_learner_needs_a_reward_that_can_tell(robustness):
    args = robustness.Args(updates=150)
    good, useless = robustness.Cell(1.0, 1.0, 0.0), robustness.Cell(0.5, 0.16, 0.5)
    found = robustness.study(lambda cell, seed: robustness.train(cell, seed, args), [good, useless], range(4))
    assert found[0]["mean"] > 0.9
    assert found[1]["mean"] < 0.6
    assert len(found[0]["outcomes"]) == 4
    assert found[0]["low"] <= found[0]["mean"] <= found[0]["high"]


def test_the_grid_leaves_out_what_cannot_exist(robustness):
    cells = robustness.grid([0.5, 1.0], [0.3, 0.6, 0.9], successes=0.5)
    assert {(cell.recall, cell.precision) for cell in cells} == {(0.5, 0.6), (0.5, 0.9), (1.0, 0.6), (1.0, 0.9)}
    with pytest.raises(ValueError, match="successes in"):
        robustness.grid([0.5], [0.5], successes=1.0)


def test_verdicts_have_the_rates_asked_for(robustness):
    rng = np.random.default_rng(0)
    truth = rng.random(40_000) < 0.3
    called = robustness.degrade(truth, 0.8, 0.1, rng)
    assert called[truth].mean() == pytest.approx(0.8, abs=0.01)
    assert called[~truth].mean() == pytest.approx(0.1, abs=0.01)
    assert (called & truth).sum() / called.sum() == pytest.approx(robustness.precision_of(0.8, 0.1, 0.3), abs=0.01)
    with pytest.raises(ValueError, match=r"recall must be in \[0, 1\], got 1.5"):
        robustness.degrade(truth, 1.5, 0.0, rng)


@pytest.mark.parametrize("recall", [0.2, 0.9, 1.0])
@pytest.mark.parametrize("precision", [0.5, 0.8, 1.0])
def test_precision_and_rate_are_two_names_of_one_judge(robustness, recall, precision):
    rate = robustness.false_positive_rate(recall, precision, successes=0.4)
    assert robustness.precision_of(recall, rate, 0.4) == pytest.approx(precision)


def test_a_precision_out_of_reach(robustness):
    with pytest.raises(ValueError, match=r"precision of at least 0\.900, asked for 0\.5"):
        robustness.false_positive_rate(1.0, 0.5, 0.9)
    with pytest.raises(ValueError, match="precision in"):
        robustness.false_positive_rate(1.0, 0.0, 0.5)
