"""The reward's precision is watched where its dreams can be replayed in an env that tells the truth."""

import math
from collections import deque

import pytest

from prophet_gym.errors import RewardCollapseError
from prophrl_algos.cli import _train as train
from prophrl_algos.cli._train import precision_metrics


def watched(dream, tiny, reward_model, *, truth_level, **how):
    envs = (dream(4, reward_model=reward_model(level=level), max_episode_steps=2) for level in (0, truth_level))
    dreams, truth = envs
    return precision_metrics(tiny(), dreams, truth, seed=10**6, **how)


def test_a_reward_that_is_right_has_precision_one(dream, tiny, reward_model):
    measure = watched(dream, tiny, reward_model, truth_level=0)
    found = measure(1)
    assert found["reward_precision"] == found["reward_recall"] == 1
    assert found["reward_precision_low"] < found["reward_precision_high"] == 1


def test_one_that_pays_what_never_succeeds_is_warned_of_or_stops_the_run(dream, tiny, reward_model):
    measure = watched(dream, tiny, reward_model, truth_level=200)
    with pytest.warns(RuntimeWarning, match="below the floor of 0.7"):
        found = [measure(update) for update in range(4)][-1]
    assert found["reward_precision"] == 0
    assert math.isnan(found["reward_recall"])
    stopping = watched(dream, tiny, reward_model, truth_level=200, stop=True)
    with pytest.raises(RewardCollapseError, match=r"below the floor of 0\.7"):
        deque(map(stopping, range(8)), maxlen=0)


def test_it_needs_evaluations(tmp_path):
    with pytest.raises(ValueError, match="give --evaluate-every too"):
        train.main(train.Args(policy="benchmarks.toys:tiny", out=tmp_path / "run", truth_env="LIBERO-Object-v0"))
