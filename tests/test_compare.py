import json
import logging
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from classify import compare
from classify.compare import compare_runs, curves_figure, holm, mcnemar, paired_macro_f1
from classify.predictions import predictions_table
from classify.report import write_table
from curate.errors import CurateError

CLASSES = ("basalt", "granite")
LABELS = np.array([0, 1] * 20)
IDS = [f"{i:016x}" for i in range(40)]


@pytest.fixture
def no_pictures(monkeypatch):
    """Comparisons are quicker without; `test_runs_are_compared_with_the_best` draws them."""
    monkeypatch.setattr(compare, "png", lambda _: b"")


def history(epochs=3):
    curves = {
        f"{part}_{name}": np.linspace(0.2, 0.8, epochs) for part in ("train", "val") for name in ("loss", "accuracy")
    }
    return pd.DataFrame({"epoch": np.arange(1, epochs + 1), **curves})


def make_run(folder, wrong=0, *, ids=IDS, labels=LABELS, config=(), **metrics):
    """A finished run that is wrong on the first `wrong` of its images."""
    folder.mkdir(parents=True)
    said = np.where(np.arange(len(labels)) < wrong, 1 - labels, labels)
    rows = pd.DataFrame({"image_id": ids, "label": np.array(CLASSES, object)[labels]})
    write_table(predictions_table(rows, np.eye(2)[said] * 0.8 + 0.1, CLASSES), folder / "predictions-val.csv")
    write_table(history(), folder / "history.csv")
    settings = {"arch": "resnet18", "freeze": "head", "weights": "DEFAULT", **dict(config)}
    (folder / "config.json").write_text(json.dumps({"config": settings}))
    (folder / "metrics.json").write_text(json.dumps({"best_epoch": 2, "seconds": 12.5, **metrics}))
    return folder


def test_mcnemar_counts_what_only_one_gets_right_and_tests_it_exactly():
    """Of 10 such images the first has 1, the second 9: p = 2 (1 + 10) / 2 ** 10."""
    label = np.zeros(14, int)
    first = np.array([0] * 3 + [1] + [0] + [1] * 9)
    second = np.array([0] * 3 + [1] + [1] + [0] * 9)
    b, c, p = mcnemar(label, first, second)
    assert (b, c) == (1, 9)
    assert p == pytest.approx(22 / 1024)
    assert mcnemar(label, second, first) == (9, 1, pytest.approx(p))
    assert mcnemar(label, first, first) == (0, 0, 1.0)
    names = np.array(["a", "b"])
    assert mcnemar(names[label], names[first], names[second]) == (b, c, p)


def test_the_paired_bootstrap_agrees_with_resampling_the_images_one_by_one():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 90)
    first = np.where(rng.random(90) < 0.8, label, rng.integers(0, 3, 90))
    second = np.where(rng.random(90) < 0.5, first, rng.integers(0, 3, 90))
    difference, low, high = paired_macro_f1(label, first, second, 3)

    def macro_f1(said, of=slice(None)):
        hits = [((said[of] == i) & (label[of] == i)).sum() for i in range(3)]
        sizes = [(said[of] == i).sum() + (label[of] == i).sum() for i in range(3)]
        return np.mean([2 * hit / size for hit, size in zip(hits, sizes, strict=True)])

    assert macro_f1(first) == pytest.approx(f1_score(label, first, average="macro"))
    assert difference == pytest.approx(macro_f1(first) - macro_f1(second))
    drawn = [rng.integers(0, 90, 90) for _ in range(1500)]
    by_one = np.quantile([macro_f1(first, of) - macro_f1(second, of) for of in drawn], (0.025, 0.975))
    assert [low, high] == pytest.approx(by_one, abs=0.015)


def test_the_interval_is_of_the_difference_and_reproducible():
    label = np.array([0, 1] * 30)
    worse = np.where(np.arange(60) < 12, 1 - label, label)
    assert paired_macro_f1(label, worse, worse, 2) == (0, 0, 0)
    found = paired_macro_f1(label, label, worse, 2)
    assert found == paired_macro_f1(label, label, worse, 2) != paired_macro_f1(label, label, worse, 2, seed=1)
    assert found[0] == pytest.approx(0.2)
    assert 0 < found[1] < found[0] < found[2]
    turned = paired_macro_f1(label, worse, label, 2)
    assert turned == pytest.approx((-found[0], -found[2], -found[1]), abs=0.02)


