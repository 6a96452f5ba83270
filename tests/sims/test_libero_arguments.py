"""What the simulator's ids may be given: plain data in any form, which comes back from JSON; the rest is refused."""

import gymnasium as gym
import jaxtyping
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

import prophet_gym  # noqa: F401 registers the ids
from prophet_gym.sims.libero import _install as install

pytestmark = [
    pytest.mark.libero,
    pytest.mark.skipif(install.missing() is not None, reason=str(install.missing())),
]


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch):
    """Without the type checks of the tests, which would come first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize("tasks", [np.array([3]), range(3, 4), (np.int64(3),)], ids=["array", "range", "tuple"])
def test_numpys_numbers_are_taken_and_come_back_from_json(tasks):
    options = {"tasks": tasks, "size": np.int64(64), "chunk": np.int32(2), "proprioception": np.bool_(True)}
    env = gym.make("LIBERO-Object-v0", **options)
    envs = gym.make_vec("LIBERO-Object-v0", num_envs=2, autoreset_mode=gym.vector.AutoresetMode.DISABLED, **options)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    several = gym.make_vec(EnvSpec.from_json(envs.spec.to_json()))
    for one, other in ((env, again), (envs, several)):
        assert other.unwrapped.spec == one.unwrapped.spec
        assert other.observation_space == one.observation_space
        assert other.action_space == one.action_space
        assert one.metadata == other.metadata
        one.close(), other.close()
        with pytest.raises(gym.error.ClosedEnvironmentError):
            one.unwrapped.reset(seed=0)
    assert several.tasks == (3,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": []}, r"as in tasks=\[0, 3\], got \[\]"),
        ({"tasks": 3}, r"as in tasks=\[0, 3\], got 3"),
        ({"tasks": ["3"]}, r"as in tasks=\[0, 3\], got \['3'\]"),
        ({"tasks": [True]}, r"as in tasks=\[0, 3\], got \[True\]"),
        ({"tasks": [10]}, "unknown task 10"),
        ({"chunk": 0}, "chunk must be an integer of at least 1, got 0"),
        ({"chunk": "a"}, "chunk must be an integer of at least 1, got 'a'"),
        ({"size": 64.0}, "size must be an integer of at least 1, got 64.0"),
        ({"proprioception": "no"}, "proprioception must be True or False, got 'no'"),
    ],
)
def test_what_is_no_such_data_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        gym.make("LIBERO-Object-v0", **options)
