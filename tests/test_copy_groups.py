"""Copies hang together in groups: conflicts first, the larger first, the kept image before its copies."""

import pandas as pd
import pytest

from curate.copy_groups import Group, groups, not_compared
from curate.dedup import PAIR_COLUMNS
from curate.duplicates import mark_duplicates
from curate.errors import CurateError


def manifest(*images: tuple[str, str, int]) -> pd.DataFrame:
    """(image_id, label, side in pixels) of candidates."""
    table = pd.DataFrame(images, columns=["image_id", "label", "width"])
    return table.assign(height=table["width"], bytes=1000, status="candidate", file_name=table["image_id"] + ".jpg")


def pairs_of(*pairs: tuple[str, str], check: str = "61 matched points") -> pd.DataFrame:
    rows = [(a, b, 4, check, False, 1.0, 0.5, 1.0) for a, b in pairs]
    return pd.DataFrame(rows, columns=list(PAIR_COLUMNS)[:8]).reindex(columns=list(PAIR_COLUMNS)).astype(PAIR_COLUMNS)


def ids(group: Group) -> list[str]:
    return [image.image_id for image in group.images]


TABLE = manifest(
    *[("a", "granite", 100), ("b", "granite", 300), ("c", "granite", 200), ("d", "basalt", 100), ("e", "basalt", 200)],
    *[("f", "basalt", 100), ("g", "granite", 100), ("lonely", "granite", 100)],
)
PAIRS = pairs_of(("a", "b"), ("b", "c"), ("d", "e"), ("f", "g"))


def test_conflicts_come_first_then_larger_groups_and_the_kept_image_before_its_copies():
    found = groups(mark_duplicates(TABLE, PAIRS), PAIRS)
    assert [(group.kind, ids(group)) for group in found] == [
        ("conflict", ["f", "g"]),
        ("copies", ["b", "a", "c"]),
        ("copies", ["e", "d"]),
    ]
    assert [image.mark for image in found[1].images] == ["kept", "copy", "copy"]
    assert (
        found[1].images[1].why == "the one with more pixels of it (300x300) stays" or "stays" in found[1].images[1].why
    )
    assert [pair[:2] for pair in found[1].pairs] == [("a", "b"), ("b", "c")]
    assert found[0].labels == ["basalt", "granite"]


def test_the_order_of_the_pairs_changes_nothing():
    marked = mark_duplicates(TABLE, PAIRS)
    assert groups(marked, PAIRS.iloc[::-1]) == groups(marked, PAIRS)


def test_a_copy_of_a_copy_stays_and_a_second_kept_image_leads_its_own_copies():
    """a-b-c-d in a chain, by size a, b, c, d: b is a copy of a, c stays as it is none, d is a copy of c."""
    table = manifest(*[(name, "granite", side) for name, side in zip("abcd", (400, 300, 200, 100), strict=True)])
    pairs = pairs_of(("a", "b"), ("b", "c"), ("c", "d"))
    (chain,) = groups(mark_duplicates(table, pairs), pairs)
    assert [(image.image_id, image.mark) for image in chain.images] == [
        *[("a", "kept"), ("b", "copy"), ("c", "kept"), ("d", "copy")]
    ]


def test_pairs_that_both_stay_are_groups_of_their_own_at_the_end():
    table = TABLE.assign(status=["candidate", "candidate", "candidate", "rejected", "accepted", *["candidate"] * 3])
    found = groups(mark_duplicates(table, PAIRS), PAIRS)
    assert [(group.kind, ids(group)) for group in found][-1] == ("apart", ["d", "e"])
    assert [image.mark for image in found[-1].images] == ["rejected", "stays"]


def test_what_the_manifest_names_is_a_pair_too_with_what_was_seen_of_it():
    marked = mark_duplicates(TABLE, PAIRS)
    found = groups(marked, PAIRS.iloc[:0])
    assert [ids(group) for group in found] == [["f", "g"], ["b", "a", "c"], ["e", "d"]]
    assert {pair.check for pair in found[1].pairs} == {"4 bits, 61 matched points"}
    assert {pair.distance for pair in found[1].pairs} == {None}
    assert found[0].pairs[0].check == "found earlier"


def test_a_measured_pair_keeps_its_measures_when_a_person_says_the_same_of_it():
    """As `settled` tells both."""
    marked = mark_duplicates(TABLE, PAIRS)
    said = pairs_of(("d", "e"), ("a", "lonely"), check="ana says so").assign(distance=pd.NA)
    found = groups(marked, pd.concat([PAIRS, said], ignore_index=True).astype(PAIR_COLUMNS))
    checks = {pair.images: (pair.distance, pair.check) for group in found for pair in group.pairs}
    assert checks[frozenset("de")] == (4, "61 matched points")
    assert checks[frozenset(("a", "lonely"))] == (None, "ana says so")


def test_what_a_person_called_different_is_shown_but_is_no_conflict():
    marked = mark_duplicates(TABLE, PAIRS)
    found = groups(marked, PAIRS, different={frozenset("fg")})
    assert [(group.kind, ids(group)) for group in found][-1] == ("apart", ["f", "g"])


def test_a_conflict_is_settled_where_one_image_is_out_for_the_other_or_both_are_out():
    """As `curate balance` leaves them once one of the two was accepted or rejected."""
    marked = mark_duplicates(TABLE, PAIRS).set_index("image_id")
    marked.loc["f", ["status", "duplicate_of", "reason"]] = ["duplicate", "g", "copy of g, which was accepted"]
    assert {group.kind for group in groups(marked.reset_index(), PAIRS)} == {"copies"}
    marked.loc[["f", "g"], "status"] = "rejected"
    assert [group.kind for group in groups(marked.reset_index(), PAIRS)] == ["copies", "copies", "apart"]


def test_an_image_that_the_manifest_does_not_hold_is_said_to_be_elsewhere():
    table = TABLE.iloc[:1].assign(status="duplicate", duplicate_of="gone", reason="copy of gone: 0 bits; it stays")
    (group,) = groups(table, pairs_of())
    assert [(image.image_id, image.mark, image.file_name) for image in group.images] == [
        ("gone", "elsewhere", None),
        ("a", "copy", "a.jpg"),
    ]


def test_images_that_were_not_compared_are_told_with_the_cause_and_are_in_no_group():
    failure = pd.DataFrame([{"first": "lonely", "check": "not compared: damaged", "flipped": False}])
    pairs = pd.concat([PAIRS, failure.reindex(columns=list(PAIR_COLUMNS)).astype(PAIR_COLUMNS)])
    assert not_compared(pairs) == [("lonely", "not compared: damaged")]
    assert "lonely" not in {name for group in groups(TABLE, pairs) for name in ids(group)}
    assert groups(TABLE, PAIRS.iloc[:0]) == []
    assert not_compared(PAIRS.iloc[:0]) == []


def test_a_missing_column_is_named():
    with pytest.raises(CurateError, match="no column label"):
        groups(TABLE.drop(columns="label"), PAIRS)
