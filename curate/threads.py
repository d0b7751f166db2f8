"""A function of each of many items, on threads that do not get in each other's way."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

Progress = Callable[[str, int, int], None]  # what is done, how many are done, how many there are


def map_on_threads(
    function: Callable[[Any], Any], items: Sequence[Any], what: str, jobs: int, progress: Progress | None
) -> Iterator[Any]:
    """The function of each item, in order; `what` is what the progress is told of."""
    results = Parallel(jobs, prefer="threads", return_as="generator")(delayed(function)(item) for item in items)
    for done, result in enumerate(results, 1):
        yield result
        if progress:
            progress(what, done, len(items))


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
