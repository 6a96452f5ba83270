"""Use memory again that networks on a CPU free and allocate at every call."""

import ctypes
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of the GNU C library
_BLOCK, _KEPT = 1 << 26, 1 << 30


@cache
def reuse_memory() -> bool:
    """Keep freed blocks of up to 64 MB, about 1 GB in all, for this process; return whether that is possible.

    A network allocates and frees the same activations at every call, and the system clears each page again, see
    docs/speed.md. Larger blocks, such as weights, are given back as before.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    # Older releases take 32 MB at most.
    blocks = mallopt(_M_MMAP_THRESHOLD, _BLOCK) or mallopt(_M_MMAP_THRESHOLD, _BLOCK >> 1)
    return bool(mallopt(_M_TRIM_THRESHOLD, _KEPT) and blocks)
