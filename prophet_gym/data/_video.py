"""Videos by ffmpeg: write one, read one, or decode a few frames out of a long one of any codec, AV1 too."""

import re
import subprocess
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8

from prophet_gym._io.files import modified, refuse_pointer

_TICK = re.compile(rb"#tb 0: (\d+)/(\d+)")
_HEADER = re.compile(rb"P6\n(\d+) (\d+)\n255\n")
BEGIN = 0.25
"""Bound how far a first frame may lie from where its data set says, in frames; halfway, the next one is meant."""
WITHIN = 0.5
"""Bound how far any further frame may lie from its time; beyond, another frame is the one of that time."""


def write_video(path: Path, frames: UInt8[np.ndarray, "t h w 3"], fps: float | int) -> None:
    """Write H.264 with full colour resolution, on one thread."""
    height, width = frames.shape[1:3]
    source = f"-y -f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps:g} -i -"
    # The constant rate factor 10 of x264 is about 45 dB on the simulator's images.
    target = "-c:v libx264 -preset fast -crf 10 -pix_fmt yuv444p -threads 1"
    done = _run([*source.split(), *target.split(), str(path)], np.ascontiguousarray(frames).tobytes())
    if done.returncode:
        raise OSError(f"ffmpeg could not write {path}: {_reason(done)}")


def frame_times(path: Path) -> Float64[np.ndarray, " n"]:
    """Return when each frame of a video is shown, in seconds from its start and in order."""
    if not path.exists():
        raise FileNotFoundError(f"no video at {path}; fetch the data set again, with its videos")
    stat = path.stat()
    return _times_of_version(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _times_of_version(path: Path, size: int, changed: int) -> Float64[np.ndarray, " n"]:  # noqa: ARG001 (cache key)
    refuse_pointer(path)
    # Packets are copied, not decoded; each says when the frame in it is shown.
    listing = _ffmpeg(path, [], "-c copy -f framecrc -")
    tick = _TICK.search(listing)
    shown = [int(line.split(b",")[2]) for line in listing.split(b"\n") if line and not line.startswith(b"#")]
    if tick is None or not shown:
        raise ValueError(f"{path} must be a video that ffmpeg can decode, and has no frame; fetch it again")
    # What lies before the start is decoded for the frames after it, and never shown.
    times = np.sort([stamp for stamp in shown if stamp >= 0]) * (int(tick[1]) / int(tick[2]))
    times.flags.writeable = False
    return times


def frame_size(path: Path) -> tuple[int, int]:
    """Return the height and width of a video's frames, pixels."""
    return _size_of_version(path, modified(path))


@lru_cache(maxsize=1024)
def _size_of_version(path: Path, changed: int) -> tuple[int, int]:  # noqa: ARG001 (cache key)
    frame_times(path)  # whose errors say what is wrong with the file
    height, width = _decode(path, [], "-frames:v 1").shape[1:3]
    return height, width


def decode_frames(
    path: Path, start: int, count: int, *, fps: float | int, offset: float = 0.0, until: float | None = None
) -> UInt8[np.ndarray, "f h w 3"]:
    """Decode `count` frames from `start` on, RGB, of an episode that lies from `offset` to `until` seconds in a video.

    Fewer where the video ends. Frame i of an episode is the i-th of the video after the one that is shown at `offset`.
    The frames' own time stamps decide: where they and the stated rate `fps` disagree by more than half a frame there is
    no telling which frame is meant, which is a ValueError.
    """
    times = frame_times(path)
    # The median, since a frame that is missing says nothing of the rate.
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1 / fps
    rate = 1 / step if step else np.inf
    if abs(rate - fps) > 0.01 * fps:
        raise ValueError(
            f"{path} must have the {fps:g} frames a second that its data set states, has {rate:.4g}; "
            "correct the stated rate or encode the video again"
        )
    # Time stamps, not frame numbers, say where an episode begins: a video may lack frames before it.
    first = int(np.abs(times - offset).argmin())
    if abs(times[first] - offset) * fps > BEGIN:
        raise ValueError(
            f"{path} must show a frame at {offset:.4f} s, where the data set says that an episode begins; the nearest, "
            f"frame {first}, is shown at {times[first]:.4f} s; correct the episode's from_timestamp"
        )
    # One frame more or fewer than stated must not shift which frames are read.
    wanted = times[first + start : first + start + count]
    if not len(wanted):
        return np.empty((0, 1, 1, 3), np.uint8)
    frames = start + np.arange(len(wanted))
    late = np.abs(wanted - times[first] - frames / fps) * fps
    if late.max() > WITHIN:
        bad = int(np.flatnonzero(late > WITHIN)[0])
        raise ValueError(
            f"frame {frames[bad]} of the episode, frame {first + frames[bad]} of {path}, must be shown "
            f"{frames[bad] / fps:.3f} s after its first at {fps:g} frames a second, is shown after "
            f"{wanted[bad] - times[first]:.3f} s; correct the stated rate or encode the video again"
        )
    if until is not None and (wanted[-1] - until) * fps > -WITHIN:
        raise ValueError(
            f"frame {frames[-1]} of the episode must lie before {until:.3f} s in {path}, where the episode ends, and "
            f"lies at {wanted[-1]:.3f} s; leave this episode out or convert the data set again"
        )
    # Between two frames, so that no rounding of the seek decides; and no further than the last one wanted.
    begin = max(float(wanted[0]) - WITHIN / fps, 0.0)
    length = float(wanted[-1]) + WITHIN / fps - begin
    seek = ["-ss", f"{begin:.6f}"] if begin else []
    found = _decode(path, [*seek, "-t", f"{length:.6f}"], f"-frames:v {len(wanted)}")
    if len(found) != len(wanted):
        span = f"{first + frames[0]}..{first + frames[-1]}"
        raise ValueError(f"{path} must hold the frames {span}, only {len(found)} could be decoded; fetch it again")
    return found


def _decode(path: Path, part: list[str], most: str = "") -> UInt8[np.ndarray, "f h w 3"]:
    # Time stamps as they are: ffmpeg would repeat and drop frames to meet a constant rate.
    stream = _ffmpeg(path, ["-xerror", *part], f"-fps_mode passthrough {most} -f image2pipe -c:v ppm -pix_fmt rgb24 -")
    # Binary PPMs say their own size.
    header = _HEADER.match(stream)
    if header is None:
        return np.empty((0, 1, 1, 3), np.uint8)
    width, height = int(header[1]), int(header[2])
    size = len(header[0])
    records = np.frombuffer(stream, np.uint8).reshape(-1, size + height * width * 3)
    # A copy, since the stream itself cannot be written to.
    return records[:, size:].reshape(-1, height, width, 3).copy()


def _ffmpeg(path: Path, part: list[str], target: str) -> bytes:
    done = _run(["-nostdin", "-threads", "1", *part, "-i", str(path), "-map", "0:v:0", *target.split()])
    if done.returncode:
        raise ValueError(f"{path} must be a video that ffmpeg can decode; fetch it again ({_reason(done)})")
    return done.stdout


def _run(arguments: list[str], given: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostats", "-loglevel", "error", *arguments]
    return subprocess.run(command, input=given, capture_output=True, check=False)


def _reason(done: "subprocess.CompletedProcess[bytes]") -> str:
    return done.stderr.decode(errors="replace").strip()[-300:]
