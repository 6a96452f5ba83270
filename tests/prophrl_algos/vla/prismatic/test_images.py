"""Pictures are prepared as OpenVLA's evaluation does: every filter and rounding has a known answer."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from prophrl_algos.vla.prismatic._images import centre_crop, jpeg, lanczos, lanczos_weights, prepared


def noise(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize(("size", "new"), [(64, 56), (48, 56), (128, 56), (56, 56)])
def test_lanczos_is_pillows_in_floats(size, new):
    image = noise(size)
    channels = [
        Image.fromarray(image[..., c].astype(np.float32)).resize((new, new), Image.Resampling.LANCZOS) for c in range(3)
    ]
    exact = np.clip(np.stack([np.asarray(channel) for channel in channels], -1), 0, 255)
    ours = lanczos(torch.from_numpy(image)[None], new)[0].numpy()
    assert np.abs(ours - exact).max() < 0.5 + 1e-3


def test_a_picture_that_shrinks_is_smoothed_first():
    stripes = torch.zeros(1, 60, 60, 3, dtype=torch.uint8)
    stripes[:, ::2] = 255
    shrunk = lanczos(stripes, 20)[0, 3:-3, 3:-3].float()
    assert shrunk.std() < 10
    assert shrunk.mean() == pytest.approx(127.5, abs=3)
    assert lanczos_weights(60, 20).sum(1) == pytest.approx(torch.ones(20))


def test_the_crop_keeps_nine_tenths_of_the_area_around_the_middle():
    size = 11
    image = torch.from_numpy(noise(size, 3))[None]
    side = math.sqrt(0.9)
    ours = centre_crop(image)[0]
    for row, column in ((0, 0), (5, 5), (3, 8), (10, 10)):
        y, x = (((1 - side) / 2 * (size - 1) + place * side) for place in (row, column))
        top, left = int(y), int(x)
        bottom, right = math.ceil(y), math.ceil(x)
        pixels = image[0].double()
        upper = pixels[top, left] * (1 - (x - left)) + pixels[top, right] * (x - left)
        lower = pixels[bottom, left] * (1 - (x - left)) + pixels[bottom, right] * (x - left)
        value = (upper * (1 - (y - top)) + lower * (y - top)) / 255 * 255.5
        assert (ours[row, column] - value.floor()).abs().max() <= 1e-9 or torch.allclose(
            value, value.round(), atol=1e-3
        )


def test_the_crop_changes_no_level_of_a_plain_picture():
    levels = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(256, 8, 8, 3)
    assert torch.equal(centre_crop(levels), levels)


def test_jpeg_keeps_grey_and_halves_the_resolution_of_colours():
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[:64, None, None], 64, 1).repeat(3, 2)
    assert np.abs(jpeg(ramp).astype(int) - ramp).max() <= 2
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2, 0], stripes[:, 1::2, 2] = 200, 200
    spread = jpeg(stripes).astype(int)[8:24, 8:24]
    assert abs(spread[:, ::2, 0].mean() - spread[:, 1::2, 0].mean()) < 120 < 200


def test_all_of_it_keeps_up_up_and_gives_the_size_asked_for():
    image = np.zeros((2, 50, 70, 3), np.uint8)
    image[:, :25] = 240
    found = prepared(image, 28)
    assert found.shape == (2, 28, 28, 3)
    assert found.dtype == torch.uint8
    assert found[:, :10].float().mean() > 230
    assert found[:, 18:].float().mean() < 10
