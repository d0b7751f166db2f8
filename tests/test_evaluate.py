import json
import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from classify.evaluate import bootstrap, confusion_matrix, evaluate_run, scores, summary
from classify.models import Trained, build, save_model
from curate.errors import CurateError
from tests.test_data import COLOURS, damage, textures

STUDY = np.array(  # Table 2 of the study, rows true: andesite, basalt, diorite, gabbro, granite, peridotite, rhyolite
    [
        [6, 1, 0, 1, 0, 0, 0],
        [0, 7, 0, 1, 0, 0, 0],
        [0, 0, 7, 0, 1, 0, 0],
        [0, 0, 0, 8, 0, 0, 0],
        [0, 0, 0, 0, 8, 0, 0],
        [0, 0, 0, 1, 0, 7, 0],
        [0, 0, 0, 0, 0, 0, 8],
    ]
)


def test_the_studys_matrix_gives_its_figures_under_their_right_names():
    found = scores(STUDY)
    assert round(float(found.accuracy), 4) == 0.9107
    assert round(float(found.macro_recall), 4) == 0.9107
    assert round(float(found.macro_precision), 4) == 0.9273


def test_rows_are_the_true_class():
    matrix = confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    assert matrix.tolist() == [[1, 1], [0, 1]]
    found = scores(matrix)
    assert found.recall_per_class.tolist() == [0.5, 1.0]
    assert found.precision_per_class.tolist() == [1.0, 0.5]


def test_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    label, predicted = rng.integers(0, 4, (2, 60))
    found = scores(confusion_matrix(label, predicted, 4))
    for value, reference in (
        (found.macro_f1, f1_score),
        (found.macro_precision, precision_score),
        (found.macro_recall, recall_score),
    ):
        assert float(value) == pytest.approx(reference(label, predicted, average="macro"))


def test_an_absent_class_is_left_out_of_the_averages_and_a_never_predicted_one_counts_as_zero():
    absent = scores(np.array([[2, 0, 0], [0, 2, 0], [0, 0, 0]]))
    assert math.isnan(absent.recall_per_class[2])
    assert float(absent.macro_f1) == 1.0
    never = scores(np.array([[2, 0], [2, 0]]))
    assert never.precision_per_class.tolist() == [0.5, 0.0]
    assert never.f1_per_class[1] == 0.0


def test_the_interval_holds_the_estimate_and_narrows_with_images():
    low, high = bootstrap(STUDY)["accuracy"]
    assert low < 51 / 56 < high
    # the normal approximation: 1.96 * sqrt(p (1 - p) / n)
    assert (high - low) / 2 == pytest.approx(1.96 * math.sqrt(51 / 56 * 5 / 56 / 56), rel=0.15)
    wide, narrow = bootstrap(STUDY)["macro_f1"], bootstrap(STUDY * 10)["macro_f1"]
    assert narrow[1] - narrow[0] < (wide[1] - wide[0]) / 2
    assert bootstrap(STUDY) == bootstrap(STUDY)


def test_chance_is_even_guessing():
    found = summary(STUDY, tuple("abcdefg"))
    assert round(found["chance_accuracy"], 4) == 0.1429
    assert round(found["chance_loss"], 3) == 1.946
    assert found["largest_class_accuracy"] == pytest.approx(1 / 7)


def make_run(folder, classes=tuple(COLOURS)):
    folder.mkdir(parents=True)
    model = build("small_cnn", len(classes), weights="none")
    save_model(Trained("small_cnn", model, classes, 32), folder / "model.safetensors")
    return folder


def test_evaluating_writes_tables_and_logs_every_look_at_the_test_set(tmp_path):
    manifest, run = textures(tmp_path), make_run(tmp_path / "run")
    name = damage(tmp_path, manifest, 9)  # a test image
    evaluate_run(run, manifest, tmp_path, split="val")
    assert not (run / "test-log.jsonl").exists()
    for _ in range(2):
        result = evaluate_run(run, manifest, tmp_path, split="test")
    assert result["images"] == 5
    assert result["unreadable"] == [name]
    assert np.sum(result["confusion_matrix"]) == 5
    assert len((run / "test-log.jsonl").read_text().splitlines()) == 2
    assert json.loads((run / "evaluation-test.json").read_text()) == result
    assert (run / "evaluation-val.csv").read_text().startswith("label,basalt,granite,olivine\nbasalt,")
    assert (run / "evaluation-val.png").read_bytes().startswith(b"\x89PNG")


def test_labels_that_the_run_does_not_know_are_named(tmp_path):
    run = make_run(tmp_path / "run", ("basalt", "granite"))
    with pytest.raises(CurateError, match="olivine, which the run"):
        evaluate_run(run, textures(tmp_path), tmp_path, split="val")
