"""What becomes of memory that was freed."""

import ctypes
import sys
from pathlib import Path

import pytest

from curate.memory import freed_is_kept

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator of Linux")
BLOCK = 64 * 1024 * 1024
PAGES = BLOCK // 4096


def new_pages(times: int) -> int:
    """That the system hands out while a large block is made, written and freed."""
    import resource

    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(BLOCK)))
        ctypes.memset(block, 1, BLOCK)
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def held() -> int:
    """Pages that the process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1])


def test_blocks_are_used_again_while_freed_memory_is_kept_and_go_back_afterwards() -> None:
    with freed_is_kept():
        new_pages(1)
        assert new_pages(8) < PAGES
        keeps = held()
    assert held() < keeps - PAGES / 2
    assert new_pages(8) > 4 * PAGES


def test_the_usual_comes_back_after_an_error() -> None:
    with pytest.raises(ValueError, match="stopped"), freed_is_kept():
        raise ValueError("stopped")
    assert new_pages(4) > 2 * PAGES
