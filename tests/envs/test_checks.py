"""The shipped check of envs passes on ours and names what is wrong with others."""

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from prophet_gym.embodiments import EMBODIMENTS
from prophet_gym.envs import ProphetVectorEnv, StackFrames, ViewedVector
from prophet_gym.rewards import FunctionReward
from prophet_gym.testing import CountingWorldModel, check_prophet_env, counting_starts

CHUNK = 2


def make(kind: type[ProphetVectorEnv] = ProphetVectorEnv, num_envs: int = 3, **kwargs: Any) -> ProphetVectorEnv:
    kwargs = {"max_episode_steps": 4, "autoreset_mode": "SameStep", **kwargs}
    model = CountingWorldModel(chunk=CHUNK, noise=kwargs.pop("noise", True))
    return kind(model, kwargs.pop("starts", counting_starts()), num_envs, **kwargs)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_ours_pass(mode):
    reward_model = FunctionReward(lambda video, _: float(video[-1, 0, 0, 2] < 60))
    check_prophet_env(make(autoreset_mode=mode, reward_model=reward_model))


@pytest.mark.parametrize("robot", sorted(EMBODIMENTS))
def test_the_actions_of_every_robot_pass(robot):
    spec = EMBODIMENTS[robot].action_spec
    model = CountingWorldModel(chunk=CHUNK, action_dim=spec.dim)
    check_prophet_env(ProphetVectorEnv(model, counting_starts(), 3, max_episode_steps=4, action_spec=spec))


def test_a_world_without_chance_passes_where_it_is_said():
    envs = make(noise=False, starts=counting_starts(tasks=1, per_task=1))
    check_prophet_env(envs, seed_matters=False)
    with pytest.raises(AssertionError, match="different seeds must give different"):
        check_prophet_env(envs)


class LeakyRows(ProphetVectorEnv):
    def step(self, actions):
        return super().step(np.clip(np.asarray(actions) - np.asarray(actions).mean(0), -1, 1))


class Unseeded(ProphetVectorEnv):
    def reset(self, *, seed=None, options=None):
        return super().reset(options=options)


class OneSeed(ProphetVectorEnv):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None if seed is None else [0] * self.num_envs, options=options)


class SeedOfTheBatch(ProphetVectorEnv):
    """The rows of a list of seeds share the first."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed if isinstance(seed, int | None) else int(seed[0]), options=options)


class FloatImages(ProphetVectorEnv):
    def step(self, actions):
        observation, *rest = super().step(actions)
        return {"image": observation["image"].astype(np.float32)}, *rest


class IntegerFlags(ProphetVectorEnv):
    def step(self, actions):
        observation, rewards, terminated, *rest = super().step(actions)
        return observation, rewards, terminated.astype(int), *rest


class Stale(ProphetVectorEnv):
    """Shows the frame before the last."""

    def step(self, actions):
        observation, *rest, infos = super().step(actions)
        if "frames" in infos:
            observation = {"image": infos["frames"][:, 0].copy()}
        return observation, *rest, infos


class ResetsAll(ProphetVectorEnv):
    def reset(self, *, seed=None, options=None):
        given = {name: value for name, value in (options or {}).items() if name != "reset_mask"}
        return super().reset(seed=seed, options=given)


class Pops(ProphetVectorEnv):
    def reset(self, *, seed=None, options=None):
        kept = dict(options or {})
        (options or {}).pop("reset_mask", None)
        return super().reset(seed=seed, options=kept)


class LentImages(ProphetVectorEnv):
    """Gives out the same array again and again."""

    lent: Any = None

    def _observe(self):
        observation = super()._observe()
        self.lent = observation if self.lent is None else self.lent
        self.lent["image"][:] = observation["image"]
        return self.lent


class Forgiving(ProphetVectorEnv):
    def step(self, actions):
        return super().step(np.nan_to_num(actions))


class Tolerant(ProphetVectorEnv):
    def reset(self, *, seed=None, options=None):
        known = {name: value for name, value in (options or {}).items() if "such" not in name}
        return super().reset(seed=seed, options=known)


class DreamsOfSomethingElse(ProphetVectorEnv):
    """Draws from its generators before it looks at the actions."""

    def step(self, actions):
        for generator in self.np_random:
            generator.random()
        for row in self._rows:
            row.generator.manual_seed(row.generator.initial_seed() + 1)
        return super().step(actions)


class NoFinalObs(ProphetVectorEnv):
    def step(self, actions):
        *rest, infos = super().step(actions)
        for name in ("final_obs", "_final_obs"):
            infos.pop(name, None)
        return *rest, infos


class Repeats(ProphetVectorEnv):
    """Tells the end again and again."""

    def step(self, actions):
        observation, rewards, terminated, truncated, infos = super().step(actions)
        return observation, rewards, terminated, truncated | ~infos.get("live", np.ones(self.num_envs, bool)), infos


@pytest.mark.parametrize(
    ("kind", "kwargs", "message"),
    [
        (LeakyRows, {}, "sub-environment 0 must not depend on the actions of others"),
        (Unseeded, {}, "the same seed and actions must give the same results"),
        (OneSeed, {}, "different seeds must give different episodes"),
        (SeedOfTheBatch, {}, "must not depend on its place in the batch"),
        (FloatImages, {}, r"observation\['image'\] must lie in .* got float32"),
        (IntegerFlags, {}, "terminated must be a bool array"),
        (Stale, {}, "last executed frame"),
        (ResetsAll, {}, r"must report the mask \[True, False, False\]"),
        (Pops, {}, "must not change the caller's options"),
        (LentImages, {}, "must be fresh copies"),
        (Forgiving, {}, "not finite must be a ValueError or KeyError, and passed"),
        (Tolerant, {}, "an unknown option must be"),
        (DreamsOfSomethingElse, {}, "bad input must leave every episode as it was"),
        (NoFinalObs, {}, r"under SAME_STEP info\['final_obs'\] must be there for \[True, True, True\]"),
        (Repeats, {"autoreset_mode": "Disabled"}, "the step after the end must have reward 0 and no flag"),
    ],
)
def test_each_broken_env_is_named(kind, kwargs, message):
    with pytest.raises(AssertionError, match=message):
        check_prophet_env(make(kind, **kwargs))


def test_needs_two_sub_environments_and_images():
    with pytest.raises(AssertionError, match="at least two sub-environments, got 1"):
        check_prophet_env(make(num_envs=1))


def test_a_view_is_no_prophet_env():
    with pytest.raises(AssertionError, match="last executed frame"):
        check_prophet_env(ViewedVector(make(), StackFrames(2)))
