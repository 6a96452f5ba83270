"""A recording of each suite: read back, exported, and shown again by the simulator from what it stores."""

from contextlib import closing

import numpy as np
import pytest

from prophet_gym._registration import SUITES
from prophet_gym.data import LeRobotSource, RecordingSource
from prophet_gym.data._lerobot_export import BOTH_CAMERAS, export_recording
from prophet_gym.data._recording import begin_recording, episode_path, write_episode
from prophet_gym.sims import _recorder as recorder
from prophet_gym.sims.libero import _install as install
from prophet_gym.sims.libero.simulator import LiberoSimulator

needs_libero = pytest.mark.skipif(install.missing() is not None, reason=str(install.missing()))
BOTH = ("agentview", "wrist")
TASK, EPISODES, STEPS = 3, 2, 10


def recorded(sim, folder) -> list:
    """Record as `prophet collect` does, and return the drawn frames of each episode, which videos come near."""
    plan = recorder.Plan(sim.suite, (TASK,), EPISODES, 0, sim.look, size=sim.size, cameras=BOTH)
    begin_recording(folder, plan.meta(), [])
    drawn = []
    for task, index in plan.jobs():
        episode, views = recorder.record_views(sim, index, plan.seed, cameras=plan.cameras)
        write_episode(episode_path(folder, task, index), episode, views["agentview"], views["wrist"])
        drawn.append(views)
    return drawn


@needs_libero
@pytest.mark.libero
@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_frames_are_what_the_stored_states_and_actions_show(suite, tmp_path, monkeypatch):
    """A recording stores the simulator's first state and all actions; the states between follow from them exactly."""
    monkeypatch.setattr(recorder, "MAX_STEPS", STEPS)
    monkeypatch.setattr(recorder, "_LONGER", {})
    with closing(LiberoSimulator(suite, TASK, size=64)) as sim:
        drawn = recorded(sim, tmp_path / "recording")
        export_recording(tmp_path / "recording", tmp_path / "set")
        ours = RecordingSource(tmp_path / "recording")
        exported = {
            camera: LeRobotSource(tmp_path / "set", feature, orient="columns_reversed")
            for feature, camera in BOTH_CAMERAS.items()
        }
        for number in range(EPISODES):
            episode = ours.episode(number)
            sim.reset(seed=99)
            sim.set_state(episode.sim.init_state)
            for step, action in enumerate([*episode.actions, None]):
                # The first state was read and drawn before the forward pass that follows the wait steps.
                first = step == 0
                np.testing.assert_allclose(
                    sim.robot_state(), episode.sim.robot_state[step], atol=2e-4 if first else 1e-6
                )
                for camera, fresh in (("agentview", sim.render()), ("wrist", sim.render_wrist())):
                    away = np.abs(drawn[number][camera][step].astype(int) - fresh)
                    assert away.mean() < 0.5 if first else not away.any()
                    assert np.abs(episode.frames(step, step + 1, camera=camera)[0].astype(int) - fresh).mean() < 2.5
                if action is not None:
                    sim.step(action)
            for camera, source in exported.items():
                theirs = source.episode(number)
                np.testing.assert_array_equal(theirs.actions, episode.actions[:-1])
                shown = theirs.frames(0, len(theirs)).astype(int)
                assert np.abs(shown - episode.frames(0, len(theirs), camera=camera)).mean() < 2.5
