"""The order of review, before and after a balance, and how far each class is."""

import numpy as np
import pandas as pd
import pytest

from curate.errors import CurateError
from curate.queue import progress, review_queue

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


def test_before_the_screen_has_learnt_anything_come_the_images_that_teach_it_most():
    new = balanced(reject_probability=[np.nan] * 6).drop(columns="balance_round")
    assert review_queue(new, NOBODY)["image_id"].iloc[0] == "new_likely"


@pytest.mark.parametrize(
    ("what", "first"), [("suspicious", "new_bad"), ("good", "spare"), ("informative", "new_likely")]
)
def test_what_comes_first_can_be_chosen_before_and_after_a_balance(what, first):
    for table in (balanced(), balanced().drop(columns="balance_round")):
        assert review_queue(table, NOBODY, what=what)["image_id"].iloc[0] == first


def test_where_a_balance_brought_nothing_the_surest_come_first():
    order = ["old_sure", "new_sure", "new_likely", "old_bad", "new_bad", "spare"]
    assert review_queue(balanced(balance_round=[0] * 6), NOBODY)["image_id"].tolist() == order


def test_the_queue_is_the_candidates_without_a_decision_most_suspicious_first():
    names = ["low", "none", "high", "also_high", "decided", "copy"]
    manifest = pd.DataFrame(
        {
            "image_id": names,
            "label": ["a", "a", "a", "b", "a", "a"],
            "status": ["candidate"] * 5 + ["duplicate"],
            "suspicion": [0.1, np.nan, 0.8, 0.8, 0.99, 1.0],
        }
    )
    standing = pd.DataFrame({"verdict": ["accept"]}, index=pd.Index(["decided"], name="image_id"))
    assert list(review_queue(manifest, standing)["image_id"]) == ["high", "also_high", "low", "none"]
    assert list(review_queue(manifest, standing, label="a")["image_id"]) == ["high", "low", "none"]
    unaudited = manifest.drop(columns="suspicion")
    assert list(review_queue(unaudited, standing)["image_id"]) == ["low", "none", "high", "also_high"]


def test_a_queue_without_status_names_the_command_that_makes_it():
    with pytest.raises(CurateError, match=r"no column status.*curate scrape"):
        review_queue(pd.DataFrame({"image_id": ["a"], "label": ["b"]}), pd.DataFrame())


def test_progress_counts_a_relabelled_image_in_its_new_class():
    manifest = pd.DataFrame(
        {
            "image_id": ["1", "2", "3", "4", "5"],
            "label": ["basalt", "basalt", "basalt", "granite", "granite"],
            "status": ["candidate", "candidate", "accepted", "duplicate", "candidate"],
        }
    )
    standing = pd.DataFrame(
        {
            "image_id": ["1", "2"],
            "verdict": ["relabel", "reject"],
            "label": ["granite", None],
            "reason": [None, "overlay"],
            "reviewer": "ana",
            "decided_at": "2025-01-01T00:00:00Z",
        }
    ).set_index("image_id")
    counts = progress(manifest, standing, 2)
    assert counts.to_dict("index") == {
        "basalt": {"accepted": 1, "rejected": 1, "waiting": 0, "target": 2},
        "granite": {"accepted": 1, "rejected": 0, "waiting": 1, "target": 2},
    }
