"""Closings of a hand that grasp and that miss, and how far a tracker strays up to the first one."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from prophet_gym.factory import bundled_checkpoints, checkpoint_folder


@pytest.fixture
def recording(record, tmp_path):
    """40 steps: the hand closes at 10, 3 cm nearer and 4 cm above the object, opens, and closes on it at 20."""
    actions = np.zeros((40, 7), np.float32)
    actions[:, 6] = -1
    actions[10:14, 6] = actions[20:, 6] = 1
    hand, can = np.zeros((41, 3), np.float32), np.zeros((41, 1, 3), np.float32)
    hand[10] = -0.03, 0.0, 0.04
    can[25:, 0, 2] = 0.05
    record(
        tmp_path / "data",
        0,
        steps=40,
        actions=actions,
        gripper_position=hand,
        object_positions=can,
        frames=np.zeros((41, 128, 128, 3), np.uint8),
    )
    return tmp_path / "data"


def test_a_closing_grasps_if_the_target_then_rises(benchmark, recording, monkeypatch):
    closing = benchmark("proof_closing")
    monkeypatch.setattr(closing, "WITHIN", 12)
    found = closing.measure(recording, {}, 5)
    assert found["episodes"] == 1
    assert found["closings"]["misses"] == {"count": 1, "depth": 30.0, "across": 0.0, "height": 40.0, "correlation": 0.0}
    assert found["closings"]["grasps"] == {"count": 1, "depth": 0.0, "across": 0.0, "height": 0.0, "correlation": 0.0}


def test_a_tracker_that_does_not_follow_has_strayed_by_the_way_of_the_hand(benchmark):
    way = np.zeros((24, 12), np.float32)
    way[:, 0] = 0.001 * np.arange(24)
    data = SimpleNamespace(
        starts=np.array([3]), gripper=way, commands=np.zeros((24, 7), np.float32), latents=np.zeros((24, 1), np.float32)
    )
    still = SimpleNamespace(follow=lambda hand, before, commands, seen, camera: hand.expand(1, 8, -1))
    strayed = benchmark("proof_closing").strayed(still, torch.zeros(3, 4), data, 0, 10)
    np.testing.assert_allclose(strayed, [-0.011, 0, 0], atol=1e-6)


@pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")
def test_a_tracker_is_compared_where_the_hand_first_closes(benchmark, recording):
    closing = benchmark("proof_closing")
    strayed = closing.measure(recording, {"bundled": checkpoint_folder("bundled")}, 5)["strayed"]["bundled"]
    assert set(strayed) == {"depth", "across", "height", "correlation"}
    assert 0 < max(strayed.values()) < 1000
