"""A lock that does not keep what it guards from being copied or pickled."""

import threading
from types import TracebackType


class Lock:
    """A `threading.Lock` for `with`; copying or pickling it gives a new one that nobody holds.

    A copy of an object guards its own state, so it needs a lock of its own.

    Example:
        >>> import copy
        >>> lock = Lock()
        >>> with lock, copy.deepcopy(lock):
        ...     pass
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type["Lock"], tuple[()]]:
        """Leave the lock out of the state: what is made of it again is open."""
        return Lock, ()
