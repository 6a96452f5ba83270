"""A few frames out of a long video: any codec of a published data set, AV1 too, decoded by ffmpeg."""

import re
import subprocess
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

_RATE = re.compile(r"Video:.*?([\d.]+) fps")
_HEADER = re.compile(rb"P6\n(\d+) (\d+)\n255\n")


def decode_frames(
    path: Path, start: int, count: int, *, fps: float | int, offset: float = 0.0
) -> UInt8[np.ndarray, "f h w 3"]:
    """Decodes `count` frames, fewer where the video ends, RGB.

    Args:
        path: the video.
        start: the first frame, counted from `offset`.
        count: how many.
        fps: frames a second that the data set claims.
        offset: seconds at which the episode begins in a video of several.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be decoded, or has another frame rate.
    """
    import imageio_ffmpeg

    if not path.exists():
        raise FileNotFoundError(f"no video at {path}; fetch the data set again, with its videos")
    # Half a frame early: the seek keeps the first frame that is not before it.
    seconds = offset + (start - 0.5) / fps
    seek = ["-ss", f"{seconds:.6f}"] if seconds > 0 else []
    source = ["-nostdin", "-hide_banner", "-nostats", "-threads", "1", *seek, "-i", str(path), "-map", "0:v:0"]
    target = ["-fps_mode", "passthrough", "-frames:v", str(count), "-f", "image2pipe", "-c:v", "ppm"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *source, *target, "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=False)
    words = done.stderr.decode(errors="replace")
    if done.returncode:
        raise ValueError(f"{path} must be a video that ffmpeg can decode; fetch it again ({words.strip()[-300:]})")
    _check_rate(path, words, fps)
    return _pictures(done.stdout)


def _check_rate(path: Path, words: str, fps: float | int) -> None:
    found = _RATE.search(words)
    if found and abs(float(found[1]) - fps) > 0.01 * fps:
        raise ValueError(
            f"{path} must have the {fps:g} frames a second that its data set states, has {found[1]}; "
            "correct the stated rate or encode the video again"
        )


def _pictures(stream: bytes) -> UInt8[np.ndarray, "f h w 3"]:
    """The pictures of a stream of binary PPMs, which say their own size."""
    header = _HEADER.match(stream)
    if header is None:
        return np.empty((0, 1, 1, 3), np.uint8)
    width, height = int(header[1]), int(header[2])
    size = len(header[0])
    records = np.frombuffer(stream, np.uint8).reshape(-1, size + height * width * 3)
    return records[:, size:].reshape(-1, height, width, 3)
