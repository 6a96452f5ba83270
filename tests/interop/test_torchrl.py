"""TorchRL itself rolls out the dream."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import RecordEpisodeStatistics, RescaleAction

from prophet_gym.envs import (
    OneActionPerChunkVector,
    ProphetEnv,
    ProphetVectorEnv,
    StackFrames,
    ViewedVector,
)
from prophet_gym.rewards import FunctionReward
from prophet_gym.testing import CountingWorldModel, counting_starts

pytest.importorskip("torchrl")

from torchrl.envs import GymEnv, GymWrapper, check_env_specs

from prophet_gym.interop.torchrl import torchrl_env

CHUNK = 4


def make(**kwargs: Any) -> ProphetVectorEnv:
    reward_model = FunctionReward(lambda video, text: float(text.endswith("1")))
    kwargs = {"autoreset_mode": "Disabled", "max_episode_steps": 2, "reward_model": reward_model, **kwargs}
    return ProphetVectorEnv(CountingWorldModel(chunk=CHUNK), counting_starts(per_task=1), 3, **kwargs)


def test_episodes_are_reset_when_they_end_and_only_they():
    env = torchrl_env(make())
    check_env_specs(env)
    env.set_seed(0)
    rollout = env.rollout(6, break_when_any_done=False)
    start = rollout["image"][..., 0, 0, 0].int()
    success, done = rollout["next", "success"], rollout["next", "done"].squeeze(-1)
    for row in range(3):
        age = 0
        for step in range(6):
            first = int(start[row, step]) - CHUNK * age
            assert first in {0, 40}
            assert int(rollout["next", "image"][row, step, 0, 0, 0]) == first + CHUNK * (age + 1)
            assert bool(success[row, step]) == (first == 40)
            assert bool(done[row, step]) == (first == 40 or age == 1)
            age = 0 if done[row, step] else age + 1
    assert success.any()
    assert not success.all()


def one_action(envs):
    return OneActionPerChunkVector(envs, (0, 1), (0,) * 7)


WRAPPED = {
    "one action": one_action,
    "stacked": lambda envs: ViewedVector(envs, StackFrames(2)),
    "one action and stacked": lambda envs: one_action(ViewedVector(envs, StackFrames(2))),
    "Gymnasium's statistics": RecordEpisodeStatistics,
    "Gymnasium's rescaling": lambda envs: RescaleAction(envs, np.float32(-2), np.float32(2)),
    "one action in Gymnasium's statistics": lambda envs: RecordEpisodeStatistics(one_action(envs)),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_an_env_in_wrappers_is_rolled_out_too(name):
    env = torchrl_env(WRAPPED[name](make()))
    check_env_specs(env)
    rollout = env.rollout(5, break_when_any_done=False)
    assert rollout.shape == torch.Size([3, 5])
    assert rollout["next", "done"].any(1).all()
    assert torch.equal(rollout["next", "success"], rollout["next", "terminated"].squeeze(-1))


@pytest.mark.parametrize("name", [name for name in WRAPPED if "Gymnasium" not in name])
def test_torchrls_own_wrapper_takes_ours(name):
    assert GymWrapper(WRAPPED[name](make())).rollout(2).shape[0] == 3


def test_the_single_env_and_ids(monkeypatch):
    env = GymWrapper(ProphetEnv(CountingWorldModel(chunk=CHUNK), counting_starts(), max_episode_steps=3))
    check_env_specs(env)
    assert env.rollout(10)["next", "truncated"].squeeze(-1).tolist() == [False, False, True]
    gym.register("CountingTorchRL-v0", entry_point="tests.counting:counting_env", max_episode_steps=2)
    try:
        env = GymEnv("CountingTorchRL-v0", chunk=CHUNK)
        assert env.rollout(10).shape == torch.Size([2])
    finally:
        del gym.registry["CountingTorchRL-v0"]


def test_another_autoreset_mode_is_refused():
    with pytest.raises(ValueError, match="DISABLED, got"):
        torchrl_env(make(autoreset_mode="SameStep"))
