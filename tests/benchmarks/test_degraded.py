"""A reward made wrong on purpose errs as often as it was told to, and nowhere else."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from benchmarks.reward_robustness import DegradedOracle
from prophet_gym.envs import ProphetTorchVectorEnv, ProphetVectorEnv
from prophet_gym.rewards import FunctionReward
from prophet_gym.testing import CountingWorldModel, counting_starts


def dreams(rows: int, reward_model=None, mode=AutoresetMode.DISABLED) -> gym.vector.VectorEnv:
    """Three steps each; a row succeeds when its noise, which is the blue of the last frame, is large."""
    reward_model = reward_model or FunctionReward(lambda video, text: float(video[-1, 0, 0, 2] >= 200))
    return ProphetVectorEnv(
        CountingWorldModel(chunk=4),
        counting_starts(),
        rows,
        reward_model=reward_model,
        max_episode_steps=3,
        autoreset_mode=mode,
    )


def rollout(env) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    env.reset(seed=3)
    paid, truth, ends = np.zeros(env.num_envs), np.zeros(env.num_envs, bool), np.zeros(env.num_envs, int)
    for _ in range(4):
        _, rewards, terminated, truncated, info = env.step(np.zeros(env.action_space.shape, np.float32))
        paid += rewards
        truth |= info.get("true_success", rewards >= 1)
        ends += terminated | truncated
        assert (info["success"] == (rewards >= 1)).all()
    return paid, truth, ends


def test_only_ends_are_paid_and_a_perfect_judge_changes_nothing():
    plain, truth, ends = rollout(dreams(6))
    perfect, seen, _ = rollout(DegradedOracle(dreams(6), recall=1.0, false_positive_rate=0.0))
    assert (ends == 1).all()
    assert 0 < plain.sum() < 6
    assert np.array_equal(plain, perfect)
    assert np.array_equal(truth, seen)
    inverted, _, _ = rollout(DegradedOracle(dreams(6), recall=0.0, false_positive_rate=1.0))
    assert np.array_equal(inverted, 1.0 - plain)


def test_rows_that_restart_in_the_same_step_are_paid_and_nobody_is_told_the_truth():
    plain, scored = (dreams(6, mode=AutoresetMode.SAME_STEP) for _ in range(2))
    perfect = DegradedOracle(scored, recall=1.0, false_positive_rate=0.0)
    plain.reset(seed=3), perfect.reset(seed=3)
    wrong = DegradedOracle(dreams(6, mode=AutoresetMode.SAME_STEP), recall=0.0, false_positive_rate=1.0)
    wrong.reset(seed=3)
    paid = 0.0
    for _ in range(6):
        still = np.zeros(plain.action_space.shape, np.float32)
        expected, found, opposite = plain.step(still), perfect.step(still), wrong.step(still)
        assert np.array_equal(expected[1], found[1])
        ended = expected[2] | expected[3]
        assert np.array_equal(opposite[1], np.where(ended, 1.0 - expected[1], 0.0))
        if ended.any():
            assert np.array_equal(opposite[4]["final_info"]["success"], opposite[1] >= 1)
            assert np.array_equal(opposite[4]["true_success"], expected[1] >= 1)
        paid += expected[1].sum()
    assert paid > 0


@pytest.mark.parametrize("seed", [9, [9, 10]])
def test_every_form_of_a_seed_restarts_the_errors(seed):
    env = DegradedOracle(dreams(2), recall=0.5, false_positive_rate=0.5)
    runs = []
    for _ in range(2):
        env.reset(seed=seed)
        runs.append([env.step(np.zeros(env.action_space.shape, np.float32))[1].tolist() for _ in range(3)])
        runs[-1].append(env._rng.random())
    assert runs[0] == runs[1]


def test_errors_are_a_function_of_the_seed():
    def once(seed):
        env = DegradedOracle(dreams(32), recall=0.5, false_positive_rate=0.5, seed=seed)
        env.reset(seed=9)
        steps = [env.step(np.zeros(env.action_space.shape, np.float32))[1] for _ in range(3)]
        return np.stack(steps)

    assert np.array_equal(once(0), once(1))  # reset(seed=9) restarts them
    assert 4 < once(0).sum() < 28


def test_rows_that_were_not_judged_are_not_paid():
    env = DegradedOracle(dreams(4, FunctionReward(lambda video, text: None)), recall=1.0, false_positive_rate=1.0)
    paid = np.zeros(4)
    env.reset(seed=0)
    for _ in range(3):
        paid += env.step(np.zeros(env.action_space.shape, np.float32))[1]
    assert paid.tolist() == [0.0] * 4


def test_what_it_cannot_wrap():
    with pytest.raises(ValueError, match=r"recall must be in \[0, 1\], got a"):
        DegradedOracle(dreams(2), recall="a", false_positive_rate=0)
    tensors = ProphetTorchVectorEnv(CountingWorldModel(chunk=4), counting_starts(), 2)
    with pytest.raises(ValueError, match="DegradedOracle works on arrays"):
        DegradedOracle(tensors, recall=1.0, false_positive_rate=0.0)
