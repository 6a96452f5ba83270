"""The object reader: soft points by hand, a toy world in which it must find the named square, its files."""

import json

import numpy as np
import pytest
import torch

from prophet_gym.errors import CheckpointError, MissingWeightsError
from prophet_gym.rewards._object_reader import ObjectReader, ObjectReaderConfig, soft_points
from prophet_gym.train._objects import Args, LabelledFrames, blurred, reading_error, train_object_reader

COLOURS = {"red": 0, "green": 1}


def squares(episodes: int, seed: int, frames: int = 8) -> LabelledFrames:
    """A red and a green square; the instruction names one, whose place (x right, y down, 0..1) is the position."""
    rng = np.random.default_rng(seed)
    video = np.full((episodes * frames, 32, 32, 3), 90, np.uint8)
    positions = np.zeros((episodes * frames, 3))
    names = [list(COLOURS)[index % 2] for index in range(episodes)]
    for number in range(len(video)):
        for name, channel in COLOURS.items():
            row, column = rng.integers(0, 27, 2)
            video[number, row : row + 5, column : column + 5] = 0
            video[number, row : row + 5, column : column + 5, channel] = 255
            if name == names[number // frames]:
                positions[number] = (column / 27, row / 27, rng.normal(0.5, 0.001))
    owners = np.repeat(np.arange(episodes), frames)
    return LabelledFrames(video, owners, positions, tuple(f"pick up the {name} square" for name in names))


def test_a_sharp_heat_map_is_one_point_and_a_flat_one_is_the_middle():
    heat = torch.zeros(1, 2, 5, 5)
    heat[0, 0, 4, 1] = 100.0
    points = soft_points(heat).view(2, 4)
    torch.testing.assert_close(points[0], torch.tensor([-0.5, 1.0, 1e-3, 1e-3]), atol=1e-4, rtol=0)
    spread = float(np.sqrt(np.mean(np.linspace(-1, 1, 5) ** 2)))
    torch.testing.assert_close(points[1], torch.tensor([0.0, 0.0, spread, spread]))


def test_it_finds_the_square_that_the_instruction_names(tmp_path):
    args = Args(data=tmp_path, out=tmp_path, steps=250, batch_size=32, image_size=32, learning_rate=5e-3)
    reader = train_object_reader(squares(60, seed=0), args)
    fresh = squares(20, seed=1)
    swapped = LabelledFrames(
        fresh.frames, fresh.episode, fresh.positions, (*fresh.instructions[1:], fresh.instructions[0])
    )
    right, wrong = reading_error(reader, fresh)["median_mm"], reading_error(reader, swapped)["median_mm"]
    assert right < 120
    assert wrong > 2 * right
    reader.save_pretrained(tmp_path)
    frames = torch.from_numpy(fresh.frames[:3])
    again = ObjectReader.from_pretrained(tmp_path)
    assert torch.equal(again.positions(frames, "red"), reader.positions(frames, "red"))


def test_blurring_keeps_the_picture_and_is_a_function_of_its_generator():
    frames = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    once, again = (blurred(frames, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(once, again)
    assert once.shape == frames.shape
    flat = torch.full((4, 16, 16, 3), 100, dtype=torch.uint8)
    assert (blurred(flat, torch.Generator().manual_seed(3)).float() - 100).abs().max() <= 10


def test_damaged_or_missing_files_are_named(tmp_path):
    with pytest.raises(MissingWeightsError, match="object reader"):
        ObjectReader.from_pretrained(tmp_path)
    ObjectReader(ObjectReaderConfig(image_size=32, width=4)).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "width": 8}))
    with pytest.raises(CheckpointError, match="damaged"):
        ObjectReader.from_pretrained(tmp_path)
