"""Pictures are prepared as OpenVLA's evaluation does: every filter and rounding has a known answer."""

import math

import numpy as np
import pytest
import torch

from prophrl_algos.vla.prismatic._images import centre_crop, jpeg, lanczos, prepared


def noise(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize(("size", "new"), [(64, 56), (48, 56), (128, 56), (56, 56)])
def test_lanczos_is_a_windowed_sinc_that_is_rounded_once(size, new):
    image, scale = noise(size), size / new
    centre = (np.arange(new) + 0.5) * scale
    distance = (np.arange(size) + 0.5 - centre[:, None]) / max(scale, 1)
    kernel = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
    kernel /= kernel.sum(1, keepdims=True)
    exact = np.einsum("sh,hwc,tw->stc", kernel, image, kernel).clip(0, 255)
    assert np.abs(lanczos(image, new) - exact).max() < 0.5 + 1e-3


def test_a_picture_that_shrinks_is_smoothed_first():
    stripes = np.zeros((60, 60, 3), np.uint8)
    stripes[::2] = 255
    shrunk = lanczos(stripes, 20)[3:-3, 3:-3].astype(float)
    assert shrunk.std() < 10
    assert shrunk.mean() == pytest.approx(127.5, abs=3)


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
