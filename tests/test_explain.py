"""Heatmaps of linear heads, kept as files; what runs look at, in a folder of pictures."""

import json
import logging
import re

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from classify import explain
from classify.cam import enlarged
from classify.data import to_input
from classify.explain import chosen_rows, explain_heads, explain_photos, explain_run, explain_split
from classify.features import Sight, embed
from classify.heatmaps import contact_sheet, heatmap_path, overlay
from classify.models import Trained, build, load_backbone, load_run, save_model
from classify.trunk import backbone_of, spatial, split
from curate.errors import CurateError
from curate.images import open_rgb, square
from tests.test_data import COLOURS, damage, textures


def heads_for(backbone, number=2):
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(3, backbone.dim)), np.zeros(3)) for _ in range(number)]


def collected(parts, images):
    """(n, 2, 56, 56), NaN where nothing came."""
    out = np.full((images, 2, 56, 56), np.nan, np.float32)
    for rows, maps in parts:
        out[rows] = maps
    return out


def test_heatmaps_of_heads_are_kept_as_pictures_and_made_again_when_the_head_changes(tmp_path):
    manifest = textures(tmp_path)[:6]
    damage(tmp_path, manifest, 2)
    backbone = load_backbone("small_cnn", "none", side=64)
    heads, head_of_row = heads_for(backbone), np.array([0, 1, 0, 1, 0, -1])
    targets = np.array([[0, 0], [1, 2], [2, 2], [0, 1], [1, 1], [2, 2]])
    made: list[str] = []

    def run():
        before = {p: p.stat().st_mtime_ns for p in (tmp_path / "maps").glob("*.png")}
        parts = explain_heads(manifest, tmp_path, backbone, heads, head_of_row, targets, tmp_path / "maps")
        maps = collected(parts, 6)
        now = {p: p.stat().st_mtime_ns for p in (tmp_path / "maps").glob("*.png")}
        made[:] = sorted(p.stem for p in now if now[p] != before.get(p))
        return maps

    maps = run()
    ids = manifest["image_id"].tolist()
    assert np.isnan(maps[:, 0, 0, 0]).tolist() == [False, False, True, False, False, True]
    assert made == sorted([ids[0], ids[1], f"{ids[1]}-predicted", ids[3], f"{ids[3]}-predicted", ids[4]])
    np.testing.assert_array_equal(maps[0, 0], maps[0, 1])
    assert not np.array_equal(maps[1, 0], maps[1, 1])
    for name, kept in ((ids[0], maps[0, 0]), (f"{ids[1]}-predicted", maps[1, 1])):
        with Image.open(tmp_path / "maps" / f"{name}.png") as picture:
            assert (picture.mode, picture.size) == ("L", (56, 56))
            np.testing.assert_array_equal(np.asarray(picture, np.float32) / 255, kept)
            assert np.asarray(picture).max() in (0, 255)
    np.testing.assert_array_equal(run(), maps)
    assert made == []
    heads[1] = (-heads[1][0], heads[1][1])
    assert not np.array_equal(run()[1], maps[1])
    assert len(made) == 4, "both of the two images of the changed head"
    targets[1] = 1
    run()
    assert not (tmp_path / "maps" / f"{ids[1]}-predicted.png").exists(), "what is predicted is the label now"


