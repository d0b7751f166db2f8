import numpy as np
import torch

from classify.data import augment, load_pixels, sample_number, to_input
from classify.features import Views, embed
from classify.models import backbone_of, build, load_backbone, split
from curate.images import open_rgb, square
from tests.test_data import damage, textures


def test_an_embedding_is_the_mean_of_the_trunks_map(tmp_path):
    manifest = textures(tmp_path)
    backbone = load_backbone("resnet18", "none", side=32)
    found = embed(manifest, tmp_path, backbone, cache=tmp_path / "cache")
    pixels = np.stack([square(open_rgb(tmp_path, name), 32) for name in manifest["file_name"][:2]])
    assert found.shape == (33, 512)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:2], backbone.maps(pixels).mean((2, 3)), rtol=1e-3, atol=1e-4)


def test_only_new_images_cost_and_damaged_ones_are_nan(tmp_path):
    manifest = textures(tmp_path)
    damage(tmp_path, manifest, 3)
    backbone = load_backbone("small_cnn", "none", side=32)
    seen: list[tuple[int, int]] = []
    first = embed(manifest[:5], tmp_path, backbone, cache=tmp_path / "cache")
    assert np.isnan(first).all(axis=1).tolist() == [False, False, False, True, False]
    both = embed(manifest[:7], tmp_path, backbone, cache=tmp_path / "cache", progress=lambda *now: seen.append(now))
    assert seen == [(3, 3)], "two new ones, and the damaged one again"
    np.testing.assert_array_equal(both[:5], first)


def test_another_backbone_does_not_take_these_embeddings(tmp_path):
    manifest = textures(tmp_path)[:3]
    cache = tmp_path / "cache"
    wide, small = (embed(manifest, tmp_path, load_backbone("small_cnn", "none", side=s), cache=cache) for s in (64, 32))
    assert not np.allclose(wide, small)


def test_views_are_the_head_inputs_of_augmented_images(tmp_path):
    manifest = textures(tmp_path)[:3]
    model = build("small_cnn", 3, weights="none", freeze="head").eval()
    trunk, (pool, rest) = split(model, "small_cnn")
    pixels = load_pixels(manifest, tmp_path, 32, cache=tmp_path / "cache")
    views = Views(pixels, backbone_of(model, "small_cnn", 32), pool, cache=tmp_path / "cache")
    views.fill(np.arange(3), [None, 0, 1])
    turned = augment(pixels.take([2]), [sample_number(pixels.keys[2])], seed=0, epoch=1)
    with torch.inference_mode():
        np.testing.assert_allclose(
            views.take(np.array([2]), np.array([1])), pool(trunk(to_input(turned))), rtol=1e-3, atol=1e-5
        )
        plain = rest(torch.from_numpy(views.take(np.arange(3))))
        np.testing.assert_allclose(plain, model(to_input(pixels.take([0, 1, 2]))), rtol=1e-4, atol=1e-5)
