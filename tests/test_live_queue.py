"""The queue that decisions are folded into one by one: it agrees with the tables, and shows what is asked for."""

import uuid

import numpy as np
import pandas as pd
import pytest

from curate.ledger import Decision, Ledger
from curate.live_queue import LiveQueue, Wanted
from curate.queue import progress, review_queue
from tests.test_queue import balanced


def asked(queue: LiveQueue, *wanted: object, **more: object) -> list[str]:
    return queue.image_ids[queue.select(Wanted(*wanted, **more))].tolist()


def test_it_begins_in_the_order_of_the_table_and_follows_the_screen():
    table = balanced().astype({"balance_round": "Int64"})  # as a manifest is read
    assert LiveQueue(table).waiting("oak", 9) == review_queue(table, pd.DataFrame())["image_id"].tolist()
    new = balanced(reject_probability=[np.nan] * 6).drop(columns="balance_round")
    queue = LiveQueue(new)
    assert queue.waiting(None, 1) == ["new_likely"]
    queue.rerank(queue.reranked(new["suspicion"].to_numpy()))
    assert queue.waiting(None, 1) == ["new_bad"], "once it has learnt"


@pytest.mark.parametrize(
    ("what", "first", "turned"),
    [("suspicious", "new_bad", "spare"), ("good", "spare", "new_bad"), ("informative", "new_likely", "new_likely")],
)
def test_what_comes_first_can_be_chosen_for_all_or_by_each_reviewer(what, first, turned):
    for table in (balanced(), balanced().drop(columns="balance_round")):
        queue = LiveQueue(table, what=what)
        assert queue.waiting(None, 1) == [first]
        assert asked(LiveQueue(table), order=what)[0] == first
        assert asked(queue, order="scraped") == table["image_id"].tolist()
        queue.rerank(queue.reranked(1 - table["suspicion"].to_numpy()))
        assert queue.waiting(None, 1) == [turned]


def test_images_are_asked_for_by_what_became_of_them_and_by_the_class_they_were_given_to():
    queue = LiveQueue(balanced(label=["oak", "elm", "oak", "oak", "elm", "elm"]))
    queue.add(Decision("old_sure", "relabel", label="elm", decision_id="1"))
    queue.add(Decision("old_bad", "reject", reason="overlay", decision_id="2"))
    assert asked(queue, "elm", "accepted") == ["old_sure"]
    assert asked(queue, "oak", "accepted") == []
    assert asked(queue, status="rejected") == ["old_bad"]
    assert asked(queue, "ash", "waiting") == []
    assert len(asked(queue, status=None)) == 6
    some = np.array([True, True, False, False, False, True])
    assert queue.image_ids[queue.select(Wanted(), some)].tolist() == ["spare"]


def test_what_is_judged_anew_makes_room_until_that_is_taken_back():
    queue = LiveQueue(balanced())
    for n, image in enumerate(("old_sure", "old_bad")):
        queue.add(Decision(image, "accept", decision_id=f"d{n}"))
    since = queue.number
    queue.add(Decision("old_sure", "accept", decision_id="again"))
    assert asked(queue, status="accepted", since=since) == ["old_bad"]
    queue.add(Decision("old_sure", "undo", undoes="again", decision_id="u"))
    assert set(asked(queue, status="accepted", since=since)) == {"old_sure", "old_bad"}


def test_decisions_of_one_step_are_taken_back_together():
    queue = LiveQueue(balanced())
    queue.add(Decision("spare", "accept", decision_id="0", reviewer="ana"))
    for image in ("old_sure", "old_bad"):
        queue.add(Decision(image, "accept", batch="b", decision_id=image, reviewer="ana"))
    queue.add(Decision("new_bad", "accept", decision_id="bo", reviewer="bo"))
    assert [[d.image_id for d in step] for step in queue.undoable("ana", 9)] == [["old_bad", "old_sure"], ["spare"]]
    assert len(queue.undoable("ana", 1)) == 1
    queue.add(Decision("old_bad", "undo", undoes="old_bad", decision_id="u", reviewer="ana"))
    assert [[d.image_id for d in step] for step in queue.undoable("ana", 9)] == [["old_sure"], ["spare"]]


def test_a_class_that_is_full_makes_room_for_those_that_are_short():
    """One oak is wanted: as soon as one is accepted, the elms come first; a class that is asked for shows its own."""
    table = balanced(label=["oak", "elm", "oak", "oak", "elm", "elm"])
    queue = LiveQueue(table, target=1)
    assert queue.waiting(None, 2) == ["new_sure", "new_likely"]
    queue.add(Decision("new_sure", "accept", decision_id="1"))
    assert queue.waiting(None, 9) == ["new_bad", "old_bad", "spare", "new_likely", "old_sure"]
    assert queue.waiting("oak", 9) == ["new_likely", "old_sure"]
    queue.add(Decision("new_sure", "undo", undoes="1", decision_id="2"))
    assert queue.waiting(None, 2) == ["new_sure", "new_likely"]


