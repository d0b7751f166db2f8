import pickle
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from classify.data import to_input
from classify.models import (
    Trained,
    _last_block,
    backbone_of,
    build,
    explained,
    load_backbone,
    load_run,
    save_model,
    spatial,
    split,
    train_mode,
)
from curate.errors import CurateError

torch.set_num_threads(1)  # several threads on a busy machine take far longer
WEIGHTS = Path(__file__).parents[2] / "shared" / "weights"
SMALL = ["small_cnn", "resnet18", "mobilenet_v2", "squeezenet1_1", "densenet121", "efficientnet_b0"]


def trainable(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


HEAVY = ["vgg19_bn", "convnext_tiny", "swin_t", "vit_b_16"]


@pytest.mark.parametrize("arch", [*SMALL, *[pytest.param(arch, marks=pytest.mark.slow) for arch in HEAVY]])
def test_trunk_and_head_make_the_model_and_so_do_what_is_explained_and_what_is_before(arch):
    model = build(arch, 3, weights="none").eval()
    trunk, head = split(model, arch)
    body, tail = explained(model, arch)
    side = 224 if arch in HEAVY else 64
    x = to_input(np.random.default_rng(0).integers(0, 255, (2, side, side, 3), dtype=np.uint8))
    with torch.inference_mode():
        assert torch.equal(head(trunk(x)), model(x))
        assert torch.equal(tail(body(x)), model(x))
        assert model(x).shape == (2, 3)
        assert spatial(trunk(x)).ndim == 4


def small_transformer() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.VisionTransformer(64, 16, 3, 2, 32, 64, num_classes=3).eval()


def test_a_vision_transformers_map_is_that_of_its_patches():
    """A patch that is bright lights up where it is: the positions are in the order of the picture."""
    model = small_transformer()
    trunk, head = split(model, "vit_b_16")
    body, tail = explained(model, "vit_b_16")
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(head(trunk(x)), model(x))
        torch.testing.assert_close(tail(body(x)), model(x))
        tokens = torch.arange(17.0).repeat(1, 32, 1).transpose(1, 2)
        assert spatial(tokens)[0, 0].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]
    backbone = backbone_of(model, "vit_b_16", 64)
    pixels = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    assert backbone.dim == 32
    assert backbone.maps(pixels).shape == (3, 32, 4, 4)


def test_of_a_vision_transformer_the_last_block_is_its_last_layer():
    model = small_transformer()
    names = _last_block(model, "vit_b_16")
    assert "encoder.layers.encoder_layer_2.mlp.0.weight" in names
    assert "encoder.layers.encoder_layer_0.ln_1.weight" in names
    assert "encoder.layers.encoder_layer_1.mlp.0.weight" not in names


@pytest.mark.parametrize("images", [1, 5, 19])
def test_threads_that_share_the_images_give_what_one_gives(images, monkeypatch):
    backbone = load_backbone("small_cnn", "none", side=32)
    pixels = np.random.default_rng(0).integers(0, 255, (images, 32, 32, 3), dtype=np.uint8)
    alone = backbone.maps(pixels)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    torch.testing.assert_close(backbone.maps(pixels), alone)


@pytest.mark.parametrize("arch", SMALL)
def test_freezing_the_trunk_leaves_the_last_layer(arch, tmp_path):
    torch.save(build(arch, 2, weights="none").state_dict(), tmp_path / "w.pth")
    names = trainable(build(arch, 3, weights=str(tmp_path / "w.pth"), freeze="head"))
    assert names
    assert all(name.startswith(("fc.", "classifier.")) for name in names)


def test_the_last_block_is_norms_deepest_convolutions_and_head():
    names = trainable(build("resnet18", 3, weights="none", freeze="last_block"))
    assert {"bn1.weight", "layer1.0.bn2.bias", "layer4.0.conv1.weight", "layer4.1.conv2.weight", "fc.1.weight"} <= names
    assert not {"conv1.weight", "layer3.1.conv2.weight"} & names


def test_a_frozen_batch_norm_keeps_its_statistics():
    model = build("resnet18", 2, weights="none", freeze="head")
    before = model.bn1.running_mean.clone()
    train_mode(model, "resnet18")
    model(torch.randn(4, 3, 32, 32) + 5)
    assert torch.equal(model.bn1.running_mean, before)
    assert model.fc.training
    free = build("resnet18", 2, weights="none")
    train_mode(free, "resnet18")
    free(torch.randn(4, 3, 32, 32) + 5)
    assert not torch.equal(free.bn1.running_mean, before)


