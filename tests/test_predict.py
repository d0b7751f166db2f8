"""Probabilities of a manifest's rows; the table of photos: classes, heatmaps, and what is no specimen."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from classify import predict
from classify.config import TrainConfig
from classify.heatmaps import overlay
from classify.identify import load_identifier
from classify.models import Trained, build, load_run
from classify.predict import Familiar, predict_photos, predict_rows, trained_on
from classify.report import jpeg
from classify.train import train
from curate.errors import CurateError
from curate.images import decode, open_rgb, square
from tests.test_data import COLOURS, damage, textures
from tests.test_identify import make_run, stripes


class ByColour(nn.Module):
    """Logits: how near the mean colour is to each class's; a stand-in that is right by construction."""

    def forward(self, x):
        mean = x.mean((2, 3)) * torch.tensor([0.229, 0.224, 0.225]) + torch.tensor([0.485, 0.456, 0.406])
        colours = torch.tensor(list(COLOURS.values())) / 255
        return -50 * ((mean[:, None] - colours) ** 2).sum(2)


TRAINED = Trained("by_colour", ByColour(), tuple(COLOURS), 32)


def test_rows_get_probabilities_and_damaged_ones_nan(tmp_path):
    manifest = textures(tmp_path)
    damage(tmp_path, manifest, 3)
    found = predict_rows(TRAINED, manifest, tmp_path)
    assert np.isnan(found[3]).all()
    readable = np.delete(np.arange(len(manifest)), 3)
    np.testing.assert_allclose(found[readable].sum(1), 1, rtol=1e-5)
    predicted = np.array(list(COLOURS))[found[readable].argmax(1)]
    assert predicted.tolist() == manifest["label"].iloc[readable].tolist()


def test_a_photo_a_folder_and_a_manifest_predict_alike(tmp_path):
    manifest = textures(tmp_path, train=1, val=0, test=0)
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / "broken.JPG").write_bytes(b"no")
    photo = predict_photos(TRAINED, [tmp_path / "granite0.png"], tmp_path)
    assert photo["predicted"].tolist() == ["granite"]
    assert photo["probability"][0] > photo["second_probability"][0] > photo["third_probability"][0]
    assert photo[["probability", "second_probability", "third_probability"]].iloc[0].sum() == pytest.approx(1)
    table = predict_photos(TRAINED, [tmp_path / "m.csv"], tmp_path)
    assert table["predicted"].tolist() == manifest["label"].tolist()
    folder = predict_photos(TRAINED, [tmp_path], tmp_path, top=1)
    assert len(folder) == 1 + 3 + 3, "the broken one, the originals, the stored ones"
    broken = folder[folder["error"].notna()]
    assert broken["file"].tolist() == [str(tmp_path / "broken.JPG")]
    assert broken["predicted"].isna().all()


def test_a_run_without_colours_takes_them_off(tmp_path):
    manifest = textures(tmp_path, train=1, val=0, test=0)
    blind = dataclasses.replace(TRAINED, gray=True)
    for name in manifest["file_name"]:
        Image.open(tmp_path / name).convert("L").convert("RGB").save(tmp_path / f"gray-{Path(name).stem}.png")
    gray = manifest.assign(file_name=[f"gray-{Path(name).stem}.png" for name in manifest["file_name"]])
    said = predict_rows(blind, manifest, tmp_path)
    np.testing.assert_allclose(said, predict_rows(TRAINED, gray, tmp_path), atol=0.02)
    assert np.abs(said - predict_rows(TRAINED, manifest, tmp_path)).max() > 0.2


def test_nothing_to_predict_is_an_error(tmp_path):
    with pytest.raises(CurateError, match="no such photo"):
        predict_photos(TRAINED, [tmp_path / "missing.jpg"], tmp_path)
    with pytest.raises(CurateError, match="no photo in"):
        predict_photos(TRAINED, [tmp_path], tmp_path)


def test_a_model_left_in_training_mode_predicts_the_same(tmp_path):
    manifest = textures(tmp_path)[:4]
    trained = Trained("small_cnn", build("small_cnn", 3, weights="none").train(), tuple(COLOURS), 32)
    np.testing.assert_array_equal(predict_rows(trained, manifest, tmp_path), predict_rows(trained, manifest, tmp_path))


def test_batches_say_what_one_batch_says(tmp_path, monkeypatch):
    textures(tmp_path, train=2, val=1, test=0)
    at_once = predict_photos(TRAINED, [tmp_path / "m.csv"], tmp_path)
    monkeypatch.setattr(predict, "BATCH", 4)
    told: list[tuple[int, int]] = []
    table = predict_photos(TRAINED, [tmp_path / "m.csv"], tmp_path, progress=lambda *now: told.append(now))
    pd.testing.assert_frame_equal(table, at_once)
    assert told == [(4, 9), (9, 9)]


