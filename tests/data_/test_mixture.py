"""Data sets in words: each kind is opened as its reader would, and what is wrong is said at once."""

import json

import h5py
import numpy as np
import pytest

from prophet_gym.data import Hdf5Source, LeRobotSource
from prophet_gym.data._mixture import read_mixture_entry
from prophet_gym.data._recording import META, RecordingSource
from prophet_gym.data._windows import as_given

from .conftest import CAMERA


def doubled(actions, tools):
    return 2 * actions, tools


WAYS = {"double": doubled, "given": as_given}


def test_each_kind_is_opened_by_its_reader(lerobot, libero_file, tmp_path):
    entry = read_mixture_entry(f"{lerobot('v3')},camera={CAMERA},weight=2,orient=columns_reversed", WAYS)
    assert isinstance(entry.source, LeRobotSource)
    assert (entry.weight, entry.plan) == (2.0, doubled)
    plain = LeRobotSource(tmp_path / "set", CAMERA).episode(0).frames(0, 2)
    np.testing.assert_array_equal(entry.source.episode(0).frames(0, 2), plain[:, :, ::-1])
    entry = read_mixture_entry(f"{libero_file()},kind=libero,actions=given", WAYS)
    assert isinstance(entry.source, Hdf5Source)
    assert (entry.weight, entry.plan) == (None, as_given)
    again = read_mixture_entry(f"{libero_file()},kind=libero_regenerated", WAYS)
    assert again.source.episode(0).actions[0, 0] + 1 == entry.source.episode(0).actions[0, 0]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / META).write_text(json.dumps({"starts": "random"}))
    assert isinstance(read_mixture_entry(str(tmp_path / "own"), WAYS).source, RecordingSource)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "for HDF5 files say who wrote them"),
        (",kind=tfds", "unknown kind of data set 'tfds'"),
        (",kind=libero,camra=front", "unknown option of a libero data set 'camra'"),
        (",kind=libero,weight", "a data set is PATH,name=value,..., got 'weight'"),
        (",kind=libero,weight=much", "weight must be a number, got 'much'"),
        (",kind=libero,actions=double_it", "unknown way of reading actions 'double_it'. Did you mean 'double'"),
        (",kind=libero,fps=30", "contradicts fps=30"),
    ],
)
def test_what_is_wrong_is_said(options, message, libero_file):
    with pytest.raises(ValueError, match=message):
        read_mixture_entry(f"{libero_file()}{options}", WAYS)


def test_episodes_can_be_chosen_in_words(lerobot, libero_file):
    root = lerobot("v2")
    entry = read_mixture_entry(f"{root},camera={CAMERA},without=0+2,tolerance=0.3", WAYS)
    assert (len(entry.source), entry.source.tolerance) == (1, 0.3)
    entry = read_mixture_entry(f"{libero_file()},kind=libero,episodes=demo_2+demo_0", WAYS)
    assert [entry.source.episode(index).name.split()[0] for index in range(2)] == ["demo_0", "demo_2"]
    with pytest.raises(ValueError, match=r"without must be numbers of episodes joined by \+, got 'one'"):
        read_mixture_entry(f"{root},camera={CAMERA},without=one", WAYS)


def test_cameras_and_paths_must_be_given(lerobot, tmp_path):
    with pytest.raises(ValueError, match="say which camera to read"):
        read_mixture_entry(str(lerobot("v2")), WAYS)
    with pytest.raises(ValueError, match="unknown orient 'mirrored'"):
        read_mixture_entry(f"{tmp_path / 'set'},camera={CAMERA},orient=mirrored", WAYS)
    with pytest.raises(FileNotFoundError, match="no data set at"):
        read_mixture_entry(str(tmp_path / "nowhere"), WAYS)


def test_where_the_tools_are_is_said_in_words(libero_file, lerobot, tmp_path):
    path = libero_file()
    with h5py.File(path, "a") as file:
        obs = file["data/demo_1/obs"]
        count = len(obs["ee_states"])
        obs["ee_pos"] = np.arange(count)[:, None] * np.array([[0.1, 0, 0]])
        obs["ee_ori"] = np.tile([0, 0, np.pi / 2], (count, 1))
        obs["gripper_states"] = np.tile([0.01, -0.01], (count, 1))
    cameras = np.full((3, 3, 4), np.nan)
    cameras[1] = np.eye(3, 4)
    np.save(tmp_path / "cameras.npy", cameras)
    words = "state=ee_pos+ee_ori+gripper_states,numbers=xyz+rotation_vector+gripper+skip,open=0.04"
    text = f"{path},kind=libero,{words},calibration={tmp_path / 'cameras.npy'}"
    entry = read_mixture_entry(text, WAYS)
    episode = entry.source.episode(1)
    assert len(episode.tools) == len(episode) + 1, "picture and state i are both taken after action i"
    np.testing.assert_allclose(episode.tools[2, 0], [0.2, 0, 0, 0, 0, np.pi / 2, 0.25], atol=1e-6)
    np.testing.assert_array_equal(episode.camera, np.eye(3, 4))
    with pytest.raises(ValueError, match="unknown state 'ee_pos'"):
        entry.source.episode(0)
    place = f"{lerobot('v3')},camera={CAMERA},calibration={tmp_path / 'cameras.npy'}"
    moves = read_mixture_entry(f"{place},state=action,numbers=xyz+euler+gripper,open=200,closed=100", WAYS).source
    assert moves.episode(0).camera is None
    np.testing.assert_allclose(moves.episode(1).tools[4, 0], [104] * 6 + [0.04], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("state=ee_pos", "is said with both state=COLUMN.* and numbers=xyz.*, got state"),
        ("open=0.04", "with both state=.*, got open"),
        ("state=ee_states,numbers=xyz+eulr+gripper", "unknown number of a state 'eulr'. Did you mean 'euler'"),
        ("state=ee_states,numbers=xyz+euler", r"one gripper for each of 1 or 2 arms, got xyz\+euler"),
        ("state=ee_states,numbers=xyz+euler+gripper,closed=1", "open and closed must differ, both are 1"),
        ("calibration=nowhere.npy", "no camera matrices at nowhere.npy"),
    ],
)
def test_what_is_wrong_of_the_tools_is_said(options, message, libero_file):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_mixture_entry(f"{libero_file()},kind=libero,{options}", WAYS)


def test_states_and_cameras_must_fit_the_data(libero_file, lerobot, tmp_path):
    entry = read_mixture_entry(f"{libero_file()},kind=libero,state=ee_states,numbers=xyz+euler+gripper", WAYS)
    with pytest.raises(ValueError, match=r"are 7 numbers, but ee_states of demo_0 of .* hold 6; name the others skip"):
        entry.source.episode(0)
    with pytest.raises(ValueError, match=r"unknown state feature 'observation\.state'"):
        read_mixture_entry(f"{lerobot('v3')},camera={CAMERA},state=observation.state,numbers=xyz+euler+gripper", WAYS)
    np.save(tmp_path / "two.npy", np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match="or one for each of 3 episodes, got 2"):
        read_mixture_entry(f"{libero_file()},kind=libero,calibration={tmp_path / 'two.npy'}", WAYS)
    np.save(tmp_path / "flat.npy", np.zeros(12))
    with pytest.raises(ValueError, match=r"must hold camera matrices, .* holds \(12,\)"):
        read_mixture_entry(f"{libero_file()},kind=libero,calibration={tmp_path / 'flat.npy'}", WAYS)
