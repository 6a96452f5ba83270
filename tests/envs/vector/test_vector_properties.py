"""Whatever is asked of a vector env, in any order: it equals that many single envs, exactly (counting model)."""

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from prophet_gym.envs import ProphetEnv, ProphetVectorEnv, sub_env_info
from prophet_gym.rewards import FunctionReward
from prophet_gym.testing import CountingWorldModel, assert_same, counting_starts

CHUNK = 2
SIZE = (2, 2)
PROFILE = settings(max_examples=25, deadline=None, derandomize=True)
STARTS = counting_starts(size=SIZE)


def lucky(threshold: int) -> FunctionReward:
    """Success when the blue noise of the latest frame is below the threshold; unscored when it is 255."""

    def reward_model(video, _):
        blue = int(video[-1, 0, 0, 2])
        return None if blue == 255 else float(blue < threshold)

    return FunctionReward(reward_model)


class Singles:
    """Single envs, and the autoreset modes as Gymnasium's documentation words them."""

    def __init__(self, num_envs: int, mode: AutoresetMode, threshold: int, horizon: int | None) -> None:
        self.mode = mode
        self.over = [False] * num_envs
        self.envs = [
            ProphetEnv(
                CountingWorldModel(chunk=CHUNK, frame_size=SIZE),
                STARTS,
                reward_model=lucky(threshold),
                max_episode_steps=horizon,
            )
            for _ in range(num_envs)
        ]
        self.images = [np.zeros((*SIZE, 3), np.uint8)] * num_envs

    def reset(self, seeds: list[int | None], rows: list[int]) -> dict[int, dict[str, Any]]:
        infos = {}
        for row in rows:
            observation, infos[row] = self.envs[row].reset(seed=seeds[row])
            self.images[row] = observation["image"]
            self.over[row] = False
        return infos

    def step(self, actions: np.ndarray) -> list[tuple[float, bool, bool, dict[str, Any], tuple | None]]:
        """Per row: reward, terminated, truncated, info, and the final observation and info of SAME_STEP."""
        results = []
        for row, env in enumerate(self.envs):
            if self.over[row] and self.mode == AutoresetMode.NEXT_STEP:
                results.append((0.0, False, False, self.reset([None] * len(self.envs), [row])[row], None))
                continue
            observation, reward, terminated, truncated, info = env.step(actions[row])
            self.images[row] = observation["image"]
            final = None
            ended = terminated or truncated
            if ended and self.mode == AutoresetMode.SAME_STEP:
                final = (observation["image"], info)
                info = self.reset([None] * len(self.envs), [row])[row]
            else:
                self.over[row] = self.over[row] or ended
            results.append((reward, terminated, truncated, info, final))
        return results


def assert_rows(found: tuple, expected: list, singles: Singles) -> None:
    observation, rewards, terminated, truncated, infos = found
    finals = [final for *_, final in expected]
    assert_same(observation["image"], np.stack(singles.images), "image")
    assert_same(rewards, np.array([row[0] for row in expected]), "rewards")
    assert_same(terminated, np.array([row[1] for row in expected]), "terminated")
    assert_same(truncated, np.array([row[2] for row in expected]), "truncated")
    assert ("final_obs" in infos) == ("final_info" in infos) == any(finals)
    for row, (*_, info, final) in enumerate(expected):
        own = sub_env_info(infos, row)
        ended = final is not None
        if any(finals):
            assert bool(infos["_final_obs"][row]) == bool(infos["_final_info"][row]) == ended
        if ended:
            assert_same(own.pop("final_obs")["image"], final[0], f"final_obs of row {row}")
            assert_same(own.pop("final_info"), final[1], f"final_info of row {row}")
        assert_same(own, info, f"info of row {row}")


seeds = st.integers(0, 2**31 - 1)


@PROFILE
@given(data=st.data(), mode=st.sampled_from(list(AutoresetMode)), num_envs=st.integers(1, 4))
def test_a_vector_env_equals_single_envs_in_every_autoreset_mode(data, mode, num_envs):
    threshold = data.draw(st.sampled_from([0, 60, 200]), "threshold")
    horizon = data.draw(st.sampled_from([None, 1, 2, 5]), "horizon")
    envs = ProphetVectorEnv(
        CountingWorldModel(chunk=CHUNK, frame_size=SIZE),
        STARTS,
        num_envs,
        reward_model=lucky(threshold),
        max_episode_steps=horizon,
        autoreset_mode=mode,
    )
    singles = Singles(num_envs, mode, threshold, horizon)
    seed = data.draw(seeds, "seed")
    _, infos = envs.reset(seed=seed)
    for row, info in singles.reset([seed + row for row in range(num_envs)], list(range(num_envs))).items():
        assert_same(sub_env_info(infos, row), info)
    rng = np.random.default_rng(data.draw(seeds, "actions"))
    for _ in range(data.draw(st.integers(1, 12), "steps")):
        if data.draw(st.integers(0, 3), "reset now") == 0:
            mask = np.array(data.draw(st.lists(st.booleans(), min_size=num_envs, max_size=num_envs).filter(any)))
            given_seeds = data.draw(st.lists(st.none() | seeds, min_size=num_envs, max_size=num_envs))
            _, infos = envs.reset(seed=given_seeds, options={"reset_mask": mask})
            for row, info in singles.reset(given_seeds, np.flatnonzero(mask).tolist()).items():
                assert_same(sub_env_info(infos, row), info)
            assert infos["_task"].tolist() == mask.tolist()
        actions = rng.uniform(-1, 1, envs.action_space.shape).astype(np.float32)
        assert_rows(envs.step(actions), singles.step(actions), singles)


@PROFILE
@given(
    first=seeds,
    order=st.permutations(range(4)),
    steps=st.integers(1, 4),
    noise=seeds,
)
def test_a_sub_env_does_not_depend_on_its_place(first, order, steps, noise):
    """Rows that swap places, with their seeds and actions, swap results."""
    make = lambda: ProphetVectorEnv(CountingWorldModel(chunk=CHUNK, frame_size=SIZE), STARTS, 4)  # noqa: E731
    plain, turned = make(), make()
    plain.reset(seed=[first + row for row in range(4)])
    turned.reset(seed=[first + row for row in order])
    rng = np.random.default_rng(noise)
    for _ in range(steps):
        actions = rng.uniform(-1, 1, plain.action_space.shape).astype(np.float32)
        expected = plain.step(actions)[4]["frames"][list(order)]
        np.testing.assert_array_equal(turned.step(actions[list(order)])[4]["frames"], expected)
