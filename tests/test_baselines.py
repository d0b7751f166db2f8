import numpy as np
import pytest
from sklearn.metrics import f1_score

import classify.baselines
from classify.baselines import CLASSIFIERS, Guesses, baselines, features, figures, guess
from curate.errors import CurateError
from tests.test_data import COLOURS, damage, textures


@pytest.fixture(autouse=True)
def two_folds(monkeypatch):
    """Quicker than five."""
    monkeypatch.setattr(classify.baselines, "FOLDS", 2)


def plain(colour):
    return np.full((32, 32, 3), colour, np.uint8)


def test_classical_classifiers_tell_colours_apart(tmp_path):
    table = baselines(textures(tmp_path), tmp_path, seed=0, cache=tmp_path / "cache")
    assert table["classifier"].tolist() == list(CLASSIFIERS)
    assert (table["accuracy"] > 0.8).all(), "three colours, 9 images"
    assert (table["accuracy_low"] <= table["accuracy"]).all()
    assert (table["accuracy"] <= table["accuracy_high"]).all()
    assert (table["images"] == 9).all()
    assert table["settings"].str.contains("n_neighbors|gamma|max_depth").all()


def test_labels_that_mean_nothing_are_not_told(tmp_path):
    """Validation labels are turned: whoever learned the colours from train alone has all of them wrong."""
    manifest = textures(tmp_path)
    val = manifest["split"] == "val"
    turned = dict(zip(COLOURS, [*list(COLOURS)[1:], next(iter(COLOURS))], strict=True))
    manifest.loc[val, "label"] = manifest.loc[val, "label"].map(turned)
    table = baselines(manifest, tmp_path, seed=0, cache=tmp_path / "cache")
    assert (table["accuracy"] < 0.2).all()
    assert (table["cross_validated_macro_f1"] > 0.8).all()


def test_the_figures_are_those_of_the_guesses():
    label = np.array([0, 0, 0, 1, 1, 2])
    predicted = {"half right": np.array([0, 1, 1, 1, 1, 0])}
    found = Guesses(("a", "b", "c"), [], label, predicted, {"half right": {"C": 1.0}}, {"half right": 0.5})
    row = figures(found).iloc[0]
    assert row["accuracy"] == 0.5
    assert row["macro_f1"] == pytest.approx(f1_score(label, predicted["half right"], average="macro"))
    assert row["macro_f1_low"] < row["macro_f1"] < row["macro_f1_high"]
    assert (row["settings"], row["images"]) == ("C 1.0", 6)


def test_features_are_kept_by_content_and_a_damaged_image_is_left_out(tmp_path):
    manifest = textures(tmp_path)
    row = int(np.flatnonzero(manifest["split"] == "val")[0])
    damage(tmp_path, manifest, row)
    seen = []

    def told(*now):
        seen.append(now)

    first = guess(manifest, tmp_path, seed=0, cache=tmp_path / "cache", progress=told)
    assert seen == [(26, 26)]
    assert manifest["image_id"][row] not in first.image_ids
    turned = manifest.sample(frac=1, random_state=1)
    again = guess(turned, tmp_path, seed=0, cache=tmp_path / "cache", progress=told)
    assert seen == [(26, 26)]
    assert all((again.predicted[name] == first.predicted[name]).all() for name in CLASSIFIERS)


def test_features_tell_colour_from_texture():
    """Histograms are shares; a turn by 90 degrees changes no colour; noise has contrast, a plain square none."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    for image in (plain((200, 30, 30)), noise):
        assert features(image)[:24].reshape(3, 8).sum(1) == pytest.approx(1)
    np.testing.assert_allclose(features(noise)[:41], features(np.rot90(noise))[:41], atol=1e-4)
    contrast = slice(41, 43)
    assert (features(plain((90, 90, 90)))[contrast] == 0).all()
    assert (features(noise)[contrast] > 10).all()
    assert not np.allclose(features(plain((200, 30, 30)))[:41], features(plain((30, 30, 200)))[:41])
    assert np.isfinite(features(plain((0, 0, 0)))).all()


def test_a_class_with_one_training_image_cannot_be_cross_validated(tmp_path):
    manifest = textures(tmp_path, train=2)
    damage(tmp_path, manifest, int(np.flatnonzero(manifest["label"] == "olivine")[0]))
    with pytest.raises(CurateError, match="olivine 1; each class needs 2"):
        baselines(manifest, tmp_path, seed=0, cache=tmp_path / "cache")
