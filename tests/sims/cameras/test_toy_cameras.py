"""Two cameras and the robot's state, on a toy simulator and on toy dreams: both worlds have the same spaces."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from prophet_gym.cli import _collect as command
from prophet_gym.cli import _starts as starts_command
from prophet_gym.data._recording import begin_recording, list_episodes, read_episode
from prophet_gym.envs import (
    ProphetEnv,
    ProphetTorchVectorEnv,
    ProphetVectorEnv,
    ShortenedChunk,
    read_initial_states,
    write_initial_states,
)
from prophet_gym.errors import UnknownOptionError
from prophet_gym.sims import simulator
from prophet_gym.sims._initial_states import render_initial_states
from prophet_gym.sims._recorder import Plan, collect
from prophet_gym.sims._require import check_cameras
from prophet_gym.sims.env import SimulatorVectorEnv
from prophet_gym.sims.simulator import HasWristCamera, register_simulator, simulator_of
from prophet_gym.testing import CountingWorldModel, assert_same, check_prophet_env, counting_starts
from prophet_gym.world_model import ShowsWrist

BOTH = ("agentview", "wrist")
NAMES = {"image", "wrist_image", "state"}


class SeesTheHand(CountingWorldModel):
    """The wrist camera shows the newest frame upside down; the state counts in its first number."""

    def read_wrist(self, state):
        frames = (state["start"].to(torch.int64) + state["raised"][:, None, None]) % 256
        return frames.flip(1).to(torch.uint8)

    def read_robot_state(self, state):
        return torch.nn.functional.pad(state["raised"][:, :1].double() / 100, (0, 7))

    def read_state_error(self, state):
        return None


@pytest.fixture
def pushing(monkeypatch):
    """The toy's suites, with and without a camera at the hand."""
    monkeypatch.setattr(simulator, "_REGISTERED", {**simulator._REGISTERED})
    for folder in (Path(__file__).parents[1], Path(__file__).parent):
        monkeypatch.syspath_prepend(str(folder))
    register_simulator(["pushing"], "pushing:Pushing")
    register_simulator(["pushing_wrist"], "pushing_wrist:PushingWithWrist")
    yield
    for name in ("pushing", "pushing_wrist"):
        sys.modules.pop(name, None)


def simulated(suite: str = "pushing_wrist", num_envs: int = 2, **options) -> SimulatorVectorEnv:
    return SimulatorVectorEnv(suite, num_envs, **{"size": 8, "chunk": 2, "max_episode_steps": 3, **options})


def dreamt(kind=ProphetVectorEnv, model=None, **options) -> ProphetVectorEnv:
    options = {"cameras": BOTH, "max_episode_steps": 3, **options}
    return kind(model or SeesTheHand(chunk=2), counting_starts(), 2, **options)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("cameras", [BOTH[:1], BOTH])
def test_the_vector_envs_own_check_passes_with_one_and_two_cameras(pushing, mode, cameras):
    check_prophet_env(simulated(autoreset_mode=mode, cameras=cameras))
    check_prophet_env(dreamt(autoreset_mode=mode, cameras=cameras))


def test_both_worlds_have_the_same_spaces(pushing):
    for cameras in (BOTH[:1], BOTH):
        real, dream = simulated(cameras=cameras), dreamt(cameras=cameras)
        assert real.observation_space == dream.observation_space
        assert real.action_space == dream.action_space
    assert set(real.single_observation_space.spaces) == NAMES
    assert set(simulated().single_observation_space.spaces) == {"image"}


def test_a_second_camera_changes_no_episode(pushing):
    actions = np.random.default_rng(0).uniform(-1, 1, (2, 2, 7)).astype(np.float32)
    for one, two in ((simulated(), simulated(cameras=BOTH)), (dreamt(cameras=BOTH[:1]), dreamt())):
        for found, expected in zip(
            (two.reset(seed=4), *(two.step(actions) for _ in range(4))),
            (one.reset(seed=4), *(one.step(actions) for _ in range(4))),
            strict=True,
        ):
            assert set(found[0]) == NAMES
            assert_same({"image": found[0]["image"]}, expected[0])
            assert_same(found[1:], expected[1:])


