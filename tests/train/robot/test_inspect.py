"""`prophet inspect` on every kind of data set: what is there, what is missing, what would be trained."""

import json

import numpy as np
import pytest
from huggingface_hub import constants

from prophet_gym.cli.main import main
from prophet_gym.prophet._presets import action_transformer
from prophet_gym.train._inspect import inspected
from tests.data_.conftest import CAMERA, LeRobotWriter
from tests.train.robot.tiny import tiny_action_prophet

from .conftest import JOINTS, KEPT, joints


@pytest.mark.parametrize("layout", ["v2", "v3"])
def test_a_joint_space_set_is_told_in_numbers(layout, joint_set):
    found = inspected(str(joint_set(layout)))
    assert (found["kind"], found["robot"], found["episodes"], found["steps"]) == ("lerobot", "so100", 3, 24)
    assert found["length"] == {"shortest": 5, "median": 8, "longest": 11}
    assert found["cameras"] == {CAMERA: [64, 96]}
    moved = np.concatenate([joints(number, length - 1) for number, length in enumerate((9, 6, 12))])
    assert [row["name"] for row in found["action"]] == list(JOINTS)
    np.testing.assert_allclose([row["low"] for row in found["action"]], moved.min(axis=0))
    np.testing.assert_allclose([row["high"] for row in found["action"]], moved.max(axis=0))
    assert found["states"]["observation.state"][5] == {"name": "gripper", "low": 51.0, "high": 51.0}
    assert found["tasks"] == {"stack the cups": 2, "open the drawer": 1}
    assert found["success"] == {"labelled": 3, "successful": 2}
    assert found["missing"] == ["camera matrix", "tool poses"]
    trained = found["trains"]
    assert (trained["class"], trained["frame_size"]) == ("ActionProphet", [64, 96])


def test_the_parameters_are_those_of_the_networks_that_training_makes(joint_set):
    found = inspected(str(joint_set()))["trains"]["parameters"]
    config = tiny_action_prophet(action_dim=6, **_six()).config
    transformer = sum(each.numel() for each in action_transformer(config).parameters())
    from prophet_gym.prophet._autoencoder import FrameAutoencoder

    assert found == transformer + sum(each.numel() for each in FrameAutoencoder().parameters())


def _six() -> dict:
    numbers = {name: (value,) * 6 for name, value in [("mean", 0.0), ("std", 1.0), ("low", -1.0), ("high", 1.0)]}
    return {f"action_{name}": value for name, value in numbers.items()} | {"action_names": JOINTS}


def test_what_a_set_does_not_say_is_missing_and_its_numbers_are_numbered(tmp_path, capsys):
    root = LeRobotWriter(tmp_path / "set").v3()
    main(["inspect", f"lerobot:{root}"])
    page = capsys.readouterr().out
    assert "missing   success: prophet train-reward has nothing to learn from" in page
    assert "action_6" in page
    assert "trains    ActionProphet" in page
    assert len(page.splitlines()) < 40
    main(["inspect", str(root), "--json", "-"])
    assert "success" in json.loads(capsys.readouterr().out)["missing"]


def test_a_recording_of_ours_has_all_and_trains_what_it_has_cameras_for():
    found = inspected(str(KEPT / "libero_object"))
    assert (found["kind"], found["robot"], found["missing"]) == ("recording", "libero", [])
    assert list(found["cameras"]) == ["agentview", "wrist"]
    assert found["trains"]["class"] == "TwoViewProphet"
    assert found["action"][6]["name"] == "gripper"


def test_files_of_another_reader_are_for_the_full_prophet(tmp_path, capsys):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "lift.hdf5", "w") as file:
        demo = file.create_group("data").create_group("demo_0")
        demo["actions"] = np.zeros((5, 7))
        demo["obs/agentview_image"] = np.zeros((5, 64, 64, 3), np.uint8)
        demo.attrs["num_samples"] = 5
        file["data"].attrs["env_args"] = json.dumps({"env_name": "Lift", "env_kwargs": {"control_freq": 20}})
    main(["inspect", f"{tmp_path / 'lift.hdf5'},kind=robomimic,instruction=lift"])
    page = capsys.readouterr().out
    assert page.startswith("robomimic, robot ")
    assert page.rstrip().endswith("the full Prophet alone: prophet pretrain --data PATH")


def test_what_is_no_data_set_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["inspect", str(tmp_path)])
    assert "is neither a recording of ours" in capsys.readouterr().err


def test_a_set_named_with_its_camera_is_not_said_to_train_what_prophet_train_refuses(joint_set, capsys):
    named = f"lerobot:{joint_set()},camera={CAMERA}"
    assert inspected(named)["trains"] is None
    main(["inspect", named])
    page = capsys.readouterr().out
    assert "trains    the full Prophet, by this name" in page
    assert "missing   tool poses: no action frames are drawn, and actions that depend on" in page
    assert "--urdf" not in page


@pytest.mark.parametrize("name", ["datasets/my_set", "lerobot:my_set", "lerobot:datasets/my_set", "rlds:my_set"])
def test_a_folder_that_is_not_there_is_said_before_the_hub_is_blamed(name, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit):
        main(["inspect", name])
    told = capsys.readouterr().err
    assert f"no data set at {name.removeprefix('lerobot:').removeprefix('rlds:')}: there is no such folder" in told
