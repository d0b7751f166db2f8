"""A function of each of many items, on threads that do not get in each other's way."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any

import cv2
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

AHEAD = 64  # items that are begun before the first of them is taken
Progress = Callable[[str, int, int], None]  # what is done, how many are done, how many there are


def map_on_threads(
    function: Callable[[Any], Any], items: Sequence[Any], what: str, jobs: int, progress: Progress | None
) -> Iterator[Any]:
    """The function of each item, in order; `what` is what the progress is told of."""
    pool, todo = ThreadPoolExecutor(jobs), iter(items)
    try:
        waiting = deque(pool.submit(function, item) for item in islice(todo, AHEAD))
        done = 0
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(todo, 1))
            done += 1
            yield result
            if progress:
                progress(what, done, len(items))
    finally:
        pool.shutdown(cancel_futures=True)  # after an interrupt too: a thread that is left in C code ends the process


@contextmanager
def one_thread_each() -> Iterator[None]:
    """OpenCV and BLAS without threads of their own: ours share the cores."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        cv2.setNumThreads(before)
