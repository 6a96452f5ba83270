"""The folder of files that can be made again, and one clear error where it cannot be written."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prophet_gym.errors import CacheError, ProphetError

CACHE_VARIABLE = "PROPHET_CACHE"
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST)


def cache_dir() -> Path:
    """Return the folder of what can be made again: `$PROPHET_CACHE`, or `prophet_gym` in the user's cache folder."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "prophet_gym"


@contextmanager
def keeping(path: Path) -> Iterator[None]:
    """Raise CacheError, which names the variable that moves the cache, where `path` in it cannot be written."""
    try:
        yield
    except OSError as error:
        if isinstance(error, ProphetError) or error.errno not in _UNWRITABLE:
            raise
        raise CacheError(
            f"{path} cannot be written ({error.strerror or error}): set {CACHE_VARIABLE} to a folder that can be, "
            f"with space in it (now {os.environ.get(CACHE_VARIABLE) or f'not set, which means {cache_dir()}'})"
        ) from error