def test_the_last_observation_of_an_episode_has_all_parts(pushing):
    for envs in (simulated(cameras=BOTH, autoreset_mode="SameStep"), dreamt(autoreset_mode="SameStep")):
        envs.reset(seed=0)
        still = np.zeros((2, 2, 7), np.float32)
        for _ in range(3):
            observation, *_, info = envs.step(still)
        assert set(info["final_obs"][0]) == NAMES
        assert (info["final_obs"][0]["wrist_image"] != observation["wrist_image"][0]).any()
    # The counter of the dream: six frames, and none after the restart.
    assert [info["final_obs"][0]["state"][0], observation["state"][0, 0]] == pytest.approx([0.06, 0.0])


def test_worker_processes_show_the_same(pushing):
    actions = np.full((2, 2, 7), 0.5, np.float32)
    results = []
    for workers in (0, 1):
        envs = simulated(cameras=BOTH, workers=workers)
        results.append([envs.reset(seed=1)[0], envs.step(actions)[0]])
        envs.close()
    assert_same(results[0], results[1])


def test_tensors_and_the_single_env_show_the_same(pushing):
    arrays, tensors = dreamt(), dreamt(ProphetTorchVectorEnv)
    expected, found = arrays.reset(seed=0)[0], tensors.reset(seed=0)[0]
    assert_same({name: part.numpy() for name, part in found.items()}, expected)
    one = ProphetEnv(SeesTheHand(chunk=2), counting_starts(), cameras=list(BOTH)).reset(seed=0)[0]
    assert_same(one, {name: part[0] for name, part in expected.items()})


def test_a_snapshot_brings_the_hand_back(pushing):
    envs = dreamt(autoreset_mode="Disabled")
    envs.reset(seed=0)
    before = envs.step(np.zeros((2, 2, 7), np.float32))[0]
    moment = envs.get_state(0)
    envs.step(np.zeros((2, 2, 7), np.float32))
    after, _ = envs.set_state(moment, [1])
    assert_same({name: part[1] for name, part in after.items()}, {name: part[0] for name, part in before.items()})


def test_a_shortened_chunk_shows_the_hand_where_the_model_does():
    class Cuts(SeesTheHand):
        def cut(self, state, chunk, steps):
            return chunk.state

    assert isinstance(ShortenedChunk(Cuts(chunk=4), 2, no_op=lambda action: action), ShowsWrist)
    assert not isinstance(CountingWorldModel(), ShowsWrist)


def test_a_world_with_one_camera_says_so(pushing):
    with pytest.raises(UnknownOptionError, match=r"unknown camera of pushing 'wrist'\. Known: agentview"):
        simulated("pushing", cameras=BOTH)
    with pytest.raises(ValueError, match=r"\('agentview', 'wrist'\) need weights that dream the wrist camera"):
        dreamt(model=CountingWorldModel(chunk=2))
    check_cameras("pushing_wrist", BOTH)
    assert issubclass(simulator_of("pushing_wrist"), HasWristCamera)
    assert not issubclass(simulator_of("pushing"), HasWristCamera)


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        ("wrist", "cameras must be names, as in cameras="),
        ([], "must name 'agentview', which every world has"),
        (["wrist"], "must name 'agentview', which every world has"),
        (["agentview", "agentview"], "each at most once"),
        (["agentview", 3], "cameras must be names"),
        (["agentview", "wirst"], "unknown camera 'wirst'. Did you mean 'wrist'"),
        (None, "cameras must be names"),
    ],
)
def test_what_names_no_cameras_is_refused(pushing, cameras, message, monkeypatch):
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for make in (simulated, dreamt):
        with pytest.raises(ValueError, match=message):
            make(cameras=cameras)


def test_any_order_is_one_order(pushing):
    assert simulated(cameras=np.array(["wrist", "agentview"])).cameras == BOTH


