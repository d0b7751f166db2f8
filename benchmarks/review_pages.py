"""What benchmarks/review.py and the tests of kills share: a data set, a server, and a recorder inside the page."""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from playwright.async_api import BrowserContext, Page

from curate.manifest import write_manifest
from curate.screen import COMPONENTS, MEASURES, NEIGHBOURS, Space
from curate.spaces import keep_space
from curate.words import REASONS

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
VIEWPORT = {"width": 1280, "height": 720}
LABELS = ("andesite", "basalt", "diorite", "gabbro", "granite", "peridotite", "rhyolite")
HEATMAPS = 200  # distinct ones
PATIENCE = 180.0  # seconds until what should happen counts as not happening
READY = '.review[data-ready="true"]'
SAVED = '[data-pending="0"]'
REVIEW = "from curate.cli import main; main()"
CLOCK = os.sysconf("SC_CLK_TCK")

RECORDER = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")


def make_data(folder: Path, rows: int, *, photos: Path | None = None, distinct: int = 2000, side: int = 640) -> None:
    """Write `audited.csv` and `data/` as `curate audit` leaves them, the first row the most suspicious one.

    Every image_id has files of its own, hard links to `distinct` JPEGs: `side` pixels wide textures, or those of
    `photos` as they are. Each image has a heatmap; what the screen sees of the data set is drawn by chance.
    """
    rng = np.random.default_rng(rows)
    root = folder / "data"
    ids = [hashlib.sha256(f"{rows}/{n}".encode()).hexdigest() for n in range(rows)]
    table = pd.DataFrame({"image_id": [name[:16] for name in ids], "sha256": ids})
    table["file_name"] = [f"images/{name[:2]}/{name}.jpg" for name in ids]
    sources = take_photos(photos, root / "photos", distinct) if photos else draw_photos(root / "photos", distinct, side)
    link_in_turn(sources, [root / name for name in table["file_name"]])
    heatmaps = draw_heatmaps(root / "heatmaps", rng)
    link_in_turn(heatmaps, [root / "cache/heatmaps" / f"{image_id}.png" for image_id in table["image_id"]])
    write_manifest(described(table, rng), folder / "audited.csv")
    keep_space(root, table["image_id"], drawn_space(rows, rng))


def draw_photos(folder: Path, number: int, side: int) -> list[Path]:
    """JPEGs of noise with the spectrum of a natural texture, 4:3, about 100 kB at 640 pixels."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    size = 3 * side
    noise = [_noise(size, rng) for _ in range(2)]
    width, height = side, side * 3 // 4
    paths = []
    for n in range(number):
        top, left = rng.integers(0, size - height), rng.integers(0, size - width)
        grain, tint = (layer[top : top + height, left : left + width, None] for layer in noise)
        pixels = rng.uniform(60, 180, 3) + rng.uniform(20, 45) * (grain + rng.uniform(-0.4, 0.4, 3) * tint)
        paths.append(folder / f"{n}.jpg")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=88)
    return paths


def _noise(size: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size) float32 of unit deviation: octaves whose amplitude falls with the frequency."""
    total = np.zeros((size, size), np.float32)
    for octave in range(2, 12):
        grid = rng.normal(size=(2**octave, 2**octave)).astype(np.float32)
        total += 0.8**octave * np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC))
    return total / total.std()


def take_photos(photos: Path, folder: Path, number: int) -> list[Path]:
    """Copies of the JPEGs below `photos` that open, up to a number of them."""
    folder.mkdir(parents=True)
    paths: list[Path] = []
    for path in sorted(photos.rglob("*")):
        if len(paths) < number and path.is_file() and _is_jpeg(path):
            paths.append(folder / f"{len(paths)}.jpg")
            shutil.copyfile(path, paths[-1])
    if not paths:
        raise SystemExit(f"{photos}: no JPEG that opens; --photos wants a folder of some, or leave it out.")
    return paths


def _is_jpeg(path: Path) -> bool:
    try:
        with Image.open(path, formats=["JPEG"]) as image:
            image.load()
    except (OSError, ValueError, Image.DecompressionBombError):
        return False
    return True


def draw_heatmaps(folder: Path, rng: np.random.Generator) -> list[Path]:
    """Grayscale PNGs of 56 x 56 with one blob, as an audit keeps them."""
    folder.mkdir(parents=True)
    y, x = np.mgrid[:56, :56]
    paths = [folder / f"{n}.png" for n in range(HEATMAPS)]
    for path in paths:
        distance = np.hypot(y - rng.uniform(10, 46), x - rng.uniform(10, 46))
        Image.fromarray((255 * np.exp(-((distance / rng.uniform(8, 18)) ** 2))).astype(np.uint8)).save(path)
    return paths


def link_in_turn(sources: list[Path], names: list[Path]) -> None:
    """Give the files these names, one file after the other, as often as it takes."""
    for parent in {name.parent for name in names}:
        parent.mkdir(parents=True, exist_ok=True)
    for n, name in enumerate(names):
        name.hardlink_to(sources[n % len(sources)])


