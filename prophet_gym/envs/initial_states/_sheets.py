"""Initial states on disk: a folder with `index.json` and WebP sheets of up to 100 frames, one or more a task."""

import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from prophet_gym._checks import listed, require_count, shown
from prophet_gym._io.atomic import atomic_directory, is_temporary, read_whole
from prophet_gym._io.files import read_json
from prophet_gym.envs.initial_states._states import InitialStates, require_start
from prophet_gym.errors import CheckpointError, MissingWeightsError
from prophet_gym.specs import InitialState

INDEX_NAME = "index.json"
FORMAT = "prophet-gym-starts-1"
SHEET_COLUMNS = 10
SHEET_FRAMES = 100
FACTS = ("instruction", "suite", "task", "index", "split")
"""Fields of an initial state that the index holds under their names."""


def write_initial_states(directory: Path | str, states: Iterable[InitialState], *, quality: int = 95) -> int:
    """Write initial states in their order, whole or not at all; return the size in bytes.

    Args:
        directory: Created if missing; the sheets and index of earlier ones in it are replaced.
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
        path, cell = folder / name, 0
        if path.exists() and not (path.is_file() and path.read_bytes() == data):
            # Another sheet of this name stays until the new index is there: a reader of the old one still opens it.
            name = f"{path.stem}-{hashlib.sha256(data).hexdigest()[:12]}{path.suffix}"
        sheets[name] = data
        for member in members:
            entries[member] = _entry(starts[member], name, cell)
            cell += len(starts[member].frames)
    ordered = [entry for _, entry in sorted(entries.items())]
    text = json.dumps({"format": FORMAT, "height": size[0], "width": size[1], "starts": ordered}, indent=0) + "\n"
    with atomic_directory(folder, last=INDEX_NAME) as temporary:
        for name, data in sheets.items():
            (temporary / name).write_bytes(data)
        (temporary / INDEX_NAME).write_text(text, encoding="utf-8")
    for old in folder.glob("*.webp"):
        if old.name not in sheets and not is_temporary(old):
            old.unlink(missing_ok=True)
    return sum(map(len, sheets.values())) + len(text)


def read_initial_states(directory: Path | str) -> InitialStates:
    """Read the initial states of a folder.

    Raises:
        MissingWeightsError: There is no index in the folder.
        CheckpointError: The index or a sheet is damaged.
    """
    folder = Path(directory)
    if not (folder / INDEX_NAME).is_file():
        found = sorted(str(path.parent) for path in folder.glob(f"*/{INDEX_NAME}"))
        hint = f"; it holds {' and '.join(found)}, give one of these" if found else ""
        raise MissingWeightsError(f"initial states are a folder with {INDEX_NAME}, found none in {folder}{hint}")
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
    """Assign the initial states to sheets: one task a sheet, the next one when it is full."""
    sheets: dict[str, list[int]] = {}
    filled: dict[tuple[str, int], list[int]] = {}
    for member, state in enumerate(starts):
        counts = filled.setdefault((state.suite, state.task), [0])
        if counts[-1] + len(state.frames) > SHEET_FRAMES:
            counts.append(0)
        counts[-1] += len(state.frames)
        name = f"{state.suite or 'custom'}_task_{state.task:02d}_{len(counts) - 1:02d}.webp"
        sheets.setdefault(name, []).append(member)
    return sheets


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
            # Before it is unpacked: a small file can be a large image.
            if sheet.size[0] != SHEET_COLUMNS * width or sheet.size[1] not in lines:
                raise ValueError(f"it must hold frames of {size} in {SHEET_COLUMNS} columns")
            image = np.asarray(sheet.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises, by the kind of damage
        raise CheckpointError(f"{path} is missing or damaged ({error}); write the initial states again") from error
    cells = image.reshape(-1, height, SHEET_COLUMNS, width, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(cells).reshape(-1, height, width, 3)


def _entry(state: InitialState, sheet: str, cell: int) -> dict[str, object]:
    extra = {name: {"dtype": str(v.dtype), "values": np.asarray(v).tolist()} for name, v in state.extra.items()}
    facts = {name: getattr(state, name) for name in FACTS}
    return {"sheet": sheet, "cell": cell, "frames": len(state.frames), **facts, "extra": extra}


def _state(entry: dict, cells: UInt8[np.ndarray, "n h w 3"]) -> InitialState:
    frames = cells[entry["cell"] : entry["cell"] + entry["frames"]].copy()
    extra = {name: np.asarray(item["values"], dtype=item["dtype"]) for name, item in entry["extra"].items()}
    entry = {"split": entry.get("start_set"), **entry}  # the key before 0.1
    return InitialState(frames=frames, extra=extra, **{name: entry[name] for name in FACTS})
