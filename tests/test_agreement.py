"""Which images are judged again, and Cohen's kappa against scikit-learn, a published example and its own promise."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from curate.agreement import FEW, agreement, cohen_kappa, compare, differs, sample
from curate.errors import CurateError
from curate.ledger import Decision, Ledger


def judged(**strata: int) -> pd.DataFrame:
    """So many images of each `label_verdict`, ids like `basalt_accept_7`."""
    names = [(f"{stratum}_{n}", *stratum.split("_")) for stratum, size in strata.items() for n in range(size)]
    return pd.DataFrame(names, columns=["image_id", "label", "verdict"])


ROCKS = judged(basalt_accept=600, basalt_reject=90, granite_accept=300, granite_relabel=3)


def of_each(images: list[str]) -> dict[str, int]:
    return pd.Series([image.rsplit("_", 1)[0] for image in images]).value_counts().to_dict()


# --- the sample -------------------------------------------------------------------------------------------------------
def test_a_share_is_that_share_of_each_class_and_verdict_and_never_none():
    drawn = sample(ROCKS, 0, share=0.1)
    assert of_each(drawn) == {"basalt_accept": 60, "granite_accept": 30, "basalt_reject": 9, "granite_relabel": 1}


def test_a_number_is_met_and_split_in_proportion():
    drawn = sample(ROCKS, 0, number=100)
    assert of_each(drawn) == {"basalt_accept": 60, "granite_accept": 30, "basalt_reject": 9, "granite_relabel": 1}
    assert len(sample(ROCKS, 0, number=7)) == 7
    assert set(of_each(sample(ROCKS, 0, number=4)).values()) == {1}
    assert len(sample(ROCKS, 0, number=5000)) == len(ROCKS)


@pytest.mark.parametrize("how", ["share", "number"])
def test_a_larger_sample_holds_every_smaller_one(how):
    sizes = [n / 40 for n in range(1, 41)] if how == "share" else list(range(1, 200, 7))
    samples = [sample(ROCKS, 3, **{how: size}) for size in sizes]
    assert all(set(small) < set(large) for small, large in pairwise(samples))
    order = {image: n for n, image in enumerate(samples[-1])}
    assert all(drawn == sorted(drawn, key=order.__getitem__) for drawn in samples)


def test_all_draw_the_same_whatever_the_order_of_the_table_and_another_seed_draws_others():
    drawn = sample(ROCKS, 0, share=0.25)
    assert sample(ROCKS.sample(frac=1, random_state=1), 0, share=0.25) == drawn
    other = sample(ROCKS, 1, share=0.25)
    assert len(other) == len(drawn)
    assert 0.15 < len(set(other) & set(drawn)) / len(drawn) < 0.35  # by chance a quarter


def test_the_order_says_nothing_of_the_verdict():
    """Mean place of the rejected among all: within 3 standard errors of the middle."""
    drawn = sample(ROCKS, 0, share=1)
    places = [n / len(drawn) for n, image in enumerate(drawn) if "reject" in image]
    assert abs(np.mean(places) - 0.5) < 3 / np.sqrt(12 * len(places))


@pytest.mark.parametrize("wrong", [{}, {"share": 0.1, "number": 3}, {"share": 0}, {"share": 1.5}, {"number": 0}])
def test_a_sample_of_no_size_or_two_is_refused(wrong):
    with pytest.raises(CurateError, match=r"a share"):
        sample(ROCKS, 0, **wrong)


def test_nothing_judged_gives_an_empty_sample():
    assert sample(ROCKS[:0], 0, share=0.1) == []


# --- kappa ------------------------------------------------------------------------------------------------------------
def test_kappa_and_interval_are_those_that_the_sas_manual_prints():
    """PROC FREQ, "Agreement Study": two dermatologists, 88 patients; kappa 0.3449, 95 % limits 0.2030 and 0.4868."""
    skin = np.array([[10, 4, 1, 0], [5, 10, 12, 2], [2, 4, 12, 5], [0, 2, 6, 13]])
    found = cohen_kappa(skin)
    assert found.n == 88
    assert (round(found.kappa, 4), round(found.low, 4), round(found.high, 4)) == (0.3449, 0.2030, 0.4868)


def test_kappa_and_error_are_those_of_agresti_s_two_pathologists():
    """Categorical Data Analysis, 118 slides: kappa 0.493, standard error 0.057."""
    found = cohen_kappa(np.array([[22, 2, 2, 0], [5, 7, 14, 0], [0, 2, 36, 0], [0, 1, 17, 10]]))
    assert round(found.kappa, 3) == 0.493
    assert round((found.high - found.low) / 2 / 1.959964, 3) == 0.057


def test_kappa_is_scikit_learn_s_on_tables_of_any_size():
    rng = np.random.default_rng(0)
    for _ in range(100):
        k = int(rng.integers(2, 8))
        first = rng.integers(0, k, size=60)
        second = np.where(rng.random(60) < 0.7, first, rng.integers(0, k, size=60))
        counts = np.zeros((k, k), int)
        np.add.at(counts, (first, second), 1)
        assert cohen_kappa(counts).kappa == pytest.approx(cohen_kappa_score(first, second))


@pytest.mark.parametrize(
    "share",
    [
        [[0.4, 0.1], [0.1, 0.4]],
        [[0.17, 0.03], [0.04, 0.76]],
        [[0.5, 0.04, 0.02], [0.05, 0.3, 0.01], [0.02, 0.01, 0.05]],
    ],
)
def test_the_interval_covers_the_true_kappa_as_often_as_it_says(share):
    """1000 samples of FEW and of 100 images: of 100 intervals that are to be 95 % ones, 90 to 99 hold it."""
    p = np.array(share)
    chance = p.sum(axis=1) @ p.sum(axis=0)
    true = (np.trace(p) - chance) / (1 - chance)
    rng = np.random.default_rng(0)
    for n in (FEW, 100):
        tables = [rng.multinomial(n, p.ravel()).reshape(p.shape) for _ in range(1000)]
        found = [cohen_kappa(counts) for counts in tables]
        covered = np.mean([kappa.low <= true <= kappa.high for kappa in found if kappa.kappa is not None])
        assert 0.9 < covered < 0.99


def test_full_agreement_of_few_is_no_certainty():
    """All 10 agree: the share of agreement is at least 0.025 ** (1 / 10) = 0.69, kappa with half by chance 0.38."""
    few, many = cohen_kappa(np.diag([5, 5])), cohen_kappa(np.diag([500, 500]))
    assert few == (10, 1.0, 1.0, pytest.approx((0.025**0.1 - 0.5) / 0.5), 1.0)
    assert many.low > 0.99


def test_where_both_see_one_category_only_kappa_is_not_defined():
    assert cohen_kappa(np.array([[40, 0], [0, 0]])) == (40, 1.0, None, None, None)
    assert cohen_kappa(np.zeros((2, 2), int)) == (0, None, None, None, None)
    assert cohen_kappa(np.array([[0, 9], [0, 0]])).kappa == 0  # each one category, but not the same one


# --- who said what ----------------------------------------------------------------------------------------------------
LABELS = {f"i{n}": "basalt" if n % 2 else "granite" for n in range(8)}


def opinion(image: str, verdict: str, answers: str, **more) -> Decision:
    return Decision(image, verdict, other=answers, **{"reviewer": "bo", **more})


@pytest.fixture
def ledger(tmp_path):
    """ana accepts i0, i1, rejects i2 and i3, moves i4; bo judges them again, and agrees about i0, i2 and i4."""
    with Ledger(tmp_path / "ledger.db") as ledger:
        verdicts = [
            ("accept", {}),
            ("accept", {}),
            ("reject", {"reason": "overlay"}),
            ("reject", {"reason": "overlay"}),
        ]
        verdicts += [("relabel", {"label": "gabbro"})]
        ledger.decide(
            Decision(f"i{n}", verdict, reviewer="ana", decision_id=f"d{n}", **more)
            for n, (verdict, more) in enumerate(verdicts)
        )
        ledger.opine([opinion("i0", "accept", "d0"), opinion("i1", "reject", "d1", reason="overlay")])
        ledger.opine([opinion("i2", "reject", "d2", reason="background"), opinion("i3", "accept", "d3")])
        ledger.opine([opinion("i4", "relabel", "d4", label="gabbro")])
        yield ledger


def pairs(ledger: Ledger) -> pd.DataFrame:
    return compare(ledger.history(), ledger.standing_opinions(), LABELS)


def line(table: pd.DataFrame, scope: str, name: str, question: str) -> pd.Series:
    found = table[(table["scope"] == scope) & (table["name"] == name) & (table["question"] == question)]
    assert len(found) == 1
    return found.iloc[0]


def test_each_opinion_stands_beside_the_decision_that_it_answers(ledger):
    found = pairs(ledger).set_index("image_id")
    assert found.loc["i1", ["class", "first_reviewer", "first_verdict"]].tolist() == ["basalt", "ana", "accept"]
    assert found.loc["i1", ["second_reviewer", "second_verdict", "second_reason"]].tolist() == [
        "bo",
        "reject",
        "overlay",
    ]
    assert found.index[differs(found)].tolist() == ["i1", "i3"]  # not i2: only the reason is another one
    assert not found["settled"].any()


def test_a_later_decision_settles_and_changes_no_agreement(ledger):
    before = agreement(pairs(ledger))
    ledger.decide([Decision("i1", "reject", "overlay", reviewer="cy", decision_id="s1")])
    found = pairs(ledger).set_index("image_id")
    assert found.index[found["settled"]].tolist() == ["i1"]
    assert found.loc["i1", "first_verdict"] == "accept"
    pd.testing.assert_frame_equal(agreement(pairs(ledger)), before)
    ledger.decide([Decision("i1", "undo", undoes="s1", reviewer="cy")])
    assert not pairs(ledger)["settled"].any()


def test_a_decision_that_was_taken_back_is_compared_with_nothing(ledger):
    ledger.decide([Decision("i1", "undo", undoes="d1", reviewer="ana"), Decision("i1", "reject", "overlay")])
    assert pairs(ledger)["image_id"].tolist() == ["i0", "i2", "i3", "i4"]


def test_opinions_taken_back_skipped_or_of_other_images_are_left_out(ledger):
    ledger.opine([opinion("i0", "skip", "d0"), Decision("i9", "accept", other="d9", reviewer="bo")])
    said = ledger.opinions().set_index("image_id")["decision_id"]
    ledger.opine([Decision("i1", "undo", undoes=said["i1"], reviewer="bo")])
    assert pairs(ledger)["image_id"].tolist() == ["i0", "i2", "i3", "i4"]


def test_two_who_move_an_image_to_different_classes_disagree(ledger):
    ledger.opine([opinion("i4", "relabel", "d4", label="basalt")])
    found = pairs(ledger)
    assert found.loc[differs(found), "image_id"].tolist() == ["i1", "i3", "i4"]


def test_agreement_of_all_by_class_and_by_reviewers(ledger):
    """By hand: K-K, K-R, R-R, R-K, K-K, so 3 of 5 agree; both keep 3 of 5: by chance 9/25 + 4/25 = 0.52."""
    table = agreement(pairs(ledger))
    keep = line(table, "all", "all", "keep")
    assert (keep["n"], keep["agreed"], keep["note"]) == (5, 0.6, f"too few: {FEW} images say more")
    assert keep["kappa"] == pytest.approx((0.6 - 0.52) / 0.48)
    assert keep.tolist()[3:-1] == line(table, "reviewers", "ana and bo", "keep").tolist()[3:-1]
    assert line(table, "class", "basalt", "keep")["agreed"] == 0  # i1, i3
    assert line(table, "class", "granite", "verdict")[["n", "agreed"]].tolist() == [3, 1]
    reason = line(table, "all", "all", "reason")
    assert reason[["n", "agreed"]].tolist() == [1, 0]  # i2 alone was rejected by both


def test_two_reviewers_are_one_line_whoever_was_first(ledger):
    """bo was first once: turned round, so that in the table of the two the rows are always ana's."""
    ledger.decide([Decision("i5", "reject", "overlay", reviewer="bo", decision_id="d5")])
    ledger.opine([opinion("i5", "accept", "d5", reviewer="ana")])
    table = agreement(pairs(ledger))
    assert set(table.loc[table["scope"] == "reviewers", "name"]) == {"ana and bo"}
    both = line(table, "reviewers", "ana and bo", "keep")
    ana, bo = [1, 1, 0, 0, 1, 1], [1, 0, 0, 1, 1, 0]
    assert both["kappa"] == pytest.approx(cohen_kappa_score(ana, bo))
    first, second = [1, 1, 0, 0, 1, 0], [1, 0, 0, 1, 1, 1]
    assert line(table, "all", "all", "keep")["kappa"] == pytest.approx(cohen_kappa_score(first, second))


