"""Our recordings as a data set of the mixture, and as LeRobot data sets read back."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from prophet_gym.cli._export import Args, main
from prophet_gym.data import LeRobotSource, ToolReading
from prophet_gym.data._lerobot_export import CAMERA, POSE_NAMES, export_recording
from prophet_gym.data._mixture import read_mixture_entry
from prophet_gym.data._recording import (
    META,
    RecordingSource,
    episode_path,
    read_episode,
    write_episode,
)
from prophet_gym.data._stacked import StackedSource
from prophet_gym.data._windows import as_given
from prophet_gym.embodiments._kinematics import euler_to_matrix, quaternion_to_matrix
from prophet_gym.errors import UnknownOptionError
from prophet_gym.train._inspect import inspected, page

from .conftest import grey, images, level, libero_episode

LENGTHS = {0: 7, 3: 9}


@pytest.fixture
def recording(tmp_path):
    """Two episodes of tasks 0 and 3."""
    folder = tmp_path / "recording"
    for number, (task, steps) in enumerate(LENGTHS.items()):
        episode = libero_episode(task, steps)
        write_episode(episode_path(folder, task, 0), episode, images(number, steps + 1))
    (folder / META).write_text(json.dumps({"starts": "random"}))
    return folder


def test_a_recording_is_a_source_and_keeps_its_last_frame(recording):
    source = RecordingSource(recording)
    assert [source.steps(index) for index in range(len(source))] == [7, 9]
    episode = source.episode(1)
    np.testing.assert_array_equal(episode.actions, read_episode(episode_path(recording, 3, 0)).actions)
    np.testing.assert_allclose(level(episode.frames(7, 10)), [grey(1, i) for i in (7, 8, 9)], atol=1)
    assert (episode.fps, episode.robot, episode.instruction) == (20.0, "libero", "do task 3")
    np.testing.assert_array_equal(episode.frames(2, 5), read_episode(episode_path(recording, 3, 0)).frames()[2:5])


def test_an_export_reads_back_with_the_same_frames_and_actions(recording, tmp_path, capsys):
    before = {path: path.read_bytes() for path in recording.rglob("*") if path.is_file()}
    main(Args(recording, tmp_path / "set"))
    assert "2 episodes" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in recording.rglob("*") if path.is_file()} == before
    ours, theirs = RecordingSource(recording), LeRobotSource(tmp_path / "set", CAMERA)
    assert len(theirs) == 2
    for number in range(2):
        one, other = ours.episode(number), theirs.episode(number)
        assert len(other) == len(one) - 1, "the outcome of the last action has no row"
        np.testing.assert_array_equal(other.actions, one.actions[:-1])
        np.testing.assert_array_equal(other.frames(0, len(one)), one.frames(0, len(one)))
        assert (other.instruction, other.fps, other.robot) == (one.instruction, 20.0, "panda")
        np.testing.assert_array_equal(one.success, one.sim.success)
        assert other.success.any() == one.success.any()


def test_the_gripper_is_where_the_recording_says_also_in_the_export(recording, tmp_path):
    """Our quaternions, read by us and off the export's states; the recording also knows its camera."""
    export_recording(recording, tmp_path / "set")
    reading = ToolReading(("observation.state",), ("xyz", "quaternion", "gripper"), open=0.08)
    ours, theirs = RecordingSource(recording).episode(1), LeRobotSource(tmp_path / "set", CAMERA, tools=reading)
    stored = read_episode(episode_path(recording, 3, 0))
    assert ours.tools.shape == (10, 1, 7)
    np.testing.assert_allclose(ours.tools[:, 0, :3], stored.sim.gripper_position, atol=1e-6)
    turns = quaternion_to_matrix(stored.sim.gripper_quaternion.astype(np.float64))
    np.testing.assert_allclose(euler_to_matrix(ours.tools[:, 0, 3:6].astype(np.float64)), turns, atol=1e-5)
    np.testing.assert_allclose(ours.tools[:, 0, 6], stored.sim.gripper_opening / 0.08, atol=1e-6)
    np.testing.assert_array_equal(ours.camera, np.eye(3, 4))
    np.testing.assert_allclose(theirs.episode(1).tools, ours.tools[:-1], atol=1e-5)
    assert theirs.episode(1).camera is None


