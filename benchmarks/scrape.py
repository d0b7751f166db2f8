"""How fast, how complete, how large in memory: `curate scrape` beside icrawler and img2dataset, on a loopback server.

    python -m benchmarks.scrape                    # the whole table; --quick for 100 ms and 1 % faults only
    python -m benchmarks.scrape --cell 100 0.01    # one cell; --tools ours for us alone; --memory for memory alone

Everyone wants the same: 1,000 usable unique images (4 classes of 250) out of 1,400 on offer, photos of 640 x 480 and
70 KB, behind 0, 20 or 100 ms of latency. A share of the addresses is faulty: half of those for good (404, connection
reset, truncated, a web page instead), half at the first request only (500 in place of the 404). Each tool runs in a
process of its own, from its start to its exit. What it left behind is then judged alike, outside of the measured time:
Pillow must decode it completely, and no other file has the same SHA-256; more than was wanted does not count.

What each is given:

- ours: the command `curate scrape`, a recipe with loopback mirrors, an empty data folder; its defaults otherwise. It
  searches, and decodes completely, hashes (SHA-256 and perceptual) and fsyncs every image before it counts it. That is
  its handicap: icrawler reads an image's header only, img2dataset as it is run here does not even that.
- icrawler: 8, 16, 32 or 64 threads. `icrawler_per_s` is its search by Bing's result pages, one class after the other as
  its crawler does, with more pages fed than it would ask for by itself, so that it can make up for failures.
  `icrawler_list_per_s` is without any search, by the list of all addresses.
- img2dataset: 16, 64 or 128 threads in 1 or 2 processes; two more tries of what fails. It works off a list and cannot
  stop at a number: it gets the first 1,000 addresses, as who wants 1,000 images would do. `img2dataset_per_s` is its
  default, which decodes each image (and makes it 256 pixels small); `img2dataset_undecoded_per_s` keeps the bytes as
  they come and looks at none; it is also run on all 1,400 addresses, and the better rate counts.

The peers' settings are tried out on half as many images at each latency and 1 % faults; the best runs in the cells.
Nothing is deleted before the end: for five minutes after many files were deleted, ext4 makes new ones ten times more
slowly (it looks twice before it takes an inode again). So leave five minutes between two runs of this script.

Rates are of the whole process, from its start to its exit; `downloading` leaves both out: images a second between the
first photo asked for and the last one sent, as the server saw it; `exit` is what passes from then to the end. Peak
memory is the sum of the peaks of all the tool's processes.
"""

import argparse
import csv
import hashlib
import io
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from PIL import Image

from benchmarks.photo_server import DEPTH, PhotoServer, photo_url
from benchmarks.usage import Usage, run_measured
from curate.console import print_table

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(__file__).parent / "peers"
LATENCIES, FAULTS = (0, 20, 100), (0.0, 0.01, 0.1)  # milliseconds; share of the addresses
KEY_CELL = (100, 0.01)
SUPPLY = 1.4  # photos on offer for each that is wanted


@dataclass(frozen=True)
class Order:
    """What is wanted, and of which web."""

    latency: int  # ms
    faults: float
    per_class: int
    classes: int = 4

    @property
    def wanted(self) -> int:
        """Images of all classes."""
        return self.classes * self.per_class

    @property
    def supply(self) -> int:
        """Photos on offer of each class."""
        return round(SUPPLY * self.per_class)

    @property
    def labels(self) -> list[str]:
        """Names of the classes."""
        return [f"class{n:02d}" for n in range(self.classes)]

    def urls(self, base: str) -> list[str]:
        """All addresses on offer, the classes in turn."""
        return [photo_url(base, label, n) for n in range(self.supply) for label in self.labels]


@dataclass(frozen=True)
class Setting:
    """How a tool is run.

    `mode` is "bing" or "urllist" of icrawler; of img2dataset "decoded", or undecoded "wanted" or "all" (addresses).
    """

    tool: str
    threads: int = 0  # 0 = its default
    mode: str = ""
    processes: int = 1

    def __str__(self) -> str:
        threads = f"{self.threads} threads" if self.threads else "defaults"
        return " ".join(filter(None, (self.mode, f"{self.processes} x" * (self.processes > 1), threads)))


