"""Initial states, where episodes start: sequences of them in memory, and their files.

A folder has `index.json` and WebP sheets of up to 100 frames, one or more a task; `read_jsonl_states` reads the JSON
lines of `Fleurrr/Bridge-RL-Data`.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path, PurePosixPath
from typing import Any, overload

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from prophet_gym._checks import listed, require_count, require_known, shown, unknown_option
from prophet_gym._io.atomic import atomic_directory, is_temporary, read_whole
from prophet_gym._io.files import parse_object, read_json, read_text
from prophet_gym.errors import CheckpointError, InvalidStartError, MissingWeightsError
from prophet_gym.specs import CAMERAS, InitialState

INDEX_NAME = "index.json"
FORMAT = "prophet-gym-starts-1"
SHEET_COLUMNS = 10
SHEET_FRAMES = 100
FACTS = ("instruction", "suite", "task", "index", "split")
"""Fields of an initial state that the index holds under their names."""
JSONL_FIELDS = ("task_type", "task_language", "init_state_path")


class InitialStates(Sequence[InitialState]):
    """Hold a non-empty sequence of initial states.

    Example:
        >>> blank = np.zeros((1, 8, 8, 3), np.uint8)
        >>> starts = InitialStates([InitialState(blank, "lift", task=t, index=i) for t in (0, 3) for i in range(5)])
        >>> len(starts), starts.tasks, len(starts.of_task(3))
        (10, (0, 3), 5)
        >>> starts.of_task(3).sample(np.random.default_rng(0)).task
        3
    """

    def __init__(self, states: Iterable[InitialState]) -> None:
        """Check the states; InvalidStartError if they are empty, or one of them is no initial state."""
        if not isinstance(states, Iterable):
            raise InvalidStartError(f"initial states must be InitialState objects, got {type(states).__name__}")
        self._states = tuple(require_start(state) for state in states)
        if not self._states:
            raise InvalidStartError("at least one initial state is needed, got none")

    @overload
    def __getitem__(self, index: int) -> InitialState: ...
    @overload
    def __getitem__(self, index: slice) -> "InitialStates": ...
    def __getitem__(self, index: int | slice) -> "InitialState | InitialStates":
        """Return one initial state, or the sequence of a slice."""
        return InitialStates(self._states[index]) if isinstance(index, slice) else self._states[index]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._states)

    @property
    def tasks(self) -> tuple[int, ...]:
        """Return the task numbers that occur, ascending."""
        return tuple(sorted({state.task for state in self._states}))

    @property
    def suites(self) -> tuple[str, ...]:
        """Return the suites that occur, in alphabetical order."""
        return tuple(sorted({state.suite for state in self._states}))

    def of_task(self, task: int) -> "InitialStates":
        """Return the initial states of one task; UnknownOptionError if it has none."""
        if task not in self.tasks:
            raise unknown_option("task", task, map(str, self.tasks))
        return InitialStates(state for state in self._states if state.task == task)

    def of_suite(self, suite: str) -> "InitialStates":
        """Return the initial states of one suite; UnknownOptionError if it has none."""
        require_known("suite", suite, self.suites)
        return InitialStates(state for state in self._states if state.suite == suite)

    def sample(self, rng: np.random.Generator) -> InitialState:
        """Draw one of them uniformly."""
        return self._states[int(rng.integers(len(self._states)))]


def require_start(state: object, size: tuple[int, int] | None = None) -> InitialState:
    """Return the initial state, its task and index as Python's own integers; InvalidStartError if it is none.

    It is an `InitialState`: frames uint8 (1 to 4, h, w, 3), of this height and width if given, texts, 64-bit integers,
    and an `extra` of numbers by name.
    """
    if not isinstance(state, InitialState):
        raise InvalidStartError(f"an initial state must be an InitialState, got {type(state).__name__}")
    for name in ("instruction", "suite", "split"):
        if not isinstance(getattr(state, name), str):
            raise InvalidStartError(f"the {name} of an initial state must be a text, got {getattr(state, name)!r}")
    require_frames(state.frames, size)
    numbers: dict[str, int] = {}
    for name in ("task", "index"):
        value = getattr(state, name)
        if not isinstance(value, Integral) or isinstance(value, bool) or not -(2**63) <= int(value) < 2**63:
            raise InvalidStartError(f"the {name} of an initial state must be a 64-bit integer, got {value!r}")
        numbers[name] = int(value)
    wanted = "the extra of an initial state must map names to arrays of numbers"
    if not isinstance(state.extra, Mapping):
        raise InvalidStartError(f"{wanted}, got {type(state.extra).__name__}")
    for name, value in state.extra.items():
        if not isinstance(name, str) or not _is_numbers(value):
            raise InvalidStartError(f"{wanted}, got {name!r}: {value}")
    # The same object where nothing changes: an env knows its own initial states by identity.
    plain = type(state.task) is type(state.index) is int
    return state if plain else replace(state, **numbers)


def require_frames(frames: object, size: tuple[int, int] | None = None) -> None:
    """Raise InvalidStartError unless these are uint8 frames `t h w 3` with 1 <= t <= 4, of this height and width."""
    given = type(frames).__name__
    if isinstance(frames, np.ndarray):
        images = frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3 and frames.size
        if images and len(frames) <= 4 and size in (None, frames.shape[1:3]):
            return
        given = f"{frames.dtype} {frames.shape}"
    height, width = size or ("height", "width")
    wanted = f"the frames of an initial state must be uint8 (1 to 4, {height}, {width}, 3)"
    raise InvalidStartError(f"{wanted}, got {given}")


def _is_numbers(value: object) -> bool:
    try:
        dtype = np.asarray(value).dtype
    except (TypeError, ValueError):
        return False
    return dtype.kind in "biuf" and dtype.itemsize <= 8


def write_initial_states(directory: Path | str, states: Iterable[InitialState], *, quality: int = 95) -> int:
    """Write initial states to a folder, atomically and in order; return its size in bytes.

    Args:
        directory: Folder, created if missing; initial states that it holds already are replaced.
        states: At least one initial state; all frames have one size.
        quality: WebP quality, 1 to 100 (lossy) or 101 (lossless). At 95 a frame of 128x128 of LIBERO takes about
            5.4 kB and is 42 dB from the original.
    """
    starts = InitialStates(states)
    size = starts[0].frames.shape[1:3]
    for state in starts:
        require_start(state, (size[0], size[1]))
    folder = Path(directory)
    entries: list[dict[str, object]] = []
    sheets: dict[str, bytes] = {}

    def sheet_of(frames: list[np.ndarray]) -> str:
        data = _encode_sheet(np.concatenate(frames), quality)
        # Named by its contents: a reader of the old index still opens the old sheets.
        name = f"{hashlib.sha256(data).hexdigest()[:16]}.webp"
        sheets[name] = data
        return name

    for members in _full_sheets(starts):
        name, cell = sheet_of([state.frames for state in members]), 0
        begin = len(entries)
        for state in members:
            entries.append(_entry(state, name, cell))
            cell += len(state.frames)
        # Images of other cameras, which are in `extra`, have sheets of their own, in the order of the frames.
        for view in dict.fromkeys(name for state in members for name in _views(state)):
            shown = [
                (place, _views(state)[view]) for place, state in enumerate(members, begin) if view in _views(state)
            ]
            name, cell = sheet_of([frames for _, frames in shown]), 0
            for place, frames in shown:
                views: Any = entries[place].setdefault("views", {})
                views[view] = {"sheet": name, "cell": cell, "frames": len(frames)}
                cell += len(frames)
    text = json.dumps({"format": FORMAT, "height": size[0], "width": size[1], "starts": entries}, indent=0) + "\n"
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
    return read_whole(folder, lambda: _read(folder), last=INDEX_NAME)


def _read(folder: Path) -> InitialStates:
    path = folder / INDEX_NAME
    index = read_json(path, CheckpointError)
    try:
        if index["format"] != FORMAT:
            raise CheckpointError(f"{path} must have format {FORMAT!r}, got {shown(repr(index['format']))}")
        size = (require_count("height", index["height"]), require_count("width", index["width"]))
        names = {entry["sheet"] for entry in index["starts"]}
        names |= {view["sheet"] for entry in index["starts"] for view in entry.get("views", {}).values()}
        outside = [name for name in names if name in ("", ".", "..") or Path(name).name != name]
        if outside:
            raise CheckpointError(f"{path} must name sheets in its own folder, got {listed(outside)}")
        sheets = {name: _decode_sheet(folder / name, size) for name in names}
        return InitialStates([_state(entry, sheets) for entry in index["starts"]])
    except CheckpointError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        said = shown(str(error))
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}: {said}); write it again") from error


def _full_sheets(starts: InitialStates) -> list[list[InitialState]]:
    sheets: list[list[InitialState]] = [[]]
    for state in starts:
        if sum(len(each.frames) for each in sheets[-1]) + len(state.frames) > SHEET_FRAMES:
            sheets.append([])
        sheets[-1].append(state)
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


def _views(state: InitialState) -> dict[str, UInt8[np.ndarray, "t h w 3"]]:
    """Return what `extra` holds of other cameras: one to four frames, as large as the state's own."""
    own = state.frames.shape[1:]
    found = {name: state.extra[name] for name in CAMERAS.values() if isinstance(state.extra.get(name), np.ndarray)}
    return {n: v for n, v in found.items() if v.dtype == np.uint8 and v.shape[1:] == own and 1 <= len(v) <= 4}


