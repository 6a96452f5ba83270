"""Every id of LIBERO and LIBERO-PRO, with one camera and with two."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import prophet_gym  # noqa: F401 registers the ids
from prophet_gym.errors import MissingAssetsError
from prophet_gym.sims.libero import _install as install
from prophet_gym.sims.libero import _perturbed as perturbed
from prophet_gym.testing import assert_same

IDS = sorted(name for name in gym.registry if name.startswith("LIBERO-"))
BOTH = ("agentview", "wrist")
TASK = 3


def require(id_: str) -> None:
    """Skip where the simulator, or the wheel of LIBERO-PRO, is missing."""
    if why := install.missing():
        pytest.skip(why)
    if "-PRO-" in id_:
        try:
            perturbed.find_pro()
        except MissingAssetsError as error:
            pytest.skip(str(error))


@pytest.mark.libero
@pytest.mark.slow
@pytest.mark.parametrize("id_", IDS)
def test_gymnasium_finds_nothing_wrong_and_a_second_camera_changes_no_episode(id_):
    require(id_)
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 2, 7)).astype(np.float32)
    results = []
    for cameras in (BOTH[:1], BOTH):
        env = gym.make(id_, tasks=[TASK], chunk=2, size=32, cameras=cameras)
        check_env(env.unwrapped, skip_render_check=True)
        results.append([env.reset(seed=8), *(env.step(action) for action in actions)])
        env.close()
    for expected, found in zip(*results, strict=True):
        assert set(expected[0]) == {"image"}
        assert set(found[0]) == {"image", "wrist_image", "state"}
        assert_same({"image": found[0]["image"]}, expected[0])
        assert_same(found[1:], expected[1:])


@pytest.mark.libero
@pytest.mark.parametrize("id_", IDS)
def test_the_spaces_are_those_of_the_dream(id_):
    require(id_)
    for options in ({}, {"proprioception": True}):
        dream, real = gym.make("Prophet-LIBERO-v0", **options), gym.make(id_, **options)
        assert real.observation_space == dream.observation_space
        assert real.action_space == dream.action_space
        dream.close(), real.close()
