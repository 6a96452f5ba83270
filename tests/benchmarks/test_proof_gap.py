"""What a policy makes of a dream's pictures, and weights that are moved without having learnt."""

import numpy as np
import pytest
import torch

from prophrl_algos.cli.common import make_policy


@pytest.fixture
def policy(benchmark):
    return make_policy("small-k4", benchmark("proof_files").spaces(), None)


def folder_of(record, path, pictures):
    record(path, 0, steps=16, frames=pictures)
    return path


def test_a_dream_that_shows_what_is_true_changes_nothing(benchmark, record, policy, tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (17, 128, 128, 3), np.uint8)
    real, same = (folder_of(record, tmp_path / name, pictures) for name in ("real", "same"))
    dark = folder_of(record, tmp_path / "dark", pictures // 4)
    compare = benchmark("proof_gap").compare
    (told,) = compare(policy, real, same, 5).values()
    assert told["moments"] == 2
    assert told["commands"] == 0
    assert told["gripper_px_dream"] == told["gripper_px_real"]
    (other,) = compare(policy, real, dark, 5).values()
    assert other["commands"] > 0
    assert other["gripper_px_real"] == told["gripper_px_real"] != other["gripper_px_dream"]


def test_shuffled_weights_are_as_far_away_in_another_direction(benchmark):
    before = {"moved": torch.zeros(8, 8), "kept": torch.ones(3)}
    after = {"moved": torch.randn(8, 8, generator=torch.Generator().manual_seed(0)), "kept": torch.ones(3)}
    found = benchmark("proof_try").shuffled(before, after)
    torch.testing.assert_close(found["moved"].norm(), after["moved"].norm())
    assert abs(torch.cosine_similarity(found["moved"].flatten(), after["moved"].flatten(), 0)) < 0.5
    assert torch.equal(found["kept"], before["kept"])