SETTINGS = {
    "icrawler": [Setting("icrawler", threads, mode) for mode in ("bing", "urllist") for threads in (8, 16, 32, 64)],
    "img2dataset": [
        *(Setting("img2dataset", threads, "wanted", n) for n in (1, 2) for threads in (16, 64, 128)),
        *(Setting("img2dataset", threads, "decoded", n) for n in (1, 2) for threads in (16, 64)),
    ],
}
FIGURES = {  # of which mode the figures go under which name
    "bing": "icrawler",
    "urllist": "icrawler_list",
    "decoded": "img2dataset",
    "wanted": "img2dataset_undecoded",
    "all": "img2dataset_undecoded",
}


@dataclass(frozen=True)
class Outcome:
    """One run of a tool.

    Attributes:
        server: what it counted (`PhotoServer.counts`).
    """

    setting: Setting
    usable: int
    wanted: int
    usage: Usage
    server: dict[str, float]

    @property
    def per_s(self) -> float:
        """Usable unique images a second."""
        return self.usable / self.usage.seconds

    @property
    def downloading_per_s(self) -> float:
        """The same, of the time in which photos came."""
        return self.usable / self.server["seconds"] if self.server["seconds"] else 0.0

    @property
    def arrived(self) -> float:
        """Share of what was wanted."""
        return self.usable / self.wanted