def test_the_seed_makes_the_new_layers():
    first, again, other = (build("small_cnn", 3, weights="none", seed=s).classifier[1].weight for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_dropout_stands_before_the_last_layer():
    assert build("resnet18", 3, weights="none", dropout=0.2).fc[0].p == 0.2
    assert [
        m.p for m in build("mobilenet_v2", 3, weights="none", dropout=0.8).classifier if isinstance(m, nn.Dropout)
    ] == [0.8]


def test_weights_of_another_architecture_name_what_does_not_fit(tmp_path):
    torch.save(build("resnet18", 2, weights="none").state_dict(), tmp_path / "w.pth")
    with pytest.raises(CurateError, match=r"does not fit --arch mobilenet_v2: features\.0\.0\.weight is missing"):
        build("mobilenet_v2", 2, weights=str(tmp_path / "w.pth"))
    wide = {"features.0.0.weight": torch.zeros(16, 3, 5, 5)}
    torch.save({**build("small_cnn", 2, weights="none").state_dict(), **wide}, tmp_path / "wide.pth")
    with pytest.raises(CurateError, match=r"features\.0\.0\.weight is \(16, 3, 5, 5\), needs \(16, 3, 3, 3\)"):
        build("small_cnn", 2, weights=str(tmp_path / "wide.pth"))


def test_safetensors_and_state_dict_load_alike(tmp_path):
    model = build("small_cnn", 2, weights="none", seed=7)
    state = {name: t.contiguous() for name, t in model.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    for file in ("w.pth", "w.safetensors"):
        loaded = build("small_cnn", 5, weights=str(tmp_path / file)).state_dict()
        assert torch.equal(loaded["features.2.0.weight"], state["features.2.0.weight"])


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("owned"),))


def test_a_hostile_pickle_is_refused_unrun(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"features.0.0.weight": Hostile()}, "w.pth")
    Path("raw.pth").write_bytes(pickle.dumps(Hostile()))
    for file in ("w.pth", "raw.pth"):
        with pytest.raises(CurateError, match="refused"):
            build("small_cnn", 2, weights=file)
    assert not Path("owned").exists()


def test_without_a_network_the_error_names_the_file_to_get(monkeypatch):
    def offline(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(
        CurateError, match=r"Get the file resnet18-f37072fd\.pth .*--weights path/to/resnet18"
    ) as caught:
        build("resnet18", 2)
    assert "//" not in str(caught.value), "no host"


def test_densenet_takes_the_names_of_its_published_file(monkeypatch):
    state = build("densenet121", 2, weights="none", seed=5).state_dict()
    old = {n.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): t for n, t in state.items()}
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: old)
    loaded = build("densenet121", 2).state_dict()
    name = "features.denseblock1.denselayer1.conv2.weight"
    assert torch.equal(loaded[name], state[name])


def test_an_unknown_architecture_gets_a_suggestion():
    with pytest.raises(CurateError, match=r"Did you mean .*densenet121"):
        build("densnet121", 2)


@pytest.mark.parametrize("freeze", ["head", "last_block"])
def test_what_has_no_trunk_cannot_be_frozen(freeze):
    with pytest.raises(CurateError, match="no trunk"):
        build("googlenet", 2, weights="none", freeze=freeze)


def test_a_saved_model_comes_back_with_its_classes(tmp_path):
    model = build("small_cnn", 2, weights="none", seed=3).eval()
    save_model(Trained("small_cnn", model, ("basalt", "gräu $x$"), 48), tmp_path / "model.safetensors")
    trained = load_run(tmp_path)
    assert (trained.arch, trained.classes, trained.side) == ("small_cnn", ("basalt", "gräu $x$"), 48)
    x = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        assert torch.equal(trained.model(x), model(x))
    backbone = load_backbone("", run=tmp_path)
    assert (backbone.dim, backbone.side) == (128, 48)


@pytest.mark.parametrize("arch", ["small_cnn", "resnet18", "mobilenet_v2", "densenet121"])
def test_a_backbone_is_the_trunk_with_its_norms_folded_and_leaves_the_model_alone(arch):
    model = build(arch, 2, weights="none").eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    backbone = backbone_of(model, arch, 64)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = split(model, arch)[0](to_input(pixels))
    torch.testing.assert_close(backbone.maps(pixels), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_a_damaged_run_says_so(tmp_path):
    with pytest.raises(CurateError, match="no trained run"):
        load_run(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"12345678")
    with pytest.raises(CurateError, match="damaged"):
        load_run(tmp_path)


def test_the_backbones_key_changes_with_weights_and_size(tmp_path):
    torch.save(build("small_cnn", 2, weights="none", seed=9).state_dict(), tmp_path / "w.pth")
    keys = {
        load_backbone("small_cnn", "none").key,
        load_backbone("small_cnn", "none", side=96).key,
        load_backbone("small_cnn", str(tmp_path / "w.pth")).key,
    }
    assert len(keys) == 3
    assert load_backbone("small_cnn", "none").key in keys


@pytest.mark.parametrize(
    ("arch", "file", "new"),
    [
        ("mobilenet_v2", "mobilenet_v2_imagenet_features.pth", {"classifier.1.weight", "classifier.1.bias"}),
        ("squeezenet1_1", "squeezenet1_1_imagenet_tvnorm.pth", {"classifier.1.weight", "classifier.1.bias"}),
        pytest.param(
            "vgg16",
            "vgg16_imagenet_features.pth",
            {f"classifier.{i}.{kind}" for i in (0, 3, 6) for kind in ("weight", "bias")},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_shared_weights_fit_and_what_they_lack_is_new(arch, file, new):
    if not (WEIGHTS / file).exists():
        pytest.skip("the shared weights are not here")
    assert trainable(build(arch, 4, weights=str(WEIGHTS / file), freeze="head")) == new