def _entry(state: InitialState, sheet: str, cell: int) -> dict[str, object]:
    numbers = {name: value for name, value in state.extra.items() if name not in _views(state)}
    extra = {name: {"dtype": str(v.dtype), "values": np.asarray(v).tolist()} for name, v in numbers.items()}
    facts = {name: getattr(state, name) for name in FACTS}
    return {"sheet": sheet, "cell": cell, "frames": len(state.frames), **facts, "extra": extra}


def _state(entry: dict, sheets: Mapping[str, UInt8[np.ndarray, "n h w 3"]]) -> InitialState:
    def cut(place: dict) -> UInt8[np.ndarray, "t h w 3"]:
        return sheets[place["sheet"]][place["cell"] : place["cell"] + place["frames"]].copy()

    frames = cut(entry)
    extra = {name: np.asarray(item["values"], dtype=item["dtype"]) for name, item in entry["extra"].items()}
    extra |= {name: cut(place) for name, place in entry.get("views", {}).items()}
    entry = {"split": entry.get("start_set"), **entry}  # the key before 0.1
    return InitialState(frames=frames, extra=extra, **{name: entry[name] for name in FACTS})


def read_jsonl_states(path: Path | str) -> InitialStates:
    """Read a manifest, one initial state of suite `bridge` a line: `task_type`, `task_language`, `init_state_path`.

    An image is looked for beside the manifest: under its whole path, then under ever shorter ends of it. Tasks are
    numbered in the order in which a new pair of type and language appears, initial states within each task. Raises
    MissingWeightsError for a file or image that is not there, CheckpointError for a damaged one.
    """
    import cv2

    manifest = Path(path)
    if not manifest.is_file():
        raise MissingWeightsError(f"no initial states at {manifest}")
    tasks: dict[tuple[str, str], int] = {}
    counts: Counter[int] = Counter()
    images: dict[Path, np.ndarray] = {}
    states = []
    # Lines end at "\n" alone: JSON texts may hold the other separators that `splitlines` knows.
    for number, line in enumerate(read_text(manifest, CheckpointError).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"line {number} of {manifest}"
        kind, language, name = _fields(line, where)
        task = tasks.setdefault((kind, language), len(tasks))
        image = _find(manifest.parent, name, where)
        if image not in images:
            pixels = cv2.imread(str(image), cv2.IMREAD_COLOR)
            if pixels is None:
                raise CheckpointError(f"{where}: {image} is no image, or damaged")
            images[image] = np.ascontiguousarray(pixels[..., ::-1])
        states.append(InitialState(images[image][None], language, "bridge", task, counts[task]))
        counts[task] += 1
    if not states:
        raise CheckpointError(f"{manifest} has no rows; each must be JSON with {', '.join(JSONL_FIELDS)}")
    return InitialStates(states)


def _fields(line: str, where: str) -> list[str]:
    row = parse_object(line, where, CheckpointError)
    texts = [row[name] for name in JSONL_FIELDS if isinstance(row.get(name), str)]
    if len(texts) != len(JSONL_FIELDS):
        raise CheckpointError(f"{where} must have the texts {', '.join(JSONL_FIELDS)}, got {line.strip()[:200]}")
    return texts


def _find(folder: Path, name: str, where: str) -> Path:
    parts = PurePosixPath(name).parts
    if ".." in parts:
        raise CheckpointError(f"{where}: init_state_path={name!r} must not lead out of the folder")
    for first in range(len(parts)):
        if (path := folder.joinpath(*parts[first:])).is_file():
            return path
    raise MissingWeightsError(f"{where}: no image {name!r} beside the manifest in {folder}")
