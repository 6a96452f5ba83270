"""BRIDGE in its raw layout and in that of its own script, written with pickle, numpy and Pillow as that script does."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image

from prophet_gym.cli.main import main
from prophet_gym.data import EpisodeSource
from prophet_gym.data.readers import BridgeSource
from prophet_gym.errors import UnknownOptionError
from tests.data_.readers.told import LENGTHS, actions, images, level, states, tasks
from tests.data_.readers.writers import write_bridge, write_bridge_numpy

EARLY = "2021-07-22_10-00-00"


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_raw_trajectories_are_read_as_they_were_recorded(tmp_path, protocol):
    for number in (0, 1):
        write_bridge(tmp_path, number, protocol=protocol)
    source = BridgeSource(tmp_path)
    assert isinstance(source, EpisodeSource)
    assert source.views == ("images0", "images1")
    for number in (0, 1):
        episode = source.episode(number)
        assert (len(episode), episode.fps, episode.robot) == (LENGTHS[number] - 1, 5.0, "bridge")
        assert episode.instruction == tasks(number)
        np.testing.assert_array_equal(episode.actions, actions(number)[:-1])
        np.testing.assert_allclose(episode.tools[:, 0], states(number))
        np.testing.assert_allclose(level(episode.frames()), level(images(number)), atol=2)
        other = source.looking_through("images1").episode(number)
        np.testing.assert_allclose(level(other.frames(1, 3)), 255 - level(images(number))[1:3], atol=2)


def test_early_recordings_show_each_state_a_step_late(tmp_path):
    write_bridge(tmp_path, 1, EARLY)
    episode = BridgeSource(tmp_path).episode(0)
    assert len(episode) == LENGTHS[1] - 2
    np.testing.assert_array_equal(episode.actions, actions(1)[:-2])
    np.testing.assert_allclose(episode.tools[:, 0], states(1)[1:])
    np.testing.assert_allclose(level(episode.frames()), level(images(1))[1:], atol=2)


def test_images_come_by_their_numbers(tmp_path):
    """im_10 comes after im_9, and not after im_1."""
    folder = write_bridge(tmp_path, 1)
    grey = [20 * number for number in range(12)]
    for number, value in enumerate(grey):
        Image.fromarray(np.full((48, 64, 3), value, np.uint8)).save(folder / "images0" / f"im_{number}.jpg")
    (folder / "obs_dict.pkl").write_bytes(pickle.dumps({"full_state": np.zeros((12, 7))}))
    (folder / "policy_out.pkl").write_bytes(pickle.dumps([np.zeros(7)] * 11))
    np.testing.assert_allclose(level(BridgeSource(tmp_path).episode(0).frames()), grey, atol=1)
    (folder / "policy_out.pkl").write_bytes(pickle.dumps([np.zeros(7)] * 12))
    with pytest.raises(ValueError, match="12 images, 12 states and 12 actions; leave it out"):
        BridgeSource(tmp_path).episode(0)


def test_the_script_s_arrays_are_read(tmp_path):
    write_bridge_numpy(tmp_path)
    source = BridgeSource(tmp_path, without=["rss/toykitchen2/set_table/00/train/out.npy/0"])
    assert len(source) == 1
    episode = source.episode(0)
    assert (len(episode), episode.instruction) == (LENGTHS[1] - 1, tasks(1))
    np.testing.assert_array_equal(episode.actions, actions(1)[:-1])
    np.testing.assert_allclose(episode.tools[:, 0], states(1))
    np.testing.assert_array_equal(episode.frames(), images(1))


class _Planted:
    def __reduce__(self):
        return os.mkdir, ("planted",)


@pytest.mark.parametrize("name", ["obs_dict.pkl", "policy_out.pkl"])
def test_nothing_in_a_pickle_is_executed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_bridge(tmp_path, 0)
    (folder / name).write_bytes(pickle.dumps({"full_state": _Planted()}))
    with pytest.raises(ValueError, match=rf"{name} must be a whole pickle of arrays: it names (posix|nt)\.mkdir"):
        BridgeSource(tmp_path).episode(0)
    np.save(write_bridge_numpy(tmp_path / "own"), np.array([_Planted()], dtype=object))
    with pytest.raises(ValueError, match=r"out\.npy must be a whole pickle of arrays: it names (posix|nt)\.mkdir"):
        BridgeSource(tmp_path / "own")
    assert not (tmp_path / "planted").exists()


def test_damaged_and_missing_files_are_named(tmp_path):
    folder = write_bridge(tmp_path, 0)
    whole = (folder / "obs_dict.pkl").read_bytes()
    (folder / "obs_dict.pkl").write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=r"obs_dict\.pkl must be a whole pickle of arrays"):
        BridgeSource(tmp_path).episode(0)
    (folder / "obs_dict.pkl").write_bytes(pickle.dumps({"state": np.zeros((6, 7))}))
    with pytest.raises(ValueError, match=r"traj0 of .* must have full_state in obs_dict\.pkl"):
        BridgeSource(tmp_path).episode(0)
    (folder / "obs_dict.pkl").write_bytes(whole)
    image = folder / "images0/im_2.jpg"
    image.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match=r"the images of .*images0 must be images of one size as PNG or JPEG"):
        BridgeSource(tmp_path).episode(0).frames()
    (folder / "policy_out.pkl").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file at .*policy_out\.pkl; fetch the data set again"):
        BridgeSource(tmp_path).episode(0)
    image.unlink()
    with pytest.raises(ValueError, match=r"images0 must hold im_0\.jpg \.\. im_5\.jpg, im_2\.jpg is missing"):
        BridgeSource(tmp_path)
    with pytest.raises(UnknownOptionError, match=r"unknown camera of .*traj0 'images7'"):
        BridgeSource(tmp_path, "images7")
    with pytest.raises(FileNotFoundError, match="no trajectory of BRIDGE"):
        BridgeSource(tmp_path / "nowhere")
    path = write_bridge_numpy(tmp_path / "own")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"out\.npy must be a whole pickle of arrays"):
        BridgeSource(tmp_path / "own")


def test_inspect_says_what_bridge_has(tmp_path, capsys):
    write_bridge(tmp_path, 0)
    main(["inspect", f"bridge:{tmp_path}"])
    page = capsys.readouterr().out
    assert page.startswith("bridge, robot bridge\nepisodes  1, 5 actions")
    assert "cameras   images0 48x64, images1 48x64" in page
    assert f"1 x {tasks(0)}" in page