def test_holm_corrects_for_the_number_of_comparisons():
    assert holm(np.array([0.01, np.nan, 0.04, 0.03])) == pytest.approx([0.03, np.nan, 0.06, 0.06], nan_ok=True)
    assert holm(np.array([0.5, 0.9])).tolist() == [1.0, 1.0]
    assert np.isnan(holm(np.array([np.nan]))).all()


def test_curves_have_a_colour_a_run_train_solid_and_val_dashed():
    figure = curves_figure({"a": history(), "$b$": history(5)})
    for axis in figure.axes:
        lines = axis.get_lines()
        assert [line.get_linestyle() for line in lines] == ["-", "--"] * 2
        assert [len(line.get_xdata()) for line in lines] == [3, 3, 5, 5]
        colours = [str(line.get_color()) for line in lines]
        assert colours[0] == colours[1] != colours[2] == colours[3]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", r"\$b\$", "train", "val"]
    many = curves_figure({f"run {i}": history() for i in range(12)})
    assert len({str(line.get_color()) for line in many.axes[0].get_lines()}) == 12


def test_runs_are_compared_with_the_best(tmp_path):
    weights = {"weights": "/home/someone/vgg.pth"}
    runs = [
        make_run(tmp_path / "runs" / "bad", 12, config=weights, parameters=1539),
        make_run(tmp_path / "runs" / "good", 2),
        make_run(tmp_path / "runs" / "middle", 4),
    ]
    out = tmp_path / "runs" / "compare"
    table = compare_runs([*runs, runs[0], out], out)
    assert table["run"].tolist() == ["good", "middle", "bad"]
    good, middle, bad = (row for _, row in table.iterrows())
    assert good["accuracy"] == pytest.approx(38 / 40)
    assert good["accuracy_low"] < good["accuracy"] < good["accuracy_high"]
    assert good[["p", "p_holm", "difference", "shared"]].isna().all()
    assert bad[["arch", "freeze", "weights"]].tolist() == ["resnet18", "head", "vgg.pth"]
    assert bad[["best_epoch", "seconds", "parameters", "shared"]].tolist() == [2, 12.5, 1539, 40]
    assert bad[["only_run", "only_baseline"]].tolist() == [0, 10]
    assert bad["p"] == pytest.approx(2 / 2**10)
    assert (bad["p_holm"], middle["p_holm"]) == (pytest.approx(4 / 2**10), pytest.approx(0.5))
    assert bad["difference_low"] < bad["difference"] < bad["difference_high"] < 0
    written = pd.read_csv(out / "compare.csv")
    pd.testing.assert_frame_equal(written, table, check_dtype=False)
    page = (out / "compare.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert "Against good" in page
    assert "<td>95.00 (87.50 to 100.00)</td>" in page
    assert "<td>0.00391</td>" in page
    assert "http" not in page
    assert "/home/someone" not in page


def test_another_baseline_can_be_named(tmp_path, no_pictures):
    runs = [make_run(tmp_path / name, wrong) for name, wrong in (("good", 2), ("bad", 12))]
    table = compare_runs(runs[:1], tmp_path / "out", baseline=runs[1])
    assert math.isnan(table.set_index("run").loc["bad", "p"])
    assert table.set_index("run").loc["good", ["only_run", "only_baseline"]].tolist() == [10, 0]
    with pytest.raises(CurateError, match=r"--baseline .*none cannot be compared with\. none is left out: config.json"):
        compare_runs(runs, tmp_path / "out", baseline=tmp_path / "none")


def damaged_json(run):
    (run / "config.json").write_text("{")


def no_arch(run):
    (run / "config.json").write_text('{"config": {"freeze": "head"}}')


def no_settings(run):
    (run / "config.json").write_text('{"config": 3}')


def only_half_a_history(run):
    (run / "history.csv").write_text("epoch,train_loss\n1,0.5\n")


def no_epoch(run):
    (run / "metrics.json").write_text('{"best_epoch": null, "seconds": 1}')


@pytest.mark.parametrize(
    ("harm", "cause"),
    [
        (lambda run: (run / "config.json").unlink(), "config.json is missing: it is no run"),
        (lambda run: (run / "metrics.json").unlink(), "the run is not finished"),
        (damaged_json, "config.json is damaged: Expecting"),
        (no_arch, "config.json is damaged: not the settings"),
        (no_settings, "config.json is damaged: not the settings"),
        (no_epoch, "metrics.json is damaged: no best_epoch"),
        (only_half_a_history, "history.csv is missing or damaged"),
        (lambda run: (run / "history.csv").unlink(), "history.csv is missing or damaged"),
        (lambda run: (run / "predictions-val.csv").unlink(), "predictions-val.csv: no such file"),
        (lambda run: (run / "predictions-val.csv").write_bytes(b"\xff\x00"), "predictions-val.csv: damaged"),
    ],
)
def test_a_run_that_is_unfinished_or_damaged_is_left_out_with_its_cause(tmp_path, caplog, harm, cause, no_pictures):
    good, bad = make_run(tmp_path / "good"), make_run(tmp_path / "b<i>d")
    harm(bad)
    with caplog.at_level(logging.WARNING):
        table = compare_runs([bad, good], tmp_path / "out")
    assert table["run"].tolist() == ["good"]
    assert "b<i>d is left out: " in caplog.text
    assert cause in caplog.text
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "b&lt;i&gt;d is left out: " in page
    assert "b<i>d" not in page
    with pytest.raises(CurateError, match=r"no run to compare\. b<i>d is left out"):
        compare_runs([bad], tmp_path / "out")


def test_runs_on_other_images_are_compared_on_those_they_share(tmp_path, no_pictures):
    first = make_run(tmp_path / "first", 2)
    second = make_run(tmp_path / "second", 8, ids=IDS[:30] + [f"other{i}" for i in range(10)])
    table = compare_runs([first, second], tmp_path / "out").set_index("run")
    assert table.loc["second", ["images", "shared", "only_baseline"]].tolist() == [40, 30, 6]
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "second and first were not validated on the same images: 40 and 40, of which 30 are shared" in page


def test_images_that_were_relabelled_between_two_runs_are_not_shared(tmp_path, no_pictures):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", labels=np.where(np.arange(40) < 4, 1 - LABELS, LABELS))]
    table = compare_runs(runs, tmp_path / "out").set_index("run")
    assert table.loc["b", "shared"] == 36


def test_runs_without_a_common_image_cannot_be_compared(tmp_path, no_pictures):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", ids=[f"other{i}" for i in range(40)])]
    with pytest.raises(CurateError, match="b and a share no validation image"):
        compare_runs(runs, tmp_path / "out")


def test_runs_of_the_same_name_are_told_apart_by_their_folders(tmp_path, no_pictures):
    runs = [make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run", 3)]
    assert compare_runs(runs, tmp_path / "out")["run"].tolist() == [str(run) for run in runs]


def test_a_class_that_only_one_of_the_runs_knows_is_a_class_of_both(tmp_path, no_pictures):
    """The second run knows three classes; of the images they share it gives two to the third."""
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second")
    rows = pd.DataFrame({"image_id": IDS, "label": np.array(CLASSES, object)[LABELS]})
    said = np.where(np.arange(40) < 2, 2, LABELS)
    write_table(predictions_table(rows, np.eye(3)[said], (*CLASSES, "olivine")), second / "predictions-val.csv")
    table = compare_runs([first, second], tmp_path / "out", baseline=first).set_index("run")
    assert table.loc["second", ["shared", "only_baseline"]].tolist() == [40, 2]
    expected = f1_score(LABELS, said, labels=[0, 1], average="macro") - 1
    assert table.loc["second", "difference"] == pytest.approx(expected)