def test_collect_records_both_cameras_and_the_same_episodes(pushing, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for out, cameras in ((one, BOTH[:1]), (two, BOTH)):
        command.main(
            command.Args(out, suite="pushing_wrist", tasks=(0, 1), episodes=3, look="flat", workers=1, cameras=cameras)
        )
    for path, other in zip(list_episodes(one), list_episodes(two), strict=True):
        alone, both = read_episode(path), read_episode(other)
        np.testing.assert_array_equal(alone.actions, both.actions)
        np.testing.assert_array_equal(alone.frames(), both.frames())
        assert (alone.cameras, both.cameras) == (BOTH[:1], BOTH)
        assert both.frames(camera="wrist").shape == both.frames().shape
        np.testing.assert_array_equal(both.sim.robot_state[:, :3], both.sim.gripper_position)
    # Continued where it was stopped: one episode is missing.
    list_episodes(two)[0].unlink()
    plan = Plan("pushing_wrist", (0, 1), 3, 0, "flat", cameras=BOTH)
    assert collect(plan, two, workers=1) == 1
    assert collect(replace(plan, cameras=BOTH[::-1]), two, workers=1) == 0, "any order is one order"
    with pytest.raises(ValueError, match=r"cameras=\['agentview'\] and cannot take cameras="):
        collect(plan, one, workers=1)
    with pytest.raises(UnknownOptionError, match="unknown camera of pushing 'wrist'"):
        collect(replace(plan, suite="pushing"), tmp_path / "none", workers=1)
    with pytest.raises(ValueError, match="must name 'agentview', which every world has"):
        collect(replace(plan, cameras=BOTH[1:]), tmp_path / "none", workers=1)
    assert not (tmp_path / "none").exists()


def test_a_suite_of_one_split_gets_starts_of_that_one(pushing, tmp_path, monkeypatch):
    monkeypatch.setattr(simulator_of("pushing"), "splits", ("official",))
    starts_command.main(starts_command.Args(out=tmp_path, suite="pushing", look="flat", size=32, per_task=2))
    assert [path.name for path in tmp_path.iterdir()] == ["official"]


def test_all_suites_go_into_folders_of_their_own(tmp_path):
    folders = command.folders_of(command.Args(tmp_path, suite="all"))
    assert set(folders) == {"libero_spatial", "libero_object", "libero_goal", "libero_10"}
    assert all(folder == tmp_path / suite for suite, folder in folders.items())
    assert command.folders_of(command.Args(tmp_path)) == {"libero_object": tmp_path}


def test_a_recording_that_names_no_camera_is_of_one(tmp_path):
    begin_recording(tmp_path, {"suite": "pushing"}, ["suite"])
    begin_recording(tmp_path, {"suite": "pushing", "cameras": ["agentview"]}, ["suite", "cameras"])
    with pytest.raises(ValueError, match="choose another --out"):
        begin_recording(tmp_path, {"suite": "pushing", "cameras": list(BOTH)}, ["suite", "cameras"])


def test_starts_hold_both_cameras_and_the_state(pushing, tmp_path):
    options = {"look": "flat", "size": 32, "cameras": BOTH}
    starts = [start for task in (0, 1) for start in render_initial_states("pushing_wrist", task, "train", 2, **options)]
    plain = list(render_initial_states("pushing_wrist", 1, "train", 1, look="flat", size=32))
    # Some with one camera, some with two, in one folder.
    write_initial_states(tmp_path, [*plain, *starts], quality=101)
    assert len(list(tmp_path.glob("*.webp"))) == 2
    for found, expected in zip(read_initial_states(tmp_path), [*plain, *starts], strict=True):
        np.testing.assert_array_equal(found.frames, expected.frames)
        assert set(found.extra) == set(expected.extra)
        for name, value in expected.extra.items():
            np.testing.assert_array_equal(found.extra[name], value)
            assert found.extra[name].dtype == value.dtype
    assert found.extra["wrist_image"].shape == (1, 32, 32, 3)
    assert found.extra["state"].dtype == np.float32
    index = json.loads((tmp_path / "index.json").read_text())
    assert "wrist_image" not in index["starts"][1]["extra"], "images lie in sheets"


def test_one_command_makes_starts_of_both_cameras(pushing, tmp_path):
    words = starts_command.Args(out=tmp_path, suite="pushing_wrist", look="flat", size=32, per_task=2, cameras=BOTH)
    starts_command.main(words)
    for split in ("train", "official"):
        states = read_initial_states(tmp_path / split)
        assert [(state.task, state.index) for state in states] == [(0, 0), (0, 1), (1, 0), (1, 1)]
        assert all(state.extra["state"].shape == (8,) for state in states)
