"""Evaluation protocol: golden numbers of the original implementation, and cases known by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from prophet_gym.evaluation._metrics import compare_flow, frame_metrics, optical_flow, video_metrics

GOLDEN = Path(__file__).parents[1] / "data" / "video_metrics.npz"


@pytest.fixture(scope="module")
def clips() -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    with np.load(GOLDEN) as data:
        return data["real"], data["generated"], json.loads(str(data["expected"]))


def test_matches_the_original_implementation(clips):
    real, generated, expected = clips
    metrics = video_metrics(real, generated)
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, abs=1e-4), name


def test_a_known_flow_for_real_clip_changes_nothing(clips):
    real, generated, _ = clips
    assert frame_metrics(real, generated, optical_flow(real)).summary() == video_metrics(real, generated)


def test_the_first_frames_are_the_metrics_of_the_shorter_clip(clips):
    real, generated, _ = clips
    assert frame_metrics(real, generated).first(5).summary() == video_metrics(real[:5], generated[:5])


def test_psnr_of_a_constant_offset_is_known():
    real = np.full((2, 16, 16, 3), 100, np.uint8)
    metrics = video_metrics(real, real + np.uint8(51))
    assert metrics["PSNR_mean"] == pytest.approx(-20 * np.log10(51 / 255), abs=1e-5)
    assert metrics["MSE_mean"] == pytest.approx(0.04, abs=1e-6)


def test_a_blank_clip_has_no_direction():
    rng = np.random.default_rng(0)
    moving = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    metrics = video_metrics(moving, np.full_like(moving, 128))
    assert np.isnan(metrics["dir_cos_mean"])
    assert np.isnan(metrics["dir_cos_median"])
    assert metrics["EPE_mean"] > 0


def test_flow_comparison_of_known_fields():
    real = np.zeros((3, 4, 4, 2), np.float32)
    generated = np.zeros_like(real)
    real[0, ..., 0], generated[0, ..., 1] = 3.0, 4.0  # at right angles: distance 5, cosine 0
    real[1, ..., 0], generated[1, ..., 0] = 1.0, -1.0  # opposite: distance 2, cosine -1
    real[2, :2, :, 0], generated[2, :2, :, 0] = 2.0, 1.0  # half of the pixels move, the same way: distance 1 there
    epe, cosine = compare_flow(real, generated)
    np.testing.assert_allclose(epe, [5.0, 2.0, 0.5])
    np.testing.assert_allclose(cosine, [0.0, -1.0, 1.0], atol=1e-5)


def test_flow_finds_a_shift_by_two_pixels():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (24, 24), dtype=np.uint8)
    image = np.kron(coarse, np.ones((4, 4))).astype(np.uint8)
    video = np.stack([np.roll(image, shift, axis=1) for shift in (0, 2)])[..., None].repeat(3, axis=-1)
    inside = optical_flow(video)[0, 20:-20, 20:-20]
    assert np.median(inside[..., 0]) == pytest.approx(2.0, abs=0.2)
    assert np.median(inside[..., 1]) == pytest.approx(0.0, abs=0.2)


@pytest.mark.parametrize(("frames", "other"), [(1, 1), (3, 4)])
def test_clips_that_cannot_be_compared_are_refused(frames, other):
    with pytest.raises(ValueError, match=r"frames|shape"):
        video_metrics(np.zeros((frames, 8, 8, 3), np.uint8), np.zeros((other, 8, 8, 3), np.uint8))