def test_heatmaps_come_from_the_maps_that_a_pass_has_kept_and_these_are_cleared(tmp_path, monkeypatch):
    """Of six images four were seen: two are decoded; the heatmaps are those of the trunk, to a few levels."""
    manifest = textures(tmp_path)[:6]
    backbone = load_backbone("small_cnn", "none", side=64)
    heads, targets = heads_for(backbone), np.array([[0, 1]] * 6)
    sight = Sight(backbone, tmp_path / "cache", with_maps=True)
    pixels = np.stack([square(open_rgb(tmp_path, name), 64) for name in manifest["file_name"][:4]])
    sight.see(manifest["sha256"].tolist()[:4], pixels)
    sight.flush()
    work = (manifest, tmp_path, backbone, heads, np.array([0, 1] * 3), targets)
    fresh = collected(explain_heads(*work, tmp_path / "fresh"), 6)
    decoded = []
    real = explain.decode_rows
    monkeypatch.setattr(explain, "decode_rows", lambda m, r, rows, s: decoded.extend(rows) or real(m, r, rows, s))
    maps = collected(explain_heads(*work, tmp_path / "maps", maps=sight.maps), 6)
    assert decoded == [4, 5]
    np.testing.assert_allclose(maps, fresh, atol=0.02)
    assert not (tmp_path / "cache" / "maps" / backbone.key).exists()


ARCHITECTURES = ["small_cnn", "resnet18", "mobilenet_v2", "squeezenet1_1", "densenet121", "efficientnet_b0"]
HEAVY = ["vgg16", "convnext_tiny", "swin_t", "vit_b_16"]


@pytest.mark.parametrize("arch", [*ARCHITECTURES, *[pytest.param(arch, marks=pytest.mark.slow) for arch in HEAVY]])
def test_the_heatmaps_are_those_of_the_library_on_the_whole_network_as_its_readme_shows(tmp_path, arch):
    """The embedding is the mean of the map; Grad-CAM of a linear head on it, at the last layer before the pooling."""
    manifest = textures(tmp_path)[:1]
    side = 224 if arch in HEAVY else 96
    model = build(arch, 2, weights="none", seed=1).eval()
    backbone = backbone_of(model, arch, side)
    towards = np.random.default_rng(0).normal(size=backbone.dim).astype(np.float32)
    weight = np.stack([towards, -towards])
    work = (manifest, tmp_path, backbone, [(weight, np.zeros(2))], np.zeros(1, int), np.array([[0, 1]]))
    found = collected(explain_heads(*work, tmp_path / "maps"), 1)
    trunk, linear = split(model, arch)[0], nn.Linear(backbone.dim, 2, bias=False)
    linear.weight.data = torch.from_numpy(weight)
    chain = nn.Sequential(trunk, Pooled(), linear)
    pixels = np.stack([square(open_rgb(tmp_path, manifest["file_name"].iloc[0]), side)])
    for target in (0, 1):
        with AtMapSize(chain, [trunk], reshape_transform=spatial) as cam:
            whole = cam(to_input(pixels), [ClassifierOutputTarget(target)])
        np.testing.assert_allclose(found[0, target], enlarged(whole)[0], atol=1 / 255)
    assert sorted(found.max((2, 3)).ravel())[-1] == 1
    maps = backbone.maps(pixels)
    assert maps.shape[:2] == (1, backbone.dim)
    embedding = embed(manifest, tmp_path, backbone, cache=tmp_path / "cache")
    np.testing.assert_allclose(embedding, maps.mean((2, 3)), rtol=1e-3, atol=1e-4 * float(maps.abs().max()))


class AtMapSize(GradCAM):
    """Not enlarged to the size of the input."""

    def get_target_width_height(self, input_tensor):
        return None


class Pooled(nn.Module):
    """The mean over space."""

    def forward(self, x):
        return spatial(x).mean((2, 3))


def test_an_image_id_cannot_leave_the_folder(tmp_path):
    for name in ("../x", "a/b", ".hidden", ""):
        with pytest.raises(CurateError, match="no plain name"):
            heatmap_path(tmp_path, name)


def make_run(folder, arch="small_cnn", classes=tuple(COLOURS), freeze="none"):
    """An untrained run."""
    folder.mkdir()
    save_model(Trained(arch, build(arch, len(classes), weights="none", freeze=freeze), classes, 64), folder / FILE)
    return folder


FILE = "model.safetensors"


def opened(path):
    """(h, w, 3) uint8."""
    with Image.open(path) as image:
        return np.asarray(image)


