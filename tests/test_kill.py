"""SIGKILL at twenty seeded moments: the run that is resumed each time ends as the one that was never killed."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from requests import Request

from curate.manifest import read_manifest
from tests.runs import check_run, ledger_rows, scrape_words, tiny_photos, write_recipe
from tests.web import Faults, LoopbackWeb

LABELS = ("andesite", "basalt", "diorite", "gabbro", "granite", "peridotite", "rhyolite")
PER_CLASS = 20
KILLS = 20
THREADS = 4
CALM = 0.25  # seconds in which what was answered reaches the disk of a client that is told nothing new
FAULTS = Faults(missing=0.08, truncated=0.08, html=0.05, small=0.05, repeat=0.05, server_down=0.02, cmyk=0.1)
# One process imports everything once and forks a run for each line that it reads; it tells its id, then its end.
LAUNCHER = """
import json, os, sys
import curate.console, curate.ledger, curate.manifest, curate.recipe, curate.scrape
from curate.cli import main
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        sys.stdout = open(os.devnull, "w")
        main(json.loads(line))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Runs:
    """Starts runs, one after the other."""

    def __init__(self, launcher: subprocess.Popen) -> None:
        self.launcher = launcher

    def start(self, words: list[str]) -> int:
        """The process id of a new run."""
        self.launcher.stdin.write(json.dumps(words) + "\n")
        self.launcher.stdin.flush()
        return int(self.launcher.stdout.readline())

    def end(self) -> int:
        """Wait for it; its exit code, less than 0 where it was killed."""
        return int(self.launcher.stdout.readline())


@pytest.fixture
def runs(tmp_path) -> Iterator[Runs]:
    with (tmp_path / "runs.log").open("w") as log:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
        with subprocess.Popen([sys.executable, "-c", LAUNCHER], **pipes) as launcher:
            yield Runs(launcher)
            launcher.stdin.close()


class Moment:
    """The arrival of the n-th request from now on; it and all after it are never answered."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.lock = threading.Lock()
        self.reached, self.over = threading.Event(), threading.Event()

    def pass_by(self, path: str) -> None:
        with self.lock:
            self.left -= 1
            if self.left <= 0:
                self.reached.set()
        if self.reached.is_set():
            self.over.wait(30)
            raise ConnectionAbortedError


@contextmanager
def killed_at(web: LoopbackWeb, number: int, pid: int, *, calm: bool) -> Iterator[None]:
    """Kill the process at the n-th request; the block runs at once after it.

    Args:
        calm: let the process first do all that it can do without another answer: then nothing that was answered may be
            lost. Otherwise each of its threads may be in the middle of anything.
    """
    moment = Moment(number)
    web.on_request = moment.pass_by
    try:
        assert moment.reached.wait(30)
        time.sleep(CALM if calm else 0)
        os.kill(pid, signal.SIGKILL)
        yield
    finally:
        moment.over.set()
        time.sleep(0.05)  # what was being sent to nobody is no part of the next run
        web.on_request = lambda path: None


@pytest.mark.slow
def test_twenty_kills_lose_nothing_fetch_nothing_twice_and_change_nothing(tmp_path, runs):
    draw = random.Random(7)
    with LoopbackWeb(tiny_photos(LABELS, 50), faults=FAULTS, latency=0.004, seed=5) as web:
        recipe = write_recipe(tmp_path / "rocks.toml", web, threads=THREADS, per_host=THREADS)
        whole, killed = (scrape_words(recipe, PER_CLASS, tmp_path / x, tmp_path / f"{x}.csv") for x in ("a", "b"))
        runs.start(whole)
        assert runs.end() == 0
        total, first = len(web.requests), len(web.photo_requests)
        moments = sorted(draw.sample(range(1, total - 20), KILLS))
        gaps = [b - a for a, b in zip([0, *moments], moments, strict=False)]
        history = []  # of each run: was its end calm, what was sent in it, what the ledger holds, what was asked so far
        for n, gap in enumerate(gaps):
            began = len(web.photos_sent)
            pid = runs.start(killed)
            with killed_at(web, gap, pid, calm=n % 2 == 0):
                sent = set(web.photos_sent[began:])
                assert runs.end() == -signal.SIGKILL
                asked = len(web.photo_requests)
            history.append((n % 2 == 0, sent, held(tmp_path / "b"), asked))
        runs.start(killed)
        assert runs.end() == 0
        check_run(tmp_path / "b", tmp_path / "b.csv", web, PER_CLASS)
        log = web.photo_requests
        assert len(log) > first
    assert images(tmp_path / "a.csv") == images(tmp_path / "b.csv")
    assert sum(len(sent) for _, sent, _, _ in history) > PER_CLASS * 3
    for calm, sent, in_ledger, asked in history:
        again = set(log[asked:])
        assert again & {path_of(web, url) for url in in_ledger} == set()
        assert len(again & sent) <= (0 if calm else THREADS)  # a thread has one image in its hands, not two
    log_text = (tmp_path / "runs.log").read_text()
    assert "Traceback" not in log_text
    assert "error:" not in log_text


def images(manifest: Path) -> list[tuple]:
    """What must be the same in two manifests of the same images."""
    table = read_manifest(manifest)
    return list(table[["image_id", "label", "url", "rank", "title", "file_name"]].itertuples(index=False, name=None))


def held(data: Path) -> list[str]:
    """The addresses of the images that the ledger holds."""
    if not (data / "ledger.db").exists():
        return []
    return [url for url, state in ledger_rows(data, "url", "state") if state == "ok"]


def path_of(web: LoopbackWeb, url: str) -> str:
    """The path under which the server sees an image of that address."""
    return "/photos" + Request("GET", url).prepare().path_url
