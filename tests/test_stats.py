import pandas as pd
import pytest

from curate.errors import CurateError
from curate.stats import imbalance_ratio, rejections, summary, tally


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


MANIFEST = pd.DataFrame(
    {
        "label": ["oak", "oak", "elm", "elm", "elm", "oak"],
        "source": ["bing", "commons", "bing", "bing", "commons", "bing"],
        "license": [None, "CC0-1.0", None, "CC0-1.0", "CC0-1.0", None],
        "width": pd.array([10, 20, 10, None, 20, 10], dtype="Int64"),
    }
)


def test_images_are_counted_by_any_columns_the_commonest_combination_first():
    counts = tally(MANIFEST, ["license", "source"])
    assert list(counts.index.names) == ["license", "source"]
    assert counts.reset_index().to_dict("split")["data"] == [
        ["unknown", "bing", 2, 1, 3],
        ["CC0-1.0", "commons", 1, 1, 2],
        ["CC0-1.0", "bing", 0, 1, 1],
    ]
    assert list(counts.columns) == ["oak", "elm", "total"]
    assert tally(MANIFEST, ["width"])["total"].to_dict() == {"10": 3, "20": 2, "unknown": 1}
    assert tally(MANIFEST, ["label"]).loc["oak"].to_dict() == {"oak": 3, "elm": 0, "total": 3}


def test_a_class_may_be_called_like_the_sum():
    counts = tally(MANIFEST.replace("elm", "total"), ["source", "source"])
    assert counts.loc["bing"].tolist() == [2, 2, 4]
    assert list(counts.columns) == ["oak", "total", "total"]


def test_values_are_shown_without_control_codes():
    counts = tally(MANIFEST.assign(source="\x1b[31mx\n"), ["source"])
    assert counts.index.tolist() == ["[31mx"]


@pytest.mark.parametrize(
    ("columns", "says"), [(["licence", "source"], "no column licence"), ([], "no column is given")]
)
def test_an_unknown_column_lists_what_there_is(columns, says):
    with pytest.raises(CurateError, match=f"{says}.* label, source, license, width"):
        tally(MANIFEST, columns)
