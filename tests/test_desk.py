"""What the single view and the grid are given: filters, orders, pages, and who looks at what."""

import pytest

from apps import desk as desks
from apps.desk import Desk
from curate.manifest import read_manifest, write_manifest
from tests.test_apps import event, make_manifest


@pytest.fixture
def desk(tmp_path):
    path = make_manifest(tmp_path, {f"i{n}": (("oak", "elm")[n % 2], 1 - n / 20) for n in range(20)})
    table = read_manifest(path)
    table["source"] = ["bing"] * 10 + ["flickr"] * 10
    table["flags"] = ["blur=3 (> 2)" if n % 5 == 0 else None for n in range(20)]
    write_manifest(table, path)
    desk = Desk(path, tmp_path / "data", str(tmp_path / "ledger.db"), target=3, reviewer="ana")
    yield desk
    desk.close()


def ids(view: dict) -> list[str]:
    return [item["id"] for item in view.get("window") or view["tiles"]]


def test_the_single_view_shows_what_is_asked_for(desk):
    assert ids(desk.view({"flag": "blur"})) == ["i0", "i5", "i10", "i15"]
    assert ids(desk.view({"flag": "blur", "source": "flickr", "label": "elm"})) == ["i15"]
    assert ids(desk.view({"order": "good"}))[:2] == ["i19", "i18"]
    assert ids(desk.view({"order": "scraped"}))[:2] == ["i0", "i1"]
    assert ids(desk.view({"order": "informative"}))[0] == "i10"
    assert desk.view({"source": "bing"})["left"] == 10


def test_judged_images_can_be_judged_anew_one_after_the_other(desk):
    desk.take([event(f"i{n}", "accept") for n in range(3)])
    asked = {"status": "accepted", "since": desk.view({})["number"]}
    assert ids(desk.view(asked)) == ["i0", "i1", "i2"]
    desk.take([event("i0", "accept")])
    assert ids(desk.view(asked)) == ["i1", "i2"], "judged again: the next one comes"
    desk.take([event("i1", "reject", reason="overlay")])
    assert ids(desk.view(asked)) == ["i2"]
    assert ids(desk.view({"status": "rejected"})) == ["i1"]
    assert desk.ledger.standing()["verdict"].to_dict() == {"i0": "accept", "i1": "reject", "i2": "accept"}


def test_two_reviewers_are_shown_different_images(desk, monkeypatch):
    monkeypatch.setattr(desks, "WINDOW", 2)
    mine, theirs = ids(desk.view({}, "ana")), ids(desk.view({}, "bo"))
    assert not set(mine) & set(theirs)
    desk.take([event(mine[0], "accept")], "ana")
    desk.take([event(theirs[0], "accept")], "bo")
    assert list(desk.ledger.history()["reviewer"]) == ["ana", "bo"]
    assert mine[0] not in ids(desk.view({}, "bo"))


def test_the_pages_of_the_grid_and_what_stays_on_one(desk, monkeypatch):
    monkeypatch.setattr(desks, "PAGE", 8)
    first = desk.grid({"page": 0})
    assert (first["page"], first["pages"], first["left"], len(first["tiles"])) == (0, 3, 20, 8)
    desk.take([event("i0", "reject", reason="overlay")])
    kept = desk.grid({"page": 0, "keys": ids(first)})
    assert ids(kept) == ids(first)
    assert kept["tiles"][0]["said"]["verdict"] == "reject"
    assert kept["left"] == 19
    assert ids(desk.grid({"page": 0}))[0] == "i1"
    assert desk.grid({"page": 99})["page"] == 2
    assert desk.grid({"page": "x", "keys": ["stranger", 3]})["page"] == 0


def test_all_that_match_can_be_asked_for_and_what_others_look_at_is_not_among_them(desk, monkeypatch):
    monkeypatch.setattr(desks, "PAGE", 2)
    desk.ledger.claim(["i5"], "bo", seconds=60)
    assert desk.grid({"flag": "blur"})["all"] == []
    shown = desk.grid({"flag": "blur", "all": True})
    assert shown["all"] == ["i0", "i10", "i15"]
    assert (ids(shown), shown["left"], shown["pages"]) == (["i0", "i10"], 3, 2)


def test_a_page_that_knows_nobody_yet_is_told_what_there_is_and_holds_no_image(desk):
    introduced = desk.introduction()
    assert introduced["labels"] == ["elm", "oak"]
    assert introduced["choices"]["source"] == ["bing", "flickr"]
    assert introduced["choices"]["flag"] == ["blur"]
    assert desk.ledger.leased_by_others("bo") == {}
