"""A review server in its own process, and pages of a headless Chromium that look at it."""

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from curate.images import inspect
from curate.manifest import write_manifest
from curate.store import store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
START = """
import sys
from pathlib import Path
from apps.serve import serve
folder = Path(sys.argv[1])
serve(folder / "audited.csv", folder / "data", str(folder / "ledger.db"), target=4, reviewer="ana",
      port=int(sys.argv[2]), open_browser=False)
"""


class Server:
    """`serve` in a process that can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.ledger = folder / "ledger.db"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-c", START, str(folder), str(self.port)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout
        first = self.process.stdout.readline()
        assert self.url in first, first + self.process.stdout.read()

    def stop(self, how: signal.Signals = signal.SIGKILL) -> tuple[int, str]:
        """Exit code and what it printed after its first line."""
        self.process.send_signal(how)
        printed, _ = self.process.communicate(timeout=20)
        return self.process.returncode, printed


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


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[Path], Server]]:
    """Starts a server on a folder with `audited.csv` and `data`."""
    if not CHROMIUM:
        pytest.skip("no chromium on this machine")
    running: list[Server] = []

    def start(folder: Path) -> Server:
        running.append(Server(folder))
        return running[-1]

    yield start
    for server in running:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory, serve) -> Server:
    folder = tmp_path_factory.mktemp("review")
    make_data(folder, 40)
    return serve(folder)


@pytest.fixture
def own_server(tmp_path, serve) -> Server:
    """For a test that kills it."""
    make_data(tmp_path, 12)
    return serve(tmp_path)


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