def test_photos_unlike_those_learnt_from_are_no_specimens(tmp_path):
    manifest = textures(tmp_path, train=12, val=8, test=1)
    run = make_run(tmp_path / "run")
    identifier = load_identifier(run)
    known = identifier.known(manifest, tmp_path)
    stripes(1).save(tmp_path / "stripes.png")
    (tmp_path / "broken.jpg").write_bytes(b"no")
    unseen = tmp_path / manifest.loc[manifest["split"] == "test", "file_name"].iloc[0]
    photos = [unseen, tmp_path / "stripes.png", tmp_path / "broken.jpg"]
    table = predict_photos(load_run(run), photos, tmp_path, familiar=Familiar(identifier.backbone, known))
    assert table["specimen"].tolist() == ["yes", "no", "unknown"]
    expected = known.distance(identifier.identify(open_rgb(tmp_path, "stripes.png")).embedding)
    assert table["distance"][1] == pytest.approx(expected, abs=1e-5)
    assert table["limit"].tolist()[:2] == [known.limit, known.limit]
    assert table[["distance", "limit"]].iloc[2].isna().all()
    assert not {"specimen", "distance"} & set(predict_photos(load_run(run), photos, tmp_path))
    alone = predict_photos(load_run(run), photos[2:], tmp_path, familiar=Familiar(identifier.backbone, known))
    assert alone[["predicted", "probability", "distance"]].isna().all(axis=None), "the columns are there all the same"


@pytest.mark.parametrize("crop", [False, True])
def test_heatmaps_lie_over_what_the_model_sees(tmp_path, crop):
    manifest = textures(tmp_path, train=2, val=1, test=0)
    trained = dataclasses.replace(load_run(make_run(tmp_path / "run")), crop=crop)
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / manifest["file_name"].iloc[4], tmp_path / "other" / "<b> 1.png")
    (tmp_path / "other" / "broken.jpg").write_bytes(b"no")
    photos = [tmp_path / manifest["file_name"].iloc[4], tmp_path / "other"]
    table = predict_photos(trained, photos, tmp_path, heatmaps=tmp_path / "deep" / "maps")
    assert sorted(path.name[:5] for path in (tmp_path / "deep" / "maps").iterdir()) == ["0001-", "0002-"]
    assert table["heatmap"][1].endswith("0002-_b__1.jpg")
    assert table["heatmap"].isna().tolist() == [False, False, True]
    plain = predict_photos(trained, photos, tmp_path)
    np.testing.assert_allclose(table["probability"][:2], plain["probability"][:2], atol=1e-5)
    if not crop:
        photo = open_rgb(tmp_path, manifest["file_name"].iloc[4])
        seen = square(photo, 48)
        wanted = overlay(seen, load_identifier(tmp_path / "run").identify(photo).heatmap)
        expected, plain_photo = (np.asarray(decode(jpeg(picture)), int) for picture in (wanted, seen))
        written = np.asarray(Image.open(table["heatmap"][0]), int)
        assert np.abs(written - expected).mean() < 1
        assert np.abs(written - plain_photo).mean() > 20


def test_a_file_too_large_to_be_a_photo_is_a_row(tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(predict.MOST_BYTES + 1)  # a hole, which takes no room
    table = predict_photos(TRAINED, [tmp_path / "huge.png"], tmp_path)
    assert table["error"].tolist() == ["ImageError: 500,000,001 bytes, more than 500,000,000"]


def test_a_manifest_is_the_run_s_if_images_labels_and_splits_are(tmp_path):
    manifest = textures(tmp_path)
    config = TrainConfig(arch="small_cnn", weights="none", image_size=32, epochs=1, batch_size=8)
    train(manifest, tmp_path, config, tmp_path / "run")
    assert trained_on(tmp_path / "run", manifest.sample(frac=1, random_state=1), tmp_path)
    assert trained_on(tmp_path / "run", manifest.drop(columns="sha256"), tmp_path), "the files are read"
    test = manifest["split"] == "test"
    assert trained_on(tmp_path / "run", manifest[~test], tmp_path), "nothing of split test was trained on"
    assert not trained_on(tmp_path / "run", manifest[1:], tmp_path)
    moved = manifest.assign(split=manifest["split"].where(manifest.index != 0, "val"))
    assert not trained_on(tmp_path / "run", moved, tmp_path)
    assert not trained_on(tmp_path / "run", manifest.drop(columns="split"), tmp_path)
    (tmp_path / "run" / "config.json").write_text(json.dumps({"data": []}))
    assert not trained_on(tmp_path / "run", manifest, tmp_path)
