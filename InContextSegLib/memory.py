"""Freed memory is kept for the next tensor instead of being given back and fetched again."""

import ctypes
import sys

# The parameters' numbers in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_KEPT_BYTES = 2**31 - 1
_FETCHED_AT_ONCE_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Ask the C library not to return large blocks to the system; for a process of our own, not for a host's.

    Every feature map is such a block, and the system clears each page that it hands out anew: with glibc a step of
    training takes a third longer, and a segmented slice a fifth (docs/benchmarks.md).

    Returns:
        Whether the C library has such settings and took them; other systems go on as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _KEPT_BYTES), (_M_TOP_PAD, _FETCHED_AT_ONCE_BYTES))
    return all([library.mallopt(number, value) for number, value in settings])
