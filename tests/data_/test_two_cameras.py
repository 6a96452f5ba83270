"""Recordings of two cameras: read and written, and exported as the published LeRobot sets of LIBERO are."""

import json
from dataclasses import replace

import numpy as np
import pytest
from pyarrow import parquet

from prophet_gym.data import LeRobotSource, RecordingSource
from prophet_gym.data._lerobot_export import BOTH_CAMERAS, export_recording
from prophet_gym.data._recording import META, episode_path, read_episode, write_episode
from prophet_gym.errors import UnknownOptionError

from .conftest import libero_episode

STEPS = {0: 6, 1: 8}


def picture(steps: int, shade: int) -> np.ndarray:
    """Frames that grow brighter, with a dark left half."""
    frames = (
        np.full((steps + 1, 64, 96, 3), shade, np.uint8) + np.arange(steps + 1, dtype=np.uint8)[:, None, None, None]
    )
    frames[:, :, :48] = 20
    return frames


def episode_of(task: int, steps: int):
    state = np.random.default_rng(100 + task).normal(size=(steps + 1, 8)).astype(np.float32)
    return libero_episode(task, steps, robot_state=state)


@pytest.fixture
def recording(tmp_path):
    folder = tmp_path / "recording"
    for task, steps in STEPS.items():
        path = episode_path(folder, task, 0)
        write_episode(path, episode_of(task, steps), picture(steps, 120), picture(steps, 200))
    (folder / META).write_text(json.dumps({"starts": "random"}))
    return folder


def test_both_cameras_and_the_state_come_back(recording):
    episode = RecordingSource(recording).episode(1)
    assert episode.cameras == ("agentview", "wrist")
    np.testing.assert_array_equal(episode.sim.robot_state, episode_of(1, 8).sim.robot_state)
    for camera, shade in (("agentview", 120), ("wrist", 200)):
        frames = episode.frames(2, 5, camera=camera)
        np.testing.assert_allclose(frames[:, 32, 80].mean(-1), shade + np.arange(2, 5), atol=2)
    short = episode.cut(3)
    assert short.sim.robot_state.shape == (4, 8)
    assert len(short.frames(camera="wrist")) == 4


def test_the_robots_state_goes_with_the_wrist_camera(tmp_path):
    episode, path = episode_of(0, 6), tmp_path / "task_00" / "episode_00000.npz"
    write_episode(path, episode, picture(6, 120))
    again = read_episode(path)
    assert (again.cameras, again.sim.robot_state) == (("agentview",), None)
    with pytest.raises(UnknownOptionError, match=r"unknown camera of .* 'wrist'"):
        again.frames(camera="wrist")
    blind = replace(episode, simulation=replace(episode.sim, robot_state=None))
    with pytest.raises(ValueError, match="need the robot's state beside them"):
        write_episode(path, blind, picture(6, 120), picture(6, 120))
    with pytest.raises(ValueError, match="6 actions need 7 frames, got 6"):
        write_episode(path, episode, picture(6, 120), picture(5, 120))


def test_a_damaged_state_is_named(recording):
    path = episode_path(recording, 0, 0)
    values = dict(np.load(path))
    np.savez(path, **values | {"robot_state": values["robot_state"][:, :7]})
    with pytest.raises(
        ValueError, match=r"robot_state of .* must be real numbers, shape \(7, 8\), is float32 \(7, 7\)"
    ):
        read_episode(path)


def test_the_export_is_what_lerobot_publishes(recording, tmp_path):
    assert export_recording(recording, tmp_path / "set") == 2
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    names = [*BOTH_CAMERAS, "observation.state", "action"]
    assert list(info["features"])[:4] == names
    assert [info["features"][name]["shape"] for name in names] == [[64, 96, 3], [64, 96, 3], [8], [7]]
    table = parquet.read_table(tmp_path / "set/data/chunk-000/file-000.parquet")
    assert table.column_names[:2] == ["observation.state", "action"]
    expected = np.concatenate([episode_of(task, steps).sim.robot_state[:-1] for task, steps in STEPS.items()])
    np.testing.assert_array_equal(np.array(table["observation.state"].to_pylist(), np.float32), expected)
    stats = json.loads((tmp_path / "set/meta/stats.json").read_text())
    assert {np.shape(stats[name]["mean"]) for name in BOTH_CAMERAS} == {(3, 1, 1)}
    # Left and right are exchanged, and `columns_reversed` exchanges them back.
    for feature, shade in zip(BOTH_CAMERAS, (120, 200), strict=True):
        for orient, column in (("as_stored", 10), ("columns_reversed", 80)):
            frames = LeRobotSource(tmp_path / "set", feature, orient=orient).episode(1).frames(3, 5)
            np.testing.assert_allclose(frames[:, 32, column].mean(-1), shade + np.arange(3, 5), atol=3)


def test_one_and_two_cameras_are_exported_apart(recording, tmp_path):
    write_episode(episode_path(recording, 2, 0), episode_of(2, 6), picture(6, 120))
    with pytest.raises(ValueError, match=r"all episodes must have the same cameras, and .*task_02.* has agentview"):
        export_recording(recording, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    assert export_recording(recording, tmp_path / "set", without=["task_02/episode_00000"]) == 2
