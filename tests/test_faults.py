"""Everything that goes wrong on the web, alone and all together: each class ends with exactly its number."""

import re
import socket
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from curate.cli import main
from curate.images import decode
from curate.manifest import read_manifest
from tests.runs import check_run, command, ledger_rows, scrape_words, tiny_photos, within, write_recipe
from tests.web import Faults, LoopbackWeb
from tests.web.faults import GOOD, KINDS

LABELS = ("andesite", "basalt", "diorite", "gabbro", "granite", "peridotite", "rhyolite")
PATIENCE = {"timeout": 0.6, "deadline": 1.2, "max_bytes": 2_000_000, "threads": 16, "per_host": 16}
CAUSES = {  # fault -> the causes that its addresses may end with; those of `GOOD` and "once" end well
    "missing": {"404"},
    "html": {"no image"},
    "truncated": {"no image"},
    "bomb": {"no image"},
    "drip": {"too slow", "timeout"},
    "oversize": {"too large"},
    "private_redirect": {"refused address"},
    "robots": {"x-robots-tag"},
    "server_down": {"500"},
    "reset": {"connection"},
    "header_drip": {"timeout", "too slow"},
    "gzip_bomb": {"too large"},
    "svg": {"no image"},
    "redirects": {"redirects"},
    "private_address": {"refused address"},
    "empty": {"empty"},
    "small": {"smaller than 20 pixels"},
    "repeat": {"the same bytes as an image of"},
    "robots_txt": {"robots.txt"},
}
FORMULA = re.compile(r"^'*[=+\-@\t\r]")


@pytest.fixture(scope="module")
def rocks():
    """40 tiny photos of each of the seven classes."""
    return tiny_photos(LABELS, 40)


@pytest.fixture
def connected(monkeypatch) -> set[str]:
    """The addresses that this process connects to."""
    hosts: set[str] = set()
    original = socket.socket.connect

    def connect(self: socket.socket, address: tuple) -> None:
        hosts.add(str(address[0]))
        original(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect, raising=False)
    return hosts


def scrape(folder: Path, web: LoopbackWeb, per_class: int, **settings: object) -> Path:
    """Run it in this process until it kept its promise; the data root."""
    recipe = write_recipe(folder / "rocks.toml", web, **{**PATIENCE, **settings})
    with pytest.raises(SystemExit) as end, within(60):
        main(scrape_words(recipe, per_class, folder / "data", folder / "rocks.csv"))
    assert end.value.code == 0
    return folder / "data"


@pytest.mark.slow
@pytest.mark.parametrize("fault", KINDS)
def test_a_fault_alone_leaves_every_class_with_exactly_its_number(fault, rocks, tmp_path, connected):
    with LoopbackWeb(rocks, faults=Faults(**{fault: 0.3}, retry_after=1)) as web:
        data = scrape(tmp_path, web, 6)
        check_run(data, tmp_path / "rocks.csv", web, 6)
        addresses = {web.address(photo): web.fault_of(photo.name) for photos in rocks.values() for photo in photos}
    assert connected == {"127.0.0.1"}
    rows = [row for row in ledger_rows(data, "url", "state", "cause") if row[1] != "pending"]
    ended = [(state, cause or "") for url, state, cause in rows if addresses.get(url) == fault]
    assert ended
    for state, cause in ended:
        if fault in CAUSES and (state, fault) != ("ok", "repeat"):
            assert state != "ok"
            assert cause.startswith(tuple(CAUSES[fault]))
    if fault in GOOD:
        assert {state for state, _ in ended} == {"ok"}
    assert {state for url, state, _ in rows if addresses.get(url) is None} == {"ok"}


@pytest.mark.parametrize("mood", ["bad_json", "limited_once"])
def test_a_mood_of_the_engine_leaves_every_class_with_exactly_its_number(mood, rocks, tmp_path):
    with LoopbackWeb(rocks, faults=Faults(bing=mood)) as web:
        check_run(scrape(tmp_path, web, 6), tmp_path / "rocks.csv", web, 6)


