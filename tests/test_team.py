"""Several reviewers with one ledger: nobody's decision is lost, and no image is judged twice."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from curate.errors import CurateError
from curate.ledger import Decision, Ledger, append
from curate.schema import decisions

PROCESSES = multiprocessing.get_context("spawn")
AT_ONCE = 16  # images that a reviewer claims


@pytest.fixture
def ledger(ledger_at):
    with Ledger(ledger_at) as book:
        yield book


def test_an_image_is_leased_to_one_reviewer_until_he_releases_it(ledger):
    assert ledger.claim(["a", "b", "b"], "ana", seconds=60) == {"a", "b"}
    assert ledger.claim(["c", "b"], "bo", seconds=60) == {"c"}
    assert ledger.leased_by_others("bo") == {"a": "ana", "b": "ana"}
    ledger.release(["a", "b", "c"], "ana")
    assert ledger.leased_by_others("ana") == {"c": "bo"}
    assert ledger.claim(["a", "b", "c"], "bo", seconds=60) == {"a", "b", "c"}
    assert ledger.claim([], "ana", seconds=60) == set()


def test_a_lease_ends_by_itself_and_is_renewed_by_its_reviewer(ledger):
    ledger.claim(["a", "b"], "ana", seconds=1.5)
    assert ledger.claim(["a"], "ana", seconds=60) == {"a"}
    assert ledger.claim(["a", "b"], "bo", seconds=60) == set()
    assert eventually(lambda: ledger.claim(["a", "b"], "bo", seconds=60)) == {"b"}
    assert ledger.leased_by_others("bo") == {"a": "ana"}


def test_a_renewal_is_not_written_before_half_of_the_time_is_over(ledger):
    ledger.claim(["a"], "ana", seconds=60)
    with writes(ledger) as written:
        assert ledger.claim(["a"], "ana", seconds=60) == {"a"}
        assert written == []
        assert ledger.claim(["a", "b"], "ana", seconds=60) == {"a", "b"}
        assert len(written) == 1
        assert ledger.claim(["a"], "ana", seconds=121) == {"a"}  # 60 are less than half of that
        assert len(written) == 2


def test_more_images_than_a_statement_takes_are_claimed_and_released(ledger):
    images = [f"i{n}" for n in range(1201)]
    assert ledger.claim(images, "ana", seconds=60) == set(images)
    ledger.release(images[1:], "ana")
    assert ledger.leased_by_others("bo") == {"i0": "ana"}


@pytest.mark.parametrize(("reviewer", "seconds"), [("", 60), ("ana", 0), ("ana", float("nan")), ("ana", float("inf"))])
def test_a_lease_of_nobody_or_of_no_time_is_refused(tmp_path, reviewer, seconds):
    with Ledger(tmp_path / "ledger.db") as ledger, pytest.raises(CurateError, match="needs a reviewer and seconds"):
        ledger.claim(["a"], reviewer, seconds=seconds)


def test_leases_go_by_the_clock_of_the_database(ledger, monkeypatch):
    """A reviewer whose machine is a day ahead takes nothing away from another one."""
    ledger.claim(["a"], "ana", seconds=60)
    ahead = time.time() + 86_400
    monkeypatch.setattr(time, "time", lambda: ahead)
    assert ledger.claim(["a"], "bo", seconds=60) == set()
    assert ledger.leased_by_others("bo") == {"a": "ana"}


def test_opinions_stand_beside_each_other_and_decide_nothing(ledger):
    first = [
        Decision("a", "accept", reviewer="ana", decision_id="1"),
        Decision("a", "reject", "overlay", reviewer="bo", decision_id="2"),
        Decision("b", "accept", reviewer="ana", decision_id="3"),
    ]
    assert ledger.opine(first) == 3
    assert ledger.opine(first) == 0
    ledger.opine([Decision("a", "relabel", label="gneiss", reviewer="ana", decision_id="4")])
    ledger.opine([Decision("a", "skip", reviewer="bo"), Decision("b", "undo", undoes="3", reviewer="ana")])
    assert said(ledger) == {("a", "ana"): "relabel", ("a", "bo"): "reject"}
    ledger.opine([Decision("a", "undo", undoes="4", reviewer="ana")])
    assert said(ledger) == {("a", "ana"): "accept", ("a", "bo"): "reject"}
    assert ledger.opinions()["decision_id"].tolist()[:4] == ["1", "2", "3", "4"]
    assert len(ledger.opinions()) == 7
    assert ledger.history().empty
    assert ledger.standing().empty


def test_an_impossible_opinion_is_refused_as_a_decision_is(ledger):
    with pytest.raises(CurateError, match="'ugly' of a rejection"):
        ledger.opine([Decision("a", "accept"), Decision("b", "reject", "ugly")])
    assert ledger.opinions().empty


def test_a_decision_that_is_committed_late_is_not_overtaken(postgresql):
    """PostgreSQL hands out positions before the rows can be seen: whoever comes second waits for the first."""
    where = postgresql.new_ledger()
    with Ledger(where) as ana, Ledger(where) as bo, Ledger(where) as reader:
        row = {**Decision("a", "accept")._asdict(), "decision_id": "1", "decided_at": "2020-01-01T00:00:00Z"}
        with ana.engine.begin() as open_one:
            append(decisions, [row], open_one)
            other = PROCESSES.Process(target=decide_once, args=(where, "b"))
            other.start()
            eventually(lambda: waiting(bo.engine) or not other.is_alive())
            assert reader.since(0) == []
        other.join(60)
        seen = reader.since(0)
    assert [decision.image_id for _, decision in seen] == ["a", "b"]
    assert other.exitcode == 0


def test_a_ledger_goes_on_when_its_server_ended_the_connections(postgresql):
    where = postgresql.new_ledger()
    with Ledger(where) as ledger, Ledger(where) as admin:
        ledger.decide([Decision("a", "accept")])
        with admin.engine.begin() as connection:
            end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid()"
            connection.execute(sa.text(f"{end} AND datname = current_database()"))
        ledger.decide([Decision("b", "accept")])
        assert set(ledger.standing().index) == {"a", "b"}


@pytest.mark.slow
def test_a_killed_reviewers_images_come_back_when_his_leases_end(ledger, ledger_at):
    images = [f"i{n}" for n in range(AT_ONCE)]
    with begun(claim_and_sit, (ledger_at, images, 3.0)) as (sitting, claimed):
        assert claimed.wait(60)
        os.kill(sitting.pid, signal.SIGKILL)
        sitting.join(30)
        assert ledger.claim(images, "bo", seconds=60) == set()
        assert ledger.leased_by_others("bo") == dict.fromkeys(images, "ana")
        assert eventually(lambda: ledger.claim(images, "bo", seconds=60)) == set(images)


@pytest.mark.slow
def test_eight_reviewers_judge_every_image_once(ledger, ledger_at):
    """They all want the same images first."""
    images = [f"i{n:03}" for n in range(800)]
    team = [PROCESSES.Process(target=review, args=(ledger_at, f"reviewer {n}", images)) for n in range(8)]
    for process in team:
        process.start()
    for process in team:
        process.join(240)
    assert [process.exitcode for process in team] == [0] * 8
    history = ledger.history()
    assert sorted(history["image_id"]) == images
    assert history["reviewer"].nunique() > 1
    assert ledger.leased_by_others("") == {}


@pytest.mark.slow
def test_an_outbox_that_two_processes_send_at_once_is_stored_once(ledger, ledger_at):
    outbox = [Decision(f"i{n}", "accept", decision_id=f"uuid {n}") for n in range(300)]
    together, counted = PROCESSES.Barrier(2), PROCESSES.Queue()
    both = [PROCESSES.Process(target=send, args=(ledger_at, outbox, together, counted)) for _ in range(2)]
    for process in both:
        process.start()
    assert sum(counted.get(timeout=60) for _ in both) == 300
    for process in both:
        process.join(30)
    assert sorted(ledger.history()["decision_id"]) == sorted(decision.decision_id for decision in outbox)


@pytest.mark.slow
def test_processes_that_claim_the_same_images_crosswise_do_not_block_each_other(ledger, ledger_at):
    images = [f"i{n}" for n in range(60)]
    together = PROCESSES.Barrier(4)
    orders = [images, images[::-1], images[30:] + images[:30], images[::2] + images[1::2]]
    team = [PROCESSES.Process(target=come_and_go, args=(ledger_at, f"r{n}", o, together)) for n, o in enumerate(orders)]
    for process in team:
        process.start()
    for process in team:
        process.join(60)
    assert [process.exitcode for process in team] == [0] * 4
    assert ledger.leased_by_others("") == {}


def review(where: str, reviewer: str, images: Sequence[str]) -> None:
    """Claim, judge, claim, until all are judged."""
    judged: dict[str, int] = {}  # image -> position of its decision

    def catch_up() -> None:
        judged.update((decision.image_id, at) for at, decision in book.since(max(judged.values(), default=0)))

    with Ledger(where) as book:
        while len(judged) < len(images):
            taken = book.leased_by_others(reviewer)
            free = [image for image in images if image not in judged and image not in taken]
            mine = book.claim(free[:AT_ONCE], reviewer, seconds=60)
            catch_up()
            for image in sorted(mine - judged.keys()):
                book.decide([Decision(image, "accept", reviewer=reviewer)])
            book.release(mine, reviewer)
            catch_up()


def come_and_go(where: str, reviewer: str, images: Sequence[str], together) -> None:
    with Ledger(where) as book:
        together.wait(60)
        for _ in range(50):
            book.release(book.claim(images, reviewer, seconds=60), reviewer)


def claim_and_sit(claimed, where: str, images: Sequence[str], seconds: float) -> None:
    with Ledger(where) as book:
        book.claim(images, "ana", seconds=seconds)
        claimed.set()
        time.sleep(60)


def decide_once(where: str, image_id: str) -> None:
    with Ledger(where) as book:
        book.decide([Decision(image_id, "accept")])


def send(where: str, outbox: Sequence[Decision], together, counted) -> None:
    """In parts, and all of it twice, as a browser does that heard no answer."""
    with Ledger(where) as book:
        together.wait(60)
        new = sum(book.decide(outbox[:n]) for n in range(10, len(outbox) + 1, 10))
        counted.put(new + book.decide(outbox))


@contextmanager
def begun(target: Callable, args: tuple) -> Iterator[tuple]:
    """A process that gets an event as its first argument, and does not outlive the test."""
    event = PROCESSES.Event()
    process = PROCESSES.Process(target=target, args=(event, *args))
    process.start()
    try:
        yield process, event
    finally:
        process.kill()
        process.join(30)


@contextmanager
def writes(ledger: Ledger) -> Iterator[list[str]]:
    """The statements that write leases."""
    seen: list[str] = []

    def note(_connection, _cursor, statement, *_):
        if "INTO leases" in statement:
            seen.append(statement)

    sa.event.listen(ledger.engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(ledger.engine, "before_cursor_execute", note)


def said(ledger: Ledger) -> dict[tuple[str, str], str]:
    return ledger.standing_opinions().set_index(["image_id", "reviewer"])["verdict"].to_dict()


def waiting(engine: sa.Engine) -> int:
    """How many wait for somebody else's turn to end."""
    with engine.connect() as connection:
        return connection.execute(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one()


def eventually(ask: Callable):
    """The first answer that is not empty."""
    until = time.monotonic() + 60
    while not (answer := ask()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)
    return answer