def test_a_copy_of_a_decided_image_waits_no_more_until_the_decision_is_taken_back():
    table = balanced(label=["oak", "oak", "elm", "elm", "elm", "elm"])
    table["label_conflict"] = ["new_sure", None, "old_sure", None, None, None]
    queue = LiveQueue(table)
    queue.add(Decision("old_sure", "reject", reason="overlay", decision_id="1"))
    assert "new_sure" not in queue.waiting(None, 9)
    assert [row["waiting"] for row in queue.counts(5)] == [3, 1]
    queue.add(Decision("old_sure", "undo", undoes="1", decision_id="2"))
    assert "new_sure" in queue.waiting(None, 9)
    assert [row["waiting"] for row in queue.counts(5)] == [4, 2]


def test_judgements_of_two_images_and_their_undo_leave_the_queue_as_it_is():
    queue = LiveQueue(balanced())
    waiting = queue.waiting(None, 9)
    for n, image in enumerate(waiting[:2]):
        queue.add(Decision(image, "skip", decision_id=f"skip{n}"))
    before = queue.waiting(None, 9)
    queue.add(Decision(waiting[0], "different", other=waiting[1], decision_id="pair"))
    queue.add(Decision(waiting[0], "undo", undoes="pair", decision_id="undo"))
    assert queue.waiting(None, 9) == before


@pytest.mark.parametrize("seed", [1, 2])
def test_folding_decisions_one_by_one_agrees_with_the_tables_after_a_balance(tmp_path, seed):
    """200 random decisions and undos on 24 images, some of them copies under two classes, compared every 10."""
    rng = np.random.default_rng(seed)
    names = [f"i{n:02}" for n in range(24)]
    table = pd.DataFrame({"image_id": names, "label": rng.choice(["a", "b"], 24), "status": "candidate"})
    table["suspicion"] = table["reject_probability"] = rng.uniform(size=24).round(1)
    table["balance_round"] = rng.integers(0, 3, 24)
    table["label_conflict"] = [names[n + 1] if n % 6 == 0 else None for n in range(24)]
    queue, made = LiveQueue(table, target=6), []
    with Ledger(tmp_path / "ledger.db") as ledger:
        for n in range(200):
            taken_back = made[rng.integers(len(made))] if made and rng.uniform() < 0.4 else None
            verdict = "undo" if taken_back else str(rng.choice(["accept", "reject", "relabel"]))
            decision = Decision(
                image_id=taken_back.image_id if taken_back else str(rng.choice(names)),
                verdict=verdict,
                reason="overlay" if verdict == "reject" else None,
                label="a" if verdict == "relabel" else None,
                undoes=taken_back.decision_id if taken_back else None,
                decision_id=str(uuid.uuid4()),
            )
            made += [] if taken_back else [decision]
            ledger.decide([decision])
            queue.add(decision)
            if n % 10 == 0:
                standing = ledger.standing()
                assert queue.waiting(None, 99) == review_queue(table, standing, target=6)["image_id"].tolist()
                assert queue.waiting("b", 99) == review_queue(table, standing, label="b")["image_id"].tolist()
                assert queue.counts(6) == progress(table, standing, 6).reset_index().to_dict("records")


def test_folding_decisions_one_by_one_agrees_with_the_tables(tmp_path):
    """300 random decisions and undos by two reviewers on 30 images, compared every 25 with the plain functions."""
    rng = np.random.default_rng(5)
    manifest = pd.DataFrame(
        {
            "image_id": [f"i{n:02}" for n in range(30)],
            "label": rng.choice(["a", "b", "c"], 30),
            "status": rng.choice(["candidate", "candidate", "candidate", "accepted", "duplicate"], 30),
            "suspicion": rng.uniform(size=30).round(1),
        }
    )
    queue, made = LiveQueue(manifest), []
    with Ledger(tmp_path / "ledger.db") as ledger:
        for n in range(300):
            verdict = str(rng.choice(["accept", "reject", "relabel", "undo"])) if made else "accept"
            taken_back = made[rng.integers(len(made))] if verdict == "undo" else None
            decision = Decision(
                image_id=taken_back.image_id if taken_back else f"i{rng.integers(30):02}",
                verdict=verdict,
                reason="overlay" if verdict == "reject" else None,
                label=str(rng.choice(["a", "b", "c"])) if verdict == "relabel" else None,
                undoes=taken_back.decision_id if taken_back else None,
                reviewer=str(rng.choice(["ana", "bo"])),
                decision_id=str(uuid.uuid4()),
            )
            if verdict != "undo":
                made.append(decision)
            ledger.decide([decision])
            queue.add(decision)
            if n % 25 == 0:
                standing = ledger.standing()
                waiting = list(review_queue(manifest, standing, label="b")["image_id"])
                assert queue.waiting("b", 99) == waiting
                expected = progress(manifest, standing, 9).reset_index().to_dict("records")
                assert [c for c in queue.counts(9) if c["label"] in set(manifest["label"])] == expected
                mine = standing.sort_values("position", ascending=False).query("reviewer == 'ana'")
                assert [d.decision_id for step in queue.undoable("ana", 99) for d in step] == list(mine["decision_id"])