def test_who_judged_twice_has_a_line_but_does_not_count_among_all(ledger):
    ledger.opine([opinion("i0", "reject", "d0", reason="overlay", reviewer="ana")])
    table = agreement(pairs(ledger))
    assert line(table, "reviewers", "ana, twice", "keep")[["n", "agreed"]].tolist() == [1, 0]
    assert line(table, "all", "all", "keep")["n"] == 5


def test_without_opinions_there_is_one_line_that_says_so(tmp_path):
    with Ledger(tmp_path / "ledger.db") as ledger:
        table = agreement(pairs(ledger))
    assert table["note"].tolist() == ["no image"] * 3
    assert table["kappa"].isna().all()


def test_both_keep_everything_is_said_to_define_no_kappa():
    n = FEW + 5
    table = pd.DataFrame({"image_id": [f"i{k}" for k in range(n)], "class": "basalt"})
    for which, who in (("first", "ana"), ("second", "bo")):
        table = table.assign(**{f"{which}_reviewer": who, f"{which}_verdict": "accept"})
        table = table.assign(**{f"{which}_reason": None, f"{which}_label": None})
    keep = line(agreement(table), "all", "all", "keep")
    assert keep["note"] == "all in one category: kappa is not defined"
    assert (keep["n"], keep["agreed"]) == (n, 1)
    assert np.isnan(keep["kappa"])
