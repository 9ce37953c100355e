"""The computer's memory: how much there is, and how a process of our own keeps what it freed."""

import ctypes
import os
import sys

# The parameters' numbers in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_KEPT_BYTES = 2**31 - 1
_FETCHED_AT_ONCE_BYTES = 64 << 20

NO_MEMORY = (
    "There is not enough memory for this: choose fewer examples or draws, a smaller part of the volume, or the CPU in "
    "place of the GPU."
)


def is_exhaustion(error: Exception) -> bool:
    """Whether an error says that memory, of the computer or of its GPU, was not enough."""
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "not enough memory" in str(error)


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of Windows."""

    _fields_ = (
        ("length", ctypes.c_ulong),
        ("load", ctypes.c_ulong),
        *((name, ctypes.c_ulonglong) for name in ("total", "available", *"abcde")),
    )


def installed_bytes() -> tuple[int, int]:
    """How much memory the computer has, and how much of it is free; 0 where it does not say."""
    if sys.platform == "win32":
        status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return status.total, status.available
    page = os.sysconf("SC_PAGE_SIZE")
    found = [
        page * os.sysconf(name) if name in os.sysconf_names else 0 for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES")
    ]
    return found[0], found[1]


def keep_freed_memory() -> bool:
    """Ask the C library not to return large blocks to the system; for a process of our own, not for a host's.

    Every feature map is such a block, and the system clears each page that it hands out anew: with glibc a step of
    training takes a third longer, and a segmented slice a fifth (docs/development/tried.md).

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


def give_back_memory() -> bool:
    """Let the system have what is kept, as after a large piece of work; whether the C library can do that."""
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    return hasattr(library, "malloc_trim") and bool(library.malloc_trim(0))
