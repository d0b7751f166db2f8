import numpy as np
import pandas as pd
import pytest

from curate.audit import audit, cross_predict, energy_outside, measure_all, peak_distance
from curate.errors import CurateError
from curate.images import inspect
from curate.ledger import Decision, Ledger
from curate.store import store
from tests.pictures import jpeg


def test_energy_is_split_by_the_mask():
    """One heatmap wholly inside, one wholly outside, one half and half, one empty."""
    mask = np.zeros((4, 2, 2), bool)
    mask[:, 0, :] = True
    maps = np.array([[[1, 1], [0, 0]], [[0, 0], [1, 1]], [[1, 0], [1, 0]], [[0, 0], [0, 0]]], float)
    assert energy_outside(maps, mask).tolist()[:3] == [0.0, 1.0, 0.5]
    assert np.isnan(energy_outside(maps, mask)[3])
    assert np.isnan(energy_outside(np.full((1, 2, 2), np.nan), mask[:1])[0])


def test_the_peaks_distance_is_0_in_the_middle_and_1_in_a_corner():
    maps = np.zeros((2, 101, 101))
    maps[0, 50, 50] = maps[1, 0, 0] = 1
    middle, corner = peak_distance(maps)
    assert middle == 0.0
    assert corner == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("kinds", [2, 4])
def test_classes_are_predicted_by_models_that_have_not_seen_the_image(kinds):
    """Separable classes are predicted; an image's own label, when it is wrong, does not help it."""
    rng = np.random.default_rng(0)
    labels = np.repeat([f"class{i}" for i in range(kinds)], 30)
    embeddings = rng.normal(0, 1, (len(labels), 16)) + 6 * np.eye(kinds, 16)[np.repeat(np.arange(kinds), 30)]
    wrong = labels.copy()
    wrong[0] = "class1"
    heads = cross_predict(embeddings, wrong, seed=0)
    assert heads is not None
    predicted = heads.classes[heads.probability.argmax(axis=1)]
    assert (predicted[1:] == labels[1:]).mean() > 0.95
    assert predicted[0] == "class0"


def test_the_heads_act_on_the_embeddings_as_they_are():
    rng = np.random.default_rng(1)
    labels = np.repeat(["a", "b", "c"], 20)
    embeddings = rng.normal(5, 3, (60, 8)) + np.repeat(np.eye(3, 8) * 9, 20, axis=0)
    heads = cross_predict(embeddings, labels, seed=0)
    assert heads is not None
    for i in (0, 25, 59):
        weight, bias = heads.weights[heads.fold[i]]
        logits = weight @ embeddings[i] + bias
        probability = np.exp(logits - logits.max())
        assert probability / probability.sum() == pytest.approx(heads.probability[i], abs=1e-3)


def test_too_small_a_class_gives_no_predictions():
    assert cross_predict(np.random.default_rng(0).normal(size=(8, 3)), np.array(["a"] * 6 + ["b"] * 2), seed=0) is None


@pytest.fixture
def stored(tmp_path) -> tuple[pd.DataFrame, object]:
    rows = []
    for i in range(24):
        data = jpeg(i, hue=i % 2)
        picture = inspect(data)
        row = {"image_id": picture.sha256[:16], "sha256": picture.sha256, "file_name": store(tmp_path, data, picture)}
        rows.append({**row, "label": ("oak", "elm")[i % 2], "status": "candidate"})
    return pd.DataFrame(rows), tmp_path


def colours(root):
    """An embedding of the right kind: mean colours."""
    from curate.images import open_rgb

    def embed(table: pd.DataFrame) -> np.ndarray:
        return np.stack([np.asarray(open_rgb(root, name)).mean(axis=(0, 1)) for name in table["file_name"]])

    return embed


def test_the_audit_adds_its_columns_and_keeps_every_row(stored):
    table, root = stored
    shown = []

    def explain(manifest, heads, target):
        shown.append((heads.classes.tolist(), target.tolist()))
        return np.ones((len(manifest), 56, 56), np.float32)

    with Ledger(root / "ledger.db") as ledger:
        ledger.decide(
            Decision(i, "reject" if label == "oak" else "accept", "overlay" if label == "oak" else None)
            for i, label in zip(table["image_id"][:16], table["label"][:16], strict=True)
        )
        audited = audit(table, ledger.standing(), root=root, embed=colours(root), explain=explain, jobs=1)
    assert audited["image_id"].tolist() == table["image_id"].tolist()
    assert shown == [(["elm", "oak"], [1, 0] * 12)]
    assert audited["predicted"].isin(["oak", "elm"]).all()
    assert audited["cam_background_energy"].between(0, 1).all()
    unseen = audited.iloc[16:]
    rejected = unseen.groupby("label")["reject_probability"].mean()
    assert rejected["oak"] > 0.55 > 0.45 > rejected["elm"]
    assert (audited["suspicion"] == audited["reject_probability"]).all()


def test_an_image_deleted_since_is_named_even_when_it_was_measured_before(stored):
    table, root = stored
    measure_all(table, root, 1)
    (root / table["file_name"][5]).unlink()
    with pytest.raises(CurateError, match=f"{table['file_name'][5]}: no such image"):
        measure_all(table, root, 1)


def test_measures_are_made_once_and_an_image_that_does_not_open_is_a_row(stored):
    table, root = stored
    (root / table["file_name"][3]).write_bytes(b"damaged")
    asked = []
    measured, masks = measure_all(table, root, 1, lambda *words: asked.append(words))
    assert masks.shape == (24, 56, 56)
    assert isinstance(measured["audit_error"][3], str)
    assert measured["audit_error"].notna().sum() == 1
    again, _ = measure_all(table, root, 1, lambda *words: asked.append(words))
    assert asked == [("measures", 24, 24)]
    pd.testing.assert_frame_equal(measured, again)
