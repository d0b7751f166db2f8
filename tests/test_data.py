"""Rows and pixels; also the small textures that the other tests of `classify` train on."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from classify.data import _normalised, batches, check_rows, load_pixels, prefetched, specimen, split_rows, to_input
from curate.cache import RowCache
from curate.errors import CurateError
from curate.images import inspect
from curate.manifest import write_manifest
from curate.store import store

torch.set_num_threads(1)  # several threads on a busy machine take far longer
COLOURS = {"basalt": (40, 40, 60), "granite": (220, 150, 140), "olivine": (60, 200, 80)}


def textures(root: Path, *, train: int = 6, val: int = 3, test: int = 2, labels: tuple[str, ...] = tuple(COLOURS)):
    """A manifest of noisy patches, a colour a class, stored under root; written to root/m.csv too."""
    rng = np.random.default_rng(0)
    rows = []
    for label in labels:
        for i, split in enumerate(["train"] * train + ["val"] * val + ["test"] * test):
            pixels = np.clip(rng.normal(COLOURS[label], 40, (40, 48, 3)), 0, 255).astype(np.uint8)
            path = root / f"{label}{i}.png"
            root.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(path)
            data = path.read_bytes()
            picture = inspect(data)
            rows.append((picture.sha256[:16], picture.sha256, store(root, data, picture), label, "accepted", split))
    manifest = pd.DataFrame(rows, columns=["image_id", "sha256", "file_name", "label", "status", "split"])
    write_manifest(manifest, root / "m.csv")
    return manifest


def damage(root: Path, manifest: pd.DataFrame, row: int) -> str:
    name = manifest["file_name"].iloc[row]
    (root / name).write_bytes(b"\x89PNG but no more")
    return name


def test_pixels_are_decoded_once_and_a_damaged_image_is_named(tmp_path, caplog):
    manifest = textures(tmp_path)
    name = damage(tmp_path, manifest, 4)
    with caplog.at_level(logging.WARNING):
        pixels = load_pixels(manifest, tmp_path, 32, cache=tmp_path / "cache")
    assert list(pixels.causes) == [4]
    assert name in caplog.text
    assert pixels.take([0, 5]).shape == (2, 32, 32, 3)
    (tmp_path / manifest["file_name"].iloc[0]).unlink()
    seen = []
    again = load_pixels(manifest, tmp_path, 32, cache=tmp_path / "cache", progress=lambda *a: seen.append(a))
    assert seen == [(1, 1)], "only the damaged one is tried again"
    np.testing.assert_array_equal(again.take([0]), pixels.take([0]))


def test_pixels_without_a_sha256_column_are_keyed_by_the_bytes(tmp_path):
    manifest = textures(tmp_path)
    pixels = load_pixels(manifest.drop(columns="sha256"), tmp_path, 16, cache=tmp_path / "cache")
    assert pixels.keys == manifest["sha256"].tolist()


def test_threads_take_at_once_from_more_files_than_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr("curate.cache.OPEN", 2)
    cache = RowCache(tmp_path)
    for number in range(9):
        cache.append([str(number)], np.full((1, 2), number))
        cache.flush()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: cache.take([str(number % 9)])[0, 0], range(900)))
    assert found == [number % 9 for number in range(900)]


def test_a_damaged_cache_file_is_as_if_it_were_not_there(tmp_path):
    cache = RowCache(tmp_path)
    cache.append(["a"], np.ones((1, 2)))
    cache.flush()
    cache.append(["b"], np.full((1, 2), 2.0))
    cache.flush()
    broken = next(p for p in tmp_path.glob("*.json") if "a" in p.read_text())
    broken.with_suffix(".npy").write_bytes(b"")
    again = RowCache(tmp_path)
    assert "a" not in again
    assert again.take(["b", "b"]).tolist() == [[2, 2], [2, 2]]


def test_the_specimen_is_what_stands_out_and_a_little_around_it(tmp_path):
    picture = np.full((200, 300, 3), 250, np.uint8)
    picture[60:140, 90:210] = np.random.default_rng(0).integers(20, 90, (80, 120, 3))
    box = specimen(Image.fromarray(picture)).size
    assert 120 <= box[0] <= 140
    assert 80 <= box[1] <= 96
    manifest = textures(tmp_path)[:1]
    Image.fromarray(picture).save(tmp_path / manifest["file_name"].iloc[0])
    manifest = manifest.drop(columns="sha256")
    whole, crop = (
        load_pixels(manifest, tmp_path, 64, cache=tmp_path / "cache", crop=crop).take([0])[0] for crop in (False, True)
    )
    assert (whole[0] > 200).all()
    assert (crop > 200).mean() < 0.25 < (whole > 200).mean()


def test_where_nothing_stands_out_the_whole_image_is_the_specimen():
    flat = Image.new("RGB", (60, 40), (120, 90, 60))
    assert specimen(flat).size == (60, 40)


def test_input_is_imagenet_normalised():
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    pixels[1] = 255
    batch = to_input(pixels)
    assert batch.shape == (2, 3, 4, 4)
    np.testing.assert_allclose(batch[0, :, 0, 0], [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], rtol=1e-5)
    np.testing.assert_allclose(batch[1, 0, 0, 0], (1 - 0.485) / 0.229, rtol=1e-5)


def test_input_is_the_same_from_a_table_and_from_arithmetic():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 5, 3), dtype=np.uint8)
    expected = _normalised(torch.from_numpy(pixels)).permute(0, 3, 1, 2)
    assert torch.equal(to_input(pixels), expected)
    assert torch.equal(to_input(pixels[::-1, :, ::-1]), expected.flip(0, 3)), "a view that is not contiguous"
    assert to_input(pixels).is_contiguous(memory_format=torch.channels_last)
    assert to_input(pixels[:0]).shape == (0, 3, 5, 5)


def test_no_batch_has_a_single_image():
    assert [len(part) for part in batches(np.arange(9), 4)] == [4, 5]
    assert [len(part) for part in batches(np.arange(1), 4)] == [1]


def test_prefetching_keeps_the_order():
    parts = [np.array([i]) for i in range(5)]
    assert [made for _, made in prefetched(lambda part: int(part[0]) ** 2, parts)] == [0, 1, 4, 9, 16]


def test_only_accepted_rows_of_a_split_are_used(tmp_path):
    manifest = textures(tmp_path)
    manifest.loc[0, "status"] = "rejected"
    assert len(split_rows(manifest, "train")) == 17
    assert len(split_rows(manifest.drop(columns="status"), "train")) == 18


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.drop(columns="split"), "curate split"),
        (lambda m: m[m["split"] != "val"], "split val is empty"),
        (lambda m: m[(m["label"] != "olivine") | (m["split"] == "val")], "olivine is in split val but not in train"),
        (lambda m: m[m["label"] == "granite"], "only one class"),
        (lambda m: pd.concat([m[m["label"] != "basalt"], m[m["label"] == "basalt"][:1]]), "basalt has one image"),
    ],
)
def test_a_manifest_that_cannot_be_trained_on_says_why(tmp_path, change, message):
    with pytest.raises(CurateError, match=message):
        check_rows(change(textures(tmp_path)))
