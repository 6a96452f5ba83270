"""Episodes that end at different times: autoreset, horizon, reward models."""

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from prophet_gym.envs import ProphetEnv, ProphetVectorEnv
from prophet_gym.rewards import FunctionReward
from prophet_gym.testing import CountingWorldModel, assert_same, counting_starts

CHUNK = 4


def make(num_envs: int = 3, **kwargs: Any) -> ProphetVectorEnv:
    model = kwargs.pop("world_model", None) or CountingWorldModel(chunk=CHUNK)
    return ProphetVectorEnv(model, kwargs.pop("starts", counting_starts()), num_envs, **kwargs)


def still(envs: ProphetVectorEnv) -> np.ndarray:
    return np.zeros(envs.action_space.shape, np.float32)


def red(image: np.ndarray) -> list[int]:
    """Red of the top left pixel of each row: start value + frames dreamt."""
    return image[..., 0, 0, 0].tolist()


def lucky(threshold: int = 40) -> FunctionReward:
    """Success when the blue noise of the latest frame is below the threshold: episodes of random length."""
    return FunctionReward(lambda video, _: float(video[-1, 0, 0, 2] < threshold))


class TestEpisodes:
    @pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
    def test_equals_gymnasium_sync_vector_env(self, mode):
        def single() -> ProphetEnv:
            model = CountingWorldModel(chunk=CHUNK)
            return ProphetEnv(model, counting_starts(), reward_model=lucky(), max_episode_steps=5)

        ours = make(4, reward_model=lucky(), max_episode_steps=5, autoreset_mode=mode)
        theirs = SyncVectorEnv([single] * 4, autoreset_mode=mode)
        assert ours.observation_space == theirs.observation_space
        assert ours.action_space == theirs.action_space
        assert_same(ours.reset(seed=11), theirs.reset(seed=11))
        rng = np.random.default_rng(1)
        endings = set()
        for step in range(40):
            actions = rng.uniform(-1, 1, ours.action_space.shape).astype(np.float32)
            found, expected = ours.step(actions), theirs.step(actions)
            assert_same(found, expected, f"step {step}")
            endings |= {(bool(a), bool(b)) for a, b in zip(found[2], found[3], strict=True)}
        assert {(True, False), (False, True)} <= endings

    def test_equals_sync_vector_env_when_ended_episodes_are_reset_by_hand(self):
        def single() -> ProphetEnv:
            model = CountingWorldModel(chunk=CHUNK)
            return ProphetEnv(model, counting_starts(), reward_model=lucky(), max_episode_steps=3)

        ours = make(4, reward_model=lucky(), max_episode_steps=3, autoreset_mode=AutoresetMode.DISABLED)
        theirs = SyncVectorEnv([single] * 4, autoreset_mode=AutoresetMode.DISABLED)
        assert_same(ours.reset(seed=2), theirs.reset(seed=2))
        rng = np.random.default_rng(2)
        for step in range(20):
            actions = rng.uniform(-1, 1, ours.action_space.shape).astype(np.float32)
            found = ours.step(actions)
            assert_same(found, theirs.step(actions), f"step {step}")
            over = found[2] | found[3]
            if over.any():
                assert_same(ours.reset(options={"reset_mask": over}), theirs.reset(options={"reset_mask": over}))

    def test_ended_episodes_rest_and_cost_nothing_when_autoreset_is_disabled(self):
        model = CountingWorldModel(chunk=CHUNK)
        early = FunctionReward(lambda video, text: float(text.endswith("1")))
        envs = make(3, world_model=model, reward_model=early, max_episode_steps=4, autoreset_mode="Disabled")
        envs.reset(seed=0, options={"task": [0, 1, 0], "start": 0})
        image, reward, terminated, truncated, info = envs.step(still(envs))
        assert terminated.tolist() == [False, True, False]
        assert reward.tolist() == [0.0, 1.0, 0.0]
        image, reward, terminated, truncated, info = envs.step(still(envs))
        assert model.batch_sizes == [3, 2]
        assert red(image["image"]) == [2 * CHUNK, 40 + CHUNK, 2 * CHUNK]
        assert not terminated.any()
        assert reward.tolist() == [0.0, 0.0, 0.0]
        assert info["live"].tolist() == [True, False, True]
        assert info["_frames"].tolist() == [True, False, True]
        assert info["executed"].tolist() == [CHUNK, 0, CHUNK]
        assert info["scored"].tolist() == [True, False, True]
        for _ in range(2):
            truncated = envs.step(still(envs))[3]
        assert truncated.tolist() == [True, False, True]
        *_, truncated, info = envs.step(still(envs))
        assert not truncated.any()
        assert not info["live"].any()
        assert "frames" not in info
        assert model.batch_sizes == [3, 2, 2, 2]

    def test_next_step_generates_nothing_for_sub_envs_that_restart(self):
        model = CountingWorldModel(chunk=CHUNK)
        early = FunctionReward(lambda video, text: float(text.endswith("1")))
        envs = make(2, world_model=model, reward_model=early)
        envs.reset(seed=0, options={"task": [0, 1]})
        envs.step(still(envs))
        *_, info = envs.step(still(envs))
        assert model.batch_sizes == [2, 1]
        assert info["live"].tolist() == [True, False]
        assert info["_frames"].tolist() == [True, False]

    def test_the_horizon_truncates_and_success_on_the_last_step_is_both(self):
        reward_model = FunctionReward(lambda video, text: float(text.endswith("1")), when="end", max_frames=2)
        envs = make(2, reward_model=reward_model, max_episode_steps=2)
        envs.reset(seed=0, options={"task": [0, 1]})
        _, reward, terminated, truncated, info = envs.step(still(envs))
        assert not (terminated | truncated).any()
        assert not info["scored"].any()
        _, reward, terminated, truncated, info = envs.step(still(envs))
        assert terminated.tolist() == [False, True]
        assert truncated.tolist() == [True, True]
        assert reward.tolist() == [0.0, 1.0]
        assert info["scored"].all()

    def test_without_a_horizon_nothing_is_truncated(self):
        envs = make(1, max_episode_steps=None)
        envs.reset(seed=0)
        assert not any(envs.step(still(envs))[3].any() for _ in range(50))

    def test_rewards_below_one_do_not_end_the_episode(self):
        envs = make(1, reward_model=FunctionReward(lambda *_: 0.5))
        envs.reset(seed=0)
        _, reward, terminated, _, info = envs.step(still(envs))
        assert reward.tolist() == [0.5]
        assert not terminated.any()
        assert info["success"].tolist() == [False]

    def test_an_unscored_episode_is_no_failure(self):
        envs = make(2, reward_model=FunctionReward(lambda _, text: None if text.endswith("1") else 0.25))
        envs.reset(seed=0, options={"task": [0, 1]})
        _, reward, _, _, info = envs.step(still(envs))
        assert reward.tolist() == [0.25, 0.0]
        assert info["scored"].tolist() == [True, False]

    @pytest.mark.parametrize(
        ("stride", "max_frames", "expected"),
        [
            (1, 1, [[4], [8], [12]]),
            (1, 3, [[2, 3, 4], [6, 7, 8], [10, 11, 12]]),
            (1, 99, [list(range(5)), list(range(9)), list(range(13))]),
            (2, 3, [[0, 2, 4], [4, 6, 8], [8, 10, 12]]),
            (3, 9, [[0, 3, 4], [0, 3, 6, 8], [0, 3, 6, 9, 12]]),
            (5, 2, [[0, 4], [5, 8], [10, 12]]),
            (5, 1, [[4], [8], [12]]),
        ],
    )
    def test_the_reward_model_sees_what_it_asked_for(self, stride, max_frames, expected):
        seen = []
        reward_model = FunctionReward(
            lambda video, _: seen.append(video[:, 0, 0, 0].tolist()), stride=stride, max_frames=max_frames
        )
        envs = make(1, reward_model=reward_model)
        envs.reset(options={"start": 0})
        for _ in range(3):
            envs.step(still(envs))
        assert seen == expected

    def test_a_new_episode_is_scored_on_its_own_frames(self):
        seen = []
        reward_model = FunctionReward(lambda video, _: seen.append(len(video)), max_frames=99)
        envs = make(1, reward_model=reward_model, max_episode_steps=2, autoreset_mode="SameStep")
        envs.reset()
        for _ in range(4):
            envs.step(still(envs))
        assert seen == [5, 9, 5, 9]