@pytest.mark.parametrize("mood", ["short", "repeated", "blocked", "403", "rate_limited", "empty", "changed", "down"])
def test_what_one_engine_does_not_give_the_next_one_does(mood, rocks, tmp_path):
    """Of 40 photos of a class Bing shows 20 where its list is short, 35 where it repeats its first page for ever."""
    classes = {label: rocks[label] for label in LABELS[:2]}
    with LoopbackWeb(classes, faults=Faults(bing=mood)) as web:
        data = scrape(tmp_path, web, 38, sources=("bing", "google"))
        check_run(data, tmp_path / "rocks.csv", web, 38)
        sources = Counter(source for state, source in ledger_rows(data, "state", "source") if state == "ok")
    given = {"short": 20, "repeated": 35}.get(mood, 0) * len(classes)
    assert sources == Counter({"bing": given, "google": 38 * len(classes) - given})


def test_titles_that_are_formulas_or_escape_sequences_arrive_as_harmless_text(rocks, tmp_path):
    with LoopbackWeb(rocks, faults=Faults(formula=1.0)) as web:
        scrape(tmp_path, web, 6)
    text = (tmp_path / "rocks.csv").read_text(encoding="utf-8")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    titles = read_manifest(tmp_path / "rocks.csv")["title"]
    assert titles.str.match(FORMULA).any()  # the table has what the web said ...
    header, *lines = (line.split(",") for line in text.splitlines())
    column = header.index("title")
    assert not any(FORMULA.match(line[column].strip('"')) and line[column].strip('"')[0] != "'" for line in lines)


def test_unusual_files_are_seen_as_the_pictures_they_are(rocks, tmp_path):
    for fault, kind, size in (("rotated", "JPEG", (40, 48)), ("deep", "PNG", (48, 40)), ("animated", "GIF", (48, 40))):
        folder = tmp_path / fault
        folder.mkdir()
        with LoopbackWeb(rocks, faults=Faults(**{fault: 1.0})) as web:
            data = scrape(folder, web, 2)
        for row in read_manifest(folder / "rocks.csv").itertuples():
            assert (row.format, row.width, row.height) == (kind, *size)
            picture = decode((data / row.file_name).read_bytes())
            assert (picture.mode, picture.size) == ("RGB", size)


LISTEN = """
import sys, atexit
hosts = set()
sys.addaudithook(lambda event, args: event == "socket.connect" and hosts.add(str(args[1][0])))
atexit.register(lambda: print("connected to", *sorted(hosts)))
"""


def test_many_faults_at_once_leave_every_class_with_exactly_its_number(rocks, tmp_path, connected):
    slow = {"busy", "drip", "header_drip", "reset", "server_error"}
    with LoopbackWeb(rocks, faults=Faults(**{fault: 0.03 for fault in KINDS if fault not in slow}), seed=1) as web:
        check_run(scrape(tmp_path, web, 12), tmp_path / "rocks.csv", web, 12)
    assert connected == {"127.0.0.1"}


@pytest.mark.slow
def test_all_faults_together_leave_every_class_with_exactly_73(tmp_path):
    """Engines that refuse, one with broken tiles, at last one for the rest; half of the addresses have a fault."""
    moods = {"google": "sorry", "flickr": "blocked", "openverse": "down", "commons": "changed", "bing": "bad_json"}
    faults = Faults(**dict.fromkeys(KINDS, 0.018), **moods, inaturalist="limited_once")
    with LoopbackWeb(tiny_photos(LABELS, 135), faults=faults, seed=3) as web:
        recipe = write_recipe(tmp_path / "rocks.toml", web, (*moods, "inaturalist"), **PATIENCE)
        words = scrape_words(recipe, 73, tmp_path / "data", tmp_path / "rocks.csv")
        run = subprocess.run(command(*words, prelude=LISTEN), capture_output=True, text=True, timeout=60, check=False)
        assert run.returncode == 0, run.stderr
        assert "Traceback" not in run.stderr
        assert "connected to 127.0.0.1\n" in run.stdout
        check_run(tmp_path / "data", tmp_path / "rocks.csv", web, 73)
    rows = ledger_rows(tmp_path / "data", "state", "source", "cause")
    assert {source for state, source, _ in rows if state == "ok"} == {"inaturalist", "bing"}
    causes = {cause for _, _, cause in rows if cause}
    for fault, expected in CAUSES.items():
        assert any(cause.startswith(tuple(expected)) for cause in causes), fault
