import json
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from prophet_gym.data import Episode, Simulation, held_out
from prophet_gym.data._recording import (
    begin_recording,
    episode_path,
    list_episodes,
    list_recordings,
    name_of,
    read_episode,
    simulated_episode,
    write_episode,
)


def make_episode(steps: int = 6, **changes) -> tuple[Episode, np.ndarray]:
    rng = np.random.default_rng(0)
    values = {
        "actions": rng.uniform(-1, 1, (steps, 7)).astype(np.float32),
        "gripper_position": rng.normal(size=(steps + 1, 3)).astype(np.float32),
        "gripper_quaternion": rng.normal(size=(steps + 1, 4)).astype(np.float32),
        "gripper_opening": rng.uniform(0, 0.08, steps + 1).astype(np.float32),
        "object_positions": rng.normal(size=(steps + 1, 2, 3)).astype(np.float32),
        "object_names": ("basket_1", "milk_1"),
        "target": "milk_1",
        "success": np.arange(steps + 1) >= 4,
        "camera": rng.normal(size=(3, 4)),
        "init_state": rng.normal(size=50),
        "instruction": "pick up the milk and place it in the basket",
        "suite": "libero_object",
        "task": 7,
        "mode": "noisy",
        "seed": 2**32 - 5,
        "look": "light",
    }
    frames = np.zeros((steps + 1, 32, 48, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[:, :24] = [200, 40, 40]
        frame[:, 24:] = [30, 60, 210]
        frame[8:16, 4 * index : 4 * index + 8] = [240, 240, 20]
    values |= changes
    own = {name: values.pop(name) for name in ("actions", "camera", "instruction")}
    return simulated_episode(**own, simulation=Simulation(**values)), frames


def test_an_episode_comes_back_as_it_was_written(tmp_path):
    episode, frames = make_episode()
    path = episode_path(tmp_path, 7, 12)
    write_episode(path, episode, frames)
    again = read_episode(path)
    for name in ("actions", "camera", "instruction", "tools", "fps", "robot"):
        np.testing.assert_array_equal(getattr(again, name), getattr(episode, name), err_msg=name)
    for name, value in vars(episode.sim).items():
        np.testing.assert_array_equal(getattr(again.sim, name), value, err_msg=name)
    assert again.sim.seed == 2**32 - 5
    assert path == tmp_path / "task_07" / "episode_00012.npz"
    np.testing.assert_array_equal(again.target_positions, episode.sim.object_positions[:, 1])


def test_the_video_keeps_colours_and_the_order_of_frames(tmp_path):
    episode, frames = make_episode()
    path = episode_path(tmp_path, 7, 0)
    write_episode(path, episode, frames)
    decoded = read_episode(path).frames()
    assert decoded.dtype == np.uint8
    errors = [[np.abs(a.astype(int) - b).mean() for b in frames] for a in decoded]
    assert np.argmin(errors, axis=1).tolist() == list(range(7))
    assert np.diag(errors).max() < 3.0


def test_only_whole_episodes_are_listed_and_by_index_first(tmp_path):
    episode, frames = make_episode()
    for task, index in [(7, 0), (3, 1), (3, 0), (7, 1)]:
        write_episode(episode_path(tmp_path, task, index), episode, frames)
    begin_recording(tmp_path, {"seed": 0}, same=("seed",))
    episode_path(tmp_path, 3, 1).with_suffix(".mp4").unlink()
    (tmp_path / "task_07" / ".episode_00009-draft.npz").touch()
    found = [(path.parent.name, path.stem) for path in list_episodes(tmp_path)]
    assert found == [("task_03", "episode_00000"), ("task_07", "episode_00000"), ("task_07", "episode_00001")]
    (first,) = list_recordings([tmp_path], task=3)
    assert [path.parent.name for path in first] == ["task_03"]
    assert not list(tmp_path.glob("task_03/.*"))


def test_a_folder_without_meta_is_no_recording(tmp_path):
    with pytest.raises(FileNotFoundError, match="prophet collect"):
        list_episodes(tmp_path)


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    episode, frames = make_episode()
    with pytest.raises(ValueError, match="6 actions need 7 frames, got 6"):
        write_episode(episode_path(tmp_path, 7, 0), episode, frames[:-1])
    assert not list(tmp_path.rglob("*.*"))


def stored_with(tmp_path, **changes) -> Path:
    """An episode on disk with some arrays replaced, None for none."""
    episode, frames = make_episode()
    path = episode_path(tmp_path, 7, 0)
    write_episode(path, episode, frames)
    with np.load(path) as stored:
        values = {**stored, **changes}
    np.savez(path, **{name: value for name, value in values.items() if value is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"actions": np.zeros((6, 6), np.float32)}, r"actions of .* must be real numbers, shape \(6, 7\), is float32"),
        ({"actions": np.float32(3)}, "at least one action"),
        ({"actions": np.zeros((0, 7), np.float32)}, "at least one action"),
        ({"actions": np.full((6, 7), np.nan, np.float32)}, "actions of .* must be finite numbers"),
        ({"actions": np.full((6, 7), 1.5, np.float32)}, r"actions of .* must lie within -1\.\.1, one is 1\.5"),
        ({"gripper_opening": np.zeros(6, np.float32)}, r"gripper_opening of .* shape \(7\), is float32 \(6,\)"),
        ({"object_positions": np.zeros((7, 3, 3), np.float32)}, r"object_names of .* shape \(3\), is"),
        ({"success": np.zeros(7)}, "success of .* must be true or false"),
        ({"task": np.asarray("seven")}, "task of .* must be one whole number"),
        ({"instruction": np.asarray(3)}, "instruction of .* must be one text"),
        ({"camera": np.full((3, 4), np.inf)}, "camera of .* must be finite"),
        ({"seed": None}, "; seed is missing"),
        ({"look": np.asarray({}, dtype=object)}, "is cut off or no npz of numbers"),
    ],
)
def test_arrays_that_are_no_episode_are_refused_by_name(tmp_path, changes, told):
    path = stored_with(tmp_path, **changes)
    with pytest.raises(ValueError, match=told) as raised:
        read_episode(path)
    assert str(path) in str(raised.value)


