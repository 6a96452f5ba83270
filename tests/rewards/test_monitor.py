"""The monitor: quiet while the judge is right, warns or stops once it is beyond doubt that it is not."""

import warnings

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from prophet_gym.envs import ProphetVectorEnv
from prophet_gym.errors import RewardCollapseError
from prophet_gym.rewards import FunctionReward, PrecisionMonitor
from prophet_gym.testing import CountingWorldModel, counting_starts


def outputs(called: int, right: int, missed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    says = np.array([True] * called + [False] * missed, bool)
    truth = np.array([True] * right + [False] * (called - right) + [True] * missed, bool)
    return says, truth


def test_it_is_quiet_where_precision_holds_or_is_in_doubt():
    monitor = PrecisionMonitor(floor=0.7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reading = monitor.update(1, *outputs(20, 18, missed=6))
        assert (reading.precision.mean, reading.recall.mean) == (0.9, 0.75)
        # 1 of 3 is below the floor, but three verdicts prove nothing
        assert not PrecisionMonitor(floor=0.7).update(1, *outputs(3, 1)).collapsed
        assert np.isnan(PrecisionMonitor().update(1, *outputs(0, 0)).precision.mean)


def test_it_warns_and_stops_on_collapse():
    with pytest.warns(RuntimeWarning, match=r"at update 300 is 0\.40 .* below the floor of 0\.7"):
        reading = PrecisionMonitor(floor=0.7).update(300, *outputs(50, 20))
    assert reading.collapsed
    strict = PrecisionMonitor(floor=0.7, stop=True)
    with pytest.raises(RewardCollapseError, match="Go back to an earlier checkpoint"):
        strict.update(300, *outputs(50, 20))
    assert strict.readings[-1].collapsed


def test_the_past_is_forgotten():
    monitor = PrecisionMonitor(floor=0.6, window=40)
    for update in range(3):
        monitor.update(update, *outputs(40, 40))
    with pytest.warns(RuntimeWarning, match="collapse|below the floor"):
        assert monitor.update(3, *outputs(40, 10)).precision.mean == 0.25


def dreams(reward_model: FunctionReward, **kwargs) -> ProphetVectorEnv:
    kwargs = {"max_episode_steps": 3, "autoreset_mode": AutoresetMode.DISABLED, **kwargs}
    return ProphetVectorEnv(
        CountingWorldModel(chunk=2, noise=False), counting_starts(), 4, reward_model=reward_model, **kwargs
    )


def test_it_watches_a_policy_dream_and_asks_what_its_actions_really_led_to():
    def generous(video, text):
        """Done when 100 was added to green, what the first number commands; task 1 is never judged."""
        return None if text.endswith("1") else float(video[-1, 0, 0, 1] >= 100)

    def act(observation, info):
        actions = np.zeros((4, 2, 7), np.float32)
        actions[0, :, 0], actions[2, :, 0] = 0.5, 0.25
        return actions

    asked = []

    def truth(tasks, starts, chunks, lengths):
        asked.append((tasks, starts, chunks.shape, lengths))
        return [False, True, True, True]

    monitor = PrecisionMonitor()
    reading = monitor.watch(
        5, dreams(FunctionReward(generous, max_frames=1)), act, truth, options={"task": [0, 1, 0, 0], "start": 0}
    )
    assert asked == [([0, 1, 0, 0], [0] * 4, (4, 3, 2, 7), [1, 3, 2, 3])]
    assert (reading.update, reading.precision.mean, reading.precision.episodes) == (5, 0.5, 2)
    assert (reading.recall.mean, reading.recall.episodes) == (0.5, 2)
    with pytest.raises(ValueError, match="need autoreset DISABLED and a horizon"):
        monitor.watch(6, dreams(FunctionReward(generous), max_episode_steps=None), act, truth)


def test_bad_arguments():
    with pytest.raises(ValueError, match="floor must be between 0 and 1"):
        PrecisionMonitor(floor=1.0)
    monitor = PrecisionMonitor()
    assert monitor.update(2, np.ones(1, bool), np.ones(1, bool)).precision.episodes == 1
