"""The remote env keeps the contract of the local one, and dreams what it dreams."""

import numpy as np
import pytest

from prophet_gym.envs import ProphetVectorEnv
from prophet_gym.testing import assert_same, check_prophet_env
from tests.serve.conftest import counting_parts


def local(num_envs=2, **kwargs):
    parts = counting_parts()
    parts.pop("fps", None)
    return ProphetVectorEnv(num_envs=num_envs, **parts, **kwargs)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_it_passes_the_checks_of_the_local_env(server, mode):
    envs = server.env(3, autoreset_mode=mode, max_episode_steps=5)
    check_prophet_env(envs)
    envs.close()
    assert len(server.sessions) == 0


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_all_results_are_those_of_the_local_env_to_the_bit(server, mode):
    options = {"autoreset_mode": mode, "max_episode_steps": 3}
    remote, envs = server.env(3, **options), local(3, **options)
    rng = np.random.default_rng(0)
    assert remote.action_space == envs.action_space
    assert remote.observation_space == envs.observation_space
    assert_same(remote.reset(seed=[4, None, 6], options={"task": [0, 1, 0]})[0].keys(), envs.reset(seed=[4, 5, 6])[0].keys())
    assert_same(remote.reset(seed=7, options={"task": 1}), envs.reset(seed=7, options={"task": 1}))
    for _ in range(8):
        actions = rng.uniform(-1, 1, envs.action_space.shape).astype(np.float32)
        assert_same(remote.step(actions), envs.step(actions))
    assert (remote.elapsed, remote.finished, remote.usage) == (envs.elapsed, envs.finished, envs.usage)
    remote.close()
