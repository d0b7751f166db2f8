"""Processes that do jobs: what comes back, what is told of one that dies, and that none outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from classify.workers import Died, Here, Workers
from curate.errors import CurateError


def add(shared, number):
    if number < 0:
        os.kill(os.getpid(), -number)
    return os.getpid(), shared + number


class Unreadable:
    """Cannot be made again in another process."""

    def __reduce__(self):
        return exec, ("raise ValueError('nobody can read this')",)


def sleep(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(what, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_jobs_are_done_by_as_many_processes_as_are_wanted():
    done = {}
    with Workers(2, add, 100) as workers:
        for number in range(5):
            if not workers.free:
                key, result = workers.wait()
                done[key] = result
            workers.start(f"job {number}", number)
        for _ in range(2):
            key, result = workers.wait()
            done[key] = result
    assert {key: total for key, (_, total) in done.items()} == {f"job {n}": 100 + n for n in range(5)}
    assert len({pid for pid, _ in done.values()}) == 2
    assert not any(is_alive(pid) for pid, _ in done.values())


def test_a_process_that_dies_is_told_and_replaced():
    with Workers(1, add, 100) as workers:
        workers.start("deadly", -signal.SIGKILL)
        assert workers.wait() == ("deadly", Died(-signal.SIGKILL))
        workers.start("next", 1)
        pid, total = workers.wait()[1]
        assert total == 101
        os.kill(pid, signal.SIGKILL)  # while it has nothing to do
        wait_until(lambda: not is_alive(pid))
        workers.start("unlucky", 2)
        assert workers.wait() == ("unlucky", Died(-signal.SIGKILL))


def test_a_process_that_cannot_begin_is_an_error(capfd):
    with Workers(2, add, Unreadable()) as workers, pytest.raises(CurateError, match=r"exit code 1.*--jobs 1"):
        workers.start("job", 1)
    assert "nobody can read this" in capfd.readouterr().err


def test_here_is_this_process():
    with Here(add, 100) as workers:
        assert workers.free
        workers.start("job", 1)
        assert not workers.free
        assert workers.wait() == ("job", (os.getpid(), 101))
        assert workers.free


def test_leaving_ends_the_processes_whatever_they_do(tmp_path):
    with Workers(1, sleep) as workers:
        workers.start("long", str(tmp_path))
        wait_until(lambda: any(tmp_path.iterdir()))
    assert not is_alive(int(next(tmp_path.iterdir()).name))


def test_no_process_outlives_its_parent(tmp_path):
    code = "from classify.workers import Workers\nfrom tests.test_workers import sleep\n"
    code += f"workers = Workers(1, sleep)\nworkers.start('long', {str(tmp_path)!r})\nworkers.wait()"
    parent = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: any(tmp_path.iterdir()))
    parent.kill()
    parent.wait()
    wait_until(lambda: not is_alive(int(next(tmp_path.iterdir()).name)), 5)