def test_a_cut_off_file_is_refused_by_name(tmp_path):
    path = stored_with(tmp_path)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"episode_00000\.npz is cut off or no npz of numbers"):
            read_episode(path)


def test_packed_zeros_are_not_unpacked(tmp_path):
    path = stored_with(tmp_path)
    with np.load(path) as stored:
        values = dict(stored)
    np.savez_compressed(path, **{**values, "init_state": np.zeros(2**26)})
    with pytest.raises(ValueError, match=r"would take 536,8.* bytes, at most 268,435,456"):
        read_episode(path)


def test_what_is_no_episode_is_not_written(tmp_path):
    path = episode_path(tmp_path, 7, 0)
    episode, frames = make_episode(steps=0, success=np.zeros(1, bool))
    with pytest.raises(ValueError, match="at least one action"):
        write_episode(path, episode, frames)
    episode, frames = make_episode()
    with pytest.raises(ValueError, match=r"frames for .* must be uint8"):
        write_episode(path, episode, frames / 255)
    assert not list(tmp_path.rglob("*.*"))


def test_a_video_of_the_wrong_length_is_refused(tmp_path):
    episode, frames = make_episode()
    write_episode(episode_path(tmp_path, 7, 0), episode, frames)
    short, few = make_episode(steps=3)
    write_episode(episode_path(tmp_path, 7, 1), short, few)
    episode_path(tmp_path, 7, 1).with_suffix(".mp4").replace(episode_path(tmp_path, 7, 0).with_suffix(".mp4"))
    with pytest.raises(ValueError, match=r"of the frames 0\.\.6 only 4 are there; fetch or record it again"):
        read_episode(episode_path(tmp_path, 7, 0)).frames()


