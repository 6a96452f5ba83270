"""The gripper's tracker: what it sees around the gripper, and that this teaches it what stops a hand."""

import numpy as np
import pytest
import torch

from prophet_gym.data._latents import LatentEpisodes
from prophet_gym.prophet import SmallConfig
from prophet_gym.prophet._gripper import GripperTracker, window_around
from prophet_gym.train._dynamics import new_tracker, train_tracker

CAMERA = torch.tensor([[1.0, 0, 0.5, 0], [0, 1.0, 0.5, 0], [0, 0, 1.0, 0]])
"""Of an eye at the origin: a place (x, y, 1) is seen x across and y down from the middle, in pictures."""
SEEN = SmallConfig(camera=tuple(map(tuple, CAMERA.tolist())))
FOLLOW = {"past_actions": torch.rand(3, 8, 7), "actions": torch.rand(3, 8, 7), "camera": CAMERA}


def test_the_window_is_centred_on_where_a_place_is_seen():
    latents = torch.arange(8.0).expand(1, 2, 8, 8).clone()
    latents[:, 1] = latents[:, 0].mT
    at = torch.tensor([[0.1875, -0.0625, 1.0]])  # the middle of the cell 5 across, 3 down
    seen = window_around(latents, at, CAMERA, 5)
    torch.testing.assert_close(seen[0, 0], torch.tensor([4.0, 4.5, 5.0, 5.5, 6.0]).expand(5, 5))
    torch.testing.assert_close(seen[0, 1], torch.tensor([2.0, 2.5, 3.0, 3.5, 4.0])[:, None].expand(5, 5))


@pytest.mark.parametrize("place", [[9.0, 9.0, 1.0], [0.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
def test_outside_the_picture_and_behind_the_camera_the_window_is_finite(place):
    seen = window_around(torch.rand(1, 4, 8, 8), torch.tensor([place]), CAMERA, 3)
    assert seen.shape == (1, 4, 3, 3)
    assert torch.isfinite(seen).all()


def test_a_tracker_that_sees_begins_with_all_that_its_base_knows():
    torch.manual_seed(0)
    base = GripperTracker(latent_size=(8, 8), hidden=8, gripper_mean=(0.1, 0.0, 0.0, 0.5))
    seeing = new_tracker(walled_world(2), SEEN, base)
    assert seeing.config["window"] == 7
    gripper, latents = torch.rand(3, 4), torch.rand(3, 4, 8, 8)
    torch.testing.assert_close(
        seeing.follow(gripper, latents=latents, **FOLLOW), base.follow(gripper, latents=latents, **FOLLOW)
    )
    torch.testing.assert_close(seeing.read(latents), base.read(latents))


def walled_world(episodes, seed=0, every=2):
    """A gripper that is always pushed down by 0.04 a chunk, and in all but one of `every` episodes rests on a box."""
    rng = np.random.default_rng(seed)
    latents, actions, gripper = [], [], []
    for number in range(episodes):
        blocked = number % every > 0
        x, down = rng.uniform(-0.3, 0.3), 0.0 if blocked else 0.005
        z, open_ = rng.uniform(0.9, 1.1), rng.uniform()
        place = np.stack([np.full(17, x), -0.1 + down * np.arange(17), np.full(17, z), np.full(17, open_)], 1)
        image = np.zeros((17, 4, 8, 8))
        column = int((x + 0.5) * 8)
        image[:, :, 3:5, max(column - 1, 0) : column + 2] = 3.0 * blocked
        latents.append(image)
        actions.append(np.tile([0, 1.0, 0, 0, 0, 0, 0], (17, 1)))
        gripper.append(place)
    return LatentEpisodes(
        np.concatenate(latents).astype(np.float16),
        np.concatenate(actions).astype(np.float32),
        np.concatenate(gripper).astype(np.float32),
        np.arange(episodes + 1) * 17,
    )


def test_what_lies_under_the_hand_stops_it(tmp_path):
    tracker = train_tracker(walled_world(60), SEEN, tmp_path, steps=120, device=torch.device("cpu"), rows=32)
    clips = walled_world(20, seed=1).draw(40, past=1, chunk=8, chunks=1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ends = tracker.follow(clips.gripper[:, 0], clips.past_actions, clips.actions, clips.past[:, -1], CAMERA)[:, -1]
    moved = (ends - clips.gripper[:, 0])[:, 1]
    true = (clips.gripper[:, -1] - clips.gripper[:, 0])[:, 1]
    assert moved[true < 0.01].mean() < 0.012
    assert moved[true > 0.03].mean() > 0.028


def test_actions_alone_lead_the_path_where_nothing_is_in_the_way(tmp_path):
    """In a dream the hand is drawn where the path is, so what is seen there cannot say that the path is wrong."""
    free = walled_world(60, every=1)
    tracker = train_tracker(free, SEEN, tmp_path, steps=150, device=torch.device("cpu"), rows=32)
    clips = walled_world(20, seed=1, every=1).draw(
        40, past=1, chunk=8, chunks=1, generator=torch.Generator().manual_seed(0)
    )
    start = clips.gripper[:, 0]
    with torch.no_grad():
        ends = tracker.follow(start, clips.past_actions, clips.actions, None, CAMERA)[:, -1]
    torch.testing.assert_close(ends[:, 1], clips.gripper[:, -1, 1], atol=0.006, rtol=0)
