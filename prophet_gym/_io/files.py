"""Text files that others wrote: UTF-8 on every machine, one clear error for a file that is not what it should be."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

_POINTER = b"version https://git-lfs.github.com/spec/"


@contextmanager
def reading(what: str, advice: str, error: type[Exception] = ValueError) -> Iterator[None]:
    """Turn whatever is raised inside into `error`: libraries meet damage with errors of any kind that name no file."""
    try:
        yield
    except Exception as damage:
        said = "; ".join(line.strip() for line in str(damage).splitlines() if line.strip()) or type(damage).__name__
        raise error(f"{what}: {said[:2000]}; {advice}") from damage


def refuse_pointer(path: str | os.PathLike, error: type[Exception] = ValueError) -> None:
    """Raise `error` if a file is what Git LFS leaves in place of a large one; what is missing or a folder passes."""
    path = Path(path)
    if not path.is_file():
        return
    with path.open("rb") as file:
        start = file.read(len(_POINTER))
    if start == _POINTER:
        raise error(f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository")


def require_file(path: Path) -> None:
    """Raise FileNotFoundError for a file of a data set that is missing, ValueError where Git LFS has not fetched it."""
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}; fetch the data set again")
    refuse_pointer(path)


def modified(path: Path) -> int:
    """Return when a file was last written, for a cache to tell versions apart; errors are those of `require_file`."""
    require_file(path)
    return path.stat().st_mtime_ns


def read_text(path: str | os.PathLike, error: type[Exception] = ValueError) -> str:
    """Read a whole UTF-8 file without its byte order mark; raise `error` if it is there and is not text."""
    path = Path(path)
    refuse_pointer(path, error)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as missing:
        raise FileNotFoundError(f"no file at {path}") from missing
    except UnicodeDecodeError as damage:
        raise error(f"{path} is no text in UTF-8 ({damage}); fetch it or save it again") from damage
    except OSError as refusal:
        raise error(f"{path} must be a file that this user may read ({refusal.strerror or refusal})") from refusal


def read_json(path: str | os.PathLike, error: type[Exception] = ValueError) -> dict[str, Any]:
    """Read a file that holds one JSON object; raise `error` if it is there and holds anything else."""
    return parse_object(read_text(path, error), str(path), error)


def read_json_lines(path: str | os.PathLike, error: type[Exception] = ValueError) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line, empty lines skipped; raise `error` if it is there and holds others."""
    # Not splitlines: it also splits at U+2028 and U+0085, which may stand inside a JSON string.
    lines = read_text(path, error).split("\n")
    return [parse_object(line, f"line {n} of {path}", error) for n, line in enumerate(lines, 1) if line.strip()]


def read_npz(
    path: str | os.PathLike, names: Sequence[str], *, limit: int, optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Read arrays of an npz, the `optional` ones where they are there; nothing in it is executed.

    `limit` is the most bytes that they may take in memory: a small file of packed zeros can claim any size.
    """
    path = Path(path)
    refuse_pointer(path)
    if not path.exists():
        raise FileNotFoundError(f"no file at {path}")
    with reading(f"{path} is cut off or no npz of numbers", "delete it and write it again"):
        with ZipFile(path) as stored:
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in stored.infolist()}
        with np.load(path, allow_pickle=False) as stored:
            missing = [name for name in names if name not in stored]
            wanted = [*names, *(name for name in optional if name in stored)]
            size = sum(sizes.get(name, 0) for name in wanted)
            found = {} if missing or size > limit else {name: stored[name] for name in wanted}
    if missing:
        raise ValueError(f"{path} must hold {', '.join(names)}; {', '.join(missing)} is missing")
    if size > limit:
        raise ValueError(f"the arrays of {path} would take {size:,} bytes, at most {limit:,} are read; write it again")
    return found


def parse_object(text: str, where: str, error: type[Exception] = ValueError) -> dict[str, Any]:
    """Return the JSON object that a text is; raise `error`, which names `where` it stands, if it is anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as damage:
        raise error(f"{where} must be whole JSON ({damage}); fetch it or save it again") from damage
    if not isinstance(value, dict):
        raise error(f"{where} must be a JSON object, holds a {type(value).__name__}; fetch it or save it again")
    return value
