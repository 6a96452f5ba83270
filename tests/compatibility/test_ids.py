"""What docs/how-to/support.md says of a `-v1` is what Gymnasium does."""

import gymnasium as gym
import pytest
from gymnasium.error import DeprecatedEnv

import prophet_gym  # noqa: F401 registers the ids

MADE = "prophet_gym.envs:ProphetEnv"


class Lamp(gym.Env):
    """Be an env."""

    observation_space = action_space = gym.spaces.Discrete(2)


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(gym.envs.registration, "registry", dict(gym.registry))


@pytest.mark.usefixtures("registry")
def test_an_id_that_is_gone_names_the_one_that_is_there():
    gym.register("Lamp-v1", MADE)
    with pytest.raises(DeprecatedEnv, match="Lamp-v1"):
        gym.spec("Lamp-v0")


@pytest.mark.usefixtures("registry")
def test_an_old_id_that_stays_warns_and_names_the_new_one():
    for version in (0, 1):
        gym.register(f"Lamp-v{version}", Lamp, disable_env_checker=True)
    with pytest.warns(DeprecationWarning, match=r"Lamp-v0 is out of date.*`v1`"):
        gym.make("Lamp-v0")


@pytest.mark.usefixtures("registry")
def test_ids_of_all_ours_carry_a_number():
    ours = [name for name in gym.registry if name.startswith(("Prophet-", "LIBERO-", "RemoteProphet"))]
    assert len(ours) > 20
    assert all(gym.registry[name].version == 0 for name in ours)