def described(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """The table with what scraping and auditing say of each image."""
    rows = len(table)
    rejects = rng.uniform(size=rows).round(4)
    labels = [LABELS[n % len(LABELS)] for n in range(rows)]
    pages = [f"https://rocks.example/{n}" for n in range(rows)]
    return table.assign(
        label=labels,
        status="candidate",
        source=rng.choice(["bing", "commons", "openverse"], rows),
        query=[f"{label} rock" for label in labels],
        rank=np.arange(rows) % 500 + 1,
        title=[f"A piece of {label}, number {n}" for n, label in enumerate(labels)],
        creator=[f"collector {n % 97}" for n in range(rows)],
        license=rng.choice(["CC-BY-4.0", "CC0-1.0", "CC-BY-SA-4.0"], rows),
        license_basis="asserted",
        page_url=pages,
        url=[f"{page}.jpg" for page in pages],
        predicted=rng.choice(LABELS, rows),
        label_probability=rng.uniform(size=rows).round(4),
        reject_probability=rejects,
        suspicion=1 - np.arange(rows) / rows,
        background_share=rng.uniform(size=rows).round(4),
        flags=[f"background_share={0.85 + 0.1 * r:.2f} (0.85); off_topic={r:.2f} (0.50)" for r in rejects],
    )


def drawn_space(rows: int, rng: np.random.Generator) -> Space:
    """What the screen sees, of the size that an audit with embeddings keeps."""
    features = rng.normal(size=(rows, COMPONENTS + len(MEASURES)), scale=COMPONENTS**-0.5).astype(np.float32)
    near = rng.integers(0, rows, (rows, NEIGHBOURS), dtype=np.int32)
    return Space(np.ones(rows, bool), features, MEASURES, near, rng.uniform(size=near.shape).astype(np.float32))


class Server:
    """A server on one port of loopback, in a process of its own that can be killed, paused, and started again."""

    def __init__(self, command: list[str], port: int, log: Path) -> None:
        self.command, self.port, self.log = command, port, log
        self.url = f"http://127.0.0.1:{port}"

    def start(self) -> float:
        """Seconds until the port answers.

        Raises:
            RuntimeError: it ended, or does not answer.
        """
        self.begin()
        while not self.answers():
            self.require_alive()
            time.sleep(0.01)
        return time.perf_counter() - self.began

    def require_alive(self) -> None:
        """Raise a RuntimeError with its log if it ended, or takes too long to answer."""
        if self.process.poll() is not None or time.perf_counter() - self.began > PATIENCE:
            raise RuntimeError(f"{' '.join(self.command)} does not answer:\n{self.log.read_text()[-2000:]}")

    def begin(self) -> None:
        """Start it and do not wait."""
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.began = time.perf_counter()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.log.parent, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": paths}
            )

    def answers(self) -> bool:
        """Whether the port takes a connection."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """End it as a power cut would: nothing is finished."""
        self.process.kill()
        self.process.wait()

    def memory_mb(self) -> float:
        """Resident memory of the process and its children."""
        page = os.sysconf("SC_PAGE_SIZE")
        return sum(int(_proc(pid, "statm").split()[1]) * page for pid in family(self.process.pid)) / 2**20

    def cpu_seconds(self) -> float:
        """Of the processors so far, children included."""
        times = [_proc(pid, "stat").rpartition(")")[2].split() for pid in family(self.process.pid)]
        return sum(int(fields[11]) + int(fields[12]) for fields in times) / CLOCK


def review_server(folder: Path, *, port: int = 0) -> Server:
    """`curate review` on a folder of `make_data`, with a ledger beside it."""
    words = ["review", "audited.csv", "--data", "data", "--ledger", "ledger.db", "--reviewer", "ana", "--no-browser"]
    port = port or free_port()
    return Server([sys.executable, "-c", REVIEW, *words, "--port", str(port)], port, folder / "server.log")


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def family(pid: int) -> list[int]:
    """A process and all that it started (Linux)."""
    children = _proc(pid, f"task/{pid}/children").split()
    return [pid, *(one for child in children for one in family(int(child)))]


def _proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


async def open_review(context: BrowserContext, server: Server) -> Page:
    """A tab with the single view, its first image there and nothing unsaved."""
    page = context.pages[0] if context.pages else await context.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    await page.goto(server.url)
    await page.wait_for_selector(READY + SAVED)
    return page


async def state(page: Page) -> str:
    """What the single view shows, for an error message."""
    words = "e => JSON.stringify({...e.dataset, place: e.querySelector('.place').textContent})"
    return str(await page.locator(".review").evaluate(words))


async def prepare(
    context: BrowserContext, reviewer: str, told: Callable[[Any, dict[str, Any]], None] | None = None
) -> None:
    """Put the recorder and the reviewer's name into every page of a browser context; `told` hears of decisions."""
    await context.add_init_script(
        f"if (location.protocol.startsWith('http')) localStorage.setItem('deeprock/look/reviewer', {reviewer!r});"
    )
    if told:
        await context.expose_binding("told", told)
    await context.add_init_script(RECORDER)


def draw_key(rng: np.random.Generator, more: str = "") -> str:
    """A key that a reviewer may press: accept as often as reject, for any reason; now and then one of `more`."""
    rejects = [str(n + 1) for n in range(len(REASONS))]
    return str(rng.choice([*"a" * len(rejects), *rejects, *more]))
