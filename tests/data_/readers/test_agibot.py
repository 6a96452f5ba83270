"""AgiBot World, written with h5py, ffmpeg and JSON after the published tree and table of `proprio_stats.h5`."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from prophet_gym.cli.main import main
from prophet_gym.data import EpisodeSource
from prophet_gym.data._mixture import read_mixture_entry
from prophet_gym.data._windows import as_given
from prophet_gym.data.readers import AgibotSource
from prophet_gym.embodiments import camera_matrix, get_embodiment
from prophet_gym.errors import UnknownOptionError
from prophet_gym.train._pretrain import poses_plan, robot_plan
from tests.data_.conftest import encode
from tests.data_.readers.told import LENGTHS, images, level, tasks
from tests.data_.readers.writers import PLACE, TURN, grippers, poses, write_agibot


def test_episodes_are_read_as_they_were_written(tmp_path):
    names = [write_agibot(tmp_path, 327, 0), write_agibot(tmp_path, 352, 1)]
    source = AgibotSource(tmp_path)
    assert isinstance(source, EpisodeSource)
    assert source.names == names
    for number in (0, 1):
        episode = source.episode(number)
        assert (len(episode), episode.fps, episode.robot) == (LENGTHS[number] - 1, 30.0, "agibot")
        assert episode.instruction == tasks(number)
        places, turns = poses(number, 1)
        arms = np.concatenate([places, turns, grippers(number)[..., None]], axis=-1).reshape(-1, 16)
        np.testing.assert_allclose(episode.actions, arms[:-1], rtol=1e-6)
        np.testing.assert_allclose(episode.tools[..., :3], poses(number)[0], rtol=1e-6)
        np.testing.assert_allclose(
            episode.tools[2, 0, 6], 1 - grippers(number)[1, 0], err_msg="that of the command before"
        )
        np.testing.assert_allclose(level(episode.frames()), level(images(number)), atol=2)
        other = source.looking_through("hand_left").episode(number)
        np.testing.assert_allclose(level(other.frames(1, 3)), 255 - level(images(number))[1:3], atol=2)
        assert other.camera is None


def test_both_ways_of_reading_actions_agree_where_the_robot_went_where_it_was_told(tmp_path):
    """The robot reached each pose, so its commands and the motion between its poses are one."""
    write_agibot(tmp_path, 327, 1)
    episode = AgibotSource(tmp_path).episode(0)
    told, _ = robot_plan(episode.actions, episode.tools, robot=get_embodiment("agibot"), action_dim=14)
    went, _ = poses_plan(episode.actions, episode.tools, action_dim=14)
    np.testing.assert_allclose(told, went, atol=1e-5)


def test_a_camera_that_stands_still_has_a_matrix(tmp_path):
    write_agibot(tmp_path, 327, 0)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = TURN, PLACE
    lens = np.array([[50, 0, 32], [0, 51, 24], [0, 0, 1]], float)
    matrix = AgibotSource(tmp_path).episode(0).camera
    np.testing.assert_allclose(matrix, camera_matrix(lens, pose, (48, 64)))
    # A point of the world lands where OpenCV's camera sees it, in parts of the image.
    x, y, z = TURN.T @ (np.array([0.6, 0.3, 0.8]) - PLACE)
    u, v, w = matrix @ [0.6, 0.3, 0.8, 1]
    np.testing.assert_allclose([u / w, v / w], [(50 * x / z + 32) / 64, (51 * y / z + 24) / 48])
    write_agibot(tmp_path, 328, 0, moves=0.01)
    write_agibot(tmp_path, 329, 0, calibrated=False)
    for task in ("328", "329"):
        assert AgibotSource(tmp_path, tasks=[task]).episode(0).camera is None


def test_tasks_and_episodes_are_chosen_in_words(tmp_path):
    for task in (9, 327):
        write_agibot(tmp_path, task, 0)
    read = {"given": as_given}
    assert read_mixture_entry(str(tmp_path), read).source.names == ["9/648640", "327/648640"], "by number"
    assert read_mixture_entry(f"agibot:{tmp_path},tasks=327", read).source.names == ["327/648640"]
    assert read_mixture_entry(f"{tmp_path},without=9/648640", read).source.names == ["327/648640"]
    with pytest.raises(UnknownOptionError, match="has no episode 5"):
        AgibotSource(tmp_path, tasks=["5"])
    with pytest.raises(UnknownOptionError, match=r"unknown camera of 9/648640 of .* 'heads'. Did you mean 'head'"):
        AgibotSource(tmp_path, "heads")


def change(root: Path, name: str, key: str, value) -> None:
    with h5py.File(root / "proprio_stats" / name / "proprio_stats.h5", "a") as file:
        del file[key]
        if value is not None:
            file[key] = value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("action/effector/position", np.zeros((6, 12)), r"must be 2 numbers a row, is \(6, 12\); hands with fingers"),
        ("action/effector/position", np.full((6, 2), 35.0), r"must be 0 \(open\) \.\. 1 \(closed\), is 35 \.\. 35"),
        (
            "action/end/position",
            np.zeros((7, 2, 3)),
            "must have 6 rows as timestamp has, has 7; leave",
        ),
        ("state/end/orientation", None, "state/end/orientation of .* must be 8 numbers a row, is missing"),
        ("state/end/position", np.full((6, 2, 3), np.nan), "must be finite numbers"),
        ("timestamp", np.arange(6) * 10**8, "must have 30 rows a second, has one each 0.1 s"),
        ("timestamp", None, "must hold timestamp, one for each row"),
    ],
)
def test_what_contradicts_the_layout_is_named(key, value, message, tmp_path):
    name = write_agibot(tmp_path, 327, 0)
    change(tmp_path, name, key, value)
    with pytest.raises(ValueError, match=message):
        AgibotSource(tmp_path).episode(0)


def test_damaged_and_missing_files_are_named(tmp_path):
    name = write_agibot(tmp_path, 327, 0)
    video = tmp_path / "observations" / name / "videos" / "head_color.mp4"
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"head_color\.mp4 must be a video that ffmpeg can decode; fetch it again"):
        AgibotSource(tmp_path).episode(0)
    encode(video, images(0)[:4], fps=30)
    with pytest.raises(ValueError, match="must hold a frame before each of its 5 actions and one after them"):
        AgibotSource(tmp_path).episode(0).frames()
    encode(video, images(0), fps=30)
    outer = tmp_path / "parameters" / name / "parameters/camera/head_extrinsic_params_aligned.json"
    outer.write_text(outer.read_text()[:-9])
    with pytest.raises(ValueError, match=r"head_extrinsic_params_aligned\.json must be whole JSON"):
        AgibotSource(tmp_path).episode(0)
    outer.write_text("[{}]")
    with pytest.raises(ValueError, match="must hold intrinsic and extrinsic: 'extrinsic'; fetch them again"):
        AgibotSource(tmp_path).episode(0)
    shutil.rmtree(tmp_path / "parameters")
    (tmp_path / "task_info/task_327.json").write_text("[]")
    with pytest.raises(ValueError, match=r"task_327\.json must list episode 648640, lists 0 others"):
        AgibotSource(tmp_path).episode(0)
    (tmp_path / "task_info/task_327.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file at .*task_327\.json"):
        AgibotSource(tmp_path).episode(0)
    path = tmp_path / "proprio_stats" / name / "proprio_stats.h5"
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"proprio_stats\.h5 must be a whole HDF5 file; fetch it again"):
        AgibotSource(tmp_path)
    with pytest.raises(FileNotFoundError, match="no episode of AgiBot World"):
        AgibotSource(tmp_path / "nowhere")


def test_inspect_says_what_agibot_has(tmp_path, capsys):
    write_agibot(tmp_path, 327, 0)
    main(["inspect", f"agibot:{tmp_path}"])
    page = capsys.readouterr().out
    assert page.startswith("agibot, robot agibot\nepisodes  1, 5 actions")
    assert "cameras   hand_left 48x64, head 48x64" in page
    assert "left_gripper" in page
    assert "missing   success" in page
