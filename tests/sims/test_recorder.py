import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from prophet_gym.data._recording import begin_recording, episode_path, list_episodes, read_episode
from prophet_gym.errors import InvalidActionError, UnknownOptionError
from prophet_gym.sims import _recorder as recorder
from prophet_gym.sims._recorder import Plan, _episode_seeds, collect, record_views
from prophet_gym.sims.libero import _install as install

TASK = 6


def plan(episodes: int, **changes) -> Plan:
    return Plan(
        **{"suite": "libero_object", "tasks": (TASK,), "episodes": episodes, "seed": 3, "look": "light", **changes}
    )


def test_every_task_has_its_first_episode_before_any_has_its_second():
    assert plan(5, tasks=(4, 7)).jobs() == [(4, 0), (7, 0), (4, 1), (7, 1), (4, 2)]


def test_seeds_differ_between_suites_tasks_episodes_and_recordings():
    arguments = [("libero_object", 0, 0, 0), ("libero_goal", 0, 0, 0), ("libero_object", 1, 0, 0)]
    arguments += [("libero_object", 0, 1, 0), ("libero_object", 0, 0, 1)]
    drawn = [(placement, rng.random()) for placement, rng in (_episode_seeds(*a) for a in arguments)]
    assert len({d[0] for d in drawn}) == len({d[1] for d in drawn}) == len(arguments)


@pytest.mark.parametrize("wrong", [{"suite": "libero_nothing"}, {"look": "dark"}, {"mode": "exprt"}])
def test_unknown_names_are_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(UnknownOptionError, match=next(iter(wrong.values()))):
        collect(plan(1, **wrong), tmp_path / "recording")
    assert not (tmp_path / "recording").exists()


def test_a_folder_of_demonstrations_takes_no_mixture(tmp_path):
    same = ("suite", "mixture")
    begin_recording(tmp_path, plan(1, mode="expert").meta(), same)
    begin_recording(tmp_path, plan(9, mode="expert").meta(), same)
    with pytest.raises(ValueError, match="choose another --out"):
        begin_recording(tmp_path, plan(1).meta(), same)


def test_an_actor_goes_on_for_a_while_after_success():
    log = SimpleNamespace(actions=[], success=[False], sim=SimpleNamespace(suite="libero_object"))
    given = recorder._until_success(itertools.count(), 3, log)
    for action in given:
        log.actions.append(action)
        log.success.append(action >= 4)
    assert log.actions == list(range(8))


@pytest.fixture(scope="module")
def sim():
    from prophet_gym.sims.libero.simulator import LiberoSimulator

    sim = LiberoSimulator("libero_object", TASK)
    yield sim
    sim.close()


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recording")
    assert collect(plan(2), folder, workers=2) == 2
    return folder


@pytest.mark.libero
@pytest.mark.slow
@pytest.mark.skipif(install.missing() is not None, reason=str(install.missing()))
class TestWithLibero:
    def test_an_episode_does_not_depend_on_what_the_simulator_did_before(self, sim, recording):
        record_views(sim, 5, 3, "expert", cameras=())
        for path in list_episodes(recording):
            recorded = read_episode(path)
            again, _ = record_views(sim, int(path.stem[-5:]), 3, cameras=())
            np.testing.assert_array_equal(again.actions, recorded.actions)
            for name in ("gripper_position", "object_positions", "success", "init_state", "mode", "seed"):
                np.testing.assert_array_equal(getattr(again.sim, name), getattr(recorded.sim, name), err_msg=name)

    def test_a_recording_can_be_replayed_from_its_state(self, sim, recording):
        episode = read_episode(list_episodes(recording)[0])
        frames = episode.frames()
        sim.reset(seed=0)
        sim.set_state(episode.sim.init_state)
        assert np.abs(sim.render().astype(int) - frames[0]).mean() < 2.5
        for action in episode.actions[:20]:
            sim.step(action)
        np.testing.assert_allclose(sim.gripper_position(), episode.gripper_position[20], atol=1e-6)
        assert np.abs(sim.render().astype(int) - frames[20]).mean() < 2.5

    def test_the_camera_finds_the_gripper_in_the_picture(self, recording):
        episode = read_episode(list_episodes(recording)[0])
        point = episode.camera @ np.append(episode.gripper_position[0], 1.0)
        u, v = point[:2] / point[2]
        assert 0.4 < u < 0.6
        assert 0.0 < v < 0.6

    def test_what_is_there_is_not_recorded_again(self, recording):
        path = episode_path(recording, TASK, 1)
        before = read_episode(path)
        first = episode_path(recording, TASK, 0)
        stamp = first.stat().st_mtime_ns
        path.unlink()
        assert collect(plan(2), recording, workers=1) == 1
        assert first.stat().st_mtime_ns == stamp
        np.testing.assert_array_equal(read_episode(path).actions, before.actions)
        assert collect(plan(2), recording) == 0

    def test_demonstrations_are_all_of_one_mode(self, tmp_path):
        collect(plan(2, mode="expert"), tmp_path, workers=1)
        assert [read_episode(path).sim.mode for path in list_episodes(tmp_path)] == ["expert", "expert"]

    def test_another_recording_is_not_mixed_in(self, recording):
        with pytest.raises(ValueError, match="seed=3 and cannot take seed=4"):
            collect(plan(3, seed=4), recording)

    def test_a_worker_that_fails_says_why(self, tmp_path):
        (tmp_path / f"task_{TASK:02d}").write_text("in the way")
        with pytest.raises(RuntimeError, match="FileExistsError"):
            collect(plan(1), tmp_path)

    def test_a_recording_holds_the_actions_that_the_robot_executed(self, sim):
        wild = np.random.default_rng(0).normal(0, 2, (6, 7))
        episode, _ = record_views(sim, 0, 5, cameras=(), actor=lambda sim, rng: iter(wild))
        np.testing.assert_array_equal(episode.actions, np.clip(wild, -1, 1).astype(np.float32))
        assert (episode.sim.mode, len(episode)) == ("policy", 6)

    def test_an_actor_that_gives_no_action_is_named_with_episode_and_step(self, sim):
        broken = [np.zeros(7), np.full(7, np.nan)]
        with pytest.raises(
            InvalidActionError, match=rf"episode 4 of task {TASK}, step 1: .* finite numbers, got \[nan"
        ):
            record_views(sim, 4, 5, cameras=(), actor=lambda sim, rng: iter(broken))

    def test_official_states_are_recognised(self, sim):
        sim.reset(official=7)
        assert sim.starts_officially()
        sim.reset(seed=7)
        assert not sim.starts_officially()

    def test_the_expert_succeeds_and_success_stays_in_view(self, sim):
        for index in range(3):
            episode, _ = record_views(sim, index, 11, "expert", cameras=())
            assert episode.sim.success[-16:].all()
            assert len(episode) <= 240
