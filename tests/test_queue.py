"""The order of review before and after a balance; tests/test_apps.py has the rest of the queue."""

import uuid

import numpy as np
import pandas as pd
import pytest

from curate.ledger import Decision, Ledger
from curate.queue import ReviewQueue, progress, review_queue

NOBODY = pd.DataFrame(columns=["verdict"]).rename_axis("image_id")


def balanced(**changes: list) -> pd.DataFrame:
    """Old and new oaks that wait, as a balance leaves them; `spare` is beyond the target."""
    names = ["old_sure", "old_bad", "new_sure", "new_likely", "new_bad", "spare"]
    columns = {
        "image_id": names,
        "label": "oak",
        "status": "candidate",
        "suspicion": [0.01, 0.8, 0.05, 0.4, 0.9, 0.0],
        "reject_probability": [0.01, 0.8, 0.05, 0.4, 0.9, 0.0],
        "reason": [None] * 5 + ["spare"],
        "balance_round": [0, 1, 2, 2, 2, 1],
    }
    return pd.DataFrame({**columns, **changes})


def test_a_first_review_begins_with_the_most_suspicious():
    first = balanced().drop(columns="balance_round")
    assert review_queue(first, NOBODY)["image_id"].tolist()[:3] == ["new_bad", "old_bad", "new_likely"]


def test_after_a_balance_new_images_come_first_and_the_surest_good_ones_of_them():
    """Then older ones that are likely good; what the screen would reject comes after both, spares last."""
    order = ["new_sure", "new_likely", "old_sure", "new_bad", "old_bad", "spare"]
    assert review_queue(balanced(), NOBODY)["image_id"].tolist() == order
    assert ReviewQueue(balanced()).waiting("oak", 9) == order


def test_before_the_screen_has_learnt_anything_come_the_images_that_teach_it_most():
    new = balanced(reject_probability=[np.nan] * 6).drop(columns="balance_round")
    assert review_queue(new, NOBODY)["image_id"].iloc[0] == "new_likely"
    queue = ReviewQueue(new)
    assert queue.waiting(None, 1) == ["new_likely"]
    assert queue.reranked(new["suspicion"].to_numpy())[0] == "new_bad", "once it has learnt"


@pytest.mark.parametrize(
    ("what", "first"), [("suspicious", "new_bad"), ("good", "spare"), ("informative", "new_likely")]
)
def test_what_comes_first_can_be_chosen_before_and_after_a_balance(what, first):
    for table in (balanced(), balanced().drop(columns="balance_round")):
        assert review_queue(table, NOBODY, what=what)["image_id"].iloc[0] == first
        queue = ReviewQueue(table, what=what)
        assert queue.waiting(None, 1) == [first]
        order = queue.reranked(1 - table["suspicion"].to_numpy())
        assert order[0] == {"new_bad": "spare", "spare": "new_bad", "new_likely": "new_likely"}[first]


def test_where_a_balance_brought_nothing_the_surest_come_first():
    order = ["old_sure", "new_sure", "new_likely", "old_bad", "new_bad", "spare"]
    assert review_queue(balanced(balance_round=[0] * 6), NOBODY)["image_id"].tolist() == order


def test_a_class_that_is_full_makes_room_for_those_that_are_short():
    """One oak is wanted: as soon as one is accepted, the elms come first; a class that is asked for shows its own."""
    table = balanced(label=["oak", "elm", "oak", "oak", "elm", "elm"])
    queue = ReviewQueue(table, target=1)
    assert queue.waiting(None, 2) == ["new_sure", "new_likely"]
    queue.add(Decision("new_sure", "accept", decision_id="1"))
    assert queue.waiting(None, 9) == ["new_bad", "old_bad", "spare", "new_likely", "old_sure"]
    assert queue.waiting("oak", 9) == ["new_likely", "old_sure"]
    queue.add(Decision("new_sure", "undo", undoes="1", decision_id="2"))
    assert queue.waiting(None, 2) == ["new_sure", "new_likely"]


def test_a_copy_of_a_decided_image_waits_no_more_until_the_decision_is_taken_back():
    table = balanced(label=["oak", "oak", "elm", "elm", "elm", "elm"])
    table["label_conflict"] = ["new_sure", None, "old_sure", None, None, None]
    queue = ReviewQueue(table)
    queue.add(Decision("old_sure", "reject", reason="overlay", decision_id="1"))
    assert "new_sure" not in queue.waiting(None, 9)
    assert [row["waiting"] for row in queue.counts(5)] == [3, 1]
    queue.add(Decision("old_sure", "undo", undoes="1", decision_id="2"))
    assert "new_sure" in queue.waiting(None, 9)
    assert [row["waiting"] for row in queue.counts(5)] == [4, 2]


def test_judgements_of_two_images_and_their_undo_leave_the_queue_as_it_is():
    queue = ReviewQueue(balanced())
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
    queue, made = ReviewQueue(table, target=6), []
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
