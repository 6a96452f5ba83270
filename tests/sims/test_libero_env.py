from contextlib import closing

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import prophet_gym  # noqa: F401 registers the ids
from prophet_gym.envs._episodes import sub_env_info
from prophet_gym.errors import (
    InvalidActionError,
    InvalidStartError,
    MissingAssetsError,
    SimulatorLostError,
    UnknownOptionError,
)
from prophet_gym.sims.env import SimulatorEnv, SimulatorVectorEnv
from prophet_gym.sims.libero import _install as install
from prophet_gym.sims.libero.simulator import LiberoSimulator

needs_libero = pytest.mark.skipif(install.missing() is not None, reason=str(install.missing()))
pytestmark = pytest.mark.libero
TASK = 3
INSTRUCTION = "pick up the bbq sauce and place it in the basket"


@pytest.fixture(scope="module")
def envs():
    envs = SimulatorVectorEnv(
        "libero_object", 2, tasks=[TASK], chunk=2, max_episode_steps=3, autoreset_mode=AutoresetMode.DISABLED
    )
    yield envs
    envs.close()


@pytest.fixture(scope="module")
def env():
    env = SimulatorEnv("libero_object", tasks=[TASK], chunk=2)
    yield env
    env.close()


def chunks(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (rows, 2, 7)).astype(np.float32)


def simulation(envs: SimulatorVectorEnv, row: int = 0) -> LiberoSimulator:
    """Where the row's episode is, until another row has its turn."""
    return envs._stages._simulation(row)


def put_target_in_basket(sim) -> None:
    joint = sim.model.joint(sim._env.env.objects_dict[sim.target_name].joints[-1])
    address = joint.qposadr[0]
    sim.data.qpos[address : address + 3] = sim.object_positions()["basket_1"] + np.array([0, 0, 0.12])


@needs_libero
def test_gymnasium_finds_nothing_wrong(env):
    check_env(env, skip_render_check=True)


@needs_libero
def test_what_a_step_reports(envs):
    observation, info = envs.reset(seed=0)
    assert observation["image"].dtype == np.uint8
    assert sub_env_info(info, 1) == {
        "instruction": INSTRUCTION,
        "suite": "libero_object",
        "task": TASK,
        "start": info["start"][1],
        "split": "train",
    }
    observation, reward, terminated, truncated, info = envs.step(chunks(2))
    assert info["frames"].shape == (2, 2, 128, 128, 3)
    np.testing.assert_array_equal(info["frames"][:, -1], observation["image"])
    assert (info["frames"][:, 0] != info["frames"][:, 1]).any()
    assert not np.concatenate([reward, terminated, truncated]).any()
    assert info["executed"].tolist() == [2, 2]
    assert info["scored"].all()
    assert info["live"].all()


@needs_libero
def test_a_row_is_the_single_env_with_its_seed(envs, env):
    first, info = envs.reset(seed=40)
    steps = [envs.step(chunks(2, seed))[0] for seed in range(3)]
    assert len(envs._stages._sims) == 1
    one, one_info = env.reset(seed=41)
    assert one_info["start"] == info["start"][1] != info["start"][0]
    np.testing.assert_array_equal(one["image"], first["image"][1])
    for seed, found in enumerate(steps):
        np.testing.assert_array_equal(env.step(chunks(2, seed)[1])[0]["image"], found["image"][1])


@needs_libero
def test_rows_that_change_their_task_share_simulations_and_disturb_nobody(env):
    several = SimulatorVectorEnv(
        "libero_object", 3, tasks=[0, TASK], chunk=2, max_episode_steps=9, autoreset_mode=AutoresetMode.DISABLED
    )
    try:
        several.reset(options={"task": [0, 0, TASK], "start": [7, 8, 41]})
        shown = [several.step(chunks(3, 0))[0]["image"][2]]
        mask = np.array([True, True, False])
        several.reset(options={"reset_mask": mask, "task": [TASK, TASK, TASK], "start": [3, 4, 5]})
        shown += [several.step(chunks(3, seed))[0]["image"][2] for seed in (1, 2)]
        assert set(several._stages._sims) == {0, TASK}
    finally:
        several.close()
    env.reset(options={"start": 41})
    for seed, image in enumerate(shown):
        np.testing.assert_array_equal(env.step(chunks(3, seed)[2])[0]["image"], image)


@needs_libero
def test_proprioception_is_the_true_gripper():
    env = SimulatorEnv("libero_object", tasks=[TASK], chunk=2, render="chunk", proprioception=True)
    try:
        before, _ = env.reset(seed=0)
        action = np.tile(np.array([0, 1, 0, 0, 0, 0, -1], np.float32), (2, 1))
        after = env.step(action)[0]
        assert env.observation_space.contains(after)
        true = simulation(env._vector).gripper_position()
        np.testing.assert_allclose(after["gripper_position"], true, atol=1e-6)
        assert after["gripper_position"][1] > before["gripper_position"][1] + 0.002
    finally:
        env.close()


@needs_libero
def test_success_in_the_middle_of_a_chunk_ends_the_episode_there(envs):
    envs.reset(seed=0)
    put_target_in_basket(simulation(envs))
    still = np.zeros((2, 2, 7), dtype=np.float32)
    still[..., 6] = -1
    _, reward, terminated, truncated, info = envs.step(still)
    assert (reward.tolist(), terminated.tolist()) == ([1.0, 0.0], [True, False])
    assert not truncated.any()
    assert info["executed"].tolist() == [1, 2]
    assert info["success"].tolist() == [True, False]
    np.testing.assert_array_equal(info["frames"][0, 0], info["frames"][0, 1])
    observation, reward, terminated, _, info = envs.step(still)
    assert (reward.tolist(), terminated.tolist()) == ([0.0, 0.0], [False, False])
    assert info["live"].tolist() == [False, True]
    kept = observation["image"][1].copy()
    fresh, info = envs.reset(seed=3, options={"reset_mask": np.array([True, False])})
    assert info["_start"].tolist() == [True, False]
    np.testing.assert_array_equal(fresh["image"][1], kept)
    _, _, _, truncated, info = envs.step(still)
    assert truncated.tolist() == [False, True], "row 1 is at its third chunk"
    assert info["live"].all()


