import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from classify import explain
from classify.data import to_input
from classify.explain import (
    RowHeads,
    SmallCAM,
    contact_sheet,
    explain_heads,
    explain_run,
    explain_split,
    grad_cam,
    heatmap_path,
    overlay,
)
from classify.features import Sight, embed
from classify.models import Trained, backbone_of, build, explained, load_backbone, save_model, spatial, split
from curate.errors import CurateError
from curate.images import open_rgb, square
from tests.test_data import COLOURS, damage, textures


def test_a_head_on_one_channel_lights_up_where_that_channel_is_active():
    """Channel 1 is active in the upper left, channel 2 in the lower right; each image has a head of its own."""
    maps = torch.zeros(2, 3, 7, 7)
    maps[:, 1, 0, 0] = 5
    maps[:, 2, 6, 6] = 5
    weight = torch.tensor([[0.0, 1, 0], [0, 0, 1]])
    heat = grad_cam(RowHeads(weight), maps, [0, 0])
    assert heat.shape == (2, 56, 56)
    assert heat[0, :8, :8].max() == 1.0
    assert heat[0, 20:].max() == 0
    assert heat[1, -8:, -8:].max() == 1.0
    assert heat[1, :36].max() == 0


def test_where_nothing_speaks_for_the_class_the_map_is_zero():
    heat = grad_cam(RowHeads(torch.tensor([[-1.0]])), torch.rand(1, 1, 7, 7), [0])
    assert heat.max() == 0


def test_the_map_is_that_of_differentiating_the_whole_network():
    """Grad-CAM by hand, eqs. (1) and (2) of the paper, against the leaf at the end of the trunk."""
    torch.manual_seed(0)
    trunk, head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)
    x = torch.randn(1, 3, 8, 8)
    activations = trunk(x)
    activations.retain_grad()
    head(activations.mean((2, 3)))[0, 1].backward()
    weights = activations.grad.mean((2, 3), keepdim=True)
    by_hand = (weights * activations).sum(1).relu()[0].detach().numpy()
    heat = grad_cam(RowHeads(head.weight[1:].detach()), activations.detach(), [0])[0]
    small = heat.reshape(8, 7, 8, 7)[:, 3, :, 3]  # the middles of the cells
    expected = (by_hand - by_hand.min()) / (by_hand.max() - by_hand.min())
    np.testing.assert_allclose(small / small.max(), expected, atol=0.02)


def test_too_few_targets_are_an_error_not_an_empty_map():
    with pytest.raises(ValueError, match="1 targets for 2 images"):
        grad_cam(RowHeads(torch.ones(2, 1)), torch.rand(2, 1, 3, 3), [0])


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
HEAVY = ["vgg16", "vgg19_bn", "convnext_tiny", "swin_t", "vit_b_16"]


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
        with SmallCAM(chain, [trunk], reshape_transform=spatial) as cam:
            whole = cam(to_input(pixels), [ClassifierOutputTarget(target)])[0]
        np.testing.assert_allclose(found[0, target], explain._scaled(whole), atol=1 / 255)
    assert sorted(found.max((2, 3)).ravel())[-1] == 1
    maps = backbone.maps(pixels)
    assert maps.shape[:2] == (1, backbone.dim)
    embedding = embed(manifest, tmp_path, backbone, cache=tmp_path / "cache")
    np.testing.assert_allclose(embedding, maps.mean((2, 3)), rtol=1e-3, atol=1e-4 * float(maps.abs().max()))


def test_a_vision_transformer_is_explained_before_its_last_attention_as_the_library_does():
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(64, 16, 3, 2, 32, 64, num_classes=3).eval()
    nn.init.normal_(model.heads.head.weight)
    body, tail = explained(model, "vit_b_16")
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        tokens = body(x)
    found = grad_cam(tail.requires_grad_(False), tokens, [2, 0])
    with SmallCAM(model, [model.encoder.layers[-1].ln_1], reshape_transform=spatial) as cam:
        whole = cam(x.requires_grad_(), [ClassifierOutputTarget(target) for target in (2, 0)])
    np.testing.assert_allclose(found, np.stack([explain._scaled(heat) for heat in whole]), atol=1e-4)
    assert found.max() == 1


class Pooled(nn.Module):
    """The mean over space."""

    def forward(self, x):
        return spatial(x).mean((2, 3))


@pytest.mark.parametrize("targets", [[0, 1, 2], [2, 2, 0]])
def test_grad_cam_of_a_linear_head_is_its_closed_form(targets):
    """ReLU of the maps weighed by the head's row, from its least value to its peak."""
    torch.manual_seed(0)
    maps, weight = torch.randn(3, 16, 7, 7), torch.randn(3, 16)
    closed = torch.einsum("nchw,nc->nhw", maps, weight[targets]).relu()
    closed = closed - closed.amin((1, 2), keepdim=True)
    closed = closed / closed.amax((1, 2), keepdim=True)
    model = RowHeads(weight[targets])
    with SmallCAM(model, [model.map]) as cam:
        found = cam(maps.requires_grad_(), [ClassifierOutputTarget(0)] * 3)
    np.testing.assert_allclose(found, closed.detach(), atol=2e-6)


def test_an_image_id_cannot_leave_the_folder(tmp_path):
    for name in ("../x", "a/b", ".hidden", ""):
        with pytest.raises(CurateError, match="no plain name"):
            heatmap_path(tmp_path, name)


@pytest.mark.parametrize("arch", ["small_cnn", "squeezenet1_1", "densenet121"])
def test_a_run_is_explained_in_a_page_that_opens_offline(tmp_path, arch):
    manifest = textures(tmp_path, train=1, val=2, test=0)
    manifest.loc[manifest["split"] == "val", "image_id"] = [f"id{i}" for i in range(6)]
    run = tmp_path / "run"
    run.mkdir()
    model = build(arch, 3, weights="none")
    save_model(Trained(arch, model, tuple(COLOURS), 64), run / "model.safetensors")
    damage(tmp_path, manifest, 1)
    page, images = explain_split(run, manifest, tmp_path, split="val", target="predicted")
    assert images == 5
    text = page.read_text()
    assert "http" not in text
    assert text.count("<img") == 5
    assert (page.parent / "contact.png").is_file()
    assert sorted(p.name for p in page.parent.glob("*.jpg")) == [f"id{i}.jpg" for i in range(1, 6)]


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
