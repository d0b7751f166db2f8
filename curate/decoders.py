"""Processes that decode and hash what has arrived, beside the threads that fetch.

With an interpreter of their own they keep both from waiting for each other, and a file that brings a decoder down ends
no run. They read paths from their standard input, a line each, and answer in JSON; at its end, when whoever started
them is gone too, they end.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from curate.images import ImageError, Picture, inspect

AHEAD = 4  # files that a process has been told of: it need not wait for the next one
MOST = 4  # processes: two keep up with a thousand images a second


class DecoderDied(Exception):
    """The process ended over this file; the message says how."""


Found = Picture | ImageError | DecoderDied | OSError


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
        """Keep one process busy; where it ends over a file, another one takes the files behind that."""
        process, told, goes_on = _start(), deque[_Job](), True
        while goes_on or told:
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
                break
            answer = process.stdout.readline() if process.stdout else b""
            if answer:
                told.popleft().deliver(_read(answer))
                continue
            process.communicate()
            told.popleft().deliver(DecoderDied(f"the decoder died ({_ending(process)})"))
            process = _start()
            for job in told:
                _tell(process, job)
        process.communicate()


def work() -> None:
    """What a decoding process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started it, which closes our input
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    with suppress(BrokenPipeError):  # whoever asked is gone
        for line in sys.stdin.buffer:
            os.write(answers, json.dumps(_look(json.loads(line))).encode() + b"\n")


def _look(path: str) -> dict[str, Any]:
    try:
        return inspect(Path(path).read_bytes())._asdict()
    except ImageError as error:
        return {"cause": str(error)}
    except OSError as error:
        return {"errno": error.errno, "strerror": error.strerror}


def _read(answer: bytes) -> Found:
    facts = json.loads(answer)
    if "cause" in facts:
        return ImageError(facts["cause"])
    return OSError(facts["errno"], facts["strerror"]) if "errno" in facts else Picture(**facts)


def _start() -> subprocess.Popen[bytes]:
    code = f"import sys; sys.path[:] = {sys.path!r}; from curate.decoders import work; work()"
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
    return f"signal {-code}" if code < 0 else f"exit code {code}"
