import numpy as np
import pytest
import torch
from torch import nn

from classify.models import Trained, build
from classify.predict import predict_photos, predict_rows
from curate.errors import CurateError
from tests.test_data import COLOURS, damage, textures


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


def test_nothing_to_predict_is_an_error(tmp_path):
    with pytest.raises(CurateError, match="no such photo"):
        predict_photos(TRAINED, [tmp_path / "missing.jpg"], tmp_path)
    with pytest.raises(CurateError, match="no photo in"):
        predict_photos(TRAINED, [tmp_path], tmp_path)


def test_a_model_left_in_training_mode_predicts_the_same(tmp_path):
    manifest = textures(tmp_path)[:4]
    trained = Trained("small_cnn", build("small_cnn", 3, weights="none").train(), tuple(COLOURS), 32)
    np.testing.assert_array_equal(predict_rows(trained, manifest, tmp_path), predict_rows(trained, manifest, tmp_path))
