"""Text files that others wrote: UTF-8 on every machine, one clear error for a file that is not what it should be."""

import json
import os
from pathlib import Path
from typing import Any

_POINTER = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(path: str | os.PathLike, error: type[Exception] = ValueError) -> None:
    """Raise `error` if a file is what Git LFS leaves in place of a large file that was not fetched.

    Args:
        path: The file; a missing one, or a folder, passes.
        error: What to raise.
    """
    path = Path(path)
    if not path.is_file():
        return
    with path.open("rb") as file:
        start = file.read(len(_POINTER))
    if start == _POINTER:
        raise error(f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository")


def read_text(path: str | os.PathLike, error: type[Exception] = ValueError) -> str:
    """Read a whole UTF-8 file; a byte order mark at its start is left out.

    Args:
        path: The file.
        error: What to raise for a file that is there and is not text.

    Raises:
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    refuse_pointer(path, error)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as missing:
        raise FileNotFoundError(f"no file at {path}") from missing
    except UnicodeDecodeError as damage:
        raise error(f"{path} must be a text in UTF-8 ({damage}); fetch it or save it again") from damage
    except OSError as refusal:
        raise error(f"{path} must be a file that this user may read ({refusal.strerror or refusal})") from refusal


def read_json(path: str | os.PathLike, error: type[Exception] = ValueError) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Args:
        path: The file.
        error: What to raise for a file that is there and holds anything else: a cut-off file, a Git LFS pointer.

    Raises:
        FileNotFoundError: There is no such file.
    """
    return _object(read_text(path, error), str(path), error)


def read_json_lines(path: str | os.PathLike, error: type[Exception] = ValueError) -> list[dict[str, Any]]:
    r"""Read a file of one JSON object a line; lines end at `\n` alone, whatever else a text may hold.

    Args:
        path: The file; empty lines are skipped.
        error: What to raise for a file that is there and holds anything else.

    Raises:
        FileNotFoundError: There is no such file.
    """
    # Not splitlines: it also splits at U+2028 and U+0085, which may stand inside a JSON string.
    lines = read_text(path, error).split("\n")
    return [_object(line, f"line {n} of {path}", error) for n, line in enumerate(lines, 1) if line.strip()]


def _object(text: str, where: str, error: type[Exception]) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as damage:
        raise error(f"{where} must be whole JSON ({damage}); fetch it or save it again") from damage
    if not isinstance(value, dict):
        raise error(f"{where} must be a JSON object, holds a {type(value).__name__}; fetch it or save it again")
    return value
