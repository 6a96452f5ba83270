"""HDF5 files as people have them: pictures of other types, groups of others, attributes as bytes, damage."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

from prophet_gym.data import LIBERO, Hdf5Source
from prophet_gym.errors import UnknownOptionError

from .conftest import LENGTHS, images


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda frames: frames / np.float32(255), r"got float32 \(9, 64, 96, 3\); scale them to 0\.\.255"),
        (lambda frames: frames.transpose(0, 3, 1, 2), r"got uint8 \(9, 3, 64, 96\); move the channels last"),
        (lambda frames: np.concatenate([frames, frames[..., :1]], -1), "drop the fourth channel"),
        (lambda frames: frames.astype(np.int32), "got int32"),
        (lambda frames: frames[..., 0], r"got uint8 \(9, 64, 96\)"),
    ],
)
def test_pictures_of_other_types_are_refused_before_anything_is_trained(libero_file, change, told):
    path = libero_file()
    with h5py.File(path, "a") as file:
        del file["data/demo_0/obs/agentview_rgb"]
        file["data/demo_0/obs/agentview_rgb"] = change(images(0, LENGTHS[0]))
    with pytest.raises(ValueError, match=told) as raised:
        Hdf5Source(path)
    assert str(raised.value).startswith(f"agentview_rgb of demo_0 of {path} must be uint8 (..., height, width, 3), RGB")
    assert len(Hdf5Source(path, without=["demo_0"])) == 2


def test_attributes_stored_as_bytes_are_read(libero_file):
    told = {"problem_info": json.dumps({"language_instruction": "öffne"}).encode()}
    path = libero_file(upright=True, macros_image_convention=np.bytes_("opencv"), **told)
    with pytest.raises(ValueError, match="'opencv', which as_stored turns upright"):
        Hdf5Source(path, LIBERO)
    path = libero_file(macros_image_convention=np.bytes_("opengl"), **told)
    assert Hdf5Source(path, LIBERO).episode(0).instruction == "öffne"


def without_obs(file):
    del file["data/demo_1/obs"]


def without_actions(file):
    del file["data/demo_1/actions"]


def with_a_foreign_group(file):
    file["data/statistics/mean"] = np.zeros(3)


def with_a_foreign_array(file):
    file["data/statistics"] = np.zeros(3)


def with_a_split(file):
    file["mask/train"] = np.array([b"demo_2", b"demo_7"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without_obs, r"demo_1 of .* has no images .*dataset_states_to_obs\.py"),
        (without_actions, r"demo_1 of .* has no actions.* leave it out: without=\['demo_1'\]"),
        (with_a_foreign_group, r"statistics of .* has no actions.* leave it out: without=\['statistics'\]"),
        (with_a_foreign_array, r"statistics of .* has no actions.* leave it out: without=\['statistics'\]"),
    ],
)
def test_what_is_no_demonstration_is_named_and_can_be_left_out(libero_file, change, told):
    path = libero_file()
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(ValueError, match=told):
        Hdf5Source(path)
    name = "statistics" if "foreign" in change.__name__ else "demo_1"
    assert len(Hdf5Source(path, without=[name])) >= 2
    assert len(Hdf5Source(path, episodes=["demo_2"])) == 1


def test_a_split_that_names_what_is_not_there_is_refused(libero_file):
    path = libero_file()
    with h5py.File(path, "a") as file:
        with_a_split(file)
    with pytest.raises(ValueError, match=r"mask/train of .* must be in data; demo_7 is not"):
        Hdf5Source(path, split="train")


def test_demonstrations_of_several_files_are_named_by_file(libero_file, tmp_path):
    for name in ("b_demo.hdf5", "a_demo.hdf5"):
        libero_file(name)
    source = Hdf5Source(tmp_path, without=["a_demo.hdf5/demo_1"])
    assert len(source) == 5
    with pytest.raises(UnknownOptionError, match=r"has no episode demo_1; it has 6 episodes: a_demo\.hdf5/demo_0"):
        Hdf5Source(tmp_path, without=["demo_1"])


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({"env_args": "null"}, r"does not say its fps; give it"),
        ({"env_args": ""}, r"does not say its fps; give it"),
        ({"env_args": "{'a': 1}"}, r"the attribute env_args of .* must be whole JSON"),
        ({"env_args": "[1]"}, r"the attribute env_args of .* must be a JSON object, holds a list"),
        ({"env_args": 3}, r"the attribute env_args of .* must be a text"),
        ({"env_args": json.dumps({"env_kwargs": [1]})}, r"env_kwargs in env_args of .* must be a JSON object"),
        ({"env_args": json.dumps({"env_kwargs": {"control_freq": "20"}})}, r"control_freq in env_args of .* must be a"),
        ({"env_args": '{"env_kwargs": {"control_freq": NaN}}'}, r"control_freq in env_args of .* must be a finite"),
        ({"problem_info": '{"language_instruction": 3}'}, r"language_instruction in problem_info of .* must be a text"),
        ({"macros_image_convention": 3}, r"the attribute macros_image_convention of .* must be a text"),
    ],
)
def test_attributes_that_say_nothing_are_named(libero_file, attributes, told):
    with pytest.raises(ValueError, match=told):
        Hdf5Source(libero_file(**attributes))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.full((9, 7), np.inf), "actions of demo_0 of .* must be finite"),
        (np.full((9, 7), 1e300), "actions of demo_0 of .* must be finite"),
        (np.full((9, 7), b"a"), r"actions of demo_0 of .* must be numbers \(steps, n\)"),
        (np.zeros((9, 7, 2)), r"actions of demo_0 of .* must be numbers \(steps, n\)"),
        (np.zeros((9, 0)), r"actions of demo_0 of .* must be numbers \(steps, n\)"),
    ],
)
def test_actions_that_are_no_lines_of_numbers_are_refused(libero_file, values, told):
    path = libero_file()
    with h5py.File(path, "a") as file:
        del file["data/demo_0/actions"]
        file["data/demo_0/actions"] = values
    with pytest.raises(ValueError, match=told):
        Hdf5Source(path).episode(0)


def test_a_file_that_another_process_writes_is_named(libero_file):
    path = libero_file()
    code = "import h5py, sys; f = h5py.File(sys.argv[1], 'a'); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"open\n"
        with pytest.raises(ValueError, match=r"another process holds .*hdf5 open for writing; close it there"):
            Hdf5Source(path)
        writer.stdin.close()
    assert len(Hdf5Source(path)) == 3


def test_a_pointer_file_is_named(libero_file):
    path = libero_file()
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match=r"hdf5 is a Git LFS pointer.*git lfs pull"):
        Hdf5Source(path)


def test_in_a_folder_what_is_to_be_left_out_is_named_with_its_file(libero_file):
    path = libero_file()
    with h5py.File(path, "a") as file:
        without_actions(file)
    with pytest.raises(ValueError, match="leave it out") as raised:
        Hdf5Source(path.parent)
    name = f"{path.name}/demo_1"
    assert f"without=[{name!r}]" in str(raised.value)
    assert len(Hdf5Source(path.parent, without=[name])) == 2
