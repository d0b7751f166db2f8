"""What becomes of memory that was freed, in a process that has freed nothing before."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator of Linux")
BLOCK = 64 * 1024 * 1024
PAGES = BLOCK // 4096
PRELUDE = f"""
import ctypes, json, pathlib, resource
from curate.memory import freed_is_kept

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def new_pages(times):  # that the system hands out while a large block is made, written and freed
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t({BLOCK})))
        ctypes.memset(block, 1, {BLOCK})
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def held():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1])
"""


def said(program: str) -> list[int]:
    """The numbers that a program prints."""
    done = subprocess.run([sys.executable, "-c", PRELUDE + program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_blocks_are_used_again_while_freed_memory_is_kept_and_go_back_afterwards() -> None:
    inside, keeps, afterwards, usual = said("""
with freed_is_kept():
    new_pages(1)
    inside, keeps = new_pages(8), held()
print(json.dumps([inside, keeps, held(), new_pages(8)]))
""")
    assert inside < PAGES
    assert afterwards < keeps - PAGES / 2
    assert usual > 4 * PAGES


def test_the_usual_comes_back_after_an_error() -> None:
    (usual,) = said("""
try:
    with freed_is_kept():
        raise ValueError
except ValueError:
    print(json.dumps([new_pages(4)]))
""")
    assert usual > 2 * PAGES
