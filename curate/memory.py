"""What becomes of memory that was freed: Linux keeps small blocks for the process and takes large ones back at once."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow

M_TRIM_THRESHOLD = -1  # of mallopt(3): free bytes at the end of the heap from which they go back
M_MMAP_THRESHOLD = -3  # size from which a block is the system's own, and goes back to it as soon as it is freed
M_MMAP_MAX = -4  # such blocks
M_ARENA_MAX = -8  # heaps that threads may have of their own
LARGE = 256 * 1024  # bytes: a decoded picture, a column of a table
MOST = 2**31 - 1  # that mallopt takes
USUAL_TRIM, USUAL_MAPPED = 128 * 1024, 65_536


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


@contextmanager
def freed_is_kept() -> Iterator[None]:
    """While the same large blocks are made and freed again and again, as by the steps of a training.

    To be given new pages each time, all zeros, costs a step of ResNet18 in float32 a twentieth of its time.
    """
    libc = _libc()
    if not libc:
        yield
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, MOST)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, USUAL_MAPPED)
        libc.mallopt(M_TRIM_THRESHOLD, USUAL_TRIM)
        libc.malloc_trim(0)


def _libc() -> ctypes.CDLL | None:
    """glibc, where it is the C library."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None
