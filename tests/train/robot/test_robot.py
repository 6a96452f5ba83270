"""Any LeRobot data set becomes a checkpoint that `gym.make` takes: layouts, cameras, starts, reward."""

import json
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import prophet_gym  # noqa: F401 (registers the ids)
from benchmarks.robot import arm
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.cli import _starts as starts
from prophet_gym.cli.main import main
from prophet_gym.data._episode import held_out
from prophet_gym.data._lerobot_export import export_recording
from prophet_gym.data._stacked import StackedSource
from prophet_gym.embodiments._urdf import tool_path
from prophet_gym.errors import MissingWeightsError
from prophet_gym.prophet import ActionProphet, Prophet
from prophet_gym.train import _reward as reward
from prophet_gym.train import _robot as robot
from tests.data_.conftest import CAMERA, images

from .conftest import JOINTS, JointWriter, joints

LENGTHS = (20, 16, 24)


@pytest.mark.parametrize(("layout", "dtype"), [("v2", "video"), ("v3", "video"), ("v3", "image")])
def test_a_joint_space_set_becomes_an_env_in_its_own_units(layout, dtype, joint_set, train):
    root = joint_set(layout, dtype=dtype)
    env = gym.make("Prophet-v0", weights=train(f"lerobot:{root}"), reward=None)
    moved = np.concatenate([joints(number, length - 1) for number, length in enumerate((9, 6, 12))])
    space = env.action_space
    assert space.shape == (4, 6)
    low, high = moved.min(axis=0), moved.max(axis=0)
    np.testing.assert_allclose(space.low[0], low - np.maximum(0.05 * (high - low), 1e-3), atol=1e-4)
    np.testing.assert_allclose(space.high[0], high + np.maximum(0.05 * (high - low), 1e-3), atol=1e-4)
    config = env.unwrapped.world_model.config
    assert (config.action_names, config.fps, config.embodiment, config.suite) == (JOINTS, 10.0, "so100", "arm")
    np.testing.assert_allclose(config.action_mean, moved.mean(axis=0), atol=1e-4)
    observation, info = env.reset(seed=0)
    assert observation["image"].shape == (64, 96, 3)
    assert info["instruction"] in ("stack the cups", "open the drawer")
    observation, *_ = env.step(space.sample())
    assert observation["image"].shape == (64, 96, 3)
    assert env.metadata["render_fps"] == 10


def test_an_export_of_ours_trains_and_its_starts_are_first_frames(toy_recording, train, tmp_path):
    export_recording(toy_recording, tmp_path / "squares")
    folder = train(f"lerobot:{tmp_path / 'squares'}", without=(), held_out=1000)
    states = Checkpoint.named(folder).initial_states("train")
    assert (len(states), states.suites, states[0].instruction) == (4, ("squares",), "push the square")
    source = StackedSource(f"lerobot:{tmp_path / 'squares'}")
    assert source.size == (128, 128)
    assert np.abs(states[0].frames.astype(int) - source.episode(0).frames(0, 1)).mean() < 2
    prophet = Prophet.from_pretrained(folder)
    assert isinstance(prophet, ActionProphet)
    assert prophet.config.action_names[:3] == ("x", "y", "z")


def test_two_cameras_lie_below_one_another_in_what_is_seen_and_dreamt(two_cameras, tmp_path):
    folder = tmp_path / "out" / "checkpoint"
    words = "--cameras image image2 --size 64 80 --chunk 4 --width 48 --layers 1 --steps 2 --device cpu --batch-size 2"
    few = "--autoencoder-steps 2 --decoder-steps 2 --held-out 1000 --out"
    main(["train", "--data", f"lerobot:{two_cameras}", *words.split(), *few.split(), str(folder.parent)])
    env = gym.make("Prophet-v0", weights=folder, reward=None)
    observation, _ = env.reset(seed=0)
    assert observation["image"].shape == (128, 80, 3)
    for name, view in zip(("image", "image2"), np.split(observation["image"], 2), strict=True):
        alone = StackedSource(f"lerobot:{two_cameras}", (name,), (64, 80)).episode(0).frames(0, 1)[0]
        assert np.abs(view.astype(int) - alone).mean() < 6
    assert env.unwrapped.world_model.config.cameras == ("observation.images.image", "observation.images.image2")
    assert env.step(env.action_space.sample())[0]["image"].shape == (128, 80, 3)


