"""Steps of several decisions: one event takes all of them back, however often it comes and wherever they are."""

import uuid

import pytest

from apps.desk import Desk
from tests.test_apps import FOUR, event, make_manifest


@pytest.fixture
def desk(tmp_path):
    desk = Desk(make_manifest(tmp_path, FOUR), tmp_path / "data", str(tmp_path / "l.db"), target=3, reviewer="ana")
    yield desk
    desk.close()


def step(*image_ids: str) -> tuple[str, list[dict[str, str]]]:
    batch = str(uuid.uuid4())
    return batch, [event(image_id, "reject", reason="overlay", batch=batch) for image_id in image_ids]


def undo(batch: str) -> dict[str, str]:
    return {"id": str(uuid.uuid4()), "verdict": "undo", "batch": batch}


def test_a_step_is_undone_by_one_event_once(desk):
    batch, made = step("odd", "tie", "mild")
    desk.take([event("calm", "accept"), *made])
    assert [(s["images"], s["batch"]) for s in desk.view({})["recent"]] == [(3, batch), (1, None)]
    back = undo(batch)
    assert desk.take([back]) == desk.take([back]) == {"acked": [back["id"]], "refused": [], "error": ""}
    history = desk.ledger.history()
    assert (history["verdict"] == "undo").sum() == 3
    assert list(desk.ledger.standing().index) == ["calm"]
    assert [s["images"] for s in desk.view({})["recent"]] == [1]


def test_a_step_and_its_undo_in_one_outbox(desk):
    batch, made = step("odd", "tie")
    desk.take([*made, undo(batch), event("mild", "accept")])
    assert list(desk.ledger.standing().index) == ["mild"]
    assert len(desk.ledger.history()) == 5


def test_what_of_a_step_was_undone_alone_or_by_another_stays_as_it_is(desk):
    batch, made = step("odd", "tie")
    desk.take(made)
    desk.take([event("odd", "undo", undoes=made[0]["id"])])
    desk.take([undo(batch)])
    assert (desk.ledger.history()["verdict"] == "undo").sum() == 2
    others, theirs = step("mild")
    desk.take(theirs, "bo")
    outcome = desk.take([undo(others)])
    assert "no step" in outcome["refused"][0]["why"]
    assert list(desk.ledger.standing().index) == ["mild"]


def test_a_step_that_is_no_uuid_is_refused(desk):
    assert "no UUID" in desk.take([event("odd", "accept", batch="all")])["refused"][0]["why"]


def test_what_another_judged_meanwhile_is_not_judged_over_unknowingly(desk):
    seen = desk.view({})["number"]
    desk.take([event("odd", "accept")], "bo")
    late = {**event("odd", "reject", reason="overlay"), "seen": seen}
    assert "bo has judged this image meanwhile" in desk.take([late])["refused"][0]["why"]
    knowing = {**event("odd", "reject", reason="overlay"), "seen": desk.view({})["number"]}
    assert desk.take([knowing])["acked"] == [knowing["id"]]
    desk.take([event("odd", "accept")], "bo")
    assert desk.take([knowing])["acked"] == [knowing["id"]], "sent again, as its answer was lost"
    assert desk.ledger.standing()["reviewer"].tolist() == ["bo"]
    desk.take([event("tie", "accept")])
    own = {**event("tie", "reject", reason="overlay"), "seen": seen}
    assert desk.take([own])["acked"] == [own["id"]], "one's own verdict is changed at will"
