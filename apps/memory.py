"""What the server does to need little memory: Linux keeps what was freed unless it is asked to give it back."""

import ctypes
import sys

import pyarrow

M_ARENA_MAX = -8  # of mallopt(3): heaps that threads may have of their own
M_MMAP_THRESHOLD = -3  # size from which a block is the system's own, and goes back to it as soon as it is freed
LARGE = 256 * 1024  # bytes: a decoded picture, a column of a table


def frugal() -> None:
    """Before large tables are read: text in the system's memory, and few heaps for the many threads of a server."""
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    if libc := _libc():
        libc.mallopt(M_ARENA_MAX, 2)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)


def give_back() -> None:
    """After large tables were made and forgotten."""
    if libc := _libc():
        libc.malloc_trim(0)


def _libc() -> ctypes.CDLL | None:
    """glibc, where it is the C library."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None
