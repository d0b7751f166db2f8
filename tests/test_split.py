"""The split: exact counts in every class, the same whatever the order of the rows, copies never on two sides."""

import pandas as pd
import pytest

from curate.errors import CurateError
from curate.split import split

STUDY = ["andesite", "basalt", "diorite", "gabbro", "granite", "peridotite", "rhyolite"]


def accepted(per_class: int, labels: list[str]) -> pd.DataFrame:
    rows = [(f"{label}{n}", label, "accepted") for label in labels for n in range(per_class)]
    return pd.DataFrame(rows, columns=["image_id", "label", "status"])


def linked(*pairs: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame(pairs, columns=["first", "second"])


def test_the_study_gets_57_8_and_8_images_of_each_of_its_classes():
    counts = pd.crosstab(*(split(accepted(73, STUDY))[c] for c in ("label", "split")))
    assert counts.to_dict("list") == {"test": [8] * 7, "train": [57] * 7, "val": [8] * 7}


@pytest.mark.parametrize(("n", "held_out"), [(3, 1), (10, 1), (11, 2), (70, 7), (71, 8), (100, 10)])
def test_a_tenth_is_rounded_up(n, held_out):
    counts = split(accepted(n, ["granite"]))["split"].value_counts()
    assert counts.to_dict() == {"train": n - 2 * held_out, "val": held_out, "test": held_out}


def test_only_accepted_images_are_used():
    table = accepted(13, ["granite"])
    table.loc[[0, 5, 9], "status"] = ["rejected", "duplicate", "candidate"]
    parts = split(table.assign(split="train"))["split"]
    assert parts[parts.isna()].index.tolist() == [0, 5, 9]


def test_the_split_hangs_on_seed_and_image_not_on_the_order_of_the_rows():
    table = accepted(73, STUDY[:2])
    parts = split(table).set_index("image_id")["split"]
    shuffled = split(table.sample(frac=1, random_state=3)).set_index("image_id")["split"]
    pd.testing.assert_series_equal(shuffled.reindex(parts.index), parts)
    assert (split(table, seed=1)["split"].to_numpy() != parts.to_numpy()).sum() > 10


def test_copies_stay_together_also_across_classes_and_over_others():
    table = accepted(20, ["granite", "basalt"])
    pairs = linked(
        *[(f"granite{n}", f"granite{n + 1}") for n in range(8)], ("granite9", "basalt3"), ("granite2", "gone")
    )
    for seed in range(20):
        part = split(table, seed=seed, copies=pairs).set_index("image_id")["split"]
        assert part[[f"granite{n}" for n in range(9)]].nunique() == 1
        assert part["granite9"] == part["basalt3"]
        assert part.value_counts().to_dict() == {"train": 32, "val": 4, "test": 4}


def test_groups_are_held_out_whole_where_there_are_too_few_others():
    table = accepted(20, ["granite"])
    pairs = linked(*[(f"granite{n}", f"granite{n + 1}") for n in range(0, 18, 2)])
    part = split(table, copies=pairs)["split"]
    assert part.value_counts().to_dict() == {"train": 16, "val": 2, "test": 2}
    assert all(part[n] == part[n + 1] for n in range(0, 18, 2))


def test_a_pair_row_without_a_second_image_links_nothing():
    broken = pd.DataFrame({"first": ["granite1"], "second": [float("nan")]})
    assert split(accepted(10, ["granite"]), copies=broken).equals(split(accepted(10, ["granite"])))


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (accepted(2, ["granite"]), {}, "granite 2; each class needs 3"),
        (accepted(5, ["granite"]).assign(status="candidate"), {}, "no image is accepted.*5 candidate"),
        (accepted(5, ["granite"]), {"val_share": 0.6, "test_share": 0.5}, "leave nothing to train on"),
        (accepted(3, ["granite"]), {"val_share": 0.49, "test_share": 0.49}, "class granite: 2 val and 2 test of 3"),
        (
            accepted(3, ["granite"]),
            {"copies": linked(("granite0", "granite1"), ("granite1", "granite2"))},
            "class granite: 3 of 3 images are copies",
        ),
        (accepted(5, ["granite"]).drop(columns="status"), {}, "no column status"),
    ],
)
def test_what_cannot_be_split_is_said(table, options, message):
    with pytest.raises(CurateError, match=message):
        split(table, **options)
