import numpy as np
import pandas as pd
import pytest

from curate.confusion import confused_pairs, confusion, label_suspicion, learnability, wilson
from curate.errors import CurateError


@pytest.fixture
def manifest() -> pd.DataFrame:
    """Of four oaks three are recognised and one is taken for an elm; both elms are taken for oaks; the ash is right."""
    said = [("oak", "oak")] * 3 + [("oak", "elm")] + [("elm", "oak")] * 2 + [("ash", "ash"), ("ash", None)]
    table = pd.DataFrame(said, columns=["label", "predicted"])
    return table.assign(label_probability=[0.9, 0.8, 0.7, 0.1, 0.2, 0.3, 1.0, np.nan])


def test_confusion_counts_labels_against_predictions(manifest):
    counts = confusion(manifest)
    assert counts.index.tolist() == counts.columns.tolist() == ["ash", "elm", "oak"]
    assert counts.to_numpy().tolist() == [[1, 0, 0], [0, 0, 2], [0, 1, 3]]


def test_learnability_is_recall_precision_and_f1_of_each_class_the_worst_first(manifest):
    found = learnability(confusion(manifest))
    assert found.index.tolist() == ["elm", "oak", "ash"]
    assert found["images"].tolist() == [2, 4, 1]
    assert found["recall"].tolist() == [0, 0.75, 1]
    assert found["precision"].tolist() == [0, 0.6, 1]
    assert found["f1"].tolist() == pytest.approx([0, 2 / 3, 1])
    assert found["taken_for"].tolist()[:2] == ["oak", "elm"]
    assert pd.isna(found["taken_for"]["ash"])
    assert found["taken"].tolist() == [2, 1, 0]


def test_a_class_that_is_only_predicted_has_no_recall():
    found = learnability(confusion(pd.DataFrame({"label": ["oak", "oak"], "predicted": ["oak", "elm"]})))
    assert np.isnan(found.loc["elm", "recall"])
    assert found.loc["elm", "precision"] == 0
    assert (found.loc["elm", "recall_low"], found.loc["elm", "recall_high"]) == (0, 1)


def test_classes_taken_for_one_another_are_counted_both_ways(manifest):
    pairs = confused_pairs(confusion(manifest))
    assert pairs.to_dict("records") == [{"first": "elm", "second": "oak", "images": 3, "share": 0.5}]


def test_intervals_are_wilsons():
    """Of 8, 0 and 10 out of 10."""
    low, high = wilson(np.array([8, 0, 10]), np.array([10, 10, 10]))
    assert low.tolist() == pytest.approx([0.490, 0, 0.722], abs=1e-3)
    assert high.tolist() == pytest.approx([0.943, 0.278, 1], abs=1e-3)


def test_a_label_is_suspicious_when_the_model_does_not_believe_it(manifest):
    suspicion = label_suspicion(manifest)
    assert suspicion.idxmax() == 3
    assert np.isnan(suspicion[7])


def test_without_an_audit_the_error_names_the_command(manifest):
    for ask in (confusion, label_suspicion):
        with pytest.raises(CurateError, match="curate audit"):
            ask(manifest[["label"]])
