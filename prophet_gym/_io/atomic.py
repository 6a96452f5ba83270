"""Files and folders that are there whole or not at all, whatever ends the process or fills the disk."""

import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from prophet_gym._checks import is_stream
from prophet_gym.errors import CheckpointError, MissingWeightsError

# Seconds without a change after which a temporary file is taken for one that a killed process left, and removed.
STALE_AFTER = 24 * 3600.0
# For how long, and after how many seconds each time, a folder is read again while it is saved to.
PATIENCE, PAUSE = 10.0, 0.1
# How the names of files begin that a training keeps in its folder for itself.
ASIDE = ".run."

Loaded = TypeVar("Loaded")


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary file to write that takes the place of `path` at the end; after an error `path` is as it was.

    Its name is drawn, so that two writers never share one, and it has the mode that the umask gives, so that a shared
    cache stays readable to others. What killed processes left behind is removed after a day.
    """
    path = Path(path)
    if is_stream(path):
        raise OSError(f"{path} must be a place for a file, and is a device, a pipe or an open file")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    temporary = path.with_name(f"{_prefix(path)}{secrets.token_hex(8)}{path.suffix}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors writes a file of its own, which nobody else may read
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def atomic_write(path: str | os.PathLike, content: bytes | str) -> None:
    """Write a file, text as UTF-8, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_directory(folder: str | os.PathLike, *, last: str) -> Iterator[Path]:
    """Yield an empty folder whose entries take the place of those of `folder` at the end; after an error none has.

    Entries of other names in `folder` stay. The entries are renamed one by one, `last` (e.g. `prophet.json`) at the
    end: who reads two of them while they are renamed, or after the process was killed between two renames, must compare
    what they say of the save that they are of (`tensor_files.MARK`).
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; give a folder to save to")
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    # Inside the folder, and so on its disk: the folder itself may be a mounted one.
    _remove_stale(folder / last)
    temporary = folder / f"{_prefix(folder / last)}{secrets.token_hex(8)}"
    temporary.mkdir()
    try:
        probe = temporary / ".mode"
        probe.touch()
        mode = probe.stat().st_mode
        probe.unlink()
        yield temporary
        for path in sorted(temporary.rglob("*")):
            if path.is_file():
                path.chmod(mode)
            _flush(path)
        _commit(temporary, folder, last)
        _flush(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for each in missing:  # the innermost first; one that somebody else has written to stays
            with suppress(OSError):
                each.rmdir()
        raise
    shutil.rmtree(temporary, ignore_errors=True)


def read_whole(folder: Path, load: Callable[[], Loaded], *, last: str) -> Loaded:
    """Return what `load` reads in a folder of `atomic_directory`: it is called again while another process saves there.

    `load` raises CheckpointError or MissingWeightsError for parts of different saves and for missing ones. `last` is
    that of `atomic_directory`: marks tell contents apart, and a folder may have had this one, another, and this again.
    """
    # A time, not a count of attempts: loading may be slow, and what a process killed elsewhere was writing stays there.
    began, attempt = time.monotonic(), 0
    while True:
        try:
            before = _identity(folder / last)
            found = load()
            if _identity(folder / last) == before:
                return found
            raise CheckpointError(f"another process saved to {folder} while it was read; load it again")
        except (CheckpointError, MissingWeightsError):
            written = folder.is_dir() and any(map(is_temporary, folder.iterdir()))
            # The save may have ended since, so a folder to which nobody writes is read once more.
            if attempt and (not written or time.monotonic() - began > PATIENCE):
                raise
        time.sleep(PAUSE if attempt else 0.0)
        attempt += 1


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what a renaming changes about a file; None without one."""
    with suppress(FileNotFoundError, NotADirectoryError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns
    return None


def is_temporary(path: Path) -> bool:
    """Return whether a file or folder is one that a save has not finished."""
    return path.name.startswith(".") and ".draft-" in path.name


def is_aside(name: str) -> bool:
    """Return whether a name is that of a lock or a temporary file rather than of a part of what a folder holds."""
    return name.startswith(ASIDE) or is_temporary(Path(name))


def _commit(temporary: Path, folder: Path, last: str) -> None:
    """Rename every entry of the temporary folder into its place; on an error all that was there before is put back."""
    entries = sorted(temporary.iterdir(), key=lambda path: (path.name == last, path.name))
    earlier = temporary / ".earlier"
    earlier.mkdir()
    moved: list[str] = []
    new = {path.name for path in entries if not os.path.lexists(folder / path.name)}
    try:
        for path in entries:
            target = folder / path.name
            if target.is_dir() and not target.is_symlink():
                # A folder cannot be replaced by a rename; a file is, without a moment in which there is none.
                target.rename(earlier / path.name)
            elif target.exists():
                with suppress(OSError):  # no hard links there: then there is nothing to put back
                    os.link(target, earlier / path.name)
            moved.append(path.name)
            os.replace(path, target)
    except BaseException:
        for name in reversed(moved):
            with suppress(OSError):
                kept = (earlier / name).exists()
                if kept or name in new:
                    _remove(folder / name)
                if kept:
                    (earlier / name).rename(folder / name)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _prefix(path: Path) -> str:
    return f".{path.name[:100]}.draft-"


def _remove_stale(path: Path) -> None:
    """Remove temporary files of `path` to which nobody has written for long."""
    # By time alone: whether a process lives can be asked on its own machine only, and a disk may be shared.
    for temporary in path.parent.glob("*.draft-*"):
        with suppress(OSError):
            if temporary.name.startswith(_prefix(path)) and time.time() - temporary.stat().st_mtime > STALE_AFTER:
                _remove(temporary)


def _flush(path: Path) -> None:
    """Bring a file's content, or a folder's names, onto the disk: some disks say only now that they are full."""
    if path.is_symlink():
        return
    folder = path.is_dir()
    try:
        handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        # Not every system can flush a folder, and the files themselves are there.
        if not folder and error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS, errno.EACCES):
            raise
