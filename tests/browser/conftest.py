"""A review server in its own process, and pages of a headless Chromium that look at it."""

import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from apps.serve import serve as serve_app
from curate.images import inspect
from curate.manifest import write_manifest
from curate.store import store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
FORKED = multiprocessing.get_context("forkserver")  # a server has what it needs loaded when it begins
FORKED.set_forkserver_preload(["pytest", "apps.serve", "curate.contribute", "curate.findings", "curate.next_steps"])
STARTED = 60.0  # seconds that a server has to begin, on a busy machine


class Server:
    """`serve` in a process that can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ledger = folder, folder / "ledger.db"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "server.log"
        self.start()

    @staticmethod
    def run(folder: Path, port: int) -> None:
        """What the process does."""
        ledger = str(folder / "ledger.db")
        audited, data = folder / "audited.csv", folder / "data"
        serve_app(audited, data, ledger, target=4, reviewer="ana", port=port, open_browser=False)

    def start(self) -> None:
        self._log.write_bytes(b"")
        what = (self.run, self.folder, self.port, self._log)
        self.process = FORKED.Process(target=_run_logged, args=what, daemon=True)  # ends with the tests
        self.process.start()
        until = time.monotonic() + STARTED
        while self.url not in self._log.read_text():
            assert self.process.is_alive(), self._log.read_text()
            assert time.monotonic() < until, f"no server after {STARTED:.0f} s: {self._log.read_text()}"
            time.sleep(0.01)

    def stop(self, how: signal.Signals = signal.SIGKILL) -> tuple[int | None, str]:
        """Exit code and what it printed after its first line."""
        assert self.process.pid
        os.kill(self.process.pid, how)
        self.process.join(20)
        return self.process.exitcode, self._log.read_text().partition("\n")[2]


def _run_logged(run: Callable[[Path, int], None], folder: Path, port: int, log: Path) -> None:
    """In the process of a server: all that it prints goes to its log."""
    with log.open("ab") as out:
        for stream in (1, 2):
            os.dup2(out.fileno(), stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    run(folder, port)


def make_data(folder: Path, images: int) -> None:
    """Images named i00, i01, ...: basalt and granite in turn, the first the most suspicious, each with a heatmap."""
    root = folder / "data"
    (root / "cache/heatmaps").mkdir(parents=True)
    rows = []
    for n in range(images):
        buffer = BytesIO()
        Image.new("RGB", (160, 120), (30 + 5 * n, 110, 120)).save(buffer, "JPEG")
        picture = inspect(buffer.getvalue())
        image_id = f"i{n:02}"
        Image.fromarray(np.full((56, 56), 200, np.uint8)).save(root / f"cache/heatmaps/{image_id}.png")
        row = {"image_id": image_id, "file_name": store(root, buffer.getvalue(), picture), "status": "candidate"}
        row |= {"sha256": picture.sha256, "duplicate_of": None}
        model = {
            "predicted": "granite",
            "label_probability": 0.4,
            "reject_probability": 0.7,
            "suspicion": 1 - n / images,
        }
        web = {
            "source": "bing",
            "query": "rock",
            "title": "<img src=x onerror='window.hacked=1'>",
            "url": "https://a.example",
        }
        flags = "background_share=0.91 (0.85)"
        rows.append({**row, "label": ("basalt", "granite")[n % 2], **model, **web, "flags": flags})
    write_manifest(pd.DataFrame(rows), folder / "audited.csv")


@contextmanager
def servers() -> Iterator[Callable[..., Server]]:
    """Starts a server, of a kind, on a folder with what it serves; all of them end with it."""
    if not CHROMIUM:
        pytest.skip("no chromium on this machine")
    running: list[Server] = []

    def start(folder: Path, kind: type[Server] = Server) -> Server:
        running.append(kind(folder))
        return running[-1]

    yield start
    for server in running:
        if server.process.is_alive():
            server.stop()


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., Server]]:
    """For what the tests of a module share."""
    with servers() as start:
        yield start


@pytest.fixture
def serve_alone() -> Iterator[Callable[..., Server]]:
    """For a test that kills its server, or counts what is in the ledger."""
    with servers() as start:
        yield start


@pytest.fixture(scope="module")
def server(tmp_path_factory, serve) -> Server:
    folder = tmp_path_factory.mktemp("review")
    make_data(folder, 40)
    return serve(folder)


@pytest.fixture
def own_server(tmp_path, serve_alone) -> Server:
    """Of twelve images."""
    make_data(tmp_path, 12)
    return serve_alone(tmp_path)


@pytest.fixture(scope="module")
def chromium() -> Iterator["object"]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def profile(chromium):
    """One browser profile for all tests, so that Streamlit's own files are loaded once."""
    context = chromium.new_context(viewport={"width": 1280, "height": 720}, reduced_motion="reduce")
    context.set_default_timeout(15_000)
    yield context
    context.close()


@pytest.fixture
def tab(profile):
    """A tab of 1280 x 720 whose scripts must not fail; what the page kept in the browser is forgotten afterwards."""
    page = profile.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    yield page
    assert failures == []
    for left in profile.pages:
        left.evaluate("localStorage.clear()")
        left.close()
