import logging

import numpy as np
import pytest
import torch

from classify.augment import Augmentation, augment, to_gray
from classify.data import load_pixels, sample_number, to_input
from classify.models import build
from classify.views import Views, as_input, prefix_of, room_for
from tests.test_data import textures

torch.set_num_threads(1)


def views_of(root, model, *, bfloat16=False, chosen=None):
    pixels = load_pixels(textures(root)[:3], root, 32, cache=root / "cache")
    prefix = prefix_of(model, "small_cnn", bfloat16=bfloat16)
    return Views(pixels, prefix, chosen or Augmentation(), cache=root / "cache", crop=False)


@pytest.mark.parametrize("freeze", ["head", "last_block"])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_views_are_what_the_frozen_layers_make_of_augmented_images(tmp_path, freeze, bfloat16):
    model = build("small_cnn", 3, weights="none", freeze=freeze).eval()
    views = views_of(tmp_path, model, bfloat16=bfloat16)
    views.fill(views.lacking(np.arange(3), [None, 0, 1]))
    turned = augment(views.pixels.take([2]), [sample_number(views.pixels.keys[2])], seed=0, epoch=1)
    with torch.inference_mode():
        kept = as_input(views.take(np.array([2]), np.array([1])))
        near = {"rtol": 0.05, "atol": 0.02} if bfloat16 else {"rtol": 1e-3, "atol": 1e-5}
        torch.testing.assert_close(views.prefix.rest(kept.float()), model(to_input(turned)), **near)
        plain = views.prefix.rest(as_input(views.take(np.arange(3))))
        torch.testing.assert_close(plain, model(to_input(views.pixels.take([0, 1, 2]))), rtol=1e-4, atol=1e-5)


def test_what_is_kept_is_not_made_again_and_other_weights_or_augmentations_do_not_meet_it(tmp_path):
    model = build("small_cnn", 3, weights="none", freeze="head").eval()
    seen = []
    for other in (model, model, build("small_cnn", 3, weights="none", freeze="head", seed=1).eval()):
        views = views_of(tmp_path, other)
        views.fill(views.lacking(np.arange(3), [None, 0]), lambda *now: seen.append(now))
    assert seen == [(3, 3), (3, 3)] * 2, "plain and augmented; once for each weights"
    assert not views_of(tmp_path, model).lacking(np.arange(3), [None, 0])
    assert len(views_of(tmp_path, model, chosen=Augmentation(0.5)).lacking(np.arange(3), [0])) == 3


def test_where_all_training_images_are_grey_the_plain_view_is_too(tmp_path):
    model = build("small_cnn", 3, weights="none", freeze="head").eval()
    views = views_of(tmp_path, model, chosen=Augmentation(grayscale=1))
    views.fill(views.lacking(np.arange(3), [None]))
    with torch.inference_mode():
        expected = model(to_input(to_gray(views.pixels.take([0, 1, 2]))))
        torch.testing.assert_close(
            views.prefix.rest(as_input(views.take(np.arange(3)))), expected, rtol=1e-4, atol=1e-5
        )


def test_nothing_is_kept_where_the_disk_has_no_room(tmp_path, caplog):
    assert room_for(1000, tmp_path / "not" / "there", 2000)
    with caplog.at_level(logging.WARNING, "classify"):
        assert not room_for(3000, tmp_path, 2000)
    assert "the frozen layers run in every epoch" in caplog.text
