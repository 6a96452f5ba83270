"""The bandit benchmark measures what it says."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.toys import TinyFlowPolicy

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bandit():
    spec = importlib.util.spec_from_file_location("bandit_benchmark", ROOT / "benchmarks" / "bandit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bandit_benchmark"] = module
    spec.loader.exec_module(module)
    return module


def test_the_interval_is_of_the_mean_over_seeds(bandit):
    found = bandit.interval(np.array([[0.0, 1.0], [1.0, 1.0]]))
    assert found[0]["mean"] == 0.5
    assert (found[0]["low"], found[0]["high"]) == (0.0, 1.0)
    assert found[1] == {"mean": 1.0, "low": 1.0, "high": 1.0}


def test_the_spread_of_the_gradient_is_the_predicted_one(bandit):
    found = bandit.gradient_spread(TinyFlowPolicy(bandit.SPEC), rows=512)
    spreads = {name: each["spread"] for name, each in found.items()}
    assert spreads["before"] == pytest.approx(10.7, rel=0.08)
    assert spreads["defaults"] == pytest.approx(4.1, rel=0.08)
    assert spreads["alpha 0, unclipped"] < 1.25


def test_one_step_of_fa_grpo_is_flow_grpos(bandit):
    assert bandit.identity(TinyFlowPolicy(bandit.SPEC), 3) < 1e-4


def test_the_stored_result_has_fa_grpo_at_ninety_percent_in_every_seed():
    found = json.loads((ROOT / "benchmarks" / "results" / "bandit.json").read_text())
    for name in ("FA-GRPO", "FA-GRPO + FlowScale"):
        assert min(found["curves"][name]["final"]) >= 0.9
    assert found["settings"]["seeds"] == 10
