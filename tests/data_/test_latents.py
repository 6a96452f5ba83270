"""Clips against a recording whose every number says where it is."""

import numpy as np
import pytest
import torch

from prophet_gym.data import Episode
from prophet_gym.data._latents import LatentEpisodes

LENGTHS = (30, 12, 40)


@pytest.fixture
def data():
    """Frame n of episode e has latent 100 e + n, and so has the command after it."""
    numbers = np.concatenate([100 * e + np.arange(t + 1) for e, t in enumerate(LENGTHS)])
    return LatentEpisodes(
        latents=numbers.astype(np.float16)[:, None, None, None] * np.ones((1, 4, 2, 2), np.float16),
        actions=numbers.astype(np.float32)[:, None] * np.ones((1, 7), np.float32),
        gripper=numbers.astype(np.float32)[:, None] * np.ones((1, 4), np.float32),
        starts=np.cumsum([0, *(t + 1 for t in LENGTHS)]),
    )


def draw(data, rows=400, chunks=1, seed=0):
    return data.draw(rows, past=5, chunk=4, chunks=chunks, generator=torch.Generator().manual_seed(seed))


def test_windows_stay_inside_their_episode_and_follow_time(data):
    clips = draw(data, chunks=2)
    current = clips.past[:, -1, 0, 0, 0]
    assert torch.equal(clips.actions[:, :, 0], current[:, None] + torch.arange(8))
    assert torch.equal(clips.future[:, :, 0, 0, 0], current[:, None] + torch.arange(1, 9))
    assert torch.equal(clips.gripper[:, :, 0], current[:, None] + torch.arange(9))
    first = 100 * (current // 100)
    before = torch.maximum(current[:, None] + torch.arange(-4, 1), first[:, None])
    assert torch.equal(clips.past[:, :, 0, 0, 0], before)


def test_before_the_first_frame_an_episode_says_what_was_done(data):
    clips = data.window(np.array([1]), np.array([0]), past=5, chunk=4, ahead=4)
    assert torch.equal(clips.past_actions[0, :3], torch.full((3, 7), 30.0))
    assert torch.equal(clips.past_actions[0, 3], torch.zeros(7))


def test_before_an_episode_its_robot_rested_or_was_at_its_first_pose():
    def episode(robot, width):
        actions, tools = np.full((3, width), 0.5, np.float32), np.zeros((4, 1, 7), np.float32)
        return Episode("one", actions, "wait", 20.0, robot, lambda start, stop: None, tools)

    latents = [np.zeros((4, 1, 1, 1))]
    for robot, width, before in [("libero", 7, [0] * 6 + [-1]), ("agibot", 16, [0.5] * 16)]:
        data = LatentEpisodes.join(latents, [episode(robot, width)])
        clips = data.window(np.array([0]), np.array([0]), past=1, chunk=2, ahead=3)
        assert clips.past_actions.tolist() == [[before, before]]
        assert clips.actions.shape == (1, 3, width)


def test_every_start_is_drawn_and_short_episodes_are_left_out(data):
    numbers = draw(data, rows=4000, chunks=4).past[:, -1, 0, 0, 0]
    assert set(numbers.tolist()) == {*range(30 - 16 + 1), *range(200, 200 + 40 - 16 + 1)}


def test_draws_are_a_function_of_the_generator(data):
    assert torch.equal(draw(data).past, draw(data).past)
    assert not torch.equal(draw(data).past, draw(data, seed=1).past)


def test_too_long_dreams_are_refused(data):
    with pytest.raises(ValueError, match="no episode has the 44 steps"):
        draw(data, chunks=11)


def test_save_and_load(data, tmp_path):
    data.save(tmp_path / "latents.npz")
    loaded = LatentEpisodes.load(tmp_path / "latents.npz")
    for name in ("latents", "actions", "gripper", "starts"):
        np.testing.assert_array_equal(getattr(data, name), getattr(loaded, name))


def test_what_was_saved_comes_back_and_damage_is_named(data, tmp_path):
    path = tmp_path / "latents.npz"
    data.save(path)
    for name, array in vars(LatentEpisodes.load(path)).items():
        np.testing.assert_array_equal(array, getattr(data, name))
    with pytest.raises(FileNotFoundError, match=r"no file at .*absent\.npz"):
        LatentEpisodes.load(tmp_path / "absent.npz")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"latents\.npz is cut off or no npz of numbers"):
        LatentEpisodes.load(path)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (
            "commands",
            lambda a: a[:-1],
            r"commands of .*latents\.npz must be finite float32 numbers for each of 85",
        ),
        ("gripper", lambda a: a * np.nan, r"gripper of .* must be finite float32"),
        ("latents", lambda a: a[0, 0], r"latents of .* must be finite float16"),
        ("starts", lambda a: a[::-1], r"starts of .* must rise from 0 to 85"),
        ("starts", lambda a: a * 1.5, r"starts of .* must rise from 0 to 85"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(data, tmp_path, name, change, told):
    path = tmp_path / "latents.npz"
    data.save(path)
    with np.load(path) as stored:
        values = {**stored, name: change(stored[name])}
    np.savez(path, **values)
    with pytest.raises(ValueError, match=told):
        LatentEpisodes.load(tmp_path / "latents.npz")
