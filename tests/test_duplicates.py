"""Of the copies of a photograph the best one of each class stays, and the reason says why."""

import pandas as pd
import pytest

from curate.duplicates import links, mark_duplicates, mark_leaks, settled
from curate.errors import CurateError

PAIRS = ["first", "second", "distance", "check", "flipped"]


def rows(*images: tuple[str, str, str, int]) -> pd.DataFrame:
    """A manifest of (image_id, label, status, side in pixels)."""
    table = pd.DataFrame(images, columns=["image_id", "label", "status", "width"])
    return table.assign(height=table["width"], bytes=1000)


def pairs_of(*pairs: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame([(a, b, 4, "61 matched points", False) for a, b in pairs], columns=PAIRS)


@pytest.mark.parametrize(
    ("images", "survivor", "why"),
    [
        (
            [("x", "granite", "candidate", 400), ("y", "granite", "candidate", 800)],
            "y",
            "the larger one (800x800) stays",
        ),
        (
            [("x", "granite", "accepted", 400), ("y", "granite", "candidate", 800)],
            "x",
            "the accepted one (400x400) stays",
        ),
        (
            [("x", "granite", "candidate", 400), ("y", "granite", "candidate", 400)],
            "x",
            "the earlier one (400x400) stays",
        ),
        ([("x", "granite", "rejected", 400), ("y", "granite", "candidate", 800)], "x", "that one was rejected"),
    ],
)
def test_the_best_copy_stays(images, survivor, why):
    marked = mark_duplicates(rows(*images), pairs_of(("x", "y"))).set_index("image_id")
    (other,) = {"x", "y"} - {survivor}
    assert marked.at[other, "status"] == "duplicate"
    assert marked.at[other, "duplicate_of"] == survivor
    assert marked.at[other, "reason"] == f"copy of {survivor}: 4 bits, 61 matched points; {why}"
    assert marked.at[survivor, "status"] == images["xy".index(survivor)][2]


def test_a_copy_of_a_copy_is_not_chained():
    """middle is a copy of large; small is a copy of middle only, and middle is out: small stays."""
    table = rows(("large", "a", "candidate", 900), ("middle", "a", "candidate", 500), ("small", "a", "candidate", 100))
    marked = mark_duplicates(table, pairs_of(("large", "middle"), ("middle", "small")))
    assert marked["status"].tolist() == ["candidate", "duplicate", "candidate"]


def test_copies_under_two_classes_are_a_conflict_for_a_person():
    table = rows(
        ("x", "granite", "accepted", 900), ("y", "basalt", "candidate", 500), ("z", "basalt", "candidate", 100)
    )
    marked = mark_duplicates(table, pairs_of(("x", "y")))
    assert marked["status"].tolist() == ["accepted", "candidate", "candidate"]
    assert marked["label_conflict"].fillna("").tolist() == ["y", "x", ""]
    after = mark_duplicates(marked.assign(label="granite"), pairs_of())
    assert after["label_conflict"].isna().all()
    assert after["duplicate_of"].fillna("").tolist() == ["", "x", ""]


def test_marking_again_changes_nothing_and_keeps_every_row_in_order():
    table = rows(
        ("r", "a", "rejected", 900),
        ("c", "a", "candidate", 300),
        ("d", "a", "candidate", 400),
        ("e", "b", "accepted", 9),
    ).set_index(pd.Index([7, 3, 3, 1]))
    pairs = pairs_of(("r", "c"), ("c", "d"), ("d", "e"), ("d", "not in the manifest"))
    marked = mark_duplicates(table, pairs)
    assert marked["image_id"].tolist() == ["r", "c", "d", "e"]
    assert marked["status"].tolist() == ["rejected", "duplicate", "candidate", "accepted"]
    pd.testing.assert_frame_equal(mark_duplicates(marked, pairs), marked)
    pd.testing.assert_frame_equal(mark_duplicates(marked, pd.DataFrame()), marked)
    assert list(table) == ["image_id", "label", "status", "width", "height", "bytes"]


def test_when_the_one_that_stayed_is_rejected_its_copy_does_not_come_back():
    table = rows(("x", "a", "candidate", 900), ("y", "a", "candidate", 300))
    marked = mark_duplicates(table, pairs_of(("x", "y")))
    marked.loc[0, "status"] = "rejected"
    assert mark_duplicates(marked, pd.DataFrame())["status"].tolist() == ["rejected", "duplicate"]


def test_a_missing_column_names_the_command_that_makes_it():
    with pytest.raises(CurateError, match="no column label"):
        mark_duplicates(pd.DataFrame({"image_id": ["x"]}), pairs_of())


def test_the_copy_with_more_pixels_of_the_photograph_stays_not_the_larger_picture():
    """The collage is the larger file and picture, but shows the stone at half the size."""
    table = rows(("stone", "a", "candidate", 400), ("collage", "a", "candidate", 600))
    pair = pairs_of(("stone", "collage")).assign(finer=1.5)
    marked = mark_duplicates(table, pair).set_index("image_id")
    assert marked.at["collage", "duplicate_of"] == "stone"
    assert marked.at["collage", "reason"].endswith("the one with more pixels of it (400x400) stays")


@pytest.mark.parametrize(("finer", "kept"), [(0.8, "clean"), (0.3, "marked")])
def test_the_copy_without_lettering_stays_unless_it_is_far_smaller(finer, kept):
    table = rows(("clean", "a", "candidate", 400), ("marked", "a", "candidate", 500))
    pair = pairs_of(("clean", "marked")).assign(finer=finer, lettering_first=0.0, lettering_second=0.08)
    marked = mark_duplicates(table, pair).set_index("image_id")
    assert marked.index[marked["status"] == "candidate"].tolist() == [kept]


def judged(*judgements: tuple[str, str, str]) -> pd.DataFrame:
    table = pd.DataFrame(judgements, columns=["first", "second", "verdict"])
    return table.assign(reviewer="ada", decision_id=[str(n) for n in range(len(table))])


def test_what_a_person_called_different_is_no_copy_and_what_they_called_the_same_is_one():
    table = rows(("x", "a", "candidate", 900), ("y", "a", "candidate", 500), ("z", "a", "candidate", 300))
    before = mark_duplicates(table, pairs_of(("x", "y")))
    said = judged(("y", "x", "different"), ("z", "x", "same"))
    after = mark_duplicates(before, pairs_of(("x", "y")), said)
    assert after["duplicate_of"].fillna("").tolist() == ["", "", "x"]
    assert after.at[2, "reason"].startswith("copy of x: ada says so; ")
    seen = settled(pairs_of(("x", "y"), ("y", "z")), said)
    assert list(zip(seen["first"], seen["second"], strict=True)) == [("y", "z"), ("z", "x")]


def test_what_a_test_set_holds_is_rejected_with_the_reason():
    table = rows(("x", "a", "accepted", 900), ("y", "a", "candidate", 500)).assign(reason=["fine", None])
    marked = mark_leaks(table, pairs_of(("x", "t")), "test.csv")
    assert marked["status"].tolist() == ["rejected", "candidate"]
    assert marked.at[0, "reason"] == "copy of t in test.csv: 4 bits, 61 matched points"
    assert pd.isna(marked.at[1, "reason"])


def test_to_confirm_a_pair_does_not_change_which_copy_stays():
    """The measures of the pair still count."""
    table = rows(("stone", "a", "candidate", 400), ("collage", "a", "candidate", 600))
    pair = pairs_of(("stone", "collage")).assign(finer=1.5)
    said = judged(("collage", "stone", "same"))
    marked = mark_duplicates(table, settled(pair, said), said)
    assert marked["duplicate_of"].fillna("").tolist() == ["", "stone"]


def test_links_are_what_was_found_and_what_is_named_but_for_what_a_person_denies():
    table = rows(("x", "a", "candidate", 9), ("y", "a", "duplicate", 5), ("z", "b", "candidate", 3)).assign(
        duplicate_of=[None, "x", None], label_conflict=["z", None, None]
    )
    found = links(pairs_of(("y", "z")), table, judged(("x", "z", "different"), ("z", "w", "same")))
    assert {frozenset(p) for p in found[["first", "second"]].to_numpy()} == {frozenset(p) for p in ("yz", "yx", "zw")}
