"""What each reviewer holds, of one server and of two with one ledger."""

import pytest

from apps import handout
from apps.handout import Handout
from curate.ledger import Ledger

QUEUE = [f"i{n}" for n in range(20)]


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.db") as book:
        yield book


def test_two_reviewers_are_given_different_images_by_one_server_or_by_two(ledger):
    one, other = Handout(ledger), Handout(ledger)
    assert one.take(QUEUE, "ana", 2, 24) == (["i0", "i1"], True)
    assert one.take(QUEUE, "bo", 2, 24) == (["i6", "i7"], True)
    assert other.take(QUEUE, "cy", 2, 24) == (["i12", "i13"], True)
    assert other.others("cy") == {name: "ana" if n < 6 else "bo" for n, name in enumerate(QUEUE[:12])}


def test_going_on_costs_a_write_once_in_a_while(ledger, monkeypatch):
    mine, claims = Handout(ledger), []
    claim = ledger.claim
    monkeypatch.setattr(ledger, "claim", lambda *a, **k: claims.append(a[0]) or claim(*a, **k))
    for n in range(len(QUEUE) - 2):
        window, _ = mine.take(QUEUE[n:], "ana", 2, 24)
        assert window == QUEUE[n : n + 2]
    assert len(claims) == 4


def test_what_is_no_longer_ahead_is_given_back(ledger):
    mine = Handout(ledger)
    mine.take(QUEUE, "ana", 2, 24)
    mine.take(QUEUE[10:], "ana", 2, 24)
    assert set(Handout(ledger).others("bo")) == set(QUEUE[10:16])


def test_an_image_that_another_took_in_the_same_moment_is_left_to_him(ledger):
    mine = Handout(ledger)
    assert mine.others("ana") == {}
    ledger.claim(["i1"], "bo", seconds=60)
    assert mine.take(QUEUE, "ana", 3, 36) == (["i0", "i2"], True), "and the caller asks again"
    assert mine.take(QUEUE, "ana", 3, 36) == (["i0", "i2", "i3"], False)


def test_a_lease_that_ends_frees_the_image(ledger, monkeypatch):
    monkeypatch.setattr(handout, "LEASE", 0.2)
    monkeypatch.setattr(handout, "FRESH", 0.0)
    Handout(ledger).take(QUEUE, "ana", 2, 24)
    late = Handout(ledger)
    while late.others("bo"):
        pass
    assert late.take(QUEUE, "bo", 2, 24)[0] == ["i0", "i1"]


def test_where_little_waits_a_second_reviewer_finds_work_too(ledger):
    one = Handout(ledger)
    assert one.take(QUEUE, "ana", 16, 20)[0] == QUEUE[:5]
    assert one.take(QUEUE, "bo", 16, 20)[0] == QUEUE[5:10]
    assert one.take(QUEUE[18:], "cy", 16, 2)[0] == QUEUE[18:]
