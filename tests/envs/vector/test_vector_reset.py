"""Batched reset, where batched envs break first."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from prophet_gym.envs import ProphetVectorEnv
from prophet_gym.errors import InvalidStartError, UnknownOptionError
from prophet_gym.specs import InitialState
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


class TestReset:
    def test_resets_only_the_masked_sub_envs(self):
        envs = make(autoreset_mode=AutoresetMode.DISABLED)
        envs.reset(seed=0, options={"task": 0, "start": 0})
        envs.step(still(envs))
        mask = np.array([False, True, False])
        image, info = envs.reset(options={"reset_mask": mask, "task": 1, "start": 1})
        assert red(image["image"]) == [CHUNK, 44, CHUNK]
        assert info["_instruction"].tolist() == mask.tolist()
        assert info["instruction"].tolist() == [None, "count task 1", None]
        image = envs.step(still(envs))[0]
        assert red(image["image"]) == [2 * CHUNK, 44 + CHUNK, 2 * CHUNK]

    def test_a_masked_reset_leaves_the_noise_of_the_others_alone(self):
        plain, disturbed = make(), make()
        for envs in (plain, disturbed):
            envs.reset(seed=3)
            envs.step(still(envs))
        disturbed.reset(seed=[9, 9, 9], options={"reset_mask": np.array([True, False, False])})
        expected, found = plain.step(still(plain))[4]["frames"], disturbed.step(still(disturbed))[4]["frames"]
        np.testing.assert_array_equal(expected[1:], found[1:])
        assert (expected[0] != found[0]).any()

    def test_a_sub_env_reset_beside_others_equals_a_fresh_env(self):
        envs, fresh = make(), make(1)
        envs.reset(seed=0)
        for _ in range(3):
            envs.step(still(envs))
        envs.reset(seed=[None, 77, None], options={"reset_mask": np.array([False, True, False])})
        fresh.reset(seed=77)
        for _ in range(2):
            frames = envs.step(still(envs))[4]["frames"][1]
            np.testing.assert_array_equal(frames, fresh.step(still(fresh))[4]["frames"][0])

    def test_the_first_reset_must_be_of_all_sub_envs(self):
        envs = make()
        with pytest.raises(gym.error.ResetNeeded, match="first reset"):
            envs.reset(options={"reset_mask": np.array([True, False, False])})
        envs.reset(seed=0)

    def test_options_are_read_not_changed(self):
        envs = make()
        options = {"reset_mask": np.array([True, True, True]), "task": 1}
        envs.reset(seed=0, options=options)
        assert options == {"reset_mask": options["reset_mask"], "task": 1}

    def test_an_integer_seed_counts_up_over_the_sub_envs(self):
        one, other = make(), make()
        one.reset(seed=5), other.reset(seed=[5, 6, 7])
        np.testing.assert_array_equal(one.step(still(one))[4]["frames"], other.step(still(other))[4]["frames"])
        noise = one.step(still(one))[4]["frames"][:, :, 0, 0, 2]
        assert len({tuple(row) for row in noise.tolist()}) == 3

    def test_np_random_seed_is_that_of_each_sub_env(self):
        envs = make()
        envs.reset(seed=5)
        assert envs.np_random_seed == (5, 6, 7)
        envs.reset(seed=[None, 9, 1], options={"reset_mask": np.array([True, True, False])})
        assert envs.np_random_seed == (5, 9, 7)
        envs.np_random = envs.np_random
        assert envs.np_random_seed == (-1, -1, -1)
        assert len(set(make().np_random_seed)) == 3

    def test_without_a_seed_the_random_stream_goes_on(self):
        one, other = make(1), make(1)
        for envs in (one, other):
            envs.reset(seed=1)
        first = one.step(still(one))[4]["frames"]
        for envs in (one, other):
            envs.reset()
        second = one.step(still(one))[4]["frames"]
        np.testing.assert_array_equal(second, other.step(still(other))[4]["frames"])
        assert (first[..., 2] != second[..., 2]).any()

    def test_the_noise_does_not_depend_on_how_the_start_was_named(self):
        blue = []
        for options in ({"task": 0, "start": 1}, {"starts": counting_starts()[1]}):
            envs = make()
            envs.reset(seed=4, options=options)
            blue.append(envs.step(still(envs))[4]["frames"][..., 2] - 4)
        np.testing.assert_array_equal(*blue)

    def test_task_and_start_choose_for_each_sub_env(self):
        envs = make()
        image, info = envs.reset(options={"task": [0, 1, 1], "start": [2, 0, 2]})
        assert red(image["image"]) == [8, 40, 48]
        assert info["task"].tolist() == [0, 1, 1]
        assert info["start"].tolist() == [2, 0, 2]

    def test_start_without_task_counts_over_all_starts(self):
        envs = make()
        assert red(envs.reset(options={"start": [0, 3, 5]})[0]["image"]) == [0, 40, 48]

    def test_own_starts_of_different_lengths_keep_their_places(self):
        frames = [np.full((n, 8, 8, 3), 10 * n, np.uint8) for n in (2, 1, 2)]
        own = [InitialState(clip, f"own {row}") for row, clip in enumerate(frames)]
        envs = make()
        image, info = envs.reset(options={"starts": own})
        assert red(image["image"]) == [20, 10, 20]
        assert info["instruction"].tolist() == ["own 0", "own 1", "own 2"]
        assert red(envs.step(still(envs))[0]["image"]) == [20 + CHUNK, 10 + CHUNK, 20 + CHUNK]

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"tsak": 1}, UnknownOptionError, "Did you mean 'task'"),
            ({"task": 9}, UnknownOptionError, "unknown task 9"),
            ({"task": 0, "start": 3}, InvalidStartError, r"0\.\.2, the initial states of task 0, got 3"),
            ({"start": -1}, InvalidStartError, r"0\.\.5"),
            ({"task": [0, 1]}, ValueError, "3 integers"),
            ({"task": 0.5}, ValueError, "integer"),
            ({"task": True}, ValueError, "integer"),
            ({"reset_mask": np.zeros(3, bool)}, ValueError, "at least one True"),
            ({"reset_mask": np.ones(2, bool)}, ValueError, r"shape \(3,\)"),
            ({"reset_mask": [1, 0, 1]}, ValueError, "bool array"),
            ({"starts": counting_starts()[0:2]}, InvalidStartError, "or 3 of them"),
            ({"starts": counting_starts()[0], "task": 1}, UnknownOptionError, "leave out"),
            ({"starts": counting_starts(size=(8, 9))[0]}, InvalidStartError, "8, 8, 3"),
            ({"starts": ["a", "b", "c"]}, InvalidStartError, "InitialState only"),
        ],
    )
    def test_a_bad_option_is_one_clear_error_and_changes_nothing(self, options, error, message):
        envs, untouched = make(), make()
        for each in (envs, untouched):
            each.reset(seed=0)
            each.step(still(each))
        with pytest.raises(error, match=message):
            envs.reset(seed=8, options=options)
        assert_same(envs.step(still(envs)), untouched.step(still(untouched)))

    @pytest.mark.parametrize(
        ("seed", "message"),
        [
            ([1, 2], "one entry per sub-environment, num_envs=3, got 2"),
            (-1, "at least 0 or None, got -1"),
            ([1, None, -2], "at least 0 or None, got -2"),
        ],
    )
    def test_bad_seeds_change_nothing(self, seed, message):
        envs, untouched = make(), make()
        for each in (envs, untouched):
            each.reset(seed=0)
        with pytest.raises(ValueError, match=message):
            envs.reset(seed=seed)
        assert_same(envs.step(still(envs)), untouched.step(still(untouched)))
