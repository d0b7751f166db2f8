import sqlite3
import subprocess
import sys
import threading

import pytest

from curate.errors import CurateError
from curate.ledger import Decision, Ledger, Outcome
from curate.schema import QUALITY


@pytest.fixture
def ledger(ledger_at):
    with Ledger(ledger_at) as book:
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


def ok(fetch_id: int, sha256: str) -> Outcome:
    return Outcome(fetch_id, "ok", facts={"sha256": sha256})


def test_the_same_bytes_count_once_whether_settled_together_or_later(ledger):
    ledger.add_page("oak", "bing", "q", offers("u1", "u2", "u3", "u4"), None, 2)
    one, two, three, four = (row["fetch_id"] for row in ledger.pending("oak"))
    assert ledger.settle([ok(one, "s"), ok(two, "s"), ok(three, "t")]) == ["ok", "repeated", "ok"]
    assert ledger.settle([ok(four, "t")]) == ["repeated"]
    assert ledger.images(["oak"])["url"].tolist() == ["u1", "u3"]
    assert ledger.outcomes().set_index(["state", "cause"], drop=True)["fetches"].sum() == 4
    assert "the same bytes as an image of oak" in ledger.outcomes()["cause"].tolist()


def test_two_processes_that_bring_the_same_bytes_keep_them_once(ledger_at):
    with Ledger(ledger_at) as one, Ledger(ledger_at) as two:
        urls = [f"u{i}" for i in range(40)]
        one.add_page("oak", "bing", "q", offers(*urls), None, 2)
        ids = [row["fetch_id"] for row in one.pending("oak")]
        states: list[str] = []

        def bring(book: Ledger, mine: list[int]) -> None:
            for number, fetch_id in enumerate(mine):
                states.extend(book.settle([ok(fetch_id, f"bytes {number}")]))

        threads = [threading.Thread(target=bring, args=args) for args in ((one, ids[:20]), (two, ids[20:]))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (states.count("ok"), states.count("repeated")) == (20, 20)
        assert one.images()["sha256"].is_unique


def test_what_failed_for_now_is_tried_again_up_to_its_limit(ledger):
    ledger.add_page("oak", "bing", "q", offers("u1", "u2"), None, 2)
    first, second = (row["fetch_id"] for row in ledger.pending("oak"))
    ledger.settle([Outcome(first, "failed", "timeout", transient=True), Outcome(second, "failed", "404")])
    assert ledger.failures()[["url", "cause", "attempts"]].to_numpy().tolist() == [
        ["u1", "timeout", 1],
        ["u2", "404", 1],
    ]
    assert ledger.retry_transient("oak", max_attempts=2) == 1
    ledger.settle([Outcome(first, "failed", "timeout", transient=True)])
    assert ledger.retry_transient("oak", max_attempts=2) == 0


def test_searches_with_and_without_a_licence_filter_go_on_apart(ledger):
    ledger.add_page("oak", "bing", "q", offers("u1"), "2", 2)
    ledger.add_page("oak", "bing", "q", offers("u2"), None, 2, "commercial")
    assert ledger.cursor("oak", "bing", "q")["cursor"] == "2"
    assert ledger.cursor("oak", "bing", "q", "commercial")["exhausted"]
    assert ledger.cursor("oak", "bing", "q", "cc")["cursor"] is None


def test_a_search_that_knows_the_licence_of_a_known_address_tells_it(ledger):
    unknown, told = (
        [{"url": "u1", "rank": 1, "license": license, "license_basis": basis}]
        for license, basis in (("", "unknown"), ("CC-BY-4.0", "asserted"))
    )
    ledger.add_page("oak", "bing", "q", unknown, "2", 2)
    assert ledger.add_page("oak", "openverse", "q", told, "2", 2) == 0
    assert [(row["license"], row["license_basis"]) for row in ledger.pending("oak")] == [("CC-BY-4.0", "asserted")]
    assert ledger.cursor("oak", "openverse", "q")["stale_pages"] == 0
    ledger.add_page("oak", "commons", "q", [{**told[0], "license": "CC0-1.0"}], "2", 2)
    assert ledger.pending("oak")[0]["license"] == "CC-BY-4.0"


def test_a_ledger_of_before_searches_had_a_licence_keeps_its_cursors(tmp_path):
    with sqlite3.connect(tmp_path / "old.db") as old:
        old.execute(
            "CREATE TABLE cursors (source TEXT, label TEXT, query TEXT, cursor TEXT, offered INTEGER, "
            "stale_pages INTEGER, exhausted BOOLEAN, PRIMARY KEY (source, label, query))"
        )
        old.execute("INSERT INTO cursors VALUES ('bing', 'oak', 'q', '36', 35, 0, 0)")
    old.close()
    for _ in range(2):
        with Ledger(tmp_path / "old.db") as ledger:
            assert ledger.cursor("oak", "bing", "q")["cursor"] == "36"
            ledger.add_page("oak", "bing", "q", offers("u1"), "36", 2, "cc")


OPEN = "import sys; from curate.ledger import Ledger; print('.'); input(); Ledger(sys.argv[1]).close()"


def test_a_ledger_of_before_quality_was_measured_gains_its_columns_from_two_processes_at_once(tmp_path):
    with Ledger(tmp_path / "old.db") as ledger:
        ledger.add_page("oak", "bing", "q", offers("u1", "u2"), None, 2)
        one, two = (row["fetch_id"] for row in ledger.pending("oak"))
        ledger.settle([ok(one, "a")])
    with sqlite3.connect(tmp_path / "old.db") as old:
        for name in QUALITY:
            old.execute(f"ALTER TABLE fetches DROP COLUMN {name}")
    old.close()
    command, pipe = [sys.executable, "-c", OPEN, str(tmp_path / "old.db")], subprocess.PIPE
    both = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    assert [process.stdout.readline() for process in both] == [".\n", ".\n"]
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate()[1] for process in both] == ["", ""]
    with Ledger(tmp_path / "old.db") as ledger:
        ledger.settle([Outcome(two, "ok", facts={"sha256": "b", "sharpness": 12.5, "entropy": 7.0})])
        table = ledger.images().set_index("sha256")[list(QUALITY)]
    assert table.loc["a"].isna().all()
    assert table.loc["b"].dropna().to_dict() == {"sharpness": 12.5, "entropy": 7.0}


def test_writers_on_two_threads_lose_nothing(ledger_at):
    with Ledger(ledger_at) as one, Ledger(ledger_at) as two:

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
