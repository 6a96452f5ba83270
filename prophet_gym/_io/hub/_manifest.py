"""The manifest of a published folder: what it holds, and the size and sha-256 of every file of it."""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from prophet_gym._checks import listed, shown
from prophet_gym._io.atomic import atomic_write, is_aside
from prophet_gym._io.files import parse_object, read_text
from prophet_gym.errors import CheckpointError

# Beside the files that it names.
MANIFEST = "manifest.json"
# Rises when a version that knows only earlier ones could not tell whether the files are right.
FORMAT = 1
# What a repository may be; one that is none of these is never written to.
WORLD_MODEL, POLICY = KINDS = ("world model", "policy")


def verified(path: Path) -> Path:
    """Return `path` if its folder has no manifest or its files are those the manifest names; CheckpointError if not."""
    if path.is_dir():
        require_hashes(path, None)
    elif path.is_file():
        require_hashes(path.parent, {path.name})
    return path


def write_manifest(folder: Path, kind: str = WORLD_MODEL) -> None:
    """Write size and sha-256 of every file under `folder` beside them."""
    atomic_write(folder / MANIFEST, manifest({name: folder / name for name in names_in(folder) - {MANIFEST}}, kind))


def manifest(files: Mapping[str, Path | bytes], kind: str) -> str:
    """Return the text of the manifest of files, which lie on the disk or are bytes."""
    about = {name: {"size": _size(files[name]), "sha256": _sum(files[name])} for name in sorted(files)}
    return json.dumps({"format": FORMAT, "kind": kind, "files": about}, indent=2) + "\n"


def read_manifest(path: Path) -> tuple[str | None, dict[str, tuple[int | None, str]]]:
    """Return what a manifest says: the kind of its folder, and size and sha-256 of each file; None is not said.

    Raises:
        CheckpointError: It is damaged, of a later format, or names files outside its folder.
    """
    wanted = f"{path} must map file names to sizes and sha-256 sums"
    values = parse_object(read_text(path, CheckpointError), f"{path} is damaged: it", CheckpointError)
    kind, files = values.get("kind"), values.get("files")
    if not isinstance(files, dict):  # earlier versions wrote the sums alone
        kind, files = None, {name: {"sha256": value} for name, value in values.items()}
    elif not isinstance(values.get("format"), int) or values["format"] > FORMAT:
        raise CheckpointError(
            f"{path} is of format {shown(repr(values.get('format')))}, and this version reads {FORMAT}: update "
            "prophet-gym (pip install -U prophet-gym)"
        )
    if not all(_is_entry(entry) for entry in files.values()):
        raise CheckpointError(wanted)
    outside = [name for name in files if not _is_inside(name)]
    if outside:
        raise CheckpointError(f"{path} must name files of its own folder, got {listed(outside)}")
    sums = {name: (entry.get("size"), entry["sha256"].lower()) for name, entry in files.items()}
    return (kind if isinstance(kind, str) else None), sums


def names_in(folder: Path) -> set[str]:
    """Return the names of all files, but for locks and temporary files of a run."""
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {path.as_posix() for path in found if not any(map(is_aside, path.parts))}


def require_hashes(folder: Path, only: set[str] | None) -> None:
    """Raise CheckpointError unless all files that the manifest names, or those of `only`, are there and unchanged."""
    path = folder / MANIFEST
    if not path.is_file():
        return
    _, sums = read_manifest(path)
    chosen = {name: entry for name, entry in sums.items() if only is None or name in only}
    problems = [problem for name, entry in chosen.items() if (problem := _problem(folder / name, name, *entry))]
    if problems:
        raise CheckpointError(
            f"{folder} is not what {MANIFEST} names: {listed(problems, 200)}; fetch it again "
            "(`prophet pull owner/repo --again`)"
        )


def _problem(path: Path, name: str, size: int | None, sha256: str) -> str:
    if not path.is_file():
        return f"{shown(name)} is missing"
    # The size first: a file that was cut off need not be read.
    if size is not None and path.stat().st_size != size:
        return f"{shown(name)} has {path.stat().st_size} bytes in place of {size}"
    return "" if _sum(path) == sha256 else f"{shown(name)} has another sha-256"


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
        return False
    return entry.get("size") is None or type(entry["size"]) is int


def _is_inside(name: str) -> bool:
    """Return whether a file's name stays in its folder, as everything that `write_manifest` writes does."""
    parts = name.split("/")
    return not set(name) & {*"\\:\0"} and all(p not in ("", ".", "..") and len(p.encode()) < 256 for p in parts)


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _sum(content: Path | bytes) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    stat = content.stat()
    return _sum_of_version(content.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _sum_of_version(path: Path, size: int, changed: int) -> str:  # noqa: ARG001 (the key of the cache)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
