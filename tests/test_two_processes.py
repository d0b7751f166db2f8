"""Two processes scrape into one data folder at once: nothing is spoilt, nothing is fetched twice."""

import os
import re
import signal
import subprocess
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from curate.ledger import Ledger
from curate.manifest import read_manifest
from tests.runs import check_run, command, scrape_words, tiny_photos, write_recipe
from tests.web import LoopbackWeb

LABELS = ("basalt", "gabbro", "granite", "rhyolite")
PER_CLASS = 15
THREADS = 4


def start(words: list[str]) -> subprocess.Popen:
    return subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen) -> str:
    """What it said, once it is done."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return out + err


def test_a_new_ledger_is_made_once_however_many_open_it_at_once(tmp_path):
    together = threading.Barrier(6)

    def open_it(path: Path) -> None:
        together.wait(10)
        Ledger(path).close()

    with ThreadPoolExecutor(6) as pool:
        for n in range(12):
            for opened in [pool.submit(open_it, tmp_path / f"{n}.db") for _ in range(6)]:
                opened.result()


@pytest.mark.slow
def test_two_processes_at_once_fetch_every_image_once(tmp_path):
    with LoopbackWeb(tiny_photos(LABELS, 30), latency=0.05) as web:
        places = [(tmp_path / f"{n}.toml", tmp_path / f"{n}.csv") for n in range(2)]
        for recipe, _ in places:
            write_recipe(recipe, web, threads=THREADS, per_host=THREADS)
        words = [scrape_words(recipe, PER_CLASS, tmp_path / "data", out) for recipe, out in places]
        said = [end(process) for process in [start(w) for w in words]]
        for _, out in places:
            check_run(tmp_path / "data", out, web, PER_CLASS)
        assert max(Counter(web.photo_requests).values()) == 1
        assert len(web.photo_requests) == PER_CLASS * len(LABELS)
    assert any("another process" in text for text in said)  # they did meet
    first, second = (read_manifest(out) for _, out in places)
    assert first.equals(second)


@pytest.mark.slow
def test_who_waits_goes_on_where_the_other_one_was_killed(tmp_path):
    """The server stops answering after some images until the second process has seen that it must wait."""
    under_way, killed = threading.Event(), threading.Event()

    def stop(path: str) -> None:
        if len(web.photo_requests) > 12:
            under_way.set()
            killed.wait(30)

    with LoopbackWeb(tiny_photos(LABELS, 30)) as web:
        web.on_request = stop
        recipe = write_recipe(tmp_path / "rocks.toml", web, threads=THREADS, timeout=40)
        words = [scrape_words(recipe, PER_CLASS, tmp_path / "data", tmp_path / f"{n}.csv") for n in range(2)]
        first = start(words[0])
        assert under_way.wait(30)
        second = start(words[1])
        assert second.stderr is not None
        assert any("another process" in line for line in second.stderr)
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
        killed.set()
        end(second)
        check_run(tmp_path / "data", tmp_path / "1.csv", web, PER_CLASS)
        asked = Counter(web.photo_requests)
    assert sum(times - 1 for times in asked.values()) <= THREADS  # a thread that is killed has one image in its hands


@pytest.mark.slow
def test_processes_with_different_classes_share_a_folder(tmp_path):
    """One has the first three classes, the other the last three, in the other order."""
    classes = tiny_photos(LABELS, 30)
    with LoopbackWeb(classes, latency=0.02) as web:
        processes, outs = [], list[Path]()
        for n, labels in enumerate((LABELS[:3], LABELS[:0:-1])):
            recipe = write_recipe(tmp_path / f"{n}.toml", web, threads=THREADS)
            text = recipe.read_text()
            for label in set(LABELS) - set(labels):
                text = re.sub(rf'\[\[classes\]\]\nname = "{label}"\nqueries = .*\n', "", text)
            recipe.write_text(text)
            outs.append(tmp_path / f"{n}.csv")
            processes.append(start(scrape_words(recipe, PER_CLASS, tmp_path / "data", outs[-1])))
        for process in processes:
            end(process)
        assert max(Counter(web.photo_requests).values()) == 1
    first, second = (read_manifest(out).set_index("image_id") for out in outs)
    assert first["label"].value_counts().to_dict() == dict.fromkeys(LABELS[:3], PER_CLASS)
    assert second["label"].value_counts().to_dict() == dict.fromkeys(LABELS[1:], PER_CLASS)
    shared = first.index.intersection(second.index)
    assert len(shared) == 2 * PER_CLASS
