"""Raw DROID episodes, written with h5py row by row and ffmpeg, after the schema of the droid repository."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from prophet_gym.cli.main import main
from prophet_gym.data import EpisodeSource
from prophet_gym.data._mixture import read_mixture_entry
from prophet_gym.data._windows import as_given
from prophet_gym.data.readers import DroidSource
from prophet_gym.embodiments import camera_matrix
from prophet_gym.embodiments._kinematics import euler_to_matrix
from prophet_gym.errors import UnknownOptionError
from tests.data_.conftest import encode
from tests.data_.readers.told import LENGTHS, actions, images, level, states, tasks
from tests.data_.readers.writers import LENS, POSE, SERIALS, write_droid


def test_episodes_are_read_as_they_were_recorded(tmp_path):
    for number in (0, 1):
        write_droid(tmp_path, number)
    source = DroidSource(tmp_path)
    assert isinstance(source, EpisodeSource)
    for number in (0, 1):
        episode = source.episode(number)
        assert (len(episode), episode.fps, episode.robot) == (LENGTHS[number] - 1, 15.0, "droid")
        assert episode.instruction == tasks(number)
        np.testing.assert_allclose(episode.actions, actions(number)[:-1])
        pose = states(number)
        np.testing.assert_allclose(episode.tools[:, 0], np.hstack([pose[:, :6], 1 - pose[:, 6:]]), rtol=1e-6)
        np.testing.assert_allclose(level(episode.frames()), level(images(number)), atol=2)
        np.testing.assert_allclose(level(episode.frames(2, 4)), level(images(number))[2:4], atol=2)
        np.testing.assert_array_equal(episode.done, np.arange(LENGTHS[number]) == LENGTHS[number] - 1)
        other = source.looking_through("wrist").episode(number)
        np.testing.assert_allclose(level(other.frames()), level(images(number) // 2), atol=2)
        assert other.camera is None, "the camera at the wrist moves"


def test_the_camera_s_pose_comes_from_the_metadata(tmp_path):
    write_droid(tmp_path, 0)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = euler_to_matrix(np.array(POSE[3:])), POSE[:3]
    expected = camera_matrix(LENS, pose, (48, 64))
    np.testing.assert_allclose(DroidSource(tmp_path).episode(0).camera, expected)
    write_droid(tmp_path / "old", 0, lens=False)
    assert DroidSource(tmp_path / "old").episode(0).camera is None
    words = f"droid:{tmp_path / 'old'},intrinsics=50+50+32+24"
    np.testing.assert_allclose(read_mixture_entry(words, {"given": as_given}).source.episode(0).camera, expected)
    with pytest.raises(ValueError, match="intrinsics must be fx, fy above 0"):
        DroidSource(tmp_path, intrinsics=(0, 50, 32, 24))
    with pytest.raises(ValueError, match=r"intrinsics must be fx\+fy\+cx\+cy, four numbers, got 'wide'"):
        read_mixture_entry(f"droid:{tmp_path},intrinsics=wide", {"given": as_given})


def test_outcomes_choose_episodes(tmp_path):
    write_droid(tmp_path, 0)
    failed = write_droid(tmp_path, 1, success=False)
    assert len(DroidSource(tmp_path)) == 2
    episode = DroidSource(tmp_path, outcome="failure").episode(0)
    assert (episode.instruction, episode.done.any()) == (tasks(1), False)
    assert DroidSource(tmp_path, outcome="success").names[0].startswith("success/")
    name = str(failed.relative_to(tmp_path))
    assert len(DroidSource(tmp_path, without=[name])) == len(DroidSource(tmp_path, episodes=[name])) == 1
    with pytest.raises(UnknownOptionError, match=r"unknown outcome 'succes'. Did you mean 'success'"):
        DroidSource(tmp_path, outcome="succes")


def change_metadata(folder: Path, **changes) -> None:
    (path,) = folder.glob("metadata_*.json")
    told = {key: value for key, value in {**json.loads(path.read_text()), **changes}.items() if value != "absent"}
    path.write_text(json.dumps(told))


def test_damaged_and_missing_files_are_named(tmp_path):
    folder = write_droid(tmp_path, 0)
    change_metadata(folder, trajectory_length=7)
    with pytest.raises(ValueError, match=r"action/cartesian_velocity of .* must have the 7 rows .* state, has 6"):
        DroidSource(tmp_path).episode(0)
    change_metadata(folder, trajectory_length=6, ext1_cam_serial="absent")
    with pytest.raises(ValueError, match=r"metadata_LAB\+1\+0\.json must state trajectory_length, ext1_cam_serial"):
        DroidSource(tmp_path)
    change_metadata(folder, ext1_cam_serial=SERIALS["ext1"], ext1_cam_extrinsics=[1, 2])
    with pytest.raises(ValueError, match=r"ext1_cam_extrinsics of .* must be x, y, z and three angles, are \[1, 2\]"):
        DroidSource(tmp_path)
    change_metadata(folder, ext1_cam_extrinsics=POSE)
    video = folder / "recordings/MP4" / f"{SERIALS['ext1']}.mp4"
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"22008760\.mp4 must be a video that ffmpeg can decode; fetch it again"):
        DroidSource(tmp_path).episode(0).frames()
    video.unlink()
    with pytest.raises(FileNotFoundError, match=r"no file at .*22008760\.mp4"):
        DroidSource(tmp_path).episode(0).frames()
    encode(video, images(0)[:3], fps=60)
    with pytest.raises(ValueError, match="must hold a frame before each of its 5 actions and one after them"):
        DroidSource(tmp_path).episode(0).frames()
    recorded = folder / "trajectory.h5"
    recorded.write_bytes(recorded.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"trajectory\.h5 must be a whole HDF5 file; fetch it again"):
        DroidSource(tmp_path).episode(0)
    next(folder.glob("metadata_*.json")).unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold one metadata_\*\.json, holds 0"):
        DroidSource(tmp_path)
    with pytest.raises(FileNotFoundError, match="no episode of DROID"):
        DroidSource(tmp_path / "nowhere")


def test_a_file_without_actions_is_named(tmp_path):
    folder = write_droid(tmp_path, 0)
    with h5py.File(folder / "trajectory.h5", "a") as file:
        del file["action/gripper_position"]
    with pytest.raises(ValueError, match=r"action/gripper_position of .* must be numbers \(rows, n\), is missing"):
        DroidSource(tmp_path).episode(0)


def test_inspect_says_what_droid_has(tmp_path, capsys):
    write_droid(tmp_path, 0)
    main(["inspect", f"droid:{tmp_path}", "--json", "-"])
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["robot"], found["missing"]) == ("droid", "droid", [])
    assert found["cameras"] == {"ext1": [48, 64], "ext2": [48, 64], "wrist": [48, 64]}
    assert found["success"] == {"labelled": 1, "successful": 1}
