import numpy as np
import pytest
from PIL import Image

from classify.ablate import ABLATIONS, ablate, background_only, foreground_only, only_one, predict_ablated
from classify.data import decode_rows
from classify.models import Trained, build
from classify.predict import predict_rows
from curate.errors import CurateError
from tests.test_data import COLOURS, damage, textures

MEAN_COLOUR = [124, 116, 104]  # 255 times ImageNet's 0.485, 0.456, 0.406


def specimens(n=2, side=96):
    """A rough reddish disc on white, off the middle: (n, side, side, 3) uint8, and where the disc is."""
    y, x = np.mgrid[:side, :side]
    discs = np.stack([np.hypot(y - side * 0.55, x - side * (0.4 + 0.1 * i)) < side * 0.28 for i in range(n)])
    noise = np.random.default_rng(0).normal(0, 12, (n, side, side, 3))
    pixels = np.where(discs[..., None], np.array([150, 70, 60]) + noise, 245 + noise / 6)
    return np.clip(pixels, 0, 255).astype(np.uint8), discs


def test_only_the_specimen_or_only_what_surrounds_it_is_left():
    pixels, discs = specimens()
    (fore, guessed), (back, _) = foreground_only(pixels), background_only(pixels)
    assert not guessed.any()
    painted = [(part == MEAN_COLOUR).all(-1) for part in (fore, back)]
    assert (painted[0] ^ painted[1]).mean() > 0.999, "a pixel is painted over in one of the two"
    for i, disc in enumerate(discs):
        found = painted[1][i]
        assert (found & disc).sum() / (found | disc).sum() > 0.9, "the mask is the disc's"
    assert (fore[~painted[0]] == pixels[~painted[0]]).all()
    assert (back[~painted[1]] == pixels[~painted[1]]).all()


def test_an_ablation_changes_neither_shape_nor_the_pixels_it_was_given():
    pixels, _ = specimens()
    before = pixels.copy()
    for name in ABLATIONS:
        changed = ablate(pixels, name).pixels
        assert (changed.shape, changed.dtype) == (pixels.shape, np.uint8)
        assert (changed != pixels).any()
    np.testing.assert_array_equal(pixels, before)
    with pytest.raises(CurateError, match=r"'sepia' is unknown; known: grayscale, foreground-only"):
        ablate(pixels, "sepia")


def test_where_nothing_stands_out_an_ellipse_is_the_specimen_and_it_is_said(tmp_path, caplog):
    manifest = textures(tmp_path, train=1, val=1, test=0)
    flat = np.full((2, 64, 64, 3), 90, np.uint8)
    fore, guessed = foreground_only(flat)
    assert guessed.all()
    left = (fore[0] == 90).all(-1)
    assert left[32, 32]
    assert not left[0, 0]
    trained = Trained("small_cnn", build("small_cnn", 3, weights="none"), tuple(COLOURS), 32)
    predict_ablated(trained, manifest, tmp_path, "foreground-only")
    assert "6 of 6 images: nothing stands out" in caplog.text


def test_without_colour_the_three_channels_are_the_luma():
    pixels = np.array([[[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 10, 10]]]], np.uint8)
    gray = ablate(pixels, "grayscale").pixels
    assert gray[0, :, :, 0].tolist() == [[76, 150], [29, 10]]
    assert (gray == gray[..., :1]).all()


def test_two_ablations_at_once_are_refused():
    assert only_one(dict.fromkeys(ABLATIONS, False)) is None
    assert only_one({"grayscale": False, "foreground-only": True}) == "foreground-only"
    with pytest.raises(CurateError, match="--grayscale and --background-only: only one at a time"):
        only_one({"grayscale": True, "foreground-only": False, "background-only": True})


@pytest.mark.parametrize("crop", [False, True])
def test_the_model_sees_the_changed_pixels_of_what_it_takes(tmp_path, monkeypatch, crop):
    """A specimen that fills a corner: with `crop` the model takes that corner, and the mask is the corner's own."""
    manifest = textures(tmp_path, train=1, val=1, test=0)
    pixels, _ = specimens(1, 160)
    canvas = np.full((160, 320, 3), 245, np.uint8)
    canvas[:, :160] = pixels[0]
    Image.fromarray(canvas).save(tmp_path / manifest["file_name"].iloc[0], format="PNG")
    name = damage(tmp_path, manifest, 1)
    seen = []

    def spy(_, pixels):
        seen.append(pixels)
        return np.full((len(pixels), 3), 1 / 3)

    monkeypatch.setattr("classify.predict.probabilities", spy)
    classes = tuple(COLOURS)
    trained = Trained("small_cnn", build("small_cnn", 3, weights="none"), classes, 48, crop=crop)
    found = predict_ablated(trained, manifest, tmp_path, "background-only")
    decoded = decode_rows(manifest, tmp_path, np.array([0, 2, 3, 4, 5]), 48, crop=crop)
    np.testing.assert_array_equal(seen[0], background_only(np.array([image.pixels for image in decoded])).pixels)
    assert np.flatnonzero(np.isnan(found[:, 0])).tolist() == [1], name
    painted = (seen[0][0] == MEAN_COLOUR).all(-1).mean()
    assert painted > 0.5 if crop else 0.05 < painted < 0.25


def test_gray_images_are_told_as_they_are_without_ablation(tmp_path):
    manifest = textures(tmp_path, train=1, val=1, test=0)
    for file in manifest["file_name"]:
        with Image.open(tmp_path / file) as image:
            gray = image.convert("L").convert("RGB")
        gray.save(tmp_path / file, format="PNG")
    trained = Trained("small_cnn", build("small_cnn", 3, weights="none"), tuple(COLOURS), 32)
    plain = predict_rows(trained, manifest, tmp_path)
    np.testing.assert_allclose(predict_ablated(trained, manifest, tmp_path, "grayscale"), plain, atol=1e-6)
