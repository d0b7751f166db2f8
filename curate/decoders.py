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

from curate.errors import CurateError
from curate.store import ImageError, Picture

AHEAD = 4  # files that a process has been told of: it need not wait for the next one
MOST = 4  # processes: two keep up with a thousand images a second
HOPELESS = 5  # processes in a row that die before their first answer: the files are not to blame
UNCAUGHT = 1  # exit code of Python after an exception
DEAD = BrokenPipeError if os.name == "posix" else OSError  # what writing to a process that has died raises
CHILD = """
import os, sys
answers = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no answer
sys.path[:] = {path!r}
from curate.decoder import work
work(answers)
"""


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

    def close(self, *, at_once: bool = False) -> None:
        """End them when all that was submitted is delivered; `at_once`: what no process has begun never is."""
        with suppress(Empty):
            while at_once:
                self._jobs.get_nowait()
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
            failure = CurateError(f"no image can be decoded: {error}. What was fetched is kept; run it again.")
            for job in told:
                job.deliver(failure)
            while left := self._next():
                left.deliver(failure)

    def _decode(self, told: deque[_Job]) -> None:
        process, goes_on, in_vain = _start(), True, 1
        try:
            while True:
                while goes_on and len(told) < AHEAD:
                    try:
                        job = self._next(wait=not told)
                    except Empty:
                        break
                    goes_on = job is not None
                    if job is not None:
                        told.append(job)
                        _tell(process, job)
                if not told:
                    return
                if answer := _answer(process):
                    told[0].deliver(_read(answer))
                    in_vain = 0
                else:  # it died of the first file without an answer; another process takes those behind that
                    told[0].deliver(DecoderDied(f"the decoder died ({_ending(process, in_vain)})"))
                    process, in_vain = _start(), in_vain + 1
                    for job in list(told)[1:]:
                        _tell(process, job)
                told.popleft()
        finally:
            process.communicate()

    def _next(self, *, wait: bool = True) -> _Job | None:
        """The next file, or None at the end, for each thread that asks."""
        job = self._jobs.get(block=wait)
        if job is None:
            self._jobs.put(None)
        return job


def _read(answer: bytes) -> Found:
    facts = json.loads(answer)
    if "cause" in facts:
        return ImageError(facts["cause"])
    if "died" in facts:
        return DecoderDied(facts["died"])
    return OSError(facts["errno"], facts["strerror"]) if "errno" in facts else Picture(**facts)


def _start() -> subprocess.Popen[bytes]:
    """A process out of reach of the terminal's Ctrl-C, which is for whoever started it."""
    one_thread = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # a core has no use for more
    command, pipe = [sys.executable, "-c", CHILD.format(path=sys.path)], subprocess.PIPE
    group = 0 if os.name == "posix" else None
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, env=one_thread, process_group=group)


def _tell(process: subprocess.Popen[bytes], job: _Job) -> None:
    assert process.stdin
    with suppress(DEAD):  # which its answers will say
        process.stdin.write(json.dumps(job.path).encode() + b"\n")
        process.stdin.flush()


def _answer(process: subprocess.Popen[bytes]) -> bytes:
    """Its next answer; nothing when it has died, perhaps in the middle of one."""
    assert process.stdout
    answer = process.stdout.readline()
    return answer if answer.endswith(b"\n") else b""


def _ending(process: subprocess.Popen[bytes], in_vain: int) -> str:
    process.communicate()
    code = process.returncode
    if code == UNCAUGHT:
        raise RuntimeError("a decoding process ended with the error that stands above")
    said = f"signal {-code}" if code < 0 else f"exit code {code}"
    if in_vain >= HOPELESS:
        raise RuntimeError(f"{in_vain} decoding processes in a row ended before their first answer ({said})")
    return said