def shown(page):
    """The captions of a page."""
    return re.findall(r"<figcaption>(.*?)</figcaption>", page.read_text())


@pytest.mark.parametrize("arch", ["small_cnn", "squeezenet1_1", "densenet121"])
def test_a_run_is_explained_in_a_page_that_opens_offline(tmp_path, arch):
    manifest = textures(tmp_path, train=1, val=2, test=0)
    manifest.loc[manifest["split"] == "val", "image_id"] = [f"id{i}" for i in range(6)]
    run = make_run(tmp_path / "run", arch, freeze="head")
    damage(tmp_path, manifest, 1)
    page, images = explain_split(run, manifest, tmp_path)
    assert (page, images) == (run / "explain-val" / "index.html", 5)
    text = page.read_text()
    assert "http" not in text
    assert text.count("<img") == 5
    assert opened(page.parent / "contact.png").shape == (168, 8 * 164 + 4, 3)
    assert sorted(p.name for p in page.parent.glob("*.jpg")) == [f"id{i}.jpg" for i in range(1, 6)]
    assert opened(page.parent / "id1.jpg").shape == (160, 160, 3)


def test_the_surest_wrong_comes_first_then_the_least_probability_of_the_label(tmp_path):
    manifest = textures(tmp_path, train=1, val=6, test=0)
    run = make_run(tmp_path / "run")
    page, _ = explain_split(run, manifest, tmp_path)
    rows = manifest[manifest["split"] == "val"]
    table, _ = explain_run(load_run(run), rows, tmp_path)
    wrong = table["predicted"] != rows["label"]
    assert 0 < wrong.sum() < len(rows)
    order = [
        *table.index[wrong].to_numpy()[np.argsort(-table["probability"][wrong])],
        *table.index[~wrong].to_numpy()[np.argsort(table["probability"][~wrong])],
    ]
    assert [caption.split(":")[0] for caption in shown(page)] == manifest["image_id"][order].tolist()
    assert [" (wrong)" in caption for caption in shown(page)] == [True] * wrong.sum() + [False] * (~wrong).sum()
    page, _ = explain_split(run, manifest, tmp_path, sort="manifest")
    assert [caption.split(":")[0] for caption in shown(page)] == rows["image_id"].tolist()


def test_a_second_contact_sheet_begins_where_the_first_is_full_and_old_ones_go(tmp_path, monkeypatch):
    monkeypatch.setattr("classify.heatmaps.ON_A_SHEET", 4)
    monkeypatch.setattr("classify.heatmaps.ON_A_PAGE", 4)
    manifest, run = textures(tmp_path, train=0, val=2, test=0), make_run(tmp_path / "run")
    page, _ = explain_split(run, manifest, tmp_path)
    sheets = [page.parent / name for name in ("contact.png", "contact-2.png")]
    assert all(sheet.exists() for sheet in sheets)
    assert "The first 4 of 6 images" in page.read_text()
    assert len(shown(page)) == 4
    explain_split(run, manifest, tmp_path, labels=["basalt"])
    assert [sheet.exists() for sheet in sheets] == [True, False]