def test_a_folder_belongs_to_one_recording(tmp_path):
    meta = {"suite": "libero_object", "look": "light", "seed": 0, "episodes": 5}
    begin_recording(tmp_path, meta, same=("suite", "look", "seed"))
    begin_recording(tmp_path, {**meta, "episodes": 50}, same=("suite", "look", "seed"))
    assert json.loads((tmp_path / "meta.json").read_text())["seed"] == 0
    with pytest.raises(ValueError, match="holds a recording with seed=0 and cannot take seed=1") as error:
        begin_recording(tmp_path, {**meta, "seed": 1}, same=("suite", "look", "seed"))
    assert "--out" in str(error.value)


def test_an_npz_without_a_field_says_which(tmp_path):
    np.savez(tmp_path / "episode_00000.npz", actions=np.zeros((1, 7)))
    with pytest.raises(ValueError, match=r"init_state.* is missing"):
        read_episode(tmp_path / "episode_00000.npz")


@pytest.mark.parametrize("one_in", [4, 10, 20])
def test_held_out_episodes_are_those_of_the_published_results(tmp_path, one_in):
    names = [name_of(episode_path(tmp_path, task, index)) for task in range(10) for index in range(100)]
    assert [held_out(name, 1 / one_in) for name in names] == [crc32(name.encode()) % one_in == 0 for name in names]


def test_held_out_episodes_come_from_all_tasks_and_a_part_of_a_share_is_held_out_too(tmp_path):
    names = [name_of(episode_path(tmp_path, task, index)) for task in range(10) for index in range(100)]
    held = {name for name in names if held_out(name, 0.3)}
    assert len(held) == pytest.approx(300, abs=40)
    assert {name[:7] for name in held} == {f"task_{task:02d}" for task in range(10)}
    half = {name for name in names if held_out(name, 0.15)}
    assert half < held
    assert len(half) == pytest.approx(150, abs=30)
    assert not any(held_out(name, 0) for name in names)
    assert all(held_out(name, 1) for name in names)
    with pytest.raises(ValueError, match=r"share must be in 0\.\.1, got 20"):
        held_out(names[0], 20)


def test_another_robot_brings_its_own_rate_opening_and_bounds(tmp_path):
    actions = np.full((6, 7), 0.5, np.float32)
    episode, frames = make_episode()
    droid = simulated_episode(actions, "wait", episode.camera, episode.sim, robot="droid")
    assert droid.fps == 15.0
    np.testing.assert_allclose(droid.tools[:, 0, 6], episode.sim.gripper_opening / 0.085, atol=1e-6)
    write_episode(episode_path(tmp_path, 7, 0), droid, frames)
    again = read_episode(episode_path(tmp_path, 7, 0))
    assert (again.robot, again.fps, len(again.frames(2, 5))) == ("droid", 15.0, 3)
    with pytest.raises(ValueError, match=r"actions of .* must lie within 0\.\.1, one is -0\.5 \(gripper\)"):
        write_episode(episode_path(tmp_path, 7, 1), replace(droid, actions=-actions), frames)
    with pytest.raises(ValueError, match="embodiment bridge must say its control_hz and the opening of its gripper"):
        simulated_episode(actions, "wait", episode.camera, episode.sim, robot="bridge")


def test_a_task_about_a_fixture_has_no_target_path():
    episode, _ = make_episode(target="wooden_cabinet_1_middle_region")
    assert episode.target_positions is None


def test_numbers_in_another_precision_are_read_in_the_episodes_own(tmp_path):
    episode, frames = make_episode()
    path = episode_path(tmp_path, 7, 0)
    write_episode(path, episode, frames)
    stored = dict(np.load(path))
    np.savez(path, **(stored | {"gripper_opening": stored["gripper_opening"].astype(np.float64)}))
    again = read_episode(path).sim.gripper_opening
    assert again.dtype == np.float32
    assert np.array_equal(again, episode.sim.gripper_opening)
    np.savez(path, **(stored | {"gripper_opening": np.full(len(episode.actions) + 1, 1e300)}))
    with pytest.raises(ValueError, match=r"gripper_opening of .* must be finite numbers that float32 can hold"):
        read_episode(path)
