"""The refill benchmark counts chunks and slots as it says."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from prophet_gym.envs import InitialStates
from prophet_gym.testing import CountingWorldModel, counting_starts


@pytest.fixture(scope="module")
def refill():
    path = Path(__file__).parents[2] / "benchmarks" / "refill.py"
    spec = importlib.util.spec_from_file_location("refill_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["refill_benchmark"] = module
    spec.loader.exec_module(module)
    return module


def of_lengths(*lengths: int) -> InitialStates:
    return InitialStates(replace(counting_starts()[0], instruction=str(length)) for length in lengths)


def test_lockstep_waits_for_the_slowest_row_and_refill_does_not(refill):
    queue = of_lengths(1, 3, 1, 1)
    assert refill.lockstep(CountingWorldModel(chunk=2), queue, 2, 0) == (6, 8)
    assert refill.refilled(CountingWorldModel(chunk=2), queue, 2, 0) == (6, 6)


def test_the_env_share_leaves_out_what_the_model_took(refill):
    found = refill.own_share(CountingWorldModel(chunk=2), None, counting_starts(), refill.Args(rows=2, steps=4))
    assert 0.0 < found["env_share_median"] < 1.0
    assert found["env_ms_median"] < found["step_ms_median"] + 0.1
