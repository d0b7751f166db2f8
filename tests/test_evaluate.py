import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from classify import evaluate
from classify.calibration import fit_temperature
from classify.evaluate import evaluate_run
from classify.models import Trained, build, load_run, save_model
from classify.predict import predict_rows
from classify.predictions import (
    confusions,
    groups,
    predictions_table,
    read_predictions,
    top_losses,
    unpacked,
    worst_group,
)
from classify.report import write_table
from classify.scores import bootstrap, confusion_matrix, scores, summary
from curate.confusion import wilson
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
    assert round(float(found.macro_f1), 4) == 0.9117


def test_rows_are_the_true_class():
    matrix = confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    assert matrix.tolist() == [[1, 1], [0, 1]]
    found = scores(matrix)
    assert found.recall_per_class.tolist() == [0.5, 1.0]
    assert found.precision_per_class.tolist() == [1.0, 0.5]


@pytest.mark.parametrize("seed", range(25))
def test_scores_agree_with_scikit_learn(seed):
    """Random matrices of 2 to 9 classes, some never the label, some never predicted; the average is over the labels."""
    rng = np.random.default_rng(seed)
    k, n = int(rng.integers(2, 10)), int(rng.integers(1, 80))
    label = rng.choice(rng.permutation(k)[: rng.integers(1, k + 1)], n)
    predicted = np.where(rng.random(n) < 0.5, label, rng.choice(rng.permutation(k)[: rng.integers(1, k + 1)], n))
    found = scores(confusion_matrix(label, predicted, k))
    assert float(found.accuracy) == pytest.approx(accuracy_score(label, predicted))
    present = np.unique(label)
    for macro, by_class, reference in (
        (found.macro_precision, found.precision_per_class, precision_score),
        (found.macro_recall, found.recall_per_class, recall_score),
        (found.macro_f1, found.f1_per_class, f1_score),
    ):
        expected = reference(label, predicted, labels=present, average=None, zero_division=0)
        np.testing.assert_allclose(by_class[present], expected)
        assert float(macro) == pytest.approx(expected.mean())


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


@pytest.fixture
def no_pictures(monkeypatch):
    """Evaluations are quicker without; other tests draw them."""
    for name in ("confusion_png", "save_figure", "evaluation_page"):
        monkeypatch.setattr(evaluate, name, lambda *_: None)


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


