"""Where episodes start: sets of start frames with their instructions, in memory and on disk.

On disk a start set is a folder with `index.json` and WebP sheets of up to 100 frames, one or more per task.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import overload

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from prophet_gym._io.atomic import atomic_write, is_temporary, read_whole
from prophet_gym._io.files import read_json
from prophet_gym.errors import (
    CheckpointError,
    InvalidStartError,
    MissingWeightsError,
    listed,
    require_count,
    shown,
    unknown_option,
)
from prophet_gym.specs import InitialState

INDEX_NAME = "index.json"
FORMAT = "prophet-gym-starts-1"
SHEET_COLUMNS = 10
SHEET_FRAMES = 100


class InitialStates(Sequence[InitialState]):
    """A non-empty sequence of starts.

    Example:
        >>> blank = np.zeros((1, 8, 8, 3), np.uint8)
        >>> starts = InitialStates([InitialState(blank, "lift", task=t, index=i) for t in (0, 3) for i in range(5)])
        >>> len(starts), starts.tasks, len(starts.of_task(3))
        (10, (0, 3), 5)
        >>> starts.of_task(3).sample(np.random.default_rng(0)).task
        3
    """

    def __init__(self, states: Iterable[InitialState]) -> None:
        """Raise InvalidStartError if there is no start, or one is none: frames uint8 `t h w 3` and a text."""
        if not isinstance(states, Iterable):
            raise InvalidStartError(f"a start set is made of InitialState, got {type(states).__name__}")
        self._states = tuple(require_start(state) for state in states)
        if not self._states:
            raise InvalidStartError("a start set needs at least one start, got none")

    @overload
    def __getitem__(self, index: int) -> InitialState: ...
    @overload
    def __getitem__(self, index: slice) -> "InitialStates": ...
    def __getitem__(self, index: int | slice) -> "InitialState | InitialStates":
        """One start, or the start set of a slice."""
        return InitialStates(self._states[index]) if isinstance(index, slice) else self._states[index]

    def __len__(self) -> int:
        """Number of starts."""
        return len(self._states)

    @property
    def tasks(self) -> tuple[int, ...]:
        """Task numbers that occur, ascending."""
        return tuple(sorted({state.task for state in self._states}))

    @property
    def suites(self) -> tuple[str, ...]:
        """Suites that occur, ascending."""
        return tuple(sorted({state.suite for state in self._states}))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the start sets that occur (`train`, `official`, ...), ascending."""
        return tuple(sorted({state.split for state in self._states}))

    def of_task(self, task: int) -> "InitialStates":
        """The starts of one task; UnknownOptionError if it has none."""
        if task not in self.tasks:
            raise unknown_option("task", task, map(str, self.tasks))
        return InitialStates(state for state in self._states if state.task == task)

    def of_suite(self, suite: str) -> "InitialStates":
        """The starts of one suite; UnknownOptionError if it has none."""
        if suite not in self.suites:
            raise unknown_option("suite", suite, self.suites)
        return InitialStates(state for state in self._states if state.suite == suite)

    def sample(self, rng: np.random.Generator) -> InitialState:
        """One start, uniformly."""
        return self._states[int(rng.integers(len(self._states)))]


def require_start(state: object, size: tuple[int, int] | None = None) -> InitialState:
    """Return the start, its numbers as Python's own integers.

    Args:
        state: What must be an `InitialState`: frames uint8 (1 to 4, h, w, 3), texts, 64-bit integers, and an `extra`
            of numbers by name.
        size: Height and width that the frames must have.

    Raises:
        InvalidStartError: If it is anything else.
    """
    if not isinstance(state, InitialState):
        raise InvalidStartError(f"a start must be an InitialState, got {type(state).__name__}")
    for name in ("instruction", "suite", "split"):
        if not isinstance(getattr(state, name), str):
            raise InvalidStartError(f"the {name} of a start must be a text, got {getattr(state, name)!r}")
    require_frames(state.frames, size)
    numbers = {name: _integer(name, getattr(state, name)) for name in ("task", "index")}
    if not isinstance(state.extra, Mapping):
        raise InvalidStartError(f"the extra of a start must map names to arrays, got {type(state.extra).__name__}")
    for name, value in state.extra.items():
        if not isinstance(name, str) or not _is_numbers(value):
            raise InvalidStartError(f"the extra of a start must map names to arrays of numbers, got {name!r}: {value}")
    plain = all(type(getattr(state, name)) is int for name in numbers)
    return state if plain else replace(state, **numbers)


