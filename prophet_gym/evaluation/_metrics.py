"""Metrics of how close a generated video is to the real one, frame by frame: the paper's evaluation protocol.

Appearance: PSNR and SSIM of each frame, SSIM of the temporal differences (tSSIM). Motion: optical flow of both videos,
compared by end-point error (EPE, pixels) and by direction (cosine).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Float32, UInt8

Video = UInt8[np.ndarray, "_ _ _ 3"]  # t h w 3; two videos in one signature may differ, and are then refused
PerFrame = Float[np.ndarray, " t"]
PerPair = Float[np.ndarray, " p"]

_SSIM_C1, _SSIM_C2 = 0.01**2, 0.03**2
_MIN_FLOW = 1e-3  # pixels; below it a flow vector has no direction
_MIN_MSE = 1e-10  # identical frames count as 100 dB, so that means stay finite


@dataclass(frozen=True)
class FrameMetrics:
    """Hold the metrics before they are averaged: one value per frame, or per pair of consecutive frames.

    `mse` is that of pixels in [0, 1], `psnr` in dB and at most 100; `tssim` is the SSIM of differences between frames;
    `epe` and `cosine` compare flow vectors: pixels, and NaN where no pixel moves in both videos.
    """

    mse: PerFrame
    psnr: PerFrame
    ssim: PerFrame
    tssim: PerPair
    epe: PerPair
    cosine: PerPair

    def first(self, frames: int) -> "FrameMetrics":
        """Return the metrics of the first `frames` frames alone."""
        per_frame = (values[:frames] for values in (self.mse, self.psnr, self.ssim))
        per_pair = (values[: frames - 1] for values in (self.tssim, self.epe, self.cosine))
        return FrameMetrics(*per_frame, *per_pair)

    def summary(self) -> dict[str, float]:
        """Return means (and for flow medians) under the names of `video_metrics`."""
        seen = self.cosine[~np.isnan(self.cosine)]
        return {
            "pairs": float(len(self.epe)),
            "EPE_mean": float(self.epe.mean()),
            "EPE_median": float(np.median(self.epe)),
            "dir_cos_mean": float(seen.mean()) if len(seen) else float("nan"),
            "dir_cos_median": float(np.median(seen)) if len(seen) else float("nan"),
            "MSE_mean": float(self.mse.mean()),
            "PSNR_mean": float(self.psnr.mean()),
            "SSIM_mean": float(self.ssim.mean()),
            "tSSIM_mean": float(self.tssim.mean()),
        }


def video_metrics(target: Video, generated: Video) -> dict[str, float]:
    """Compare two clips of the same length.

    Args:
        target: The clip that was recorded, at least two frames.
        generated: The clip that was generated for it.

    Returns:
        `pairs` (consecutive frames compared), `EPE_mean`, `EPE_median` (pixels), `dir_cos_mean`, `dir_cos_median`
        (NaN if nothing moves in one of the clips), `MSE_mean`, `PSNR_mean` (dB), `SSIM_mean`, `tSSIM_mean`.

    Raises:
        ValueError: If the clips differ in shape or have fewer than two frames.

    Example:
        >>> clip = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
        >>> metrics = video_metrics(clip, clip)
        >>> metrics["PSNR_mean"], metrics["EPE_mean"]
        (100.0, 0.0)
    """
    return frame_metrics(target, generated).summary()


def frame_metrics(
    target: Video, generated: Video, real_flow: Float32[np.ndarray, "p h w 2"] | None = None
) -> FrameMetrics:
    """Compare two clips and keep every frame's value; `real_flow` is `optical_flow(target)` where it is known."""
    if target.shape != generated.shape:
        raise ValueError(f"both clips must have the same shape, got real {target.shape}, generated {generated.shape}")
    if len(target) < 2:
        raise ValueError(f"motion needs at least two frames, got {len(target)}")
    a, b = target.astype(np.float32) / 255.0, generated.astype(np.float32) / 255.0
    mse = np.square(a - b).mean(axis=(1, 2, 3), dtype=np.float64)
    epe, cosine = compare_flow(optical_flow(target) if real_flow is None else real_flow, optical_flow(generated))
    return FrameMetrics(
        mse=mse,
        psnr=-10.0 * np.log10(np.maximum(mse, _MIN_MSE)),
        ssim=ssim(a, b),
        tssim=ssim(np.diff(a, axis=0), np.diff(b, axis=0)),
        epe=epe,
        cosine=cosine,
    )


def ssim(target: Float[np.ndarray, "t h w 3"], generated: Float[np.ndarray, "t h w 3"]) -> PerFrame:
    """Return the structural similarity of each frame: Gaussian window (11 pixels, std 1.5), zero padding, range 1."""
    import cv2

    def one(a: Float32[np.ndarray, "h w 3"], b: Float32[np.ndarray, "h w 3"]) -> float:
        mean_a, mean_b, square_a, square_b, product = (
            cv2.GaussianBlur(part, (11, 11), 1.5, borderType=cv2.BORDER_CONSTANT)
            for part in (a, b, a * a, b * b, a * b)
        )
        covariance = product - mean_a * mean_b
        variances = square_a - mean_a * mean_a + square_b - mean_b * mean_b
        similarity = ((2 * mean_a * mean_b + _SSIM_C1) * (2 * covariance + _SSIM_C2)) / (
            (mean_a * mean_a + mean_b * mean_b + _SSIM_C1) * (variances + _SSIM_C2)
        )
        return float(similarity.mean(dtype=np.float64))

    return np.array([one(a, b) for a, b in zip(target, generated, strict=True)])


def optical_flow(video: Video) -> Float32[np.ndarray, "p h w 2"]:
    """Return Farneback flow in pixels from each frame to the next, on gray images; `t - 1` fields."""
    import cv2

    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]
    # OpenCV's stubs want an array where None (no initial flow) is meant
    no_flow = cast(Any, None)
    settings = {"pyr_scale": 0.5, "levels": 3, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2}
    fields = [cv2.calcOpticalFlowFarneback(a, b, no_flow, **settings, flags=0) for a, b in pairwise(gray)]
    return np.stack(fields).astype(np.float32, copy=False)


def compare_flow(
    target: Float32[np.ndarray, "p h w 2"], generated: Float32[np.ndarray, "p h w 2"]
) -> tuple[PerPair, PerPair]:
    """Return end-point error (pixels) and mean cosine of each pair of flow fields; NaN where nothing moves in both."""
    epe = np.linalg.norm(target - generated, axis=-1).mean(axis=(1, 2), dtype=np.float64)
    length_real, length_generated = np.linalg.norm(target, axis=-1), np.linalg.norm(generated, axis=-1)
    # A flow of a thousandth of a pixel has no direction to compare.
    moves = (length_real > _MIN_FLOW) & (length_generated > _MIN_FLOW)
    cosine = (target * generated).sum(axis=-1) / (length_real * length_generated + 1e-6)
    moving = moves.sum(axis=(1, 2))
    total = np.where(moves, cosine, 0.0).sum(axis=(1, 2), dtype=np.float64)
    return epe, np.where(moving > 0, total / np.maximum(moving, 1), np.nan)
