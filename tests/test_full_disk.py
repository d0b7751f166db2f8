"""A disk that is full, and one that must not be written to: said clearly, nothing broken, and it goes on afterwards."""

import hashlib
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.pictures import jpeg
from tests.runs import STORED, check_run, command, scrape_words, write_recipe
from tests.web import LoopbackWeb, Photo

LABELS = ("basalt", "granite")
PER_CLASS = 25
FULL = re.compile(r"disk is full|no space left", re.IGNORECASE)
READ_ONLY = re.compile(r"read-?only", re.IGNORECASE)


class Disk:
    """A small file system of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mount(self, options: str) -> bool:
        """Whether it could be mounted."""
        self.folder.mkdir()
        return self._run("mount", "-t", "tmpfs", "-o", options, "deeprock-test", str(self.folder)) == 0

    def remount(self, options: str) -> None:
        """Change it while it is there."""
        assert self._run("mount", "-o", f"remount,{options}", str(self.folder)) == 0

    def unmount(self) -> None:
        """Take it away, with all that is on it."""
        self._run("umount", "-l", str(self.folder))

    def _run(self, *words: str) -> int:
        return subprocess.run(words, capture_output=True, check=False).returncode


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    if not (hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mount")):
        pytest.skip("only root can mount a small disk")
    disk = Disk(tmp_path / "disk")
    if not disk.mount("size=32m"):
        pytest.skip("no file system can be mounted here")
    try:
        yield disk
    finally:
        disk.unmount()


@pytest.fixture
def web() -> Iterator[LoopbackWeb]:
    made = {label: [jpeg(100 * n + i, 320, 240) for i in range(40)] for n, label in enumerate(LABELS)}
    photos = {
        label: [Photo(f"{label}/{i:04d}", lambda data=data: data) for i, data in enumerate(files)]
        for label, files in made.items()
    }
    with LoopbackWeb(photos) as web:
        yield web


def scrape(tmp_path: Path, web: LoopbackWeb, data: Path, *more: str) -> subprocess.CompletedProcess:
    recipe = write_recipe(tmp_path / "rocks.toml", web)
    words = scrape_words(recipe, PER_CLASS, data, tmp_path / "rocks.csv")
    return subprocess.run(command(*words, *more), capture_output=True, text=True, timeout=60, check=False)


def the_error(run: subprocess.CompletedProcess) -> str:
    """The one line in which a run says why it stopped."""
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stderr
    assert "Exception ignored" not in run.stderr
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error:")]
    assert run.stderr.rstrip().endswith(line)
    return line


def check_nothing_is_broken(data: Path, aside: Path) -> None:
    """Every image is whole, and the ledger can be read, looked at from a disk with room."""
    for path in (data / "images").rglob("*"):
        if path.is_file():
            name = STORED.fullmatch(path.relative_to(data).as_posix())
            assert name
            assert hashlib.sha256(path.read_bytes()).hexdigest() == name[2]
    for path in data.glob("ledger.db*"):
        shutil.copy(path, aside / path.name)
    if (aside / "ledger.db").exists():
        with closing(sqlite3.connect(aside / "ledger.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.slow
@pytest.mark.parametrize("size", ["900k", "64k", "20k"])
def test_a_full_disk_is_said_and_with_room_it_goes_on(size, tmp_path, disk, web):
    """50 images have 1.2 MB; the smaller sizes are too small for the ledger itself."""
    aside = tmp_path / "aside"
    aside.mkdir()
    disk.remount(f"size={size}")
    data = disk.folder / "data"
    said = the_error(scrape(tmp_path, web, data))
    assert FULL.search(said)
    assert str(disk.folder) in said
    assert not (tmp_path / "rocks.csv").exists()
    check_nothing_is_broken(data, aside)
    again = the_error(scrape(tmp_path, web, data))  # still full: the same words
    assert FULL.search(again)
    before = len(web.photo_requests)
    disk.remount("size=32m")
    run = scrape(tmp_path, web, data)
    assert run.returncode == 0, run.stderr
    check_run(data, tmp_path / "rocks.csv", web, PER_CLASS)
    assert len(web.photo_requests) - before <= PER_CLASS * len(LABELS)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["20k", "120k"])
def test_a_ledger_on_a_full_disk_is_said_as_clearly(size, tmp_path, disk, web):
    disk.remount(f"size={size}")
    ledger = disk.folder / "ledger.db"
    said = the_error(scrape(tmp_path, web, tmp_path / "data", "--ledger", str(ledger)))
    assert FULL.search(said)
    assert str(disk.folder) in said
    disk.remount("size=32m")
    run = scrape(tmp_path, web, tmp_path / "data", "--ledger", str(ledger))
    assert run.returncode == 0, run.stderr
    shutil.copy(ledger, tmp_path / "data" / "ledger.db")
    check_run(tmp_path / "data", tmp_path / "rocks.csv", web, PER_CLASS)


@pytest.mark.slow
def test_a_folder_that_must_not_be_written_to_is_said_and_later_it_goes_on(tmp_path, disk, web):
    data = disk.folder / "data"
    disk.remount("ro")
    said = the_error(scrape(tmp_path, web, data))  # nothing is there yet
    assert READ_ONLY.search(said)
    assert str(disk.folder) in said
    assert not web.photo_requests
    disk.remount("rw,size=900k")
    the_error(scrape(tmp_path, web, data))
    disk.remount("ro")
    said = the_error(scrape(tmp_path, web, data))  # a ledger and some images are
    assert READ_ONLY.search(said)
    assert str(disk.folder) in said
    disk.remount("rw,size=32m")
    run = scrape(tmp_path, web, data)
    assert run.returncode == 0, run.stderr
    check_run(data, tmp_path / "rocks.csv", web, PER_CLASS)


@pytest.mark.slow
def test_a_manifest_on_a_full_disk_is_said_and_the_old_one_stays(tmp_path, disk, web):
    out = disk.folder / "rocks.csv"
    recipe = write_recipe(tmp_path / "rocks.toml", web)
    disk.remount("size=8k")
    words = scrape_words(recipe, PER_CLASS, tmp_path / "data", out)
    said = the_error(subprocess.run(command(*words), capture_output=True, text=True, timeout=60, check=False))
    assert FULL.search(said)
    assert str(disk.folder) in said
    assert list(disk.folder.iterdir()) == []
    disk.remount("size=32m")
    run = subprocess.run(command(*words), capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    check_run(tmp_path / "data", out, web, PER_CLASS)
