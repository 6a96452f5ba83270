"""Log what a reward model was shown, what it answered and what that cost, as one line of JSON per video."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from prophet_gym._io.atomic import atomic_write
from prophet_gym.rewards._vlm import warn

_COLUMNS = 8


class RewardLog:
    """Append records to a file; the frames of each lie beside it, in `NAME_frames/`, as one image.

    Lines and images are written whole or not at all. What cannot be written, on a full disk, is warned of once and
    counted in `lost`: the answer was waited and paid for, and the reward holds without its line.
    """

    def __init__(self, path: Path | str) -> None:
        """Open the log; raise ValueError if the file cannot be written."""
        self.path = Path(path).expanduser()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.open("a", encoding="utf-8").close()
        except OSError as error:
            raise ValueError(f"a log must be a file that can be written, {self.path} cannot: {error}") from error
        self.lost = 0

    def write(self, record: Mapping[str, Any], frames: Sequence[Tensor]) -> None:
        """Append a line, whose `image` is where the frames were put; a RuntimeWarning tells of the first failure."""
        try:
            line = json.dumps({**record, "image": self._store(frames)}, ensure_ascii=False)
            append_line(self.path, f"{line}\n".encode(errors="backslashreplace"))
        except OSError as error:
            self.lost += 1
            if self.lost == 1:
                warn(
                    f"a record could not be written to {self.path} ({error.strerror or error}); the reward holds all "
                    "the same. Further ones that cannot be written are counted, not reported: see `lost`"
                )

    def _store(self, frames: Sequence[Tensor]) -> str | None:
        if not frames:
            return None
        image = png(contact_sheet([frame.numpy() for frame in frames]))
        name = f"{self.path.stem}_frames/{hashlib.sha256(image).hexdigest()[:16]}.png"
        target = self.path.parent / name
        if not target.exists():
            atomic_write(target, image)
        return name


def append_line(path: Path, data: bytes) -> None:
    """Append to a file; after an OSError it is as it was, unless others appended to it meanwhile."""
    with path.open("ab", buffering=0) as file:
        before, written = file.seek(0, os.SEEK_END), 0
        try:
            while written < len(data):
                written += file.write(data[written:])
        except OSError:
            with suppress(OSError):
                if file.seek(0, os.SEEK_END) == before + written:
                    file.truncate(before)
            raise


def contact_sheet(frames: Sequence[UInt8[np.ndarray, "h w 3"]]) -> UInt8[np.ndarray, "y x 3"]:
    """Lay frames out row by row, eight in each; what is left of the last row is black."""
    columns = min(_COLUMNS, len(frames))
    rows = -(-len(frames) // columns)
    empty = [np.zeros_like(frames[0])] * (rows * columns - len(frames))
    cells = np.stack([*frames, *empty]).reshape(rows, columns, *frames[0].shape)
    return np.concatenate(np.concatenate(cells, axis=1), axis=1)


def png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Encode an image as a PNG file."""
    import cv2

    return cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR))[1].tobytes()
