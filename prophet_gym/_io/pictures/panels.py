"""Videos and contact sheets that show a dream beside a recording."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import imageio.v2 as imageio
import imageio.v3 as iio
import numpy as np
from jaxtyping import UInt8

Image = UInt8[np.ndarray, "_ _ 3"]
PAPER, INK, FAINT = (20, 22, 26), (240, 240, 240), (150, 155, 165)
GAP, STRIP = 6, 28
FONT = cv2.FONT_HERSHEY_SIMPLEX


def side_by_side(panels: Mapping[str, Image], footer: str, scale: int) -> Image:
    """Enlarge panels and put them in a row, each under its label, with a line of text below."""
    enlarged = [cv2.resize(panel, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) for panel in panels.values()]
    height, width = enlarged[0].shape[:2]
    # Even sides, since video encoders refuse odd ones.
    canvas = _paper(height + 2 * STRIP + (height % 2), len(enlarged) * (width + GAP) - GAP + (GAP + width) % 2)
    for number, (label, panel) in enumerate(zip(panels, enlarged, strict=True)):
        left = number * (width + GAP)
        canvas[STRIP : STRIP + height, left : left + width] = panel
        _write(canvas, label, (left + 4, STRIP - 9), INK, room=width - 8)
    _write(canvas, footer, (4, height + 2 * STRIP - 9), FAINT, room=canvas.shape[1] - 8)
    return canvas


def contact_sheet(videos: Mapping[str, UInt8[np.ndarray, "t h w 3"]], times: Sequence[int], title: str) -> Image:
    """Draw a title, then one row per video and one column per frame number in `times`, labelled left and on top."""
    margin = 150
    rows = [np.concatenate([video[moment] for moment in times], axis=1) for video in videos.values()]
    height, width = rows[0].shape[:2]
    canvas = _paper(2 * STRIP + len(rows) * (height + 2), margin + width)
    _write(canvas, title, (4, STRIP - 9), INK, room=margin + width - 8)
    for column, moment in enumerate(times):
        left = margin + column * width // len(times)
        _write(canvas, f"frame {moment}", (left + 4, 2 * STRIP - 9), FAINT, room=width // len(times) - 8)
    for number, (label, row) in enumerate(zip(videos, rows, strict=True)):
        top = 2 * STRIP + number * (height + 2)
        canvas[top : top + height, margin:] = row
        _write(canvas, label, (4, top + height // 2), INK, room=margin - 8)
    return canvas


def stack(sheets: Sequence[Image]) -> Image:
    """Put images of any width below each other, padded with black."""
    width = max(sheet.shape[1] for sheet in sheets)
    padded = [np.pad(sheet, ((0, 0), (0, width - sheet.shape[1]), (0, 0))) for sheet in sheets]
    return np.concatenate(padded)


def write_mp4(path: Path, images: Iterable[Image], frames_per_second: int = 20) -> None:
    """Write H.264 that browsers play."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"codec": "libx264", "pixelformat": "yuv420p", "quality": 7, "macro_block_size": 2}
    writer: Any = imageio.get_writer(path, fps=frames_per_second, **options)
    with writer:
        for image in images:
            writer.append_data(image)


def write_animation(path: Path, images: Sequence[Image], frames_per_second: int = 10) -> None:
    """Write an endless GIF or WebP, by the ending of the name."""
    options: dict[str, dict[str, Any]] = {".gif": {}, ".webp": {"quality": 60, "method": 4}}
    if path.suffix not in options:
        raise ValueError(f"an animation ends in .gif or .webp, got {path.name!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    duration = 1000 // frames_per_second
    iio.imwrite(path, np.stack(images), plugin="pillow", duration=duration, loop=0, **options[path.suffix])


def _paper(height: int, width: int) -> Image:
    return np.full((height, width, 3), PAPER, np.uint8)


def _write(canvas: Image, text: str, at: tuple[int, int], colour: tuple[int, int, int], *, room: int) -> None:
    """Write at the baseline `at`, smaller where the text would be wider than `room` pixels."""
    width = cv2.getTextSize(text, FONT, 0.5, 1)[0][0]
    cv2.putText(canvas, text, at, FONT, 0.5 * min(1.0, room / max(width, 1)), colour, 1, cv2.LINE_AA)
