"""Whole runs of `curate scrape` against the loopback web, and what must be true of the folder after each of them."""

import hashlib
import re
import signal
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from curate.manifest import read_manifest
from tests.pictures import jpeg
from tests.web import LoopbackWeb, Photo

RUN = "import sys; from curate.cli import main; main(sys.argv[1:])"
STORED = re.compile(r"images/([0-9a-f]{2})/(\1[0-9a-f]{62})\.(jpg|png|webp|gif|bmp|tif)")
# What may lie beside the images after a run.
KEPT = re.compile(r"ledger\.db(-wal|-shm)?|(.*/)?[^/]+\.lock|cache/(.*/)?[^./][^/]*")


def tiny_photos(labels: Iterable[str], per_class: int) -> dict[str, list[Photo]]:
    """Classes of small photographs, all different, each rendered once."""
    classes: dict[str, list[Photo]] = {}
    for number, label in enumerate(labels):
        made = [jpeg(1000 * number + n, 48, 40) for n in range(per_class)]
        classes[label] = [
            Photo(f"{label}/{n:04d}", lambda data=data: data, f"{label} {n}") for n, data in enumerate(made)
        ]
    return classes


def write_recipe(path: Path, web: LoopbackWeb, sources: Sequence[str] = ("bing",), **settings: Any) -> Path:
    """A recipe for all classes of the loopback web; `settings` go into its [web] table."""
    lines = [f"sources = {[*sources]!r}", "min_side = 20"]
    for label in web.classes:
        lines += ["[[classes]]", f'name = "{label}"', f'queries = ["{label}", "{label} again"]']
    lines += ["[web]", *[f"{name} = {value!r}" for name, value in settings.items()], "[web.mirrors]"]
    lines += [f'"{host}" = "{base}"' for host, base in web.mirrors.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def scrape_words(recipe: Path, per_class: int, data: Path, out: Path) -> list[str]:
    """The words after `curate` of a run."""
    return ["scrape", "--per-class", str(per_class), "--recipe", str(recipe), "--data", str(data), "-o", str(out)]


def command(*words: str, prelude: str = "") -> list[str]:
    """A process that does what `curate` does with these words, after some lines of Python."""
    return [sys.executable, "-c", f"{prelude}\n{RUN}", *words]


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail where the block hangs."""

    def late(*_: object) -> None:
        raise AssertionError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def ledger_rows(data: Path, *columns: str) -> list[tuple[Any, ...]]:
    """These columns of all fetches, read without any of our code."""
    with closing(sqlite3.connect(data / "ledger.db")) as connection:
        return connection.execute(f"SELECT {', '.join(columns)} FROM fetches ORDER BY fetch_id").fetchall()


def check_ledger(data: Path) -> None:
    """The database is whole, and every failure has a cause."""
    with closing(sqlite3.connect(data / "ledger.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    for url, state, cause in ledger_rows(data, "url", "state", "cause"):
        assert state in ("pending", "ok", "repeated", "refused", "failed")
        assert (cause is None) == (state in ("pending", "ok")), (url, state, cause)
        assert " at 0x" not in (cause or ""), cause  # the same for the same kind of failure


def check_folder(data: Path, web: LoopbackWeb) -> None:
    """Every file is an image that the web serves, named by its content and held by the ledger; nothing is half done."""
    files = {path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file()}
    stored = {name for name in files if STORED.fullmatch(name)}
    assert [name for name in files - stored if not KEPT.fullmatch(name)] == []
    served = {hashlib.sha256(web.content(photo)).hexdigest() for photos in web.classes.values() for photo in photos}
    for name in stored:
        digest = hashlib.sha256((data / name).read_bytes()).hexdigest()
        assert digest == STORED.fullmatch(name)[2]
        assert digest in served
    assert stored == {name for state, name in ledger_rows(data, "state", "file_name") if state == "ok"}


def check_run(data: Path, out: Path, web: LoopbackWeb, per_class: int) -> None:
    """Exactly so many images of each class, all there, each once; ledger and folder whole."""
    table = read_manifest(out)
    assert table["label"].value_counts().to_dict() == dict.fromkeys(web.classes, per_class)
    assert table["sha256"].is_unique
    assert all((data / name).is_file() for name in table["file_name"])
    check_ledger(data)
    check_folder(data, web)