def require_frames(frames: object, size: tuple[int, int] | None = None) -> None:
    """Raise InvalidStartError unless these are frames of a start: uint8 `t h w 3` with 1 <= t <= 4 (of this size)."""
    wanted = "uint8 (1 to 4, height, width, 3)" if size is None else f"uint8 (1 to 4, {size[0]}, {size[1]}, 3)"
    if not isinstance(frames, np.ndarray):
        raise InvalidStartError(f"the frames of a start must be {wanted}, got {type(frames).__name__}")
    fits = frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3 and 1 <= frames.shape[0] <= 4
    if not fits or not frames.size or (size is not None and frames.shape[1:3] != size):
        raise InvalidStartError(f"the frames of a start must be {wanted}, got {frames.dtype} {frames.shape}")


def _integer(name: str, value: object) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or not -(2**63) <= int(value) < 2**63:
        raise InvalidStartError(f"the {name} of a start must be a 64-bit integer, got {value!r}")
    return int(value)


def _is_numbers(value: object) -> bool:
    try:
        dtype = np.asarray(value).dtype
    except (TypeError, ValueError):
        return False
    return dtype.kind in "biuf" and dtype.itemsize <= 8


def write_initial_states(directory: Path | str, states: Iterable[InitialState], *, quality: int = 95) -> int:
    """Write a start set, in its order; return its size in bytes.

    Args:
        directory: Created if missing; sheets and index of an earlier set in it are replaced.
        states: At least one; all frames of one size.
        quality: WebP quality, 1 to 100 (lossy) or 101 (lossless). At 95 a frame of 128x128 of LIBERO takes about
            5.4 kB and is 42 dB from the original.
    """
    starts = InitialStates(states)
    size = starts[0].frames.shape[1:3]
    for state in starts:
        require_start(state, (size[0], size[1]))
    folder = Path(directory)
    entries: dict[int, dict[str, object]] = {}
    sheets: dict[str, bytes] = {}
    for name, members in _sheets(starts).items():
        data = _encode_sheet(np.concatenate([starts[member].frames for member in members]), quality)
        chosen = _free_name(folder, name, data)
        sheets[chosen] = data
        cell = 0
        for member in members:
            entries[member] = _entry(starts[member], chosen, cell)
            cell += len(starts[member].frames)
    ordered = [entries[member] for member in range(len(starts))]
    text = json.dumps({"format": FORMAT, "height": size[0], "width": size[1], "starts": ordered}, indent=0) + "\n"
    _write_files(folder, sheets, text)
    return sum(map(len, sheets.values())) + len(text)


def _free_name(folder: Path, name: str, data: bytes) -> str:
    """Return a sheet's name, with a sum of its content where another sheet has it, which an earlier index may name."""
    path = folder / name
    if not path.exists() or (path.is_file() and path.read_bytes() == data):
        return name
    return f"{path.stem}-{hashlib.sha256(data).hexdigest()[:12]}{path.suffix}"


def _write_files(folder: Path, sheets: Mapping[str, bytes], index: str) -> None:
    """Write sheets, then the index that names them, then remove those that it does not name."""
    written: list[Path] = []
    try:
        for name, data in sheets.items():
            if not (folder / name).exists():
                written.append(folder / name)
                atomic_write(folder / name, data)
        atomic_write(folder / INDEX_NAME, index)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    for old in folder.glob("*.webp"):
        if old.name not in sheets and not is_temporary(old):
            old.unlink(missing_ok=True)


def read_initial_states(directory: Path | str) -> InitialStates:
    """Read a start set.

    Raises:
        MissingWeightsError: If there is no index in the folder.
        CheckpointError: If the index or a sheet is damaged.
    """
    folder = Path(directory)
    path = folder / INDEX_NAME
    if not path.is_file():
        sets = sorted(str(found.parent) for found in folder.glob(f"*/{INDEX_NAME}"))
        hint = f"; it holds {' and '.join(sets)}, give one of these" if sets else ""
        raise MissingWeightsError(f"a start set is a folder with {INDEX_NAME}, found none in {folder}{hint}")
    return read_whole(folder, lambda: _read(folder))


