"""One chunk for every row, on the counting model, where every frame is known beforehand."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from prophet_gym.envs import InitialStates, ProphetEnv, ProphetVectorEnv, sub_env_info
from prophet_gym.errors import InvalidActionError, InvalidStartError, UnknownOptionError
from prophet_gym.specs import ActionSpec
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


class TestStep:
    def test_every_frame_is_the_one_predicted_by_hand(self):
        envs = make(2)
        envs.reset(seed=0, options={"task": 1, "start": [0, 2]})
        actions = still(envs)
        actions[0, :, 0] = [0.5, -0.25, 0.1, 0.0]
        image, reward, terminated, truncated, info = envs.step(actions)
        pixels = info["frames"][:, :, 3, 5]
        assert pixels[0, :, 0].tolist() == [41, 42, 43, 44]
        assert pixels[0, :, 1].tolist() == [90, 65, 75, 75]
        assert pixels[1, :, 0].tolist() == [49, 50, 51, 52]
        assert pixels[1, :, 1].tolist() == [48, 48, 48, 48]
        np.testing.assert_array_equal(image["image"], info["frames"][:, -1])
        assert reward.tolist() == [0.0, 0.0]
        assert not terminated.any()
        assert not truncated.any()
        assert info["executed"].tolist() == [CHUNK, CHUNK]
        assert info["scored"].tolist() == [False, False]
        assert info["live"].tolist() == [True, True]

    def test_noise_comes_from_the_generator_of_the_sub_env(self):
        envs = make(1)
        envs.reset(seed=12, options={"start": 0})
        seed = int(gym.utils.seeding.np_random(12)[0].integers(2**63 - 1))
        expected = torch.randint(256, (CHUNK,), generator=torch.Generator().manual_seed(seed))
        assert envs.step(still(envs))[4]["frames"][0, :, 0, 0, 2].tolist() == expected.tolist()

    def test_a_sub_env_equals_the_single_env_whatever_is_around_it(self):
        rng = np.random.default_rng(0)
        envs = make(5)
        image, info = envs.reset(seed=20)
        singles = [ProphetEnv(CountingWorldModel(chunk=CHUNK), counting_starts()) for _ in range(5)]
        for row, single in enumerate(singles):
            first, first_info = single.reset(seed=20 + row)
            np.testing.assert_array_equal(first["image"], image["image"][row])
            assert first_info == sub_env_info(info, row)
        for _ in range(4):
            actions = rng.uniform(-1, 1, envs.action_space.shape).astype(np.float32)
            result = envs.step(actions)
            for row, single in enumerate(singles):
                assert_same(single.step(actions[row])[4], sub_env_info(result[4], row))

    def test_outputs_are_fresh_copies(self):
        envs, untouched = make(render_mode="rgb_array"), make()
        for each in (envs, untouched):
            each.reset(seed=0)
        image, *_, info = envs.step(still(envs))
        untouched.step(still(untouched))
        image["image"][:] = 0
        info["frames"][:] = 0
        for rendered in envs.render():
            rendered[:] = 0
        assert_same(envs.step(still(envs)), untouched.step(still(untouched)))

    def test_arguments_are_left_alone(self):
        envs = make()
        envs.reset(seed=0)
        actions = np.full(envs.action_space.shape, 0.5, np.float32)
        envs.step(actions)
        assert (actions == 0.5).all()
        assert red(np.stack([start.frames[0] for start in envs.starts])) == [0, 4, 8, 40, 44, 48]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda a: a[:, :3], r"shape \(3, 4, 7\), got \(3, 3, 7\)"),
            (lambda a: a[0], r"got \(4, 7\)"),
            (lambda a: np.where(np.arange(7) == 2, np.nan, a), r"finite, got nan at \[0, 0, 2\]"),
            (lambda a: np.where(np.arange(7) == 6, np.inf, a), "finite, got inf"),
            (lambda a: a + 1.01, r"within \[-1, 1\], got 1.01 at \[0, 0, 0\]; clip"),
            (lambda a: "left", "numbers of shape"),
            (lambda a: [[0.0], [0.0, 0.0]], "numbers of shape"),
        ],
    )
    def test_a_bad_action_is_one_clear_error_and_changes_nothing(self, change, message):
        envs, untouched = make(), make()
        for each in (envs, untouched):
            each.reset(seed=0)
        with pytest.raises(InvalidActionError, match=message):
            envs.step(change(still(envs)))
        assert_same(envs.step(still(envs)), untouched.step(still(untouched)))

    def test_float64_and_lists_are_actions_too(self):
        envs, other = make(1), make(1)
        for each in (envs, other):
            each.reset(seed=0)
        actions = np.full((1, CHUNK, 7), 0.25)
        assert_same(envs.step(actions), other.step(actions.tolist()))

    def test_stepping_or_rendering_before_reset(self):
        envs = make(render_mode="rgb_array")
        with pytest.raises(gym.error.ResetNeeded):
            envs.step(still(envs))
        with pytest.raises(gym.error.ResetNeeded):
            envs.render()

    def test_uncertainty_is_reported_where_the_model_estimates_it(self):
        class Doubtful(CountingWorldModel):
            def rollout(self, state, actions, *, generators):
                chunk = super().rollout(state, actions, generators=generators)
                return type(chunk)(chunk.state, chunk.frames, actions[:, 0, 0])

        envs = make(world_model=Doubtful(chunk=CHUNK))
        envs.reset(seed=0)
        actions = still(envs)
        actions[:, 0, 0] = [0.0, 0.5, 1.0]
        assert envs.step(actions)[4]["uncertainty"].tolist() == [0.0, 0.5, 1.0]


class TestConstruction:
    def test_action_bounds_come_from_the_action_spec(self):
        spec = ActionSpec(("x", "grip"), (-0.5, 0.0), (0.5, 2.0))
        envs = make(world_model=CountingWorldModel(chunk=2, action_dim=2), action_spec=spec)
        assert envs.single_action_space.low.tolist() == [[-0.5, 0.0]] * 2
        assert envs.single_action_space.high.tolist() == [[0.5, 2.0]] * 2

    @pytest.mark.parametrize(
        ("kwargs", "error", "message"),
        [
            ({"num_envs": 0}, ValueError, "num_envs must be an integer of at least 1, got 0"),
            ({"max_episode_steps": 0}, ValueError, "max_episode_steps counts chunks"),
            ({"render_mode": "ansi"}, UnknownOptionError, "Known: human, rgb_array, rgb_array_list"),
            ({"starts": []}, InvalidStartError, "at least one initial state"),
            ({"starts": counting_starts(size=(4, 4))}, InvalidStartError, "8, 8, 3"),
            ({"autoreset_mode": "Sometimes"}, ValueError, "Sometimes"),
            ({"action_spec": ActionSpec(("x",), (-1.0,), (1.0,))}, ValueError, "1 dimensions, the world model's 7"),
        ],
    )
    def test_bad_arguments(self, kwargs, error, message):
        with pytest.raises(error, match=message):
            make(**kwargs)

    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_metadata_names_the_autoreset_mode(self, mode):
        assert make(autoreset_mode=mode).metadata["autoreset_mode"] is mode

    def test_render_modes(self):
        envs = make(2, render_mode="rgb_array")
        envs.reset(seed=0, options={"start": 0})
        envs.step(still(envs))
        assert red(np.stack(envs.render())) == [CHUNK, CHUNK]
        collecting = make(2, render_mode="rgb_array_list")
        collecting.reset(seed=0, options={"start": 0})
        collecting.step(still(collecting))
        collecting.step(still(collecting))
        assert [red(np.stack(frames)) for frames in collecting.render()] == [list(range(2 * CHUNK + 1))] * 2
        assert collecting.render() == ([], [])
        collecting.step(still(collecting))
        assert red(np.stack(collecting.render()[1])) == list(range(2 * CHUNK + 1, 3 * CHUNK + 1))

    def test_initial_states_are_kept_for_others_to_read(self):
        envs = make()
        assert isinstance(envs.starts, InitialStates)
        assert {start.split for start in envs.starts} == {"train"}