def test_starts_and_reward_of_the_set_make_a_whole_env(joint_set, train, tmp_path, capsys):
    root = joint_set("v3", lengths=LENGTHS)
    folder = train(f"lerobot:{root}", size=(64, 64))
    assert f"prophet train-reward --data lerobot:{root}" in capsys.readouterr().out
    starts.main(starts.Args(str(folder), data=(Path(f"lerobot:{root}"),), per_task=1))
    assert len(Checkpoint.named(folder).initial_states("train")) == 2
    # The checksums of their names put two episodes into training, and one into each part that is held out.
    given = {"steps": 2, "batch_size": 4, "image_size": 16, "held_out": 0.75, "world_model": str(folder)}
    with pytest.raises(ValueError, match="too few episodes to split"):
        reward.main(reward.Args((Path(f"lerobot:{root},without=1"),), folder / "success_head", **given))
    four = {"lengths": (9,) * 4, "tasks": ("lift",) * 4}
    reward.main(reward.Args((Path(f"lerobot:{joint_set('v2', **four)}"),), folder / "success_head", **given))
    env = gym.make("Prophet-v0", weights=folder)
    env.reset(seed=0)
    *_, info = env.step(env.action_space.sample())
    assert info["scored"]
    silent = joint_set("v2", outcome=False, **four)
    with pytest.raises(ValueError, match="must say when its task is done"):
        reward.main(reward.Args((Path(f"lerobot:{silent}"),), tmp_path / "head", **given))


def test_weights_that_fit_are_taken_over_and_the_rest_begins_anew(joint_set, train):
    prophet = Prophet.from_pretrained("prophet_gym/checkpoints/libero_small")
    folder = train(f"lerobot:{joint_set()}", init_from="bundled", width=192, layers=6, steps=1, autoencoder_steps=1)
    ours, theirs = (dict(each.transformer.named_parameters()) for each in (Prophet.from_pretrained(folder), prophet))
    name = "transformer_blocks.3.ff.net.2.weight"
    torch.testing.assert_close(ours[name], theirs[name], atol=2e-3, rtol=0)
    assert ours["patch_embed.proj.weight"].shape != theirs["patch_embed.proj.weight"].shape


def test_a_run_resumes_only_with_what_it_began_with(joint_set, train):
    root = joint_set()
    first = train(f"lerobot:{root}")
    before = {path: path.read_bytes() for path in first.rglob("*.safetensors")}
    assert {path: path.read_bytes() for path in train(f"lerobot:{root}").rglob("*.safetensors")} == before
    with pytest.raises(ValueError, match=r"is of another run \(autoencoder\): size was .*use another folder"):
        train(f"lerobot:{root}", size=(64, 64))


def test_options_that_do_not_go_together_are_refused_in_one_sentence(joint_set, toy_recording, train):
    root = joint_set()
    for options, said in [
        ({"base": "bundled"}, "must be a model of a LeRobot data set, is a"),
        ({"stage": "tracker"}, "has no tracker: leave that stage away"),
        ({"cameras": ("front",)}, f"unknown camera 'front'.*{CAMERA}"),
        ({"size": (60, 64)}, r"size must be two multiples of 16 of at least 64, got \(60, 64\)"),
        ({"embodiment": "libero"}, "actions of libero have 7 dimensions, the data's 6"),
        ({"without": ("episode_000001",)}, "are left out by number"),
    ]:
        with pytest.raises(ValueError, match=said):
            train(f"lerobot:{root}", **options)
    with pytest.raises(ValueError, match="--size, --embodiment and --urdf are of LeRobot data sets"):
        train(str(toy_recording), size=(64, 64))
    with pytest.raises(FileNotFoundError, match="no LeRobot data set"):
        train(f"lerobot:{root / 'meta'}")


def test_weights_of_another_robot_are_refused_with_what_to_do(joint_set, train):
    folder = train(f"lerobot:{joint_set()}")
    with pytest.raises(MissingWeightsError, match="are of so100, not libero: pass embodiment=None"):
        gym.make("Prophet-LIBERO-v0", weights=folder)
    assert gym.make("Prophet-LIBERO-v0", weights=folder, embodiment="so100", reward=None).action_space.shape == (4, 6)
    assert 'gym.make("Prophet-v0"' in (folder / "README.md").read_text()


