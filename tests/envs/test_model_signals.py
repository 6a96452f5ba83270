"""What a world model says of itself: its uncertainty, which can end an episode, and where its gripper is."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from prophet_gym.envs import (
    OneActionPerStep,
    ProphetEnv,
    ProphetVectorEnv,
    sub_env_info,
)
from prophet_gym.rewards import FunctionReward
from prophet_gym.testing import CountingWorldModel, counting_starts
from prophet_gym.world_model import Chunk

CHUNK = 4


def single(model: Any = None, **kwargs: Any) -> ProphetEnv:
    return ProphetEnv(model or CountingWorldModel(chunk=CHUNK), counting_starts(), **kwargs)


def vector(num_envs: int = 3, model: Any = None, **kwargs: Any) -> ProphetVectorEnv:
    return ProphetVectorEnv(model or CountingWorldModel(chunk=CHUNK), counting_starts(), num_envs, **kwargs)


def still(env: Any) -> np.ndarray:
    return np.zeros(env.action_space.shape, np.float32)


class Outspoken(CountingWorldModel):
    """Doubts as much as the first number of the first action, and tracks its gripper."""

    def rollout(self, state, actions, *, generators):
        chunk = super().rollout(state, actions, generators=generators)
        return Chunk(chunk.state, chunk.frames, actions[:, 0, 0])

    def read_gripper(self, state):
        return state["raised"].float() / 100


class TestDoubt:
    def test_a_single_episode_is_truncated(self):
        env = single(Outspoken(chunk=CHUNK), max_uncertainty=0.5)
        env.reset(seed=0)
        actions = still(env)
        actions[0, 0] = 0.5
        *_, truncated, info = env.step(actions)
        assert (truncated, info["uncertainty"]) == (False, 0.5)
        actions[0, 0] = 0.75
        *_, truncated, info = env.step(actions)
        assert (truncated, info["uncertainty"]) == (True, 0.75)

    def test_an_uncertainty_that_is_no_number_is_no_certainty(self):
        class Lost(CountingWorldModel):
            def rollout(self, state, actions, *, generators):
                chunk = super().rollout(state, actions, generators=generators)
                return Chunk(chunk.state, chunk.frames, torch.full((len(actions),), torch.nan))

        env = single(Lost(chunk=CHUNK), max_uncertainty=0.5)
        envs = vector(model=Lost(chunk=CHUNK), max_uncertainty=0.5)
        env.reset(seed=0), envs.reset(seed=0)
        assert env.step(still(env))[3]
        assert envs.step(still(envs))[3].all()

    def test_an_uncertain_episode_is_truncated_unscored_and_restarts(self):
        reward_model = FunctionReward(lambda *_: 1.0, when="end")
        envs = vector(
            model=Outspoken(chunk=CHUNK),
            max_uncertainty=0.5,
            reward_model=reward_model,
            max_episode_steps=2,
            autoreset_mode="SameStep",
        )
        envs.reset(seed=0)
        actions = still(envs)
        actions[1, 0, 0] = 0.75
        _, rewards, terminated, truncated, infos = envs.step(actions)
        assert truncated.tolist() == [False, True, False]
        assert not terminated.any()
        assert rewards.tolist() == [0.0, 0.0, 0.0]
        assert sub_env_info(infos, 1)["final_info"]["scored"] is False
        assert sub_env_info(infos, 1)["final_info"]["uncertainty"] == 0.75
        assert "executed" not in sub_env_info(infos, 1)
        assert envs.step(still(envs))[2].tolist() == [True, False, True]

    def test_actions_that_wait_and_ended_episodes_have_none(self):
        env = OneActionPerStep(single(Outspoken(chunk=CHUNK), max_episode_steps=1, max_uncertainty=0.5))
        env.reset(seed=0)
        steps = [env.step(np.zeros(7, np.float32))[3:] for _ in range(2 * CHUNK)]
        assert [truncated for truncated, _ in steps] == [False] * (CHUNK - 1) + [True] + [False] * CHUNK
        assert ["uncertainty" in info for _, info in steps] == [False] * (CHUNK - 1) + [True] + [False] * CHUNK

    def test_bad_thresholds_and_models_without_uncertainty(self):
        for bad in (-1.0, float("nan")):
            with pytest.raises(ValueError, match="at least 0"):
                single(max_uncertainty=bad)
            with pytest.raises(ValueError, match="at least 0"):
                vector(max_uncertainty=bad)
        envs = vector(max_uncertainty=0.5)
        envs.reset(seed=0)
        with pytest.raises(ValueError, match="gave None; leave it out"):
            envs.step(still(envs))


class TestProprioception:
    @pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
    def test_is_where_the_models_own_tracker_has_the_gripper(self, mode):
        envs = vector(2, Outspoken(chunk=CHUNK), proprioception=True, max_episode_steps=2, autoreset_mode=mode)
        observation, _ = envs.reset(seed=0)
        assert observation["gripper_position"].tolist() == [[0.0] * 3] * 2
        observation = envs.step(still(envs))[0]
        np.testing.assert_allclose(observation["gripper_position"][:, 0], CHUNK / 100, rtol=1e-6)
        assert envs.observation_space.contains(observation)
        observation, *_, infos = envs.step(still(envs))
        if mode == AutoresetMode.SAME_STEP:
            final = infos["final_obs"][1]["gripper_position"]
            np.testing.assert_allclose(final[0], 2 * CHUNK / 100, rtol=1e-6)
            assert observation["gripper_position"][:, 0].tolist() == [0.0, 0.0]

    def test_off_unless_asked_and_only_with_a_tracker(self):
        assert set(vector(2, Outspoken(chunk=CHUNK)).single_observation_space.spaces) == {"image"}
        env = single(Outspoken(chunk=CHUNK), proprioception=True)
        assert env.observation_space.contains(env.reset(seed=0)[0])
        with pytest.raises(ValueError, match="CountingWorldModel does not"):
            vector(proprioception=True)
