"""Training the success head: scores with known answers, and a recording it must be able to learn."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from prophet_gym.data import held_out
from prophet_gym.data._episode import LabelledVideo
from prophet_gym.data._recording import list_episodes
from prophet_gym.rewards import SuccessHead, SuccessHeadConfig
from prophet_gym.train import _reward as reward
from prophet_gym.train._fit import CosineConfig
from prophet_gym.train._reward import (
    augment,
    auroc,
    choose_threshold,
    evaluate,
    quality,
    require_success,
    split,
    thin,
    train_success_head,
)

COLOURS = {"red": 0, "green": 1}


def labelled(colour: str, index: int, frames: int = 24) -> LabelledVideo:
    """A square crosses the picture; success is the named colour on the right, any other colour is not."""
    rng = np.random.default_rng(index)
    clip = rng.integers(90, 130, size=(frames, 32, 32, 3), dtype=np.uint8)
    channel = COLOURS[colour] if index % 2 else 1 - COLOURS[colour]
    success = np.zeros(frames, bool)
    for number in range(frames):
        left = round(24 * number / (frames - 1))
        clip[number, 12:20, left : left + 8] = 0
        clip[number, 12:20, left : left + 8, channel] = 255
        success[number] = bool(index % 2) and left >= 16
    return LabelledVideo(clip, success, f"bring the {colour} square home")


def test_auroc_against_counting_pairs():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(6, size=60) / 5.0, rng.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels] for b in scores[~labels]]
    assert auroc(scores, labels) == pytest.approx(np.mean(pairs))
    assert np.isnan(auroc(scores, np.ones(60, bool)))


def test_precision_and_recall():
    scores, labels = np.array([0.9, 0.8, 0.5, 0.4, 0.0]), np.array([1, 0, 0, 1, 0], bool)
    found = quality(scores, labels, 0.5)
    assert (found["precision"], found["recall"]) == (pytest.approx(1 / 3), 0.5)
    found = quality(scores, labels, 1.0)
    assert (found["precision"], found["recall"]) == (0.0, 0.0)


def test_thin_keeps_what_is_near_a_change():
    success = np.zeros(40, bool)
    success[20:] = True
    assert thin(success, stride=10, margin=2) == [0, 10, 17, 18, 19, 20, 21, 30]


def test_episodes_keep_their_split():
    names = [f"task_{task:02d}/episode_{index:05d}" for task in range(10) for index in range(100)]
    parts = split([Path(f"{name}.npz") for name in names], 0.2)
    assert {part: len(paths) for part, paths in parts.items()} == pytest.approx(
        {"train": 800, "tune": 100, "test": 100}, abs=30
    )
    part_of = {str(path.with_suffix("")): part for part, paths in parts.items() for path in paths}
    splits = [part_of[name] for name in names]
    # What is held out is what every other training holds out, so no model is measured on what another has learnt.
    assert [split != "train" for split in splits] == [held_out(name, 1 / 5) for name in names]
    assert [split == "test" for split in splits] == [held_out(name, 1 / 10) for name in names]


def test_an_episode_and_its_dream_fall_into_the_same_part():
    names = [f"task_{task:02d}/episode_{index:05d}.npz" for task in range(4) for index in range(20)]
    real, dreamt = (split([Path(folder) / name for name in names], 0.3) for folder in ("real", "dreams"))
    assert sum(map(len, real.values())) == 80
    for part in ("train", "tune", "test"):
        assert real[part]
        assert [p.relative_to("real") for p in real[part]] == [p.relative_to("dreams") for p in dreamt[part]]


def test_augment_keeps_range_and_moves_each_picture_its_own_way():
    images = torch.zeros(64, 3, 16, 16) - 1
    images[:, :, 8, 8] = 1
    moved = augment(images, torch.Generator().manual_seed(0))
    assert moved.min() >= -1
    assert moved.max() <= 1
    places = moved.sum(1).flatten(1).argmax(1)
    rows, columns = places // 16, places % 16
    assert set((rows - 8).tolist()) == set(range(-3, 4))
    assert set((columns - 8).tolist()) == set(range(-3, 4))
    assert torch.equal(moved, augment(images, torch.Generator().manual_seed(0)))


def test_training_needs_both_classes():
    clip = labelled("red", 0)
    with pytest.raises(ValueError, match="0 of 24 successes"):
        train_success_head([clip], SuccessHeadConfig(), CosineConfig(1, 2e-3))


def test_it_learns_colour_and_place_from_the_instruction(tmp_path):
    videos = [labelled(colour, index) for colour in COLOURS for index in range(12)]
    fresh = [labelled(colour, 100 + index) for colour in COLOURS for index in range(6)]
    config = SuccessHeadConfig(image_size=32, width=8)
    head = train_success_head(videos, config, CosineConfig(150, 5e-3), batch=48)
    head = head.with_threshold(choose_threshold(head, videos))
    metrics = evaluate(head, fresh)
    assert metrics["frame_auroc"] > 0.97
    assert metrics["episode_auroc"] > 0.97
    assert metrics["successful_episodes"] == 6
    swapped = [
        LabelledVideo(v.frames, v.success, f"bring the {'green' if 'red' in v.instruction else 'red'} square home")
        for v in fresh
    ]
    assert evaluate(head, swapped)["episode_auroc"] < 0.5


def test_training_is_a_function_of_its_seed():
    videos = [labelled("red", index) for index in range(4)]
    config = SuccessHeadConfig(image_size=16, width=4)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    one = train_success_head(videos, config, CosineConfig(3, 2e-3, seed=1), batch=8)
    assert torch.equal(before, torch.get_rng_state())
    other = train_success_head(videos, config, CosineConfig(3, 2e-3, seed=1), batch=8)
    third = train_success_head(videos, config, CosineConfig(3, 2e-3, seed=2), batch=8)
    assert torch.equal(one.out.weight, other.out.weight)
    assert not torch.equal(one.out.weight, third.out.weight)


def test_from_a_recording_to_weights_and_metrics(tmp_path, record):
    for index in range(24):
        clip = labelled("red", index // 2, frames=10)
        about = {"instruction": clip.instruction, "suite": "squares", "look": "plain"}
        record(tmp_path / "data", index, clip.success, steps=9, frames=clip.frames, **about)
    reward.main(
        reward.Args(data=(tmp_path / "data",), out=tmp_path / "out", steps=2, batch_size=8, held_out=0.6, image_size=16)
    )
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["train_episodes"] + metrics["held_out"]["episodes"] < 24
    assert metrics["config"]["image_size"] == 16
    assert SuccessHead.from_pretrained(tmp_path / "out").config.threshold == metrics["config"]["threshold"]
    too_few = r"--held-out 0 makes 24 train, 0 tune, 0 test of 24, .*\. Give --held-out (0\.\d+), or"
    with pytest.raises(ValueError, match=too_few) as refused:
        reward.main(reward.Args(data=(tmp_path / "data",), out=tmp_path / "out", held_out=0.0))
    assert str(refused.value).endswith("record more, about 29 in all")
    parts = reward.split(list_episodes(tmp_path / "data"), float(re.findall(too_few, str(refused.value))[0]))
    assert all(parts.values())  # what it says to do, does it


def test_the_threshold_finds_nineteen_of_twenty_successes():
    class Recorded(SuccessHead):
        def probabilities(self, frames, instruction):
            return torch.full((len(frames),), float(instruction))

    def video(score: float, success: bool) -> LabelledVideo:
        return LabelledVideo(np.zeros((3, 8, 8, 3), np.uint8), np.full(3, success), str(score))

    successes, failure = [video(score, True) for score in np.linspace(0.2, 0.96, 20)], video(0.99, False)
    # One of 20 may be missed, and none of 19.
    assert choose_threshold(Recorded(), [*successes, failure]) == pytest.approx(0.24, abs=1e-6)
    assert choose_threshold(Recorded(), [*successes[:19], failure]) == pytest.approx(0.2, abs=1e-6)
    with pytest.raises(ValueError, match="no success"):
        require_success([False, False], 0.2)
