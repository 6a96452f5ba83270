"""Data sets in words: each kind is opened as its reader would, and what is wrong is said at once."""

import json

import numpy as np
import pytest

from prophet_gym.data.hdf5 import Hdf5Source
from prophet_gym.data.lerobot import LeRobotSource
from prophet_gym.data.mixture import read_share
from prophet_gym.data.pixel_clips import as_given
from prophet_gym.data.recording import META, RecordingSource

from .conftest import CAMERA


def doubled(actions):
    return 2 * actions


WAYS = {"double": doubled, "given": as_given}


def test_each_kind_is_opened_by_its_reader(lerobot, libero_file, tmp_path):
    share = read_share(f"{lerobot('v3')},camera={CAMERA},weight=2,robot=mine,orient=columns_reversed", WAYS)
    assert isinstance(share.source, LeRobotSource)
    assert (share.weight, share.source.robot, share.to_actions) == (2.0, "mine", doubled)
    plain = LeRobotSource(tmp_path / "set", CAMERA).episode(0).frames(0, 2)
    np.testing.assert_array_equal(share.source.episode(0).frames(0, 2), plain[:, :, ::-1])
    share = read_share(f"{libero_file()},kind=libero,actions=given", WAYS)
    assert isinstance(share.source, Hdf5Source)
    assert (share.weight, share.to_actions) == (None, as_given)
    again = read_share(f"{libero_file()},kind=libero_regenerated", WAYS)
    assert again.source.episode(0).actions[0, 0] + 1 == share.source.episode(0).actions[0, 0]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / META).write_text(json.dumps({"starts": "random"}))
    assert isinstance(read_share(f"{tmp_path / 'own'},robot=arm", WAYS).source, RecordingSource)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "for HDF5 files say who wrote them"),
        (",kind=rlds", "unknown kind of data set 'rlds'"),
        (",kind=libero,camra=front", "unknown option of a libero data set 'camra'"),
        (",kind=libero,weight", "a data set is PATH,name=value,..., got 'weight'"),
        (",kind=libero,weight=much", "weight must be a number, got 'much'"),
        (",kind=libero,actions=double_it", "unknown way of reading actions 'double_it'. Did you mean 'double'"),
        (",kind=libero,fps=30", "contradicts fps=30"),
    ],
)
def test_what_is_wrong_is_said(options, message, libero_file):
    with pytest.raises(ValueError, match=message):
        read_share(f"{libero_file()}{options}", WAYS)


def test_cameras_and_paths_must_be_given(lerobot, tmp_path):
    with pytest.raises(ValueError, match="say which camera to read"):
        read_share(str(lerobot("v2")), WAYS)
    with pytest.raises(ValueError, match="unknown orient 'mirrored'"):
        read_share(f"{tmp_path / 'set'},camera={CAMERA},orient=mirrored", WAYS)
    with pytest.raises(FileNotFoundError, match="no data set at"):
        read_share(str(tmp_path / "nowhere"), WAYS)