def test_two_classes_are_compared_side_by_side_beside_the_image(tmp_path):
    """image, heatmap for granite, heatmap for basalt: the picture of an image, and a line of the figure."""
    manifest, run = textures(tmp_path, train=0, val=2, test=0), make_run(tmp_path / "run")
    page, images = explain_split(run, manifest, tmp_path, target=("granite", "basalt"), labels=["olivine"])
    assert (page.parent.name, images) == ("explain-val-pair", 2)
    assert all("; evidence for granite " in caption and ", basalt " in caption for caption in shown(page))
    assert opened(page.parent / "pair.png").shape[1] > 3 * 164
    row = manifest[manifest["label"] == "olivine"].iloc[:1]
    picture = opened(page.parent / f"{row['image_id'].iloc[0]}.jpg").astype(int)
    assert picture.shape == (168, 3 * 164 + 4, 3)
    image = np.asarray(square(open_rgb(tmp_path, row["file_name"].iloc[0]), 64).repeat(3, 0).repeat(3, 1))
    assert np.abs(picture[4:164, 4:164].mean((0, 1)) - image.mean((0, 1))).max() < 3, "the image itself"
    granite, basalt = picture[4:164, 168:328], picture[4:164, 332:492]
    for found, label in ((granite, "granite"), (basalt, "basalt")):
        _, heat = explain_run(load_run(run), row.assign(label=label), tmp_path, target="label")
        expected = overlay(picture[4:164, 4:164].astype(np.uint8), heat[0])
        assert np.abs(found - expected).mean() < 5
    assert np.abs(granite - basalt).mean() > 5
    with pytest.raises(CurateError, match="eigencam shows the same for every class"):
        explain_split(run, manifest, tmp_path, target=("granite", "basalt"), method="eigencam")
    with pytest.raises(CurateError, match="'gneiss' is none of the run's: basalt, granite, olivine"):
        explain_split(run, manifest, tmp_path, target=("granite", "gneiss"))


@pytest.mark.parametrize("method", ["layercam", "scorecam", "eigencam"])
def test_other_methods_have_folders_of_their_own(tmp_path, method):
    manifest, run = textures(tmp_path, train=0, val=1, test=0, labels=("basalt",)), make_run(tmp_path / "run")
    page, images = explain_split(run, manifest, tmp_path, method=method)
    assert (page.parent.name, images) == (f"explain-val-{method}", 1)
    assert f"(method: {method})" in page.read_text()
    assert ("the evidence for the class" in page.read_text()) == (method != "eigencam")


def test_an_unknown_method_is_refused_before_anything_is_written(tmp_path):
    manifest, run = textures(tmp_path, train=0, val=1, test=0), make_run(tmp_path / "run")
    with pytest.raises(CurateError, match="'gradcam2' is unknown; known: gradcam,"):
        explain_split(run, manifest, tmp_path, method="gradcam2")
    assert [path.name for path in run.iterdir()] == [FILE]


def test_hostile_names_are_text(tmp_path):
    """A class, a manifest's label and a photo with HTML and mathematics for names."""
    classes = ("<script>alert(1)</script>", "$\\frac{$", "basalt")
    manifest, run = textures(tmp_path, train=0, val=1, test=0), make_run(tmp_path / "run", classes=classes)
    manifest["label"] = ["<b>bold", classes[0], "basalt"]
    (photo := tmp_path / "<img src=x onerror=alert(1)>.png").write_bytes((tmp_path / "basalt0.png").read_bytes())
    pages = [explain_split(run, manifest, tmp_path, target=classes[:2])[0], explain_photos(run, [photo])[0]]
    for page in pages:
        assert "<script" not in page.read_text()
        assert "<b>" not in page.read_text()
        assert "<img src" not in page.read_text()
    assert "&lt;img src=x onerror=alert(1)&gt;.png: predicted" in pages[1].read_text()


def test_photos_of_no_manifest_are_explained_the_least_sure_first(tmp_path):
    textures(tmp_path / "a", train=1, val=0, test=0)
    textures(tmp_path / "b", train=1, val=0, test=0, labels=("granite",))
    run = make_run(tmp_path / "run")
    photos = [*sorted((tmp_path / "a").glob("*.png")), tmp_path / "b" / "granite0.png"]
    page, images = explain_photos(run, photos)
    assert (page.parent.name, images) == ("explain-photos", 4)
    said = [re.fullmatch(r"([ab]/\w+\.png): predicted \w+ (\d+)%", caption).groups() for caption in shown(page)]
    assert {name for name, _ in said} == {"a/basalt0.png", "a/granite0.png", "a/olivine0.png", "b/granite0.png"}
    assert [int(share) for _, share in said] == sorted(int(share) for _, share in said)
    with pytest.raises(CurateError, match="has no label"):
        explain_photos(run, photos, target="label")
    with pytest.raises(CurateError, match="no photo to explain"):
        explain_photos(run, [])


