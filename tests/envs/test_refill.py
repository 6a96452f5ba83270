"""Waiting starts: every one is dreamt once, in any row, and no row idles while another waits."""

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from prophet_gym.envs import ProphetVectorEnv, sub_env_info
from prophet_gym.envs._sub_env import Usage
from prophet_gym.errors import InvalidStartError
from prophet_gym.rewards import FunctionReward
from prophet_gym.testing import CountingWorldModel, assert_same, counting_starts

CHUNK = 2
STARTS = counting_starts(tasks=3, per_task=3)
BOTH = pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])


def make(num_envs: int = 2, **kwargs: Any) -> ProphetVectorEnv:
    """Episodes of task t end with success after t + 1 chunks."""
    reward_model = FunctionReward(
        lambda video, text: float(len(video) > CHUNK * (1 + int(text.split()[-1]))), max_frames=99
    )
    model = kwargs.pop("world_model", None) or CountingWorldModel(chunk=CHUNK)
    return ProphetVectorEnv(model, STARTS, num_envs, reward_model=reward_model, **kwargs)


def still(envs: ProphetVectorEnv) -> np.ndarray:
    return np.zeros(envs.action_space.shape, np.float32)


def episodes(envs: ProphetVectorEnv, queue: Any, seed: int | list[int]) -> dict[int, list[np.ndarray]]:
    """The frames of each queued episode, under still actions."""
    _, infos = envs.reset(seed=seed, options={"queue": queue})
    found: dict[int, list[np.ndarray]] = {}
    while not envs.finished:
        *_, infos = envs.step(still(envs))
        for row in range(envs.num_envs):
            info = sub_env_info(infos, row)
            info = info.get("final_info", info)
            if "frames" in info:
                found.setdefault(info["queue_index"], []).append(info["frames"])
    return found


@BOTH
def test_every_initial_state_of_a_queue_has_one_whole_episode(mode):
    envs = make(2, autoreset_mode=mode)
    found = episodes(envs, STARTS, seed=0)
    assert {index: len(chunks) for index, chunks in found.items()} == {i: 1 + i // 3 for i in range(9)}
    for index, chunks in found.items():
        start = int(STARTS[index].frames[0, 0, 0, 0])
        reds = np.concatenate(chunks)[:, 0, 0, 0].tolist()
        assert reds == [start + 1 + frame for frame in range(CHUNK * len(chunks))]


@BOTH
def test_an_episode_is_the_same_in_a_batch_of_any_size(mode):
    expected = episodes(make(1, autoreset_mode=mode), STARTS, seed=5)
    for num_envs in (2, 4, 9):
        assert_same(episodes(make(num_envs, autoreset_mode=mode), STARTS, seed=5), expected)


def test_a_list_of_seeds_has_one_per_start():
    expected = episodes(make(2), STARTS, seed=5)
    assert_same(episodes(make(2), STARTS, seed=[5 + index for index in range(9)]), expected)
    with pytest.raises(ValueError, match="one entry per queued initial state, length=9, got 2"):
        make(2).reset(seed=[1, 2], options={"queue": STARTS})


def test_every_generated_frame_belongs_to_a_live_episode():
    model = CountingWorldModel(chunk=CHUNK)
    envs = make(2, world_model=model, autoreset_mode="SameStep")
    found = episodes(envs, STARTS, seed=0)
    assert sum(model.batch_sizes) == sum(len(chunks) for chunks in found.values()) == 18
    assert model.batch_sizes == [2] * 8 + [1, 1]
    assert envs.usage == Usage(slots=20, live=18)
    assert envs.usage.fraction == 0.9


@BOTH
def test_sub_envs_rest_when_nothing_waits(mode):
    envs = make(2, autoreset_mode=mode)
    envs.reset(seed=0, options={"queue": [STARTS[0], STARTS[6]]})
    assert not envs.finished
    _, rewards, terminated, *_, infos = envs.step(still(envs))
    assert terminated.tolist() == [True, False]
    if mode == AutoresetMode.SAME_STEP:
        assert infos["_final_info"].tolist() == [True, False]
        assert infos["final_info"]["success"][0]
    observation, rewards, terminated, truncated, infos = envs.step(still(envs))
    assert infos["live"].tolist() == [False, True]
    assert observation["image"][:, 0, 0, 0].tolist() == [CHUNK, 80 + 2 * CHUNK]
    assert rewards.tolist() == [0.0, 0.0]
    assert not (terminated | truncated).any()
    assert "final_info" not in infos
    envs.step(still(envs))
    assert envs.finished


def test_a_reset_of_all_sub_envs_ends_the_queue():
    envs = make(2, autoreset_mode="SameStep")
    envs.reset(seed=0, options={"queue": STARTS})
    _, infos = envs.reset(seed=0)
    assert "queue_index" not in infos
    for _ in range(8):
        envs.step(still(envs))
    assert not envs.finished
    assert envs.usage.fraction == 1.0


def test_a_sub_env_taken_out_of_the_queue_returns_to_it():
    envs = make(2, autoreset_mode="SameStep")
    envs.reset(seed=0, options={"queue": STARTS[:4]})
    _, infos = envs.reset(options={"reset_mask": np.array([True, False]), "task": 0})
    assert "queue_index" not in sub_env_info(infos, 0)
    *_, infos = envs.step(still(envs))
    assert [sub_env_info(infos, row)["queue_index"] for row in range(2)] == [2, 3]


@pytest.mark.parametrize(
    ("options", "mode", "error", "message"),
    [
        ({"queue": STARTS[:1]}, "SameStep", InvalidStartError, "num_envs=2 initial states, got 1"),
        ({"queue": 3}, "SameStep", InvalidStartError, "got <class 'int'>"),
        ({"queue": ["a", "b"]}, "SameStep", InvalidStartError, "InitialState only, got str"),
        ({"queue": counting_starts(size=(4, 4))}, "NextStep", InvalidStartError, "8, 8, 3"),
        ({"queue": STARTS, "task": 1}, "NextStep", ValueError, "leave out task"),
        ({"queue": STARTS}, "Disabled", ValueError, "NEXT_STEP or SAME_STEP"),
    ],
)
def test_a_bad_queue_is_one_clear_error_and_changes_nothing(options, mode, error, message):
    envs, untouched = make(autoreset_mode=mode), make(autoreset_mode=mode)
    for each in (envs, untouched):
        each.reset(seed=0)
    with pytest.raises(error, match=message):
        envs.reset(seed=1, options=options)
    assert_same(envs.step(still(envs)), untouched.step(still(untouched)))
