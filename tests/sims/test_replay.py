"""Replays: the same start and commands in an env whose reward is the truth."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from prophet_gym.envs import ProphetVectorEnv
from prophet_gym.rewards import FunctionReward
from prophet_gym.sims.env import true_outcomes
from prophet_gym.testing import CountingWorldModel, counting_starts


def world(rows: int, mode=AutoresetMode.DISABLED) -> ProphetVectorEnv:
    """Done once the sum of the first commands, which is the green that was added, is above 1."""
    starts = counting_starts()  # the first is black
    reward_model = FunctionReward(lambda video, text: float(video[-1, 0, 0, 1] >= 100), max_frames=2)
    model = CountingWorldModel(chunk=2, noise=False)
    return ProphetVectorEnv(model, starts, rows, reward_model=reward_model, max_episode_steps=None, autoreset_mode=mode)


def test_outcomes_are_those_of_the_commands_from_the_named_starts():
    chunks = np.zeros((3, 4, 2, 7), np.float32)
    chunks[0, 2, 1, 0] = 1.0
    chunks[1, 0, 0, 0] = 1.0
    chunks[1, 1, 0, 0] = -1.0
    start = counting_starts()[0]
    found = true_outcomes(world(3), [start.task] * 3, [start.index] * 3, chunks)
    assert found.tolist() == [True, True, False]
    found = true_outcomes(world(3), [start.task] * 3, [start.index] * 3, chunks, lengths=[2, 1, 4])
    assert found.tolist() == [False, True, False]


def test_the_env_must_not_reset_by_itself():
    with pytest.raises(ValueError, match="autoreset DISABLED"):
        true_outcomes(world(3, AutoresetMode.NEXT_STEP), [0] * 3, [0] * 3, np.zeros((3, 1, 2, 7), np.float32))
    with pytest.raises(ValueError, match="must have 2 sub-environments"):
        true_outcomes(world(3), [0] * 2, [0] * 2, np.zeros((2, 1, 2, 7), np.float32))
