import numpy as np
import torch

from classify import features
from classify.features import Maps, Sight, embed, embed_masked, paint_over
from classify.models import load_backbone
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


def test_what_was_seen_as_it_was_decoded_is_not_decoded_again(tmp_path, monkeypatch):
    manifest = textures(tmp_path)[:5]
    backbone, cache = load_backbone("small_cnn", "none", side=32), tmp_path / "cache"
    expected = embed(manifest, tmp_path, backbone, cache=tmp_path / "other")
    sight = Sight(backbone, cache, with_maps=True)
    keys = manifest["sha256"].tolist()
    assert sight.unseen(keys).all()
    sight.see(keys, np.stack([square(open_rgb(tmp_path, name), 32) for name in manifest["file_name"]]))
    sight.flush()
    assert not sight.unseen(keys).any()
    monkeypatch.setattr(features, "decode_rows", None)
    found = embed(manifest, tmp_path, backbone, cache=cache, sight=sight)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sight.maps.take(keys).mean((2, 3)), found, rtol=0.02, atol=1e-3)
    assert not Sight(backbone, cache).unseen(keys).any(), "another run takes it"


def test_maps_are_kept_in_8_bits_a_value_up_to_a_limit_and_cleared(tmp_path, monkeypatch):
    torch.manual_seed(0)
    values = torch.randn(3, 6, 4, 4) * torch.tensor([0.0, 1e-3, 1, 5, 100, 1e4])[:, None, None]
    kept = Maps(tmp_path / "maps")
    kept.append(["a", "b", "c"], values)
    kept.flush()
    found = kept.take(["c", "a"])
    ranges = (values.amax((2, 3)) - values.amin((2, 3)))[[2, 0], :, None, None]
    assert ((found - values[[2, 0]]).abs() <= ranges / 500).all()
    monkeypatch.setattr(features, "MOST_MAPS", 3 * 6 * 24 + 1)
    kept.append(["d"], values[:1])
    kept.flush()
    assert "d" not in kept
    kept.clear()
    assert "a" not in kept
    assert not (tmp_path / "maps").exists()


def test_a_part_is_painted_over_with_the_mean_colour_and_kept_apart(tmp_path):
    """The right half is painted: the embedding is that of the picture with a grey right half."""
    manifest = textures(tmp_path)[:4]
    damage(tmp_path, manifest, 2)
    backbone, cache = load_backbone("small_cnn", "none", side=32), tmp_path / "cache"
    masks = np.zeros((4, 56, 56), bool)
    masks[:, :, 28:] = True
    found = embed_masked(manifest, tmp_path, backbone, lambda rows: masks[rows], "left-1", cache=cache)
    pixels = np.stack([square(open_rgb(tmp_path, manifest["file_name"][0]), 32)])
    painted = paint_over(pixels, masks[:1])
    assert painted[0, 5, 20].tolist() == [124, 116, 104]
    np.testing.assert_array_equal(painted[:, :, :16], pixels[:, :, :16])
    np.testing.assert_allclose(found[:1], backbone.maps(painted).mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert np.isnan(found).all(axis=1).tolist() == [False, False, True, False]
    assert not np.allclose(embed(manifest[:1], tmp_path, backbone, cache=cache), found[:1])
    assert (cache / "embeddings" / f"{backbone.key}-left-1").is_dir()
