import threading

import pytest

from curate.ledger import Decision, Ledger
from curate.manifest import CurateError


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.db") as book:
        yield book


def offers(*urls: str) -> list[dict]:
    return [{"url": url, "rank": i} for i, url in enumerate(urls, 1)]


def test_the_latest_decision_stands_and_an_undo_brings_back_the_one_before(ledger):
    ledger.decide([Decision("a", "accept", decision_id="1"), Decision("b", "reject", "overlay", decision_id="2")])
    ledger.decide([Decision("a", "reject", "off_topic", decision_id="3")])
    assert ledger.standing()["verdict"].to_dict() == {"a": "reject", "b": "reject"}
    ledger.decide([Decision("a", "undo", undoes="3")])
    assert ledger.standing()["verdict"].to_dict() == {"a": "accept", "b": "reject"}
    assert len(ledger.history()) == 4


def test_a_decision_sent_twice_is_stored_once(ledger):
    decision = Decision("a", "accept", decision_id="same")
    assert ledger.decide([decision, decision]) == 1
    assert ledger.decide([decision]) == 0
    assert len(ledger.history()) == 1


@pytest.mark.parametrize(
    ("decision", "says"),
    [
        (Decision("a", "maybe"), "none of accept"),
        (Decision("a", "reject", "ugly"), "'ugly' of a rejection is none of off_topic"),
        (Decision("a", "reject"), "reason None"),
        (Decision("a", "relabel"), "needs the label"),
        (Decision("a", "undo"), "needs the decision_id"),
    ],
)
def test_an_impossible_decision_is_refused_and_nothing_of_its_batch_stays(ledger, decision, says):
    with pytest.raises(CurateError, match=says):
        ledger.decide([Decision("b", "accept"), decision])
    assert ledger.history().empty


def test_a_skip_decides_nothing(ledger):
    ledger.decide([Decision("a", "skip")])
    assert ledger.standing().empty


def test_a_page_and_its_cursor_are_one_step_and_known_addresses_are_not_new(ledger):
    assert ledger.add_page("oak", "bing", "oak leaf", offers("u1", "u2"), "next", 2) == 2
    assert ledger.add_page("oak", "bing", "oak leaf", offers("u2", "u3"), "after", 2) == 1
    state = ledger.cursor("oak", "bing", "oak leaf")
    assert (state["cursor"], state["offered"], bool(state["exhausted"])) == ("after", 4, False)
    assert [row["url"] for row in ledger.pending("oak", ["bing"], 0, 9)] == ["u1", "u2", "u3"]


def test_a_search_is_exhausted_without_a_cursor_or_after_stale_pages(ledger):
    ledger.add_page("oak", "bing", "q", offers("u1"), "2", 2)
    for cursor, exhausted in (("3", False), ("4", True)):
        ledger.add_page("oak", "bing", "q", offers("u1"), cursor, 2)
        assert bool(ledger.cursor("oak", "bing", "q")["exhausted"]) is exhausted
    ledger.add_page("oak", "bing", "other", offers("u9"), None, 2)
    assert ledger.cursor("oak", "bing", "other")["exhausted"]


def test_the_same_bytes_count_once(ledger):
    ledger.add_page("oak", "bing", "q", offers("u1", "u2"), None, 2)
    first, second = ledger.pending("oak", ["bing"], 0, 9)
    assert ledger.settle(first["fetch_id"], "ok", sha256="s") == "ok"
    assert ledger.settle(second["fetch_id"], "ok", sha256="s") == "repeated"
    assert ledger.images(["oak"])["url"].tolist() == ["u1"]
    assert ledger.outcomes().set_index("state")["fetches"].to_dict() == {"ok": 1, "repeated": 1}


def test_what_failed_for_now_is_tried_again_up_to_its_limit(ledger):
    ledger.add_page("oak", "bing", "q", offers("u1", "u2"), None, 2)
    first, second = ledger.pending("oak", ["bing"], 0, 9)
    ledger.settle(first["fetch_id"], "failed", cause="timeout", transient=True)
    ledger.settle(second["fetch_id"], "failed", cause="404", transient=False)
    assert ledger.retry_transient("oak", max_attempts=2) == 1
    ledger.settle(first["fetch_id"], "failed", cause="timeout", transient=True)
    assert ledger.retry_transient("oak", max_attempts=2) == 0


def test_writers_on_two_threads_lose_nothing(tmp_path):
    with Ledger(tmp_path / "ledger.db") as one, Ledger(tmp_path / "ledger.db") as two:

        def judge(book: Ledger, name: str) -> None:
            for i in range(30):
                book.decide([Decision(f"{name}{i}", "accept")])

        threads = [threading.Thread(target=judge, args=args) for args in ((one, "a"), (two, "b"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(one.standing()) == 60


def test_what_is_no_ledger_is_a_clear_error(tmp_path):
    (tmp_path / "x.db").write_text("not a database, and long enough to be taken for one" * 10)
    with pytest.raises(CurateError, match="ledger cannot be opened"):
        Ledger(tmp_path / "x.db")