def _read(folder: Path) -> InitialStates:
    path = folder / INDEX_NAME
    index = read_json(path, CheckpointError)
    try:
        if index["format"] != FORMAT:
            raise CheckpointError(f"{path} must have format {FORMAT!r}, got {shown(repr(index['format']))}")
        size = (require_count("height", index["height"]), require_count("width", index["width"]))
        names = {entry["sheet"] for entry in index["starts"]}
        outside = [name for name in names if name in ("", ".", "..") or Path(name).name != name]
        if outside:
            raise CheckpointError(f"{path} must name sheets in its own folder, got {listed(outside)}")
        sheets = {name: _decode_sheet(folder / name, size) for name in names}
        return InitialStates([_state(entry, sheets[entry["sheet"]]) for entry in index["starts"]])
    except CheckpointError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        said = shown(str(error))
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}: {said}); write it again") from error


def _sheets(starts: InitialStates) -> dict[str, list[int]]:
    """Which starts lie on which sheet."""
    sheets: dict[str, list[int]] = {}
    parts: dict[tuple[str, int], int] = {}
    filled: dict[str, int] = {}
    for member, state in enumerate(starts):
        key = (state.suite, state.task)
        name = _sheet_name(*key, parts.setdefault(key, 0))
        if filled.get(name, 0) + len(state.frames) > SHEET_FRAMES:
            parts[key] += 1
            name = _sheet_name(*key, parts[key])
        sheets.setdefault(name, []).append(member)
        filled[name] = filled.get(name, 0) + len(state.frames)
    return sheets


def _sheet_name(suite: str, task: int, part: int) -> str:
    return f"{suite or 'custom'}_task_{task:02d}_{part:02d}.webp"


def _encode_sheet(cells: UInt8[np.ndarray, "n h w 3"], quality: int) -> bytes:
    count, height, width, _ = cells.shape
    lines = -(-count // SHEET_COLUMNS)
    sheet = np.zeros((lines, SHEET_COLUMNS, height, width, 3), np.uint8)
    sheet.reshape(-1, height, width, 3)[:count] = cells
    image = sheet.transpose(0, 2, 1, 3, 4).reshape(lines * height, SHEET_COLUMNS * width, 3)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "WEBP", lossless=quality > 100, quality=min(quality, 100))
    return file.getvalue()


def _decode_sheet(path: Path, size: tuple[int, int]) -> UInt8[np.ndarray, "n h w 3"]:
    height, width = size
    lines = [height * line for line in range(1, -(-SHEET_FRAMES // SHEET_COLUMNS) + 1)]
    try:
        with Image.open(path, formats=["WEBP"]) as sheet:
            # Before it is unpacked: a small file can be a large picture.
            fits = sheet.size[0] == SHEET_COLUMNS * width and sheet.size[1] in lines
            image = np.asarray(sheet.convert("RGB")) if fits else None
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises, by the kind of damage
        raise CheckpointError(f"{path} is missing or damaged ({error}); write the start set again") from error
    if image is None:
        raise CheckpointError(
            f"{path} must hold frames of {size} in {SHEET_COLUMNS} columns; write the start set again"
        )
    cells = image.reshape(-1, height, SHEET_COLUMNS, width, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(cells).reshape(-1, height, width, 3)


def _entry(state: InitialState, sheet: str, cell: int) -> dict[str, object]:
    extra = {
        name: {"dtype": str(values.dtype), "values": np.asarray(values).tolist()}
        for name, values in state.extra.items()
    }
    return {
        "sheet": sheet,
        "cell": cell,
        "frames": len(state.frames),
        "instruction": state.instruction,
        "suite": state.suite,
        "task": state.task,
        "index": state.index,
        "split": state.split,
        "extra": extra,
    }


def _state(entry: dict, cells: UInt8[np.ndarray, "n h w 3"]) -> InitialState:
    frames = cells[entry["cell"] : entry["cell"] + entry["frames"]].copy()
    extra = {name: np.asarray(item["values"], dtype=item["dtype"]) for name, item in entry["extra"].items()}
    return InitialState(
        frames=frames,
        instruction=entry["instruction"],
        suite=entry["suite"],
        task=entry["task"],
        index=entry["index"],
        split=entry["split"] if "split" in entry else entry["start_set"],  # the key before 0.1
        extra=extra,
    )
