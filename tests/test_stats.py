import pandas as pd

from curate.stats import imbalance_ratio, rejections, summary


def test_classes_are_counted_by_status_and_reason():
    manifest = pd.DataFrame(
        {
            "label": ["oak", "oak", "oak", "elm", "elm"],
            "status": ["accepted", "accepted", "rejected", "accepted", "duplicate"],
            "reason": [None, None, "overlay", None, "copy of 1"],
        }
    )
    counts = summary(manifest)
    assert counts.loc["oak"].to_dict() == {
        "images": 3,
        "candidate": 0,
        "accepted": 2,
        "rejected": 1,
        "duplicate": 0,
        "weight": 1.0,
    }
    assert counts.loc["elm", "weight"] == 2.0
    assert imbalance_ratio(counts) == 2.0
    assert rejections(manifest).to_dict() == {"oak": {"overlay": 1}}


def test_before_any_review_the_candidates_are_weighed():
    manifest = pd.DataFrame({"label": ["oak"] * 3 + ["elm"], "status": ["candidate"] * 4})
    assert summary(manifest)["weight"].to_dict() == {"oak": 1.0, "elm": 3.0}
