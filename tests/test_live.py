"""The screen that learns while the reviewer works: by itself, and behind the review page."""

import uuid
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from apps.desk import HELD, Desk
from apps.live import EVERY, LiveScreen
from curate.images import inspect
from curate.manifest import write_manifest
from curate.screen import see
from curate.spaces import keep_space
from curate.store import store

NUMBER = 40


def two_kinds() -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of images of which every other one is bad; and which are."""
    bad = np.arange(NUMBER) % 2 == 1
    rng = np.random.default_rng(0)
    return rng.normal(0, 0.5, (NUMBER, 8)) + 4 * np.where(bad[:, None], np.eye(8)[0], np.eye(8)[1]), bad


@pytest.fixture
def desk(tmp_path):
    """Audited images whose suspicion says the opposite of what is right."""
    embeddings, bad = two_kinds()
    rows = []
    for i in range(NUMBER):
        buffer = BytesIO()
        Image.new("RGB", (40, 30), (5 * i, 90, 90)).save(buffer, "PNG")
        name = store(tmp_path / "data", buffer.getvalue(), inspect(buffer.getvalue()))
        suspicion = (0.2 if bad[i] else 0.8) + i / 1000
        rows.append({"image_id": f"image{i}", "file_name": name, "label": "oak", "suspicion": suspicion})
    table = pd.DataFrame(rows).assign(status="candidate")
    write_manifest(table, tmp_path / "audited.csv")
    keep_space(tmp_path / "data", table["image_id"], see(embeddings, table))
    desk = Desk(tmp_path / "audited.csv", tmp_path / "data", str(tmp_path / "ledger.db"), target=9, reviewer="ana")
    yield desk
    desk.close()


def decide(desk: Desk, rows: range) -> None:
    def event(i: int) -> dict[str, str]:
        verdict = {"verdict": "reject", "reason": "off_topic"} if i % 2 else {"verdict": "accept"}
        return {"id": str(uuid.uuid4()), "image_id": f"image{i}", **verdict}

    assert not desk.take([event(i) for i in rows])["error"]
    desk.view({})
    desk._screen.wait()


def window(desk: Desk) -> list[dict]:
    return desk.view({})["window"]


def test_the_screen_learns_once_enough_is_new_and_forgets_what_is_taken_back():
    embeddings, bad = two_kinds()
    said = []
    screen = LiveScreen(see(embeddings, pd.DataFrame(index=range(NUMBER))), said.append)
    for row in range(EVERY - 1):
        screen.decided(row, bool(bad[row]), "")
    screen.learn_soon()
    screen.wait()
    assert not said
    for row in range(20):
        screen.decided(row, bool(bad[row]), "")
    screen.decided(19, None, "")
    screen.learn_soon()
    screen.wait()
    assert len(said) == 1
    assert screen.probability(21) > 0.5 > screen.probability(22)
    assert 19 not in [row for row, _ in screen.why(21).nearest]


def test_the_queue_follows_the_screen_but_what_the_browser_has_loaded_stays_in_place(desk):
    before = [item["id"] for item in window(desk)]
    assert all(int(name.removeprefix("image")) % 2 == 0 for name in before[:HELD])
    decide(desk, range(16))
    after = [item["id"] for item in window(desk)]
    assert after[:HELD] == before[:HELD]
    assert all(int(name.removeprefix("image")) % 2 == 1 for name in after[HELD:])


def test_the_page_says_what_the_screen_thinks_by_now_and_why(desk):
    assert "alike" not in window(desk)[0]
    decide(desk, range(16))
    first, last = window(desk)[0], window(desk)[-1]
    assert first["reject_probability"] < 0.5 < last["reject_probability"]
    assert len(first["alike"]) == 3
    assert not any(other["rejected"] for other in first["alike"])
    assert first["measures"][0]["measure"] == "crowd_distance"


def test_a_desk_that_is_opened_again_has_learnt_from_earlier_decisions(desk, tmp_path):
    decide(desk, range(16))
    again = Desk(desk.path, desk.root, str(tmp_path / "ledger.db"), target=9, reviewer="bo")
    again._screen.wait()
    assert int(window(again)[0]["id"].removeprefix("image")) % 2 == 1
    again.close()


def test_without_an_audit_of_these_images_the_order_stays(desk, tmp_path):
    other = tmp_path / "other.csv"
    write_manifest(desk.manifest.iloc[::-1], other)
    stiff = Desk(other, desk.root, str(tmp_path / "ledger.db"), target=9, reviewer="ana")
    assert stiff.view({})["window"][0]["id"] == "image38"
    stiff.close()


def test_decisions_that_come_while_it_learns_are_learnt_too(monkeypatch):
    embeddings, bad = two_kinds()
    screen = LiveScreen(see(embeddings, pd.DataFrame(index=range(NUMBER))), lambda opinion: None)
    learnt = []

    def slowly(space, rejected, reasons, graph):
        learnt.append(int(np.isfinite(rejected).sum()))
        for row in range(20, 30):
            screen.decided(row, bool(bad[row]), "")

    monkeypatch.setattr("apps.live.learn", slowly)
    for row in range(20):
        screen.decided(row, bool(bad[row]), "")
    screen.learn_soon()
    screen.wait()
    assert learnt == [20, 30]
