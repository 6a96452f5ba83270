"""Another simulator is one file plus a registration: what the recorder, the CLI and the envs make of a toy."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from prophet_gym.cli import _collect as command
from prophet_gym.data._recording import META, RecordingSource, list_episodes, read_episode
from prophet_gym.errors import UnknownOptionError
from prophet_gym.sims import simulator
from prophet_gym.sims._initial_states import render_initial_states
from prophet_gym.sims._recorder import record_views
from prophet_gym.sims.env import SimulatorVectorEnv
from prophet_gym.sims.simulator import Simulator, check_task, register_simulator, simulator_of


@pytest.fixture
def pushing(monkeypatch):
    """The toy's suite, known until the test ends; spawned workers find its module as this process does."""
    monkeypatch.setattr(simulator, "_REGISTERED", {**simulator._REGISTERED})
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    register_simulator(["pushing"], "pushing:Pushing")
    yield simulator_of("pushing")
    sys.modules.pop("pushing", None)


def test_the_toy_keeps_the_protocol(pushing):
    assert isinstance(pushing("pushing", 0), Simulator)
    assert check_task("pushing", 1, "flat") is pushing


def test_an_episode_of_the_toy_is_a_function_of_its_seed(pushing):
    sim = pushing("pushing", 0)
    episode, views = record_views(sim, 4, 0, "straight")
    again, _ = record_views(sim, 4, 0, "straight", cameras=())
    np.testing.assert_array_equal(episode.actions, again.actions)
    assert views["agentview"].shape == (len(episode) + 1, 32, 32, 3)
    assert episode.sim.success[-16:].all()
    assert (episode.robot, episode.fps, episode.sim.suite) == ("libero", 20.0, "pushing")


def test_collect_records_the_toy_and_training_reads_it(pushing, tmp_path, capfd):
    out = tmp_path / "recording"
    command.main(command.Args(out, suite="pushing", tasks=(0, 1), episodes=4, look="flat", workers=1))
    paths = list_episodes(out)
    assert [path.parent.name for path in paths] == ["task_00", "task_01"] * 2
    meta = json.loads((out / META).read_text())
    assert (meta["suite"], meta["look_version"], meta["mixture"]) == ("pushing", 4, {"straight": 0.5, "still": 0.5})
    source = RecordingSource(out)
    episode = source.episode(0)
    assert len(episode.frames()) == len(episode) + 1
    assert {read_episode(path).sim.mode for path in paths} <= {"straight", "still"}
    capfd.readouterr()


def test_the_toy_is_an_env_and_gives_initial_states(pushing):
    envs = SimulatorVectorEnv("pushing", 2, size=32, starts="official", autoreset_mode="Disabled")
    envs.reset(seed=0, options={"task": [0, 1], "start": 2})
    assert envs.single_action_space.shape == (8, 7)
    done = np.zeros(2, bool)
    right = np.zeros((2, 8, 7), np.float32)
    right[..., :2] = [1.0, -0.5]
    _, rewards, done, _, info = envs.step(right)
    assert rewards.tolist() == [1.0, 1.0]
    assert done.all()
    assert info["executed"].tolist() == [8, 8]
    with pytest.raises(UnknownOptionError, match="unknown task 2"):
        SimulatorVectorEnv("pushing", tasks=[2])
    with pytest.raises(UnknownOptionError, match="unknown look 'light'"):
        SimulatorVectorEnv("pushing", look="light")
    envs.close()
    first, second = render_initial_states("pushing", 0, "official", 2, look="flat", size=32)
    assert (first.suite, second.index, second.frames.shape) == ("pushing", 1, (1, 32, 32, 3))
    with pytest.raises(ValueError, match="a task has 3 official starts, got count=4"):
        next(render_initial_states("pushing", 0, "official", 4, look="flat"))


def test_a_suite_belongs_to_one_simulator():
    with pytest.raises(ValueError, match=r"'libero_goal' is already simulated by .*LiberoSimulator"):
        register_simulator(["libero_goal"], "pushing:Pushing")
    with pytest.raises(UnknownOptionError, match=r"unknown suite 'libero_gaol'.*Did you mean 'libero_goal'"):
        simulator_of("libero_gaol")


def test_an_installed_package_registers_by_its_entry_points(monkeypatch):
    from importlib.metadata import EntryPoint

    point = EntryPoint("other_suite", "json:JSONDecoder", "prophet_gym.simulators")
    monkeypatch.setattr(simulator, "entry_points", lambda group: [point] if group == point.group else [])
    assert simulator_of("other_suite") is json.JSONDecoder
