import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curate import decoders
from curate.decoders import DecoderDied, Decoders
from curate.images import inspect
from curate.store import ImageError

BAD = """
import os, signal, sys, time
sys.path[:] = {path!r}
from curate import decoder
look, decoder.LONGEST = decoder.look, 1
def look_or_die(path):
    if path.endswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.endswith("hang"):
        time.sleep(60)
    if path.endswith("bug"):
        raise NotADirectoryError("a bug")
    return look(path)
decoder.look = look_or_die
decoder.work()
"""


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def decoded(paths: list[Path]) -> list:
    """What became of each, in order."""
    found: dict[Path, object] = {}
    all_there = threading.Event()
    pool = Decoders()

    def deliver(path: Path, what: object) -> None:
        found[path] = what
        if len(found) == len(paths):
            all_there.set()

    for path in paths:
        pool.submit(str(path), lambda what, path=path: deliver(path, what))
    assert all_there.wait(60)
    pool.close()
    return [found[path] for path in paths]


def test_every_file_is_delivered_as_it_is_inspected_here(tmp_path):
    data = {tmp_path / f"{n:02d} ü\n.jpg": jpeg(n) for n in range(30)}
    for path, content in data.items():
        path.write_bytes(content)
    assert decoded(list(data)) == [inspect(content) for content in data.values()]


def test_what_is_no_image_and_what_is_not_there_is_said(tmp_path):
    (tmp_path / "page.jpg").write_bytes(b"<html></html>")
    page, gone = decoded([tmp_path / "page.jpg", tmp_path / "gone.jpg"])
    with pytest.raises(ImageError) as said:
        inspect(b"<html></html>")
    assert isinstance(page, ImageError)
    assert str(page) == str(said.value)
    assert isinstance(gone, FileNotFoundError)


@pytest.fixture
def bad_decoders(monkeypatch):
    """Processes that crash, hang or fail at files so named."""
    start = [sys.executable, "-c", BAD.format(path=sys.path)]
    pipe = subprocess.PIPE
    monkeypatch.setattr(decoders, "_start", lambda: subprocess.Popen(start, stdin=pipe, stdout=pipe))


@pytest.mark.parametrize(("fault", "by"), [("crash", signal.SIGSEGV), ("hang", signal.SIGALRM)])
def test_a_file_that_brings_a_decoder_down_costs_no_other_file(tmp_path, bad_decoders, fault, by):
    """Three of forty: each of these is lost, none behind it."""
    paths = [tmp_path / (f"{n:02d}.{fault}" if n in (3, 4, 30) else f"{n:02d}.jpg") for n in range(40)]
    for n, path in enumerate(paths):
        path.write_bytes(jpeg(n))
    for path, what in zip(paths, decoded(paths), strict=True):
        if path.suffix == ".jpg":
            assert what == inspect(path.read_bytes())
        else:
            assert isinstance(what, DecoderDied)
            assert f"signal {by.value}" in str(what)


def test_an_error_of_the_decoders_own_is_told_to_every_file(tmp_path, bad_decoders):
    paths = [tmp_path / f"{n}.bug" for n in range(20)]
    assert {type(what) for what in decoded(paths)} == {RuntimeError}


def test_nothing_is_started_for_nothing_and_nothing_is_left(monkeypatch):
    started = []
    start = decoders._start
    monkeypatch.setattr(decoders, "_start", lambda: started.append(start()) or started[-1])
    Decoders().close()
    assert started == []
    pool = Decoders()
    pool.start()
    pool.start()
    pool.close()
    assert 1 <= len(started) <= os.cpu_count()
    assert all(process.poll() == 0 for process in started)


def test_a_decoder_ends_in_silence_when_whoever_started_it_is_gone(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    process = decoders._start()
    process.stdout.close()
    process.stdin.write(b'"%s"\n' % str(tmp_path / "a.jpg").encode())
    process.stdin.close()
    assert process.wait(30) == 0
