import io
import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curate import decoder, decoders
from curate.decoders import DecoderDied, Decoders
from curate.errors import CurateError
from curate.images import inspect
from curate.store import ImageError

BAD = """
import os, signal, sys, time
answers = os.dup(1)
sys.path[:] = {path!r}
from curate import decoder
look, decoder.LONGEST = decoder.look, 1
def look_or_die(path):
    if path.endswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.endswith("hang"):
        time.sleep(60)
    if path.endswith("bug"):
        raise ValueError("a bug")
    if path.endswith("noise"):
        os.write(answers, b"this is no answer\\n")
    return look(path)
decoder.look = look_or_die
decoder.work(answers)
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
    data = {tmp_path / f"{n:02d} ü.jpg": jpeg(n) for n in range(30)}
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
    """Processes that crash, hang, fail or talk nonsense at files so named."""
    monkeypatch.setattr(decoders, "CHILD", BAD)


def files(folder: Path, number: int, **faults: tuple[int, ...]) -> list[Path]:
    """Images, of which the numbered ones have a suffix that is a fault."""
    suffix = {n: fault for fault, places in faults.items() for n in places}
    paths = [folder / f"{n:02d}.{suffix.get(n, 'jpg')}" for n in range(number)]
    for n, path in enumerate(paths):
        path.write_bytes(jpeg(n))
    return paths


@pytest.mark.skipif(os.name == "nt", reason="no such signals there")
@pytest.mark.parametrize(("fault", "by"), [("crash", "SIGSEGV"), ("hang", "SIGALRM")])
def test_a_file_that_brings_a_decoder_down_costs_no_other_file(tmp_path, bad_decoders, fault, by):
    paths = files(tmp_path, 40, **{fault: (3, 4, 30)})
    for path, what in zip(paths, decoded(paths), strict=True):
        if path.suffix == ".jpg":
            assert what == inspect(path.read_bytes())
        else:
            assert isinstance(what, DecoderDied)
            assert f"signal {signal.Signals[by].value}" in str(what)


@pytest.mark.parametrize("fault", ["bug", "noise"])
def test_an_error_of_the_decoders_own_is_told_to_every_file(tmp_path, bad_decoders, fault):
    paths = files(tmp_path, 20, **{fault: tuple(range(20))})
    assert {type(what) for what in decoded(paths)} == {CurateError}


@pytest.mark.skipif(os.name == "nt", reason="no such signals there")
def test_decoders_that_always_die_are_not_blamed_on_the_files(tmp_path, bad_decoders):
    paths = files(tmp_path, 40, crash=tuple(range(40)))
    found = decoded(paths)
    assert sum(isinstance(what, CurateError) for what in found) >= 40 - decoders.MOST * decoders.HOPELESS
    assert "in a row ended before their first answer" in str(found[-1])


def test_too_little_memory_costs_the_file(tmp_path, monkeypatch):
    def no_memory(data: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr(decoder, "inspect", no_memory)
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    assert isinstance(decoders._read(json.dumps(decoder.look(str(tmp_path / "a.jpg"))).encode()), DecoderDied)


def test_closed_at_once_nothing_that_waits_is_decoded_and_nobody_is_waited_for(tmp_path):
    paths, found = files(tmp_path, 300), []
    pool = Decoders()
    for path in paths:
        pool.submit(str(path), found.append)
    pool.close(at_once=True)
    assert len(found) <= decoders.MOST * decoders.AHEAD


@pytest.mark.parametrize("fault", ["bug", "jpg"])
def test_closing_ends_whatever_is_still_under_way(tmp_path, bad_decoders, fault):
    paths, found = files(tmp_path, 30, **{fault: (29,)}), []
    pool = Decoders()
    for path in paths:
        pool.submit(str(path), found.append)
    pool.close()
    assert len(found) == 30


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
