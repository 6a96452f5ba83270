"""A run's folder: one run at a time, and what it was begun with: the same command resumes, another one is refused."""

import json
import os
import socket
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zlib import crc32

from filelock import FileLock, Timeout

from prophet_gym._checks import shown
from prophet_gym._io.atomic import atomic_write
from prophet_gym._io.files import read_json
from prophet_gym.data._recording import list_episodes
from prophet_gym.errors import CheckpointError, RunInUseError
from prophet_gym.train._states import refuse_earlier

ARGUMENTS = "arguments.json"
LOCK, LOCK_OWNER = ".run.lock", ".run.json"


@contextmanager
def run_lock(folder: Path, *, main: bool = True) -> Iterator[None]:
    """Keep a run's folder for this process and refuse a second run in it, until the process ends, however it does.

    `main` says whether this process writes there: of several that train together only one holds the folder.
    """
    if not main:
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for the run")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunInUseError(
            f"{folder} is in use by another run ({_lock_owner(folder)}): wait for it, end it, or give another folder"
        ) from error
    except NotImplementedError:  # a file system without locks
        told = f"the disk of {folder} knows no locks: see to it that no second run writes there"
        warnings.warn(told, RuntimeWarning, stacklevel=3)
        yield
        return
    refused = True
    try:
        atomic_write(folder / LOCK_OWNER, json.dumps({"process": os.getpid(), "host": socket.gethostname()}) + "\n")
        yield
        refused = False
    finally:
        (folder / LOCK_OWNER).unlink(missing_ok=True)
        if refused and made and set(os.listdir(folder)) <= {LOCK, ARGUMENTS}:
            # nothing was made yet: leave things as if the run had not been begun
            for name in (ARGUMENTS, LOCK):
                (folder / name).unlink(missing_ok=True)
        lock.release()
        if refused:
            with suppress(OSError):  # what is not empty stays
                for path in made:
                    path.rmdir()


def begin_run(folder: Path, args: Any, *, begun: bool, free: Collection[str] = (), stage: str | None = None) -> None:
    """Write down what a run, or a stage of it, begins with, or check that it resumes with the same.

    Until there is anything to resume (`begun`), `args` (a dataclass, or names -> values) take the place of earlier
    ones; those named in `free` may change at any time.
    """
    given = args if isinstance(args, Mapping) else asdict(args)
    # However a path was spelled, and from wherever: it is the same run.
    plain = json.dumps(given, default=lambda value: str(value.resolve() if isinstance(value, Path) else value))
    asked = {name: value for name, value in json.loads(plain).items() if name not in free}
    refuse_earlier(folder)
    path = folder / ARGUMENTS
    stored = read_json(path, CheckpointError) if path.is_file() else {}
    earlier = stored if stage is None else stored.get(stage, {})
    if begun and earlier:
        if not isinstance(earlier, Mapping):
            raise CheckpointError(f"{path} must hold the arguments of {stage}, got {shown(repr(earlier))}")
        changed = [name for name in asked if name in earlier and earlier[name] != asked[name]]
        if changed:
            which = "" if stage is None else f" ({stage})"
            told = ", ".join(f"{name} was {earlier[name]}, is {asked[name]}" for name in changed)
            raise ValueError(f"{folder} is of another run{which}: {told}; use another folder")
        return
    entries = asked if stage is None else {**stored, stage: asked}
    atomic_write(path, json.dumps(entries, indent=2) + "\n")


def counted(folders: Sequence[Path]) -> dict[str, str]:
    """Count the episodes of recordings and sum up names and sizes, to tell whether they have changed."""
    found = {}
    for folder in folders:
        paths = list_episodes(folder)
        lines = [f"{path.parent.name}/{path.name} {path.stat().st_size}" for path in paths]
        found[str(folder.resolve())] = f"{len(paths)} ({crc32(chr(10).join(lines).encode()):08x})"
    return found


def _lock_owner(folder: Path) -> str:
    try:
        found = read_json(folder / LOCK_OWNER)
        return f"process {found['process']} on {found['host']}"
    except (OSError, ValueError, KeyError):  # it has only just begun, or is at its end
        return "its process is not known"