def main() -> None:
    options = _options()
    cells = list(product(LATENCIES, FAULTS))
    if options.cell:
        cells = [(int(options.cell[0]), float(options.cell[1]))]
    elif options.quick:
        cells = [KEY_CELL]
    start = time.perf_counter()
    figures: dict[str, object] = {}
    with PhotoServer() as server, tempfile.TemporaryDirectory(dir=options.home) as home:
        bench = Bench(options, server, Path(home))
        if not options.memory:
            figures |= bench.table(cells)
        if options.memory or not (options.quick or options.cell):
            figures |= bench.memory()
    print(json.dumps({**figures, "seconds": round(time.perf_counter() - start, 1)}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200 images, at 100 ms and 1 %% faults only")
    parser.add_argument("--cell", nargs=2, metavar=("MS", "SHARE"), help="one cell of the table: 100 0.01")
    parser.add_argument("--tools", default="ours,icrawler,img2dataset")
    parser.add_argument("--images", type=int, default=None, help="wanted [default: 1000, or 200 with --quick]")
    parser.add_argument("--repeats", type=int, default=1, help="runs of the best settings, of which the median counts")
    parser.add_argument("--memory", action="store_true", help="our peak memory at 1,000 to 40,000 images, nothing else")
    parser.add_argument("--threads", type=int, default=0, help="ours with another number of downloads at once")
    parser.add_argument("--per-host", type=int, default=0, help="ours with another limit a host")
    parser.add_argument("--home", type=Path, default=None, help="folder for the images [default: the temporary one]")
    options = parser.parse_args()
    options.images = options.images or (200 if options.quick else 1000)
    return options


class Bench:
    """The tools that are there, the server, and a folder to work in."""

    def __init__(self, options: argparse.Namespace, server: PhotoServer, home: Path) -> None:
        self.options, self.server, self.home = options, server, home
        self.python = {tool: _python_with(tool) for tool in options.tools.split(",")}
        self.tools = [tool for tool, python in self.python.items() if python]
        for tool in set(self.python) - set(self.tools):
            print(f"{tool} is not installed: `make peers` first. It is left out.", flush=True)
        self.judge, self.runs = Judge(), 0

    def table(self, cells: Sequence[tuple[int, float]]) -> dict[str, object]:
        """Run every cell, print the table, and give the figures of the key cell and the rates of all."""
        results: dict[tuple[int, float], list[Outcome]] = {}
        for latency in dict.fromkeys(latency for latency, _ in cells):
            settings = [setting for tool in self.tools for setting in self._best_settings(tool, latency)]
            for cell in cells:
                if cell[0] == latency:
                    results[cell] = self._cell(Order(*cell, self.options.images // 4), settings)
        print_table(COLUMNS, [_row(cell, outcome) for cell, outcomes in results.items() for outcome in outcomes])
        figures: dict[str, object] = {}
        for outcome in sorted(results[KEY_CELL if KEY_CELL in results else cells[0]], key=lambda o: o.per_s):
            figures |= _figures(outcome)  # the best of a tool comes last
        ours = [o.arrived for outcomes in results.values() for o in outcomes if o.setting.tool == "ours"]
        rates = {f"{ms} ms, {100 * share:g} %": _rates(outcomes) for (ms, share), outcomes in results.items()}
        return {**figures, "ours_arrived_least": min(ours, default=None), "per_s": rates}

    def memory(self) -> dict[str, object]:
        """Our peak memory at 1,000 to 40,000 images of 20 classes."""
        found: dict[str, object] = {}
        for per_class in (50, 400, 1000, 2000):
            order = Order(0, 0.0, per_class, 20)
            outcome = self._run(order, self._ours(), look=False)
            took = f"in {outcome.usage.seconds:.0f} s, at most {outcome.usage.peak_mb:.0f} MB"
            print(f"ours, {order.wanted:,} images wanted: {outcome.usable:,} {took}", flush=True)
            found[f"ours_peak_mb_{order.wanted}"] = round(outcome.usage.peak_mb, 1)
        return found

    def _ours(self) -> Setting:
        return Setting("ours", self.options.threads)

    def _best_settings(self, tool: str, latency: int) -> list[Setting]:
        """The quickest of each mode at this latency."""
        if tool == "ours":
            return [self._ours()]
        order = Order(latency, KEY_CELL[1], max(self.options.images // 8, 50))
        tried = sorted((self._run(order, setting) for setting in SETTINGS[tool]), key=lambda o: o.per_s)
        said = ", ".join(f"{outcome.setting} {outcome.per_s:.0f}/s" for outcome in reversed(tried))
        print(f"{tool} tried at {latency} ms: {said}", flush=True)
        return list({outcome.setting.mode: outcome.setting for outcome in tried}.values())

    def _cell(self, order: Order, settings: Sequence[Setting]) -> list[Outcome]:
        """One outcome of each setting, the median by rate of its repeats."""
        everything = [replace(setting, mode="all") for setting in settings if setting.mode == "wanted" and order.faults]
        medians = []
        for setting in [*settings, *everything]:
            outcomes = sorted((self._run(order, setting) for _ in range(self.options.repeats)), key=lambda o: o.per_s)
            medians.append(outcomes[(len(outcomes) - 1) // 2])
            print(" | ".join(_row((order.latency, order.faults), medians[-1])), flush=True)
        return medians

    def _run(self, order: Order, setting: Setting, *, look: bool = True) -> Outcome:
        self.runs += 1
        folder = self.home / f"{self.runs:03d}"
        folder.mkdir()
        command = self._command(order, setting, folder)
        self.server.play(latency=order.latency / 1000, faults=order.faults, supply=order.supply)
        usage = run_measured(command, folder / "log.txt")
        counts = self.server.counts()
        wanted = {"all": order.wanted}
        usable = self.judge.usable(_collected(folder), lambda group: wanted.get(group, order.per_class), look=look)
        if not usable:
            print(f"{setting.tool}, {setting} brought nothing:\n{(folder / 'log.txt').read_text()[-2000:]}", flush=True)
        return Outcome(setting, usable, order.wanted, usage, counts)

    def _command(self, order: Order, setting: Setting, folder: Path) -> list[str]:
        """How the tool is started; what it needs is in the folder."""
        if setting.tool == "ours":
            self._write_recipe(order, folder / "recipe.toml")
            words = ["--per-class", str(order.per_class), "--recipe", str(folder / "recipe.toml")]
            return [self.python["ours"], "scrape", *words, "--data", str(folder), "-o", str(folder / "images.csv")]
        urls = order.urls(self.server.base)
        urls = urls[: order.wanted] if setting.mode in ("wanted", "decoded") else urls
        (folder / "urls.txt").write_text("\n".join(urls))
        given: dict[str, object] = {"urls": str(folder / "urls.txt"), "out": str(folder / "images")}
        given |= {"threads": setting.threads, "processes": setting.processes, "number": len(urls)}
        given |= {"mode": setting.mode, "base": self.server.base, "labels": order.labels}
        given |= {"per_class": order.per_class, "supply": order.supply, "wanted": order.wanted}
        return [self.python[setting.tool], str(PEERS / f"drive_{setting.tool}.py"), json.dumps(given)]

    def _write_recipe(self, order: Order, path: Path) -> None:
        lines = ['name = "benchmark"', 'sources = ["bing"]']
        for label in order.labels:
            queries = [label, *(f"{label} {n}" for n in range(1, math.ceil(order.supply / DEPTH)))]
            lines += ["[[classes]]", f'name = "{label}"', f"queries = {json.dumps(queries)}"]
        chosen = {"threads": self.options.threads, "per_host": self.options.per_host}
        lines += ["[web]", *(f"{key} = {value}" for key, value in chosen.items() if value)]
        lines += ["[web.mirrors]", *(f'"{host}" = "{base}"' for host, base in self.server.mirrors.items())]
        path.write_text("\n".join(lines) + "\n")


COLUMNS = ("latency", "faults", "tool", "at", "images/s", "downloading", "arrived", "peak MB", "CPU s", "exit", "all")


def _row(cell: tuple[int, float], outcome: Outcome) -> tuple[str, ...]:
    usage, setting = outcome.usage, outcome.setting
    return (
        f"{cell[0]} ms",
        f"{100 * cell[1]:g} %",
        setting.tool,
        str(setting),
        f"{outcome.per_s:.1f}",
        f"{outcome.downloading_per_s:.0f}",
        f"{100 * outcome.arrived:.1f} %",
        f"{usage.peak_mb:.0f}",
        f"{usage.cpu:.1f}",
        f"{outcome.server['since']:.1f} s",
        f"{usage.seconds:.1f} s",
    )


def _figures(outcome: Outcome) -> dict[str, object]:
    usage, server = outcome.usage, outcome.server
    tool = FIGURES.get(outcome.setting.mode, outcome.setting.tool)
    return {
        f"{tool}_per_s": round(outcome.per_s, 1),
        f"{tool}_per_s_downloading": round(outcome.downloading_per_s, 1),
        f"{tool}_arrived": round(outcome.arrived, 4),
        f"{tool}_peak_mb": round(usage.peak_mb, 1),
        f"{tool}_seconds": round(usage.seconds, 2),
        f"{tool}_exit_s": round(server["since"], 2),
        f"{tool}_cpu_ms_per_image": round(1000 * usage.cpu / max(outcome.usable, 1), 2),
        f"{tool}_requests_per_image": round(server["asked"] / max(outcome.usable, 1), 3),
        f"{tool}_at": str(outcome.setting),
    }


def _rates(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The best rate of each tool and way."""
    best = sorted(outcomes, key=lambda o: o.per_s)
    return {FIGURES.get(o.setting.mode, o.setting.tool): round(o.per_s, 1) for o in best}


def _python_with(tool: str) -> str:
    """The program that runs a tool: our own command, or the Python that it is installed for; "" where there is none."""
    if tool == "ours":
        return str(Path(sys.executable).with_name("curate"))
    for python in (str(ROOT / ".venv-peers" / "bin" / "python"), sys.executable):
        find = f"import importlib.util, sys; sys.exit(not importlib.util.find_spec({tool!r}))"
        with suppress(OSError):
            if subprocess.run([python, "-c", find]).returncode == 0:
                return python
    return ""


def _collected(folder: Path) -> dict[str, list[Path]]:
    """The image files that a tool left behind, by class, or under "all" where it knew of no classes."""
    groups: dict[str, list[Path]] = {}
    if (folder / "images.csv").exists():
        with (folder / "images.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                groups.setdefault(row["label"], []).append(folder / row["file_name"])
        return groups
    for group in (folder / "images").glob("*"):
        groups[group.name] = sorted(path for path in group.rglob("*.jpg") if path.is_file())
    return groups


class Judge:
    """Says how many files are usable images, the same for all tools; it looks at the pixels of each content once."""

    def __init__(self) -> None:
        self.known: dict[str, bool] = {}

    def usable(self, groups: Mapping[str, Sequence[Path]], most: Callable[[str], int], *, look: bool) -> int:
        """Files that decode (unless nobody looks) and repeat none before them; of a group no more than `most` says."""
        seen: set[str] = set()
        total = 0
        for name, paths in groups.items():
            number = 0
            for path in paths:
                data = path.read_bytes()
                digest = hashlib.sha256(data).hexdigest()
                if digest not in self.known:
                    self.known[digest] = not look or _decodes(data)
                number += self.known[digest] and digest not in seen
                seen.add(digest)
            total += min(number, most(name))
        return total


def _decodes(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    return True


if __name__ == "__main__":
    main()