def test_frames_are_cut_about_their_middle_and_never_stretched(joint_set):
    wide = StackedSource(f"lerobot:{joint_set('v3', dtype='image')}", size=(64, 64)).episode(2)
    assert (wide.name, wide.camera) == ("arm/episode_000002", None)
    np.testing.assert_array_equal(wide.frames(3, 5), images(2, 12)[3:5, :, 16:80])


def test_a_urdf_and_a_calibration_give_action_frames_which_need_no_files_later(joint_set, train, tmp_path):
    arm.describe(tmp_path)
    root, moving = joint_set(), ("pan", "lift", "elbow", "flex", "roll")
    told = {"urdf": tmp_path / "arm.urdf", "tool_link": "tool", "joint_units": "degrees", "joints": moving}
    with pytest.raises(ValueError, match="must know one of the cameras top, knows up, side"):
        train(f"lerobot:{root}", calibration=tmp_path / "cameras.json", **told)
    camera = json.loads((tmp_path / "cameras.json").read_text())["up"]
    (tmp_path / "cameras.json").write_text(json.dumps({"top": {**camera, "size": [64, 96]}}))
    folder = train(f"lerobot:{root}", calibration=tmp_path / "cameras.json", **told)
    with pytest.raises(ValueError, match=r"is of another run \(transformer\)"):
        train(f"lerobot:{root}", calibration=tmp_path / "cameras.json", **{**told, "tool_link": "wrist_roll_link"})
    for name in ("arm.urdf", "cameras.json"):
        (tmp_path / name).unlink()
    model = Prophet.from_pretrained(folder)
    assert isinstance(model, ActionProphet)
    assert (model.transformer.config["action_dim"], model.transformer.config["action_frame_channels"]) == (9, 16)
    poses = np.stack([arm.reach(np.array([0.2, side, 0.05]), 10) for side in (-0.06, -0.02, 0.03, 0.07)])
    asked = torch.from_numpy(poses)[None]
    frames = model.config.action_frames(tool_path(model.config.tool_chain, asked), (32, 48))
    # The disc lies where the camera sees the tool.
    for step, disc in enumerate(frames[0, :, 0]):
        u, v, depth = np.array(model.config.tool_cameras[0]) @ np.append(arm.places(poses[step])[-1], 1)
        row, column = divmod(int(disc.argmax()), 48)
        assert column == pytest.approx(u / depth * 48 - 0.5, abs=0.51)
        assert row == pytest.approx(v / depth * 32 - 0.5, abs=0.51)
    env = gym.make("Prophet-v0", weights=folder, reward=None)
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[0]["image"].shape == (64, 96, 3)


def test_a_model_is_trained_further_on_its_own_data_and_adapted_to_other(joint_set, train, tmp_path):
    root = joint_set()
    base = train(f"lerobot:{root}", held_out=4)
    other = JointWriter(tmp_path / "other").v3()
    few = {"device": "cpu", "batch_size": 2, "steps": 2, "decoder_steps": 1, "precision": "no"}
    further = robot.Args(tmp_path / "further", (Path(f"lerobot:{root}"),), str(base), **few)
    robot.main(further)
    adapted = robot.Args(tmp_path / "adapted", (Path(f"lerobot:{other}"),), str(base), lora_rank=2, **few)
    robot.main(adapted)
    folders = (base, further.out / "checkpoint", adapted.out / "checkpoint")
    configs = [Prophet.from_pretrained(folder).config for folder in folders]
    assert [config.suite for config in configs] == ["arm", "arm", "other"]
    assert {config.held_out for config in configs} == {4}
    assert {config.action_mean for config in configs} == {configs[0].action_mean}
    assert (tmp_path / "adapted" / "lora").is_dir()
    for changes, said in [
        ({"base": "bundled"}, "--base bundled must be a model of a LeRobot data set, is a .*: give --init-from"),
        ({"cameras": ("top",)}, "--cameras and all else of that kind are those of --base"),
    ]:
        with pytest.raises(ValueError, match=said):
            robot.main(replace(further, out=tmp_path / "wrong", **changes))