def test_states_successes_and_statistics_are_those_of_the_recording(recording, tmp_path):
    export_recording(recording, tmp_path / "set")
    episode = read_episode(episode_path(recording, 3, 0))
    table = parquet.read_table(tmp_path / "set/data/chunk-000/file-000.parquet", filters=[("episode_index", "==", 1)])
    state = np.array(table["observation.state"].to_pylist(), np.float32)
    assert state.shape == (9, len(POSE_NAMES))
    np.testing.assert_array_equal(state[:, :3], episode.gripper_position[:9])
    np.testing.assert_array_equal(state[:, 7], episode.sim.gripper_opening[:9])
    assert table["next.success"].to_pylist() == [False] * 8 + [True]
    assert table["index"].to_pylist() == list(range(7, 16))
    meta = tmp_path / "set" / "meta"
    info, stats = (json.loads((meta / name).read_text()) for name in ("info.json", "stats.json"))
    assert (info["robot_type"], info["total_frames"], info["total_tasks"]) == ("panda", 16, 2)
    assert info["features"][CAMERA]["shape"] == [64, 96, 3]
    whole = np.concatenate([read_episode(episode_path(recording, task, 0)).actions for task in LENGTHS])
    np.testing.assert_allclose(stats["action"]["mean"], whole.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(stats["action"]["q99"], np.quantile(whole, 0.99, axis=0), atol=1e-6)
    assert np.shape(stats[CAMERA]["mean"]) == (3, 1, 1)


def test_nothing_is_overwritten_and_a_failed_export_leaves_nothing(recording, tmp_path):
    (tmp_path / "set").mkdir()
    with pytest.raises(ValueError, match="is there already; give a new folder as --out"):
        export_recording(recording, tmp_path / "set")
    episode_path(recording, 3, 0).write_bytes(b"not an npz")
    with pytest.raises(ValueError, match=r"task_03.episode_00000\.npz is cut off or no npz of numbers"):
        export_recording(recording, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recording", "set"]


def test_an_episode_can_be_left_out(recording, tmp_path):
    episode_path(recording, 3, 0).write_bytes(b"not an npz")
    assert export_recording(recording, tmp_path / "set", without=["task_03/episode_00000"]) == 1
    assert len(RecordingSource(recording, without=["task_03/episode_00000"])) == 1
    assert len(RecordingSource(recording, episodes=["task_00/episode_00000"])) == 1
    with pytest.raises(UnknownOptionError, match=r"has no episode task_04/episode_00000; it has 2 episodes: task_00"):
        export_recording(recording, tmp_path / "other", without=["task_04/episode_00000"])


def test_official_starts_never_become_training_data(recording, tmp_path):
    assert len(RecordingSource(recording)) == 2
    (recording / META).write_text(json.dumps({"starts": "elsewhere"}))
    with pytest.raises(ValueError, match=r"starts in .*meta\.json must be one of .*, is 'elsewhere'"):
        RecordingSource(recording)
    (recording / META).write_text(json.dumps({"starts": "official"}))
    with pytest.raises(ValueError, match="for evaluation only"):
        RecordingSource(recording)
    with pytest.raises(ValueError, match="for evaluation only"):
        export_recording(recording, tmp_path / "set")


def test_an_export_says_how_to_look_at_it_with_its_tools(recording, tmp_path, capsys):
    found = main(Args(recording, tmp_path / "set"))
    assert found["inspect"] in capsys.readouterr().out
    told = inspected(shlex.split(found["inspect"])[-1])
    assert "tool poses" not in told["missing"]
    # 7 + 9 actions, of each the last without a frame after it.
    assert (told["steps"], told["rows"]) == (14, 16)
    assert "rows      16: an episode's last action is left out" in page(told)


def test_the_bundled_episodes_are_a_recording_that_is_exported_and_not_trained_on(tmp_path, capsys):
    found = inspected("bundled")
    assert (found["episodes"], found["starts"]) == (4, "official")
    main(Args(Path("bundled"), tmp_path / "set"))
    assert "train nothing on it" in capsys.readouterr().out
    told = inspected(str(tmp_path / "set"))
    assert told["starts"] == "official"
    assert "trains    nothing" in page(told)
    for read in (
        lambda: RecordingSource("bundled"),
        lambda: StackedSource(f"lerobot:{tmp_path / 'set'}"),
        lambda: read_mixture_entry(f"{tmp_path / 'set'},camera={CAMERA}", {"given": as_given}),
    ):
        with pytest.raises(ValueError, match="official initial states, which are for evaluation only"):
            read()


def test_a_folder_named_bundled_is_itself(recording, tmp_path, monkeypatch):
    recording.rename(tmp_path / "bundled")
    monkeypatch.chdir(tmp_path)
    assert len(RecordingSource("bundled")) == 2