def noisy_predictions(seed=0, n=40, classes=tuple(COLOURS)):
    """A table of predictions, about two thirds right."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, len(classes), n)
    logits = rng.normal(size=(n, len(classes))) * 2
    logits[np.arange(n), label] += 2
    powers = np.exp(logits)
    rows = pd.DataFrame({"image_id": [f"{i:016x}" for i in range(n)], "label": np.array(classes, object)[label]})
    return predictions_table(rows, powers / powers.sum(1, keepdims=True), classes)


def test_predictions_are_a_row_an_image_that_opens_and_are_read_as_they_were_written(tmp_path):
    classes = ("NA", "null", "1")
    rows = pd.DataFrame({"image_id": ["0012", "b", "c"], "label": ["1", "NA", "null"]}, index=[7, 3, 5])
    probabilities = np.array([[0.1, 0.2, 0.7], [np.nan] * 3, [0.5, 0.3, 0.2]], np.float32)
    table = predictions_table(rows, probabilities, classes)
    assert list(table.columns) == ["image_id", "label", "predicted", "p_NA", "p_null", "p_1"]
    assert table.iloc[:, :3].values.tolist() == [["0012", "1", "1"], ["c", "null", "NA"]]
    write_table(table, tmp_path / "p.csv")
    again = unpacked(read_predictions(tmp_path / "p.csv"))
    assert again.classes == classes
    assert again.label.tolist() == [2, 1]
    assert again.predicted.tolist() == [2, 0]
    np.testing.assert_allclose(again.probabilities, probabilities[[0, 2]], rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file. `classify evaluate"),
        ("", "damaged"),
        ("image_id,label,predicted,p_a,p_b\n", "not a table of predictions"),
        ("image_id,label,predicted,p_a,p_b\n1,a,a,,1\n", "damaged"),
        ("image_id,label,predicted,p_a,p_b\n1,a,a,0.9,0.9\n", "not a table of predictions"),
        ("image_id,label,predicted,p_a,p_b\n1,a,c,0.5,0.5\n", "not a table of predictions"),
        ("image_id,label,predicted,p_a,b\n1,a,a,0.5,0.5\n", "not a table of predictions"),
        ("image_id,label,predicted,p_a,p_b\n1,a,a,0.5,0.5\n1,a,a,0.5,0.5\n", "stands there twice"),
        ("epoch,loss\n1,2\n", "not a table of predictions"),
    ],
)
def test_damaged_predictions_are_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "p.csv").write_text(text)
    with pytest.raises(CurateError, match=message):
        read_predictions(tmp_path / "p.csv")


MISTAKES = predictions_table(  # the third and the fifth are wrong the same way, the fifth is surer of it
    pd.DataFrame({"image_id": list("abcdef"), "label": ["x", "y", "x", "y", "x", "x"]}),
    np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3], [0.1, 0.9], [0.8, 0.2]]),
    ("x", "y"),
)


def test_the_most_frequent_confusion_comes_first_and_of_it_the_surest_image():
    assert confusions(MISTAKES).values.tolist() == [["x", "y", 2, ["e", "c"]], ["y", "x", 1, ["d"]]]
    assert confusions(MISTAKES[:2]).empty


def test_the_top_losses_are_the_labels_that_are_believed_least():
    rows = pd.DataFrame({"file_name": [f"images/{name}.jpg" for name in "abcdef"]})
    first = top_losses(rows, MISTAKES).iloc[0]
    assert first[["image_id", "label", "predicted", "file_name"]].tolist() == ["e", "x", "y", "images/e.jpg"]
    assert first["probability"] == pytest.approx(0.1)
    assert first["loss"] == pytest.approx(math.log(10))


def test_images_count_under_their_source_and_under_each_of_their_flags():
    flags = ["quality_blur=1.4 (> 1.2)", "quality_blur=2 (> 1.2); off_topic=0.4 (> 0.35)", None, ""]
    rows = pd.DataFrame({"source": ["bing", "bing", "flickr", None], "flags": flags})
    table = groups(rows, np.array([True, False, True, True]))
    assert table[["by", "group", "images", "accuracy"]].values.tolist() == [
        ["source", "bing", 2, 0.5],
        ["source", "flickr", 1, 1.0],
        ["source", "not known", 1, 1.0],
        ["flag", "quality_blur", 2, 0.5],
        ["flag", "no flag", 2, 1.0],
        ["flag", "off_topic", 1, 0.0],
    ]
    low, high = wilson(np.array([1]), np.array([2]))
    assert table.loc[0, ["low", "high"]].tolist() == [low[0], high[0]]
    assert groups(rows.drop(columns=["source", "flags"]), np.ones(4, bool)).empty


def test_only_groups_of_five_images_that_are_not_all_of_them_can_be_the_worst():
    sources = ["few"] * 4 + ["bing"] * 6 + ["flickr"] * 5
    right = np.array([False] * 4 + [True] * 3 + [False] * 3 + [True] * 5)
    table = groups(pd.DataFrame({"source": sources, "flags": None}), right)
    assert worst_group(table, 15)["group"] == "bing"
    assert worst_group(groups(pd.DataFrame({"source": ["bing"] * 15}), right), 15) is None
    assert worst_group(groups(pd.DataFrame({"label": ["a"] * 15}), right), 15) is None


def test_the_page_of_an_evaluation_shows_what_is_wrong_and_opens_offline(tmp_path):
    classes = ("<b>basalt</b>", "granite", "olivine")
    manifest, run = textures(tmp_path), make_run(tmp_path / "run", classes)
    manifest["label"] = manifest["label"].replace("basalt", classes[0])
    manifest["source"] = ["<script>alert(1)</script>", "bing", "flickr"] * 11
    manifest["flags"] = "quality_blur=2 (> 1.2)"
    result = evaluate_run(run, manifest, tmp_path, split="train")
    wrong = sum(pair["images"] for pair in result["confusions"])
    assert wrong == 18 - np.trace(result["confusion_matrix"]) > 0
    page = (run / "evaluation-train.html").read_text()
    assert page.count("data:image/jpeg") == sum(min(8, pair["images"]) for pair in result["confusions"])
    assert page.count("data:image/png") == 2
    for ours in ("taken for", "Calibration", "The worst group of at least 5 images: source ", "quality_blur"):
        assert ours in page
    for hostile in ("<script", "http", "<b>basalt"):
        assert hostile not in page
    assert len(result["top_losses"]) == 18


def test_the_temperature_is_fitted_on_the_images_of_validation_whatever_is_evaluated(tmp_path, no_pictures):
    manifest, run = textures(tmp_path), make_run(tmp_path / "run")
    first = evaluate_run(run, manifest, tmp_path, split="test")["calibration"]
    assert first["temperature"] is None
    assert first["fitted_on"] == "not fitted: predictions-val.csv is missing: evaluate split val first"
    assert first["error_scaled"] is None
    own = noisy_predictions(n=9).assign(image_id=manifest.loc[manifest["split"] == "val", "image_id"].to_numpy())
    write_table(own, run / "predictions-val.csv")
    expected = fit_temperature(unpacked(own).probabilities, unpacked(own).label)
    assert expected is not None
    for split, fitted_on in (("test", "the run's validation images"), ("val", "these images themselves")):
        found = evaluate_run(run, manifest, tmp_path, split=split)["calibration"]
        assert found["temperature"] == pytest.approx(expected)
        assert found["fitted_on"] == fitted_on
        assert 0 <= found["error_scaled"] <= 1
    stored = json.loads((run / "temperature.json").read_text())
    assert stored["temperature"] == pytest.approx(expected)
    assert stored["loss_after"] < stored["loss_before"]
    pd.testing.assert_frame_equal(read_predictions(run / "predictions-val.csv"), own, check_dtype=False)


def test_of_a_manifest_without_a_split_all_accepted_images_are_taken_and_it_is_logged(tmp_path, no_pictures):
    manifest, run = textures(tmp_path), make_run(tmp_path / "run")
    manifest.loc[0, "status"] = "rejected"
    result = evaluate_run(run, manifest.drop(columns="split"), tmp_path, split="val", name="other 2.0")
    assert result["images"] == 32
    assert result["images_are"] == "all accepted images of other 2.0, which has no split"
    assert result["split"] is None
    assert (run / "evaluation-manifest-other-2-0.json").exists()
    assert len(read_predictions(run / "predictions-manifest-other-2-0.csv")) == 32
    assert not (run / "evaluation-val.json").exists()
    (look,) = [json.loads(line) for line in (run / "test-log.jsonl").read_text().splitlines()]
    assert (look["manifest"], look["images"], look["split"]) == ("other 2.0", 32, None)
    with pytest.raises(CurateError, match="no image of the manifest is accepted"):
        evaluate_run(run, manifest.drop(columns="split").assign(status="candidate"), tmp_path, split="val")


def test_images_that_the_run_was_not_validated_on_do_not_take_the_place_of_those_it_was(tmp_path, no_pictures):
    manifest, run = textures(tmp_path), make_run(tmp_path / "run")
    evaluate_run(run, manifest, tmp_path, split="val")
    before = (run / "predictions-val.csv").read_text()
    swapped = manifest.assign(split=manifest["split"].replace({"train": "val", "val": "train"}))
    result = evaluate_run(run, swapped, tmp_path, split="val", name="swapped")
    assert result["part"] == "manifest-swapped"
    assert "that the run was not validated on" in result["images_are"]
    assert result["calibration"]["fitted_on"] == "the run's validation images"
    assert (run / "predictions-val.csv").read_text() == before
    assert json.loads((run / "evaluation-val.json").read_text())["images"] == 9
    assert json.loads((run / "test-log.jsonl").read_text())["manifest"] == "swapped"


def test_an_ablation_has_files_of_its_own_and_is_a_look_at_the_test_set_too(tmp_path):
    manifest, run = textures(tmp_path), make_run(tmp_path / "run")
    plain = evaluate_run(run, manifest, tmp_path, split="test")
    gray = evaluate_run(run, manifest, tmp_path, split="test", ablation="grayscale")
    assert gray["loss"] != plain["loss"], "the classes are told apart by colour"
    assert json.loads((run / "evaluation-test.json").read_text()) == plain
    assert json.loads((run / "evaluation-test-grayscale.json").read_text()) == gray
    for name in ("test", "test-grayscale"):
        for file in (f"predictions-{name}.csv", f"evaluation-{name}.html", f"evaluation-{name}-reliability.png"):
            assert (run / file).exists(), file
    looks = [json.loads(line)["ablation"] for line in (run / "test-log.jsonl").read_text().splitlines()]
    assert looks == [None, "grayscale"]
    assert "without colour" in (run / "evaluation-test-grayscale.html").read_text()


def test_the_predictions_that_are_written_are_those_of_the_run(tmp_path, no_pictures):
    manifest, run = textures(tmp_path), make_run(tmp_path / "run")
    evaluate_run(run, manifest, tmp_path, split="test")
    rows = manifest[manifest["split"] == "test"]
    expected = predictions_table(rows, predict_rows(load_run(run), rows, tmp_path), tuple(COLOURS))
    pd.testing.assert_frame_equal(read_predictions(run / "predictions-test.csv"), expected, check_dtype=False)