def test_dreams_are_compared_with_the_episodes_that_training_kept_out(joint_set, train, tmp_path, capsys):
    root = joint_set("v3", lengths=LENGTHS)
    folder = train(f"lerobot:{root}", held_out=3)
    kept = [number for number in range(3) if held_out(f"arm/episode_{number:06d}", 1 / 3)]
    given = ["evaluate", "--world-model", str(folder), "--data", f"lerobot:{root}", "--horizons", "4", "12"]
    main([*given, "--card"])
    found = json.loads((folder / "evaluation.json").read_text())
    assert found["episodes"] == len(kept) > 0
    conditions = found["horizons"]["4"]["conditions"]
    assert {"dream", "copy", "autoencoder"} <= {*conditions}
    text = (folder / "README.md").read_text()
    main([*given, "--card"])
    assert (folder / "README.md").read_text() == text, "measured again, said once"
    assert text.count("## Measured") == 1
    named = ["evaluate", "--world-model", str(folder), "--horizons", "4", "--json", str(tmp_path / "named.json")]
    main([*named, "--data", f"lerobot:{root},episodes=0+2"])
    named_found = json.loads((tmp_path / "named.json").read_text())
    assert (named_found["episodes"], named_found["successes"]) == (2, 2)
    for words, said in [
        (["--world-model", "bundled", "--data", f"lerobot:{root}"], "must have been trained on LeRobot data sets"),
        (["--world-model", str(folder), "--data", f"lerobot:{root}", "--without", "1"], "are left out by number"),
        (["--world-model", "bundled", "--card"], "--card writes into the checkpoint"),
    ]:
        with pytest.raises(SystemExit):
            main(["evaluate", *words])
        assert said in capsys.readouterr().err


def test_a_model_without_a_tracker_is_distilled(joint_set, train, tmp_path):
    root = joint_set()
    words = ["distill", "--teacher", str(train(f"lerobot:{root}")), "--sampler-steps", "1", "--teacher-steps", "2"]
    main([*words, "--data", f"lerobot:{root}", "--out", str(tmp_path / "student"), "--steps", "1", "--batch-size", "2"])
    student = Prophet.from_pretrained(tmp_path / "student" / "checkpoint")
    assert isinstance(student, ActionProphet)
    assert student.config.steps == 1


@pytest.mark.parametrize("command", ["train", "train-reward"])
def test_data_of_other_readers_say_who_trains_on_them(command, joint_set, tmp_path, capsys):
    root, rlds = joint_set(), Path(__file__).parents[2] / "data_" / "readers" / "rlds" / "droid"
    full = "on which the full Prophet alone trains"
    for data, said in [
        (f"rlds:{rlds}", f"is data of the kind rlds, {full}"),
        (str(rlds), f"is data of the kind rlds, {full}"),
        ("droid:anywhere,camera=ext1", f"is data of the kind droid, {full}"),
        ("recipe:prophet,root=anywhere", f"is data of the kind recipe, {full}"),
        (str(root), f"is a LeRobot data set: name it lerobot:{root}"),
        (str(tmp_path), "is no recording"),
    ]:
        with pytest.raises(SystemExit):
            main([command, "--data", data, "--out", str(tmp_path / "new")])
        assert said in capsys.readouterr().err
        assert not (tmp_path / "new").exists()


def test_a_reward_model_is_not_trained_on_what_its_world_model_kept_out(joint_set, train, tmp_path):
    """Else `prophet calibrate` would measure it on what it was trained on."""
    data = Path(f"lerobot:{joint_set('v2', lengths=(9,) * 4, tasks=('lift',) * 4)}")
    folder = train(str(data), held_out=3)
    kept = {episode.name for episode in robot.kept_out(str(data), Checkpoint.named(folder), 40)}
    given = reward.Args((data,), tmp_path / "head", world_model=str(folder))
    beside, alone = (
        {part: {each.name for each in episodes} for part, episodes in reward._split(args)[0].items()}
        for args in (given, replace(given, world_model=None))
    )
    assert kept
    assert kept <= alone["train"]
    assert (beside["train"], beside["tune"]) == (alone["train"] - kept, alone["tune"])
    assert beside["test"] == alone["test"] | kept