@needs_libero
def test_a_start_of_the_train_set_is_the_seed_of_its_placement(env):
    one, info = env.reset(seed=0, options={"start": 12})
    two, again = env.reset(seed=99, options={"start": 12, "task": TASK})
    assert info["start"] == again["start"] == 12
    np.testing.assert_array_equal(one["image"], two["image"])


@needs_libero
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"taks": TASK}, UnknownOptionError, "Did you mean 'task'.*reset_mask, start, task"),
        ({"task": 4}, UnknownOptionError, "unknown task 4"),
        ({"start": -1}, InvalidStartError, r"must be in 0\.\.2147483647 for the split 'train', got -1"),
        ({"start": [1, 2, 3]}, ValueError, "must be an integer"),
    ],
)
def test_bad_options_are_refused_and_the_episode_goes_on(env, options, error, message):
    env.reset(seed=0)
    with pytest.raises(error, match=message):
        env.reset(options=options)
    env.step(chunks(1)[0])


@needs_libero
@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros((2, 6)), r"shape \(2, 7\), got \(2, 6\)"),
        (np.full((2, 7), np.nan), "finite"),
        (np.full((2, 7), 1.5), "within"),
    ],
)
def test_bad_actions_are_refused_before_anything_moves(env, action, message):
    env.reset(seed=0)
    before = simulation(env._vector).data.qpos.copy()
    with pytest.raises(InvalidActionError, match=message):
        env.step(action)
    np.testing.assert_array_equal(simulation(env._vector).data.qpos, before)


@needs_libero
def test_drawing_once_per_chunk_changes_no_other_thing(env):
    frugal = gym.make("LIBERO-Object-v0", tasks=(TASK,), chunk=2, render="chunk", starts="official")
    try:
        _, info = frugal.reset(seed=0, options={"start": 7})
        assert (info["start"], info["split"], info["instruction"]) == (7, "official", INSTRUCTION)
        sim = simulation(frugal.unwrapped._vector)
        env.reset(seed=0)
        sim.set_state(simulation(env._vector).get_state())
        expected = env.step(chunks(1)[0])
        found = frugal.step(chunks(1)[0])
        np.testing.assert_array_equal(found[0]["image"], expected[0]["image"])
        assert found[1:4] == expected[1:4]
        assert "frames" not in found[4]
        with pytest.raises(InvalidStartError, match=r"0\.\.49 for the split 'official', got 50"):
            frugal.reset(options={"start": 50})
    finally:
        frugal.close()


@needs_libero
@pytest.mark.slow
def test_rows_in_worker_processes_are_the_rows_here(envs):
    actions = chunks(2)
    expected, _ = envs.reset(seed=11)
    step = envs.step(actions)
    apart = SimulatorVectorEnv("libero_object", 2, tasks=[TASK], chunk=2, workers=2)
    try:
        found, _ = apart.reset(seed=11)
        np.testing.assert_array_equal(found["image"], expected["image"])
        np.testing.assert_array_equal(apart.step(actions)[0]["image"], step[0]["image"])
    finally:
        apart.close()
    assert not apart._stages._processes


@needs_libero
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"suite": "libero"}, "Did you mean 'libero_"),
        ({"look": "oficial"}, "Did you mean 'official'"),
        ({"starts": "test"}, "unknown split 'test'"),
        ({"tasks": [3, 11]}, "unknown task 11"),
        ({"render": "all"}, "chunk, step"),
    ],
)
def test_names_that_do_not_exist_are_refused(arguments, message):
    with pytest.raises(UnknownOptionError, match=message):
        SimulatorEnv(**{"suite": "libero_object", **arguments})


def test_missing_assets_are_one_clear_error(monkeypatch, tmp_path):
    monkeypatch.setenv(install.ASSETS_VARIABLE, str(tmp_path))
    with pytest.raises(MissingAssetsError, match="PROPHET_LIBERO_ASSETS"):
        gym.make("LIBERO-Object-v0")


@needs_libero
def test_a_judge_may_look_on_after_the_end_and_the_episode_stays_as_it_ended(envs):
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="the episode of sub-environment 0 has not ended: continue it with step"):
        envs.go_on(0, np.zeros((4, 7), np.float32))
    envs.step(chunks(2))
    put_target_in_basket(simulation(envs, 0))
    observation, _, terminated, _, _ = envs.step(np.zeros((2, 2, 7), np.float32))
    assert terminated.tolist() == [True, False]
    frames = envs.go_on(0, np.zeros((4, 7), np.float32))
    assert (frames.shape, frames.dtype) == ((4, 128, 128, 3), np.uint8)
    assert all((frames[i] != frames[i + 1]).any() for i in range(3)), "the object falls on"
    after, _, _, _, info = envs.step(chunks(2))
    np.testing.assert_array_equal(after["image"][0], observation["image"][0])
    assert info["executed"].tolist() == [0, 2]


@needs_libero
def test_a_process_that_ends_by_itself_is_named_with_its_exit_code():
    with closing(SimulatorVectorEnv("libero_object", 2, tasks=[TASK], chunk=2, workers=1)) as envs:
        envs.reset(seed=0)
        envs._stages._processes[0].kill()
        with pytest.raises(SimulatorLostError, match=r"sub-environment 0 ended with exit code -9 .*make a new one"):
            envs.step(chunks(2))
