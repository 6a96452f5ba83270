"""How the episodes of a recording end."""

import numpy as np
import pytest

from prophet_gym.data.recording import episode_path, read_episode


@pytest.fixture
def end_of(benchmark, record, tmp_path):
    """How 30 steps end: from the height of the can in each frame, the commands to the hand, and whether it is done."""
    faults = benchmark("proof_faults")

    def find(height, gripper, *, done=False):
        actions, can, success = np.zeros((30, 7), np.float32), np.zeros((31, 1, 3), np.float32), np.zeros(31, bool)
        actions[:, 6], can[:, 0, 2], success[-1] = gripper, height, done
        path = tmp_path / "data"
        record(path, 0, success, steps=30, actions=actions, object_positions=can)
        return faults.end_of(read_episode(episode_path(path, 0, 0)))

    return find


LIFT = np.where((np.arange(31) >= 10) & (np.arange(31) < 20), 0.1, 0.0)
OPENS = np.where(np.arange(30) < 18, 1, -1)


def test_an_object_that_falls_was_let_go_if_the_hand_was_told_to_open(end_of):
    assert end_of(LIFT, OPENS) == "let go"
    assert end_of(LIFT, 1) == "slipped"


def test_other_ends(end_of):
    assert end_of(LIFT, OPENS, done=True) == "success"
    assert end_of(0.04 * (LIFT > 0), OPENS) == "never lifted"
    assert end_of(np.maximum.accumulate(LIFT), 1) == "held to the end"
