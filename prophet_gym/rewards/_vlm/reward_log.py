"""Log what a reward model was shown, what it answered and what that cost, as one line of JSON per video."""

import hashlib
import json
import os
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from prophet_gym._io.atomic import atomic_write
from prophet_gym.rewards._vlm.voting import Votes

_COLUMNS = 8


@dataclass(frozen=True, eq=False)
class RewardRecord:
    """Record how one video was scored.

    Attributes:
        model: Name of the model that answered.
        instruction: The task.
        steps: Steps of the frames shown.
        frames: The frames shown, uint8 `h w 3` each.
        replies: One `Reply` per question, in the order of asking.
        answers: What each reply was read as.
        votes: Their count.
        seconds: Time from the first question of the batch to its last answer.
    """

    model: str
    instruction: str
    steps: Sequence[int]
    frames: Sequence[Tensor]
    replies: Sequence[Any]
    answers: Sequence[bool | None]
    votes: Votes
    seconds: float

    def as_json(self, image: str | None) -> dict[str, Any]:
        """Return plain data; `image` is where the frames were put."""
        costs = [reply.cost for reply in self.replies if reply.cost is not None]
        return {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": self.model,
            "instruction": self.instruction,
            "decision": self.votes.decision,
            "votes": asdict(self.votes),
            "steps": list(self.steps),
            "image": image,
            "answers": [
                {"answer": answer} | asdict(reply) for answer, reply in zip(self.answers, self.replies, strict=True)
            ],
            "seconds": round(self.seconds, 3),
            "cost": sum(costs) if costs else None,
        }


class RewardLog:
    """Append records to a file; the frames of each lie beside it, in `NAME_frames/`, as one image.

    Lines and images are written whole or not at all. What cannot be written, on a full disk, is warned of once and
    counted: the answer was waited and paid for, and the reward holds without its line.

    Attributes:
        path: The file.
        lost: Number of records that could not be written.

    Example:
        >>> import tempfile
        >>> log = RewardLog(Path(tempfile.mkdtemp()) / "records.jsonl")
        >>> log.write([RewardRecord("a model", "open the drawer", [], [], [], [], Votes(5), 0.1)])
        >>> json.loads(log.path.read_text())["decision"] is None
        True
    """

    def __init__(self, path: Path | str, *, images: bool = True) -> None:
        """Open the log.

        Args:
            path: The file; its folder is made if need be.
            images: Whether the frames are stored too.

        Raises:
            ValueError: The file cannot be written.
        """
        self.path = Path(path).expanduser()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.open("a", encoding="utf-8").close()
        except OSError as error:
            raise ValueError(f"a log must be a file that can be written, {self.path} cannot: {error}") from error
        self.images = images
        self.lost = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the lock, which can be neither copied nor pickled: a copy needs one of its own."""
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore what `__getstate__` gave, with a new lock."""
        vars(self).update(state, _lock=threading.Lock())

    def write(self, records: Sequence[RewardRecord]) -> None:
        """Append one line each; the first time that this fails, a RuntimeWarning says so."""
        for record in records:
            try:
                line = json.dumps(record.as_json(self._store(record.frames)), ensure_ascii=False)
                with self._lock:
                    append_line(self.path, f"{line}\n".encode(errors="backslashreplace"))
            except OSError as error:
                self.lost += 1
                if self.lost == 1:
                    warnings.warn(
                        f"a record could not be written to {self.path} ({error.strerror or error}); the reward holds "
                        "all the same. Further ones that cannot be written are counted, not reported: see `lost`",
                        RuntimeWarning,
                        stacklevel=3,
                    )

    def _store(self, frames: Sequence[Tensor]) -> str | None:
        if not self.images or not frames:
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

    done, data = cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()