def test_rows_are_chosen_by_split_label_and_name_and_test_images_only_when_asked_for(tmp_path):
    manifest = textures(tmp_path, train=2, val=1, test=1)
    manifest.loc[0, "status"] = "rejected"
    by_split = {split: chosen_rows(manifest, tmp_path, split=split) for split in ("train", "val", "test", "all", None)}
    assert {split: len(rows) for split, rows in by_split.items()} == {
        "train": 5,
        "val": 3,
        "test": 3,
        "all": 11,
        None: 3,
    }
    assert set(by_split[None]["split"]) == {"val"}
    granite = manifest[manifest["label"] == "granite"]
    rows = chosen_rows(manifest, tmp_path, split="train", labels=["granite"])
    assert rows["image_id"].tolist() == granite["image_id"].tolist()[:2]
    train, val, test = (granite.iloc[i] for i in (0, 2, 3))
    names = [train["image_id"], str(tmp_path / val["file_name"])]
    assert chosen_rows(manifest, tmp_path, images=names).index.tolist() == [train.name, val.name]
    assert chosen_rows(manifest, tmp_path, images=[val["file_name"]]).index.tolist() == [val.name]
    assert chosen_rows(manifest, tmp_path, split="test", images=[test["image_id"]]).index.tolist() == [test.name]
    for images in ([test["image_id"]], [manifest["image_id"][0]], ["nobody"]):
        with pytest.raises(CurateError, match=f"--image '{images[0]}' is none of the 8 accepted images"):
            chosen_rows(manifest, tmp_path, images=images)
    with pytest.raises(CurateError, match="--class 'gneiss': none of the 3 images has that label; there are basalt"):
        chosen_rows(manifest, tmp_path, labels=["gneiss"])


def test_a_look_at_test_images_is_logged_and_a_label_that_the_run_does_not_know_is_named(tmp_path, caplog):
    manifest, run = textures(tmp_path, train=0, val=1, test=1), make_run(tmp_path / "run")
    explain_split(run, manifest, tmp_path)
    assert not (run / "test-log.jsonl").exists()
    manifest.loc[manifest["label"] == "basalt", "label"] = "gneiss"
    with caplog.at_level(logging.WARNING):
        explain_split(run, manifest, tmp_path, split="all")
    assert "label 'gneiss' is none of the run's: its images count as wrong" in caplog.text
    (look,) = [json.loads(line) for line in (run / "test-log.jsonl").read_text().splitlines()]
    assert (look["split"], look["images"]) == ("test", 3)
    with pytest.raises(CurateError, match="label 'gneiss' is none of the run's"):
        explain_split(run, manifest, tmp_path, target="label")


def test_the_explained_class_is_the_predicted_one_or_the_label(tmp_path):
    manifest = textures(tmp_path, train=2, val=0, test=0)
    trained = Trained("small_cnn", build("small_cnn", 3, weights="none").eval(), tuple(COLOURS), 48)
    by_label, maps = explain_run(trained, manifest, tmp_path, target="label")
    assert by_label["explained"].tolist() == manifest["label"].tolist()
    assert maps.shape == (6, 56, 56)
    predicted, _ = explain_run(trained, manifest, tmp_path)
    assert predicted["explained"].tolist() == predicted["predicted"].tolist()


def test_an_overlay_and_a_contact_sheet_have_the_size_they_should():
    image = np.full((20, 20, 3), 100, np.uint8)
    hot = overlay(image, np.ones((56, 56), np.float32))
    assert hot.shape == (20, 20, 3)
    assert (hot != image).any()
    np.testing.assert_array_equal(overlay(image, np.full((56, 56), np.nan, np.float32)), image)
    assert contact_sheet([image] * 3, columns=2, gap=4).shape == (52, 52, 3)
