import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from classify.explain import (
    RowHeads,
    contact_sheet,
    explain_heads,
    explain_run,
    explain_split,
    grad_cam,
    heatmap_path,
    overlay,
)
from classify.models import Trained, build, load_backbone, save_model
from curate.errors import CurateError
from tests.test_data import COLOURS, damage, textures


def test_a_head_on_one_channel_lights_up_where_that_channel_is_active():
    """Channel 1 is active in the upper left, channel 2 in the lower right; each image has a head of its own."""
    maps = torch.zeros(2, 3, 7, 7)
    maps[:, 1, 0, 0] = 5
    maps[:, 2, 6, 6] = 5
    weight = torch.tensor([[0.0, 1, 0], [0, 0, 1]])
    heat = grad_cam(RowHeads(weight, torch.zeros(2)), maps, [0, 0])
    assert heat.shape == (2, 56, 56)
    assert heat[0, :8, :8].max() == 1.0
    assert heat[0, 20:].max() == 0
    assert heat[1, -8:, -8:].max() == 1.0
    assert heat[1, :36].max() == 0


def test_where_nothing_speaks_for_the_class_the_map_is_zero():
    heat = grad_cam(RowHeads(torch.tensor([[-1.0]]), torch.zeros(1)), torch.rand(1, 1, 7, 7), [0])
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
    heat = grad_cam(RowHeads(head.weight[1:].detach(), torch.zeros(1)), activations.detach(), [0])[0]
    small = heat.reshape(8, 7, 8, 7)[:, 3, :, 3]  # the middles of the cells
    expected = (by_hand - by_hand.min()) / (by_hand.max() - by_hand.min())
    np.testing.assert_allclose(small / small.max(), expected, atol=0.02)


def test_too_few_targets_are_an_error_not_an_empty_map():
    with pytest.raises(ValueError, match="1 targets for 2 images"):
        grad_cam(RowHeads(torch.ones(2, 1), torch.zeros(2)), torch.rand(2, 1, 3, 3), [0])


def heads_for(backbone, number=2):
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(3, backbone.dim)), np.zeros(3)) for _ in range(number)]


def test_heatmaps_of_heads_are_kept_as_pictures_and_made_again_when_the_head_changes(tmp_path):
    manifest = textures(tmp_path)[:6]
    damage(tmp_path, manifest, 2)
    backbone = load_backbone("small_cnn", "none", side=64)
    heads, head_of_row, target = heads_for(backbone), np.array([0, 1, 0, 1, 0, -1]), np.array([0, 1, 2, 0, 1, 2])
    seen: list[int] = []

    def run():
        seen.clear()
        return explain_heads(
            manifest,
            tmp_path,
            backbone,
            heads,
            head_of_row,
            target,
            tmp_path / "maps",
            progress=lambda done, total: seen.append(total),
        )

    maps = run()
    assert np.isnan(maps[:, 0, 0]).tolist() == [False, False, True, False, False, True]
    with Image.open(tmp_path / "maps" / f"{manifest['image_id'][0]}.png") as picture:
        assert (picture.mode, picture.size) == ("L", (56, 56))
        np.testing.assert_array_equal(np.asarray(picture, np.float32) / 255, maps[0])
        assert np.asarray(picture).max() in (0, 255)
    np.testing.assert_array_equal(run(), maps)
    assert seen == [1], "only the damaged one is tried again"
    heads[1] = (-heads[1][0], heads[1][1])
    assert not np.array_equal(run()[1], maps[1])
    assert seen == [3], "two of the changed head, and the damaged one"


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
