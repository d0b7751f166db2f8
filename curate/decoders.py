"""Processes that decode and hash what has arrived, beside the threads that fetch.

With an interpreter of their own they keep both from waiting for each other, and a file that brings a decoder down ends
no run. What such a process does is in `decoder`.
"""

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import NamedTuple

from curate.store import ImageError, Picture

AHEAD = 4  # files that a process has been told of: it need not wait for the next one
UNCAUGHT = 1  # exit code of Python after an exception
MOST = 4  # processes: two keep up with a thousand images a second


class DecoderDied(Exception):
    """The process ended over this file; the message says how."""


Found = Picture | Exception  # an ImageError, a DecoderDied, or an error that is not the file's fault


class _Job(NamedTuple):
    path: str
    deliver: Callable[[Found], None]


class Decoders:
    """As many processes as there are processors, up to `MOST`, started with the first file; close them at the end."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        number = min(os.cpu_count() or 1, MOST)
        self._threads = [threading.Thread(target=self._drive, name=f"decode-{n}", daemon=True) for n in range(number)]
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start them now, so that the first file need not wait for them."""
        with self._lock:
            if self._threads[0].ident is None:
                for thread in self._threads:
                    thread.start()

    def submit(self, path: str, deliver: Callable[[Found], None]) -> None:
        """Have a file decoded; `deliver` is called, by another thread, with the picture or with what is wrong."""
        self.start()
        self._jobs.put(_Job(path, deliver))

    def close(self) -> None:
        """End them when all that was submitted is delivered."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _drive(self) -> None:
        """Keep one process busy. What is wrong with the processes themselves every file is told, so that none waits."""
        told = deque[_Job]()
        try:
            self._decode(told)
        except Exception as error:
            for job in told:
                job.deliver(error)
            while left := self._jobs.get():
                left.deliver(error)

    def _decode(self, told: deque[_Job]) -> None:
        process, goes_on = _start(), True
        while True:
            while goes_on and len(told) < AHEAD:
                try:
                    job = self._jobs.get(block=not told)
                except Empty:
                    break
                goes_on = job is not None
                if job is not None:
                    told.append(job)
                    _tell(process, job)
            if not told:
                process.communicate()
                return
            assert process.stdout
            answer = process.stdout.readline()
            if answer.endswith(b"\n"):
                told.popleft().deliver(_read(answer))
                continue
            process.communicate()
            ending = _ending(process)  # of the first file that is not answered; another process takes those behind it
            told.popleft().deliver(DecoderDied(f"the decoder died ({ending})"))
            process = _start()
            for job in told:
                _tell(process, job)


def _read(answer: bytes) -> Found:
    facts = json.loads(answer)
    if "cause" in facts:
        return ImageError(facts["cause"])
    return OSError(facts["errno"], facts["strerror"]) if "errno" in facts else Picture(**facts)


def _start() -> subprocess.Popen[bytes]:
    code = f"import sys; sys.path[:] = {sys.path!r}; from curate.decoder import work; work()"
    one_thread = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # a core has no use for more
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, env=one_thread)


def _tell(process: subprocess.Popen[bytes], job: _Job) -> None:
    assert process.stdin
    with suppress(BrokenPipeError):  # it has died, which its answers will say
        process.stdin.write(json.dumps(job.path).encode() + b"\n")
        process.stdin.flush()


def _ending(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    if code == UNCAUGHT:
        raise RuntimeError("a decoding process ended with an error of its own; its message stands above")
    return f"signal {-code}" if code < 0 else f"exit code {code}"
