"""The single env: the vector env of one, as Gymnasium's checker wants it."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import RecordEpisodeStatistics

from prophet_gym.envs import OneActionPerStep, ProphetEnv, ProphetVectorEnv
from prophet_gym.errors import InvalidActionError
from prophet_gym.rewards import FunctionReward
from prophet_gym.testing import CountingWorldModel, assert_same, counting_starts

CHUNK = 4


def make_single(*, at_the_end: bool = False, render_mode: str | None = None) -> ProphetEnv:
    reward_model = FunctionReward(lambda *_: 1.0, when="end") if at_the_end else None
    model = CountingWorldModel(chunk=CHUNK)
    return ProphetEnv(model, counting_starts(), reward_model=reward_model, render_mode=render_mode)


def make_vector(num_envs: int, max_episode_steps: int | None = None) -> ProphetVectorEnv:
    model = CountingWorldModel(chunk=CHUNK)
    return ProphetVectorEnv(model, counting_starts(), num_envs, max_episode_steps=max_episode_steps)


@pytest.fixture
def counting_id():
    name = "Counting-v0"
    gym.register(name, entry_point=make_single, vector_entry_point=make_vector, max_episode_steps=3)
    yield name
    del gym.registry[name]


def still(env: gym.Env) -> np.ndarray:
    return np.zeros(env.action_space.shape, np.float32)


def test_passes_gymnasiums_checker_without_a_warning(counting_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(counting_id, render_mode="rgb_array").unwrapped)


def test_make_truncates_at_the_registered_horizon(counting_id):
    env = gym.make(counting_id)
    env.reset(seed=0)
    assert [env.step(still(env))[3] for _ in range(3)] == [False, False, True]


def test_make_can_change_the_horizon(counting_id):
    env = gym.make(counting_id, max_episode_steps=2)
    env.reset(seed=0)
    assert [env.step(still(env))[3] for _ in range(2)] == [False, True]


def test_a_reward_model_of_whole_episodes_is_asked_at_the_horizon_of_make(counting_id):
    env = gym.make(counting_id, at_the_end=True)
    env.reset(seed=0)
    results = [env.step(still(env)) for _ in range(3)]
    assert [result[1] for result in results] == [0.0, 0.0, 1.0]
    assert [result[2] for result in results] == [False, False, True]


def test_a_reward_model_of_whole_episodes_must_know_when_they_end():
    with pytest.raises(ValueError, match="pass max_episode_steps"):
        make_single(at_the_end=True).reset(seed=0)


def test_an_episode_that_ends_before_a_reward_model_of_whole_episodes_is_asked_is_told(counting_id):
    env = gym.make(counting_id, at_the_end=True, max_episode_steps=2)
    env.reset(seed=0)
    results = [env.step(still(env)) for _ in range(2)]
    assert (results[1][3], results[1][4]["scored"]) == (True, False)
    with pytest.warns(UserWarning, match=r"left unscored after 2 chunks.*after the 3 that the id is registered with"):
        env.reset(seed=0)
    whole = gym.make(counting_id, at_the_end=True)
    for _ in range(2):
        whole.reset(seed=0)
        assert [whole.step(still(whole))[2] for _ in range(3)] == [False, False, True]


def test_make_vec_hands_the_horizon_over(counting_id):
    envs = gym.make_vec(counting_id, num_envs=2)
    assert isinstance(envs, ProphetVectorEnv)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    envs.reset(seed=0)
    zeros = np.zeros(envs.action_space.shape, np.float32)
    assert [envs.step(zeros)[3].tolist() for _ in range(3)][-1] == [True, True]


def test_the_same_seed_and_actions_give_the_same_episode():
    rng = np.random.default_rng(0)
    one, other = make_single(), make_single()
    first, second = one.reset(seed=7), other.reset(seed=7)
    np.testing.assert_array_equal(first[0]["image"], second[0]["image"])
    for _ in range(3):
        action = rng.uniform(-1, 1, one.action_space.shape)
        np.testing.assert_array_equal(one.step(action)[4]["frames"], other.step(action)[4]["frames"])
    third = make_single()
    third.reset(seed=8, options={"start": 0}), one.reset(seed=7, options={"start": 0})
    assert (third.step(still(one))[4]["frames"] != one.step(still(one))[4]["frames"]).any()


def test_starts_and_noise_come_from_np_random():
    one, other = make_single(), make_single()
    one.reset(seed=3), other.reset(seed=99)
    one.np_random, other.np_random = np.random.default_rng(5), np.random.default_rng(5)
    one.reset(), other.reset()
    np.testing.assert_array_equal(one.step(still(one))[4]["frames"], other.step(still(other))[4]["frames"])


@pytest.mark.parametrize("wrong", [{"options": {"tsk": 1}}, {"seed": -1}, {"seed": 8, "options": {"task": 9}}])
def test_a_refused_reset_changes_nothing(wrong):
    env, untouched = make_single(), make_single()
    for each in (env, untouched):
        each.reset(seed=0)
        each.step(still(each))
    with pytest.raises(ValueError, match=r"unknown|seed"):
        env.reset(**wrong)
    assert env.np_random_seed == untouched.np_random_seed == 0
    assert_same(env.step(still(env)), untouched.step(still(untouched)))
    assert_same([env.reset(), env.step(still(env))], [untouched.reset(), untouched.step(still(untouched))])


def test_info_holds_plain_values():
    env = make_single()
    _, info = env.reset(seed=0, options={"task": 1, "start": 2})
    assert info == {
        "instruction": "count task 1",
        "suite": "counting",
        "task": 1,
        "start": 2,
        "split": "train",
    }
    info = env.step(still(env))[4]
    assert type(info["success"]) is bool
    assert type(info["executed"]) is int
    assert info["frames"].shape == (CHUNK, 8, 8, 3)


def test_a_bad_action_leaves_the_env_usable():
    env, untouched = make_single(), make_single()
    env.reset(seed=0), untouched.reset(seed=0)
    with pytest.raises(InvalidActionError, match=r"shape \(4, 7\)"):
        env.step(np.zeros(7, np.float32))
    with pytest.raises(InvalidActionError, match="finite"):
        env.step(np.full((CHUNK, 7), np.nan))
    np.testing.assert_array_equal(env.step(still(env))[4]["frames"], untouched.step(still(env))[4]["frames"])


def test_render_list_gives_every_frame_once():
    env = make_single(render_mode="rgb_array_list")
    env.reset(seed=0, options={"start": 0})
    env.step(still(env))
    assert [int(frame[0, 0, 0]) for frame in env.render()] == [0, 1, 2, 3, 4]
    assert env.render() == []


def test_episode_statistics_wrapper(counting_id):
    env = RecordEpisodeStatistics(gym.make(counting_id, at_the_end=True))
    env.reset(seed=0)
    info = [env.step(still(env)) for _ in range(3)][-1][4]
    assert info["episode"]["r"] == 1.0
    assert info["episode"]["l"] == 3


class TestOneActionPerStep:
    def test_runs_the_chunk_with_its_last_action_and_holds_the_frame_until_then(self):
        env, chunked = OneActionPerStep(make_single()), make_single()
        env.reset(seed=0, options={"start": 0}), chunked.reset(seed=0, options={"start": 0})
        actions = np.linspace(-1, 1, CHUNK * 7, dtype=np.float32).reshape(CHUNK, 7)
        for number, action in enumerate(actions[:-1], 1):
            image, reward, terminated, truncated, info = env.step(action)
            assert (image["image"] == 0).all()
            assert info["pending"] == number
            assert (reward, terminated, truncated) == (0.0, False, False)
        image, *_, info = env.step(actions[-1])
        expected = chunked.step(actions)
        np.testing.assert_array_equal(image["image"], expected[0]["image"])
        np.testing.assert_array_equal(info["frames"], expected[4]["frames"])

    def test_reset_drops_waiting_actions(self):
        env = OneActionPerStep(make_single())
        env.reset(seed=0)
        env.step(np.zeros(7, np.float32))
        assert env.reset()[1]["pending"] == 0
        assert env.step(np.zeros(7, np.float32))[4]["pending"] == 1

    def test_a_bad_action_does_not_enter_the_chunk(self):
        env = OneActionPerStep(make_single())
        env.reset(seed=0)
        with pytest.raises(InvalidActionError, match="finite"):
            env.step(np.full(7, np.nan))
        assert env.step(np.zeros(7, np.float32))[4]["pending"] == 1

    def test_passes_gymnasiums_checker(self, counting_id):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
            check_env(OneActionPerStep(gym.make(counting_id)), skip_render_check=True)

    def test_stepping_before_reset(self):
        with pytest.raises(gym.error.ResetNeeded):
            OneActionPerStep(make_single()).step(np.zeros(7, np.float32))
