"""Processes that do one job after the other: a dead one is told from a job that failed, and replaced.

A process ends with the one that made it, however that ends, and leaves Ctrl-C to it.
"""

import os
import signal
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, NamedTuple, Self

from curate.errors import CurateError

ENDING = 5.0  # seconds that a process has to end when it is told to


class Died(NamedTuple):
    """What became of a job whose process died: its exit code, negative for a signal."""

    code: int | None


class Here:
    """One job at a time, in this process: the same as `Workers`, without processes."""

    def __init__(self, do: Callable[..., Any], *shared: Any) -> None:
        self._do, self._shared = do, shared
        self._done: list[tuple[Hashable, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    @property
    def free(self) -> bool:
        """Whether a job can be started."""
        return not self._done

    def start(self, key: Hashable, *task: Any) -> None:
        """Do it, now."""
        self._done.append((key, self._do(*self._shared, *task)))

    def wait(self) -> tuple[Hashable, Any]:
        """The job that is done: its key, and what it returned."""
        return self._done.pop()


class Workers:
    """Several processes that each do a job at a time.

    Args:
        jobs: how many processes.
        do: a function of a module, called as do(*shared, *task); what it takes and returns is pickled.
        shared: what every job needs, sent once.
    """

    def __init__(self, jobs: int, do: Callable[..., Any], *shared: Any) -> None:
        self._do, self._shared = do, shared
        self._idle = [self._new() for _ in range(jobs)]
        self._busy: dict[Connection, tuple[SpawnProcess, Hashable]] = {}
        self._begun: set[Connection] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End all processes, whatever they are doing."""
        processes = [process for process, _ in self._idle] + [process for process, _ in self._busy.values()]
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(ENDING)
            if process.exitcode is None:
                process.kill()
                process.join()

    @property
    def free(self) -> bool:
        """Whether a process has nothing to do."""
        return bool(self._idle)

    def start(self, key: Hashable, *task: Any) -> None:
        """Give a job to a process that is free; its key comes back with what it returns.

        Raises:
            CurateError: the process could not begin.
        """
        process, pipe = self._idle.pop()
        self._busy[pipe] = (process, key)
        if pipe not in self._begun:
            self._await_beginning(process, pipe)
        with suppress(BrokenPipeError):  # it has died since its last job: `wait` tells
            pipe.send(task)

    def wait(self) -> tuple[Hashable, Any]:
        """The next job that is done: its key, and what it returned, or `Died`."""
        pipe = next(iter(connection.wait(list(self._busy))))
        assert isinstance(pipe, Connection)
        process, key = self._busy.pop(pipe)
        try:
            result = pipe.recv()
        except (EOFError, ConnectionResetError):
            process.join(ENDING)
            self._idle.append(self._new())
            return key, Died(process.exitcode)
        self._idle.append((process, pipe))
        return key, result

    def _await_beginning(self, process: SpawnProcess, pipe: Connection) -> None:
        try:
            pipe.recv()
        except (EOFError, ConnectionResetError):
            process.join(ENDING)
            raise CurateError(
                f"a process ended as it began (exit code {process.exitcode}); what it said stands above. Try one "
                "process: --jobs 1."
            ) from None
        self._begun.add(pipe)

    def _new(self) -> tuple[SpawnProcess, Connection]:
        context = get_context("spawn")  # a fork of a process with threads, as torch has them, may hang
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self._do, self._shared), daemon=True)
        process.start()
        theirs.close()
        return process, ours


def _work(pipe: Connection, do: Callable[..., Any], shared: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipe.send("begun")
    while True:
        pipe.send(do(*shared, *pipe.recv()))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
