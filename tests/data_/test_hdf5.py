"""Demonstrations in HDF5, written by hand in the layouts of LIBERO, OpenVLA's second version of it, and robomimic."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest

from prophet_gym.data import LIBERO, LIBERO_REGENERATED, ROBOMIMIC, Hdf5Source

from .conftest import LENGTHS, actions, grey, level


def test_libero_frames_follow_their_actions_and_are_turned_upright(libero_file):
    """LIBERO stores picture i after action i: between pictures 0 and 1 lies action 1."""
    source = Hdf5Source(libero_file(), LIBERO)
    assert [source.steps(index) for index in range(len(source))] == [length - 1 for length in LENGTHS]
    episode = source.episode(2)
    np.testing.assert_array_equal(episode.actions, actions(2, LENGTHS[2])[1:])
    frames = episode.frames(3, 6)
    np.testing.assert_array_equal(level(frames), [grey(2, i) for i in (3, 4, 5)])
    assert (frames[:, :8] == 250).all(), "the bright edge is at the top"
    assert (episode.instruction, episode.fps, episode.robot) == ("pick up the milk", 20.0, "Panda")


def test_the_regenerated_files_hold_pictures_before_actions_and_no_facts(libero_file):
    path = libero_file(problem_info=None, env_args=None, macros_image_convention=None)
    with pytest.raises(ValueError, match=r"does not say its fps; give it: Hdf5Source\(\.\.\., fps="):
        Hdf5Source(path, LIBERO_REGENERATED)
    with pytest.raises(ValueError, match="does not say its instruction; give it"):
        Hdf5Source(path, LIBERO_REGENERATED, fps=20)
    source = Hdf5Source(path, LIBERO_REGENERATED, fps=20, instruction="pick up the milk")
    np.testing.assert_array_equal(source.episode(1).actions, actions(1, LENGTHS[1])[:-1])


def test_robomimic_splits_and_upright_pictures(libero_file):
    path = libero_file("image.hdf5", upright=True, macros_image_convention=None)
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            demo.move("obs/agentview_rgb", "obs/agentview_image")
        file["mask/train"] = np.array([b"demo_2", b"demo_0"])
    source = Hdf5Source(path, ROBOMIMIC, split="train", instruction="lift the cube")
    assert len(source) == 2
    episode = source.episode(1)
    np.testing.assert_array_equal(episode.actions, actions(2, LENGTHS[2])[:-1])
    assert (episode.frames(0, 1)[:, :8] == 250).all()
    with pytest.raises(ValueError, match=r"unknown split 'trian'.*Did you mean 'train'"):
        Hdf5Source(path, ROBOMIMIC, split="trian")


def test_demonstrations_of_a_folder_come_by_file_and_number(libero_file, tmp_path):
    for name in ("b_demo.hdf5", "a_demo.hdf5"):
        libero_file(name)
    with h5py.File(tmp_path / "a_demo.hdf5", "a") as file:
        file.move("data/demo_1", "data/demo_10")
    source = Hdf5Source(tmp_path)
    names = [source.episode(index).name for index in range(len(source))]
    assert names == [
        *(f"demo_{number} of {tmp_path / 'a_demo.hdf5'}" for number in (0, 2, 10)),
        *(f"demo_{number} of {tmp_path / 'b_demo.hdf5'}" for number in (0, 1, 2)),
    ]


def test_the_wrong_way_up_is_refused(libero_file):
    with pytest.raises(ValueError, match=r"'opencv', which as_stored turns upright; the layout has rows_reversed"):
        Hdf5Source(libero_file(upright=True), LIBERO)
    source = Hdf5Source(libero_file(upright=True), replace(LIBERO, orient="as_stored"))
    with pytest.raises(ValueError, match="unknown orient 'mirrored'"):
        replace(LIBERO, orient="mirrored")
    assert (source.episode(0).frames(0, 1)[:, :8] == 250).all()


def test_wrong_files_are_refused(libero_file, tmp_path):
    with pytest.raises(FileNotFoundError, match="give a file or a folder that holds"):
        Hdf5Source(tmp_path / "nothing.hdf5")
    path = libero_file()
    with pytest.raises(ValueError, match=r"unknown camera 'agentview'.*Did you mean 'agentview_rgb'"):
        Hdf5Source(path, replace(LIBERO, camera="agentview"))
    with pytest.raises(ValueError, match="states control_freq=20, which contradicts fps=10"):
        Hdf5Source(path, fps=10)
    with h5py.File(path, "a") as file:
        del file["data/demo_1/actions"]
        file["data/demo_1/actions"] = np.zeros((4, 7))
    with pytest.raises(ValueError, match=r"demo_1 of .* as many frames as actions, has 6 and 4"):
        Hdf5Source(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="must be a whole HDF5 file"):
        Hdf5Source(path)
    with h5py.File(path, "w") as file:
        file["observations"] = np.zeros(3)
    with pytest.raises(ValueError, match="must hold a group data"):
        Hdf5Source(path)


def test_actions_that_are_no_numbers_are_refused(libero_file):
    path = libero_file(env_args=json.dumps({"env_kwargs": {"control_freq": 20}}))
    with h5py.File(path, "a") as file:
        file["data/demo_0/actions"][3] = np.nan
    with pytest.raises(ValueError, match=r"actions of demo_0 of .* must be finite"):
        Hdf5Source(path).episode(0)
