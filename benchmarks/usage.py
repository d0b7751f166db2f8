"""What a command takes, with all its children, from its start to its exit: seconds, processor time, memory."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 600.0  # seconds after which a tool is stopped
SAMPLED = 0.2  # seconds between two looks at a tool's memory


class Usage(NamedTuple):
    """What a process with all its children took, from its start to its exit."""

    seconds: float
    cpu: float  # seconds, of all processors
    peak_mb: float


def run_measured(command: Sequence[str], log: Path) -> Usage:
    """Run a command to its end, or to `LIMIT`."""
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    environment |= {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
    with log.open("wb") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        stop = threading.Timer(LIMIT, os.killpg, (process.pid, signal.SIGKILL))
        stop.start()
        memory = _PeakMemory(process.pid)
        memory.start()
        _, _, rusage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    stop.cancel()
    memory.ended.set()
    memory.join()
    process.returncode = 0  # it was waited for
    alone = rusage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    return Usage(seconds, rusage.ru_utime + rusage.ru_stime, max(memory.peak_mb, alone))


class _PeakMemory(threading.Thread):
    """Looks at the processes of a session time and again: the largest sum of their peak resident memory."""

    def __init__(self, session: int) -> None:
        super().__init__(daemon=True)
        self.session, self.peak_mb = session, 0.0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(SAMPLED):
            members = [path.parent for path in Path("/proc").glob("[0-9]*/stat") if _session(path) == self.session]
            self.peak_mb = max(self.peak_mb, sum(map(_peak_kb, members)) / 1024)


def _session(stat: Path) -> int:
    with suppress(OSError):
        return int(stat.read_text().rpartition(")")[2].split()[3])
    return 0


def _peak_kb(process: Path) -> int:
    with suppress(OSError):
        lines = (process / "status").read_text().splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
    return 0
