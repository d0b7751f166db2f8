"""Pictures made beforehand: all of them, in the order wanted, past damaged files, and never in the way of a request."""

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apps import beforehand
from apps.beforehand import Activity, Beforehand, Watched
from apps.pictures import thumbnail_name


@pytest.fixture
def root(tmp_path) -> Path:
    """Photos a to e, of which c is damaged and d missing; a with both heatmaps, e with one."""
    (tmp_path / "images").mkdir()
    (tmp_path / "cache/heatmaps").mkdir(parents=True)
    for name in "abe":
        Image.new("RGB", (300, 200), (50, 90, 30)).save(tmp_path / f"images/{name}.jpg")
    (tmp_path / "images/c.jpg").write_bytes(b"\xff\xd8\xff damaged")
    for name in ("a", "a-predicted", "e"):
        Image.fromarray(np.full((56, 56), 200, np.uint8)).save(tmp_path / f"cache/heatmaps/{name}.png")
    return tmp_path


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(beforehand, "QUIET_S", 0.0)


NAMES = {name: f"images/{name}.jpg" for name in "abcde"}


def run(root: Path, first: tuple[str, ...] = ()) -> Beforehand:
    maker = Beforehand(root, NAMES, lambda: first, Activity())
    maker.start()
    maker.wait()
    return maker


def made(root: Path) -> list[str]:
    """Thumbnails, the oldest first."""
    files = sorted((root / thumbnail_name("x")).parent.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return [path.stem for path in files]


def test_what_is_missing_is_made_in_the_order_of_the_queue_past_damaged_files(root):
    maker = run(root, ("e", "c", "b", "stranger"))
    assert made(root) == ["e", "b", "a"]
    assert sorted(path.name for path in (root / "cache/overlays").iterdir()) == ["a-predicted.png", "a.png", "e.png"]
    assert (maker.made, maker.failed) == (6, 2)


def test_what_is_there_is_not_made_again_unless_its_heatmap_is_another(root):
    run(root)
    assert run(root).made == 0
    Image.new("L", (56, 56), 9).save(root / "cache/heatmaps/e.png")
    (root / thumbnail_name("b")).unlink()
    again = run(root)
    assert again.failed == 2
    assert (root / thumbnail_name("b")).is_file()
    overlay = (root / "cache/overlays/e.png").stat().st_mtime_ns
    assert overlay == (root / "cache/heatmaps/e.png").stat().st_mtime_ns


def test_nothing_is_made_while_the_server_is_asked_except_one_a_second(root, monkeypatch):
    monkeypatch.setattr(beforehand, "QUIET_S", 60.0)
    monkeypatch.setattr(beforehand, "LONGEST_WAIT_S", 0.2)
    activity = Activity()
    maker = Beforehand(root, {name: NAMES[name] for name in "abe"}, tuple, activity)
    began = time.monotonic()
    maker.start()
    maker.wait()
    assert time.monotonic() - began >= 4 * 0.2, "once at the start and before each of three"
    assert made(root) == ["a", "b", "e"]


def test_it_stops_at_once_when_the_server_does(root, monkeypatch):
    monkeypatch.setattr(beforehand, "QUIET_S", 60.0)
    monkeypatch.setattr(beforehand, "LONGEST_WAIT_S", 60.0)
    maker = Beforehand(root, NAMES, tuple, Activity())
    maker.close()  # one that was never started
    maker = Beforehand(root, NAMES, tuple, Activity())
    maker.start()
    began = time.monotonic()
    maker.close()
    assert time.monotonic() - began < 5
    assert maker.made == 0


def test_a_disk_that_takes_nothing_ends_it(root):
    (root / "cache/thumbs-256").write_bytes(b"no folder can be made here")
    maker = run(root)
    assert (maker.made, maker.failed) == (3, 0), "the pictures of the first image"


def test_requests_and_messages_of_pages_are_noted():
    """A message is noted when it comes, not when the page was opened."""
    activity = Activity()
    noted: list[float] = []

    async def app(scope, receive, send) -> None:
        noted.append(activity.last)
        if scope["type"] == "websocket":
            activity.last = 0.0
            await receive()
            noted.append(activity.last)

    async def receive():
        return {"type": "websocket.receive"}

    for kind in ("http", "websocket"):
        activity.last = 0.0
        asyncio.run(Watched(app, activity)({"type": kind}, receive, lambda _: None))
    assert len(noted) == 3
    assert min(noted) > 0
