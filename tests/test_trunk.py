import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from classify.models import build, load_backbone
from classify.trunk import backbone_of, explained, is_head_only, last_block, spatial, split, train_mode

torch.set_num_threads(1)  # several threads on a busy machine take far longer


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
    backbone = backbone_of(model, "vit_b_16", 64)
    pixels = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    assert backbone.dim == 32
    assert backbone.maps(pixels).shape == (3, 32, 4, 4)


@pytest.mark.parametrize("others", [0, 1, 2, 5])
def test_the_tokens_of_the_patches_are_the_last(others):
    """Class token, distillation token, registers: whatever a transformer puts before its patches."""
    tokens = torch.arange(others + 16.0).repeat(1, 32, 1).transpose(1, 2)
    first = others
    assert spatial(tokens)[0, 0].tolist() == [[first + 4 * row + i for i in range(4)] for row in range(4)]


def test_the_map_of_a_swin_transformer_has_its_channels_first_and_rows_before_columns():
    """Inside they are last. What is bright below moves the map below most."""
    trunk = split(build("swin_t", 2, weights="none").eval(), "swin_t")[0]
    dark, bright = torch.zeros(1, 3, 256, 128), torch.zeros(1, 3, 256, 128)
    bright[:, :, 224:] = 1
    with torch.inference_mode():
        maps = spatial(trunk(dark)), spatial(trunk(bright))
    assert maps[0].shape == (1, 768, 8, 4)
    moved = (maps[1] - maps[0]).abs().mean((0, 1, 3))
    assert moved.argmax() == 7
    assert moved[7] > 2 * moved[0]


@pytest.mark.parametrize(
    ("arch", "begins"),
    [
        ("small_cnn", "features.3."),
        ("vgg11", "features.16."),  # conv5
        ("resnet18", "layer4."),
        ("densenet121", "features.denseblock4."),  # without the transition before it
        ("squeezenet1_1", "features.9."),
        ("mobilenet_v2", "features.14."),
        ("efficientnet_b0", "features.6."),
        ("regnet_y_400mf", "trunk_output.block4."),
        ("convnext_tiny", "features.6."),
        ("swin_t", "features.6."),
        ("maxvit_t", "blocks.3."),
        ("inception_v3", "Mixed_7a."),
    ],
)
def test_the_last_block_is_all_from_the_first_convolution_at_the_lowest_resolution_on(arch, begins, monkeypatch):
    for name in ("kaiming_normal_", "kaiming_uniform_", "normal_", "trunc_normal_", "uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)
    model = build(arch, 2, weights="none")
    names = list(dict(model.named_parameters()))
    block = last_block(model, arch)
    found = [name for name in names if name in block]
    assert found[0].startswith(begins)
    trunk = [name for name in names if name.split(".")[0] not in ("fc", "classifier", "head")]
    assert found == trunk[trunk.index(found[0]) :]


def test_of_a_vision_transformer_the_last_block_is_its_last_layer_and_the_norm_after_it():
    names = last_block(small_transformer(), "vit_b_16")
    assert {".".join(name.split(".")[:3]) for name in names} == {
        "encoder.layers.encoder_layer_2",
        "encoder.ln.weight",
        "encoder.ln.bias",
    }


def test_looking_for_the_last_block_leaves_the_model_as_it_was():
    model = build("resnet18", 2, weights="none").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    last_block(model, "resnet18")
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_head_trains_alone_where_nothing_before_it_does():
    model = build("small_cnn", 2, weights="none", freeze="head")
    assert is_head_only(model)
    assert not is_head_only(build("small_cnn", 2, weights="none", freeze="last_block"))
    train_mode(model)
    before = model.features[0][1].running_mean.clone()
    model(torch.randn(4, 3, 32, 32) + 5)
    assert torch.equal(model.features[0][1].running_mean, before)
    assert model.classifier.training


def test_the_backbones_key_changes_with_weights_and_size(tmp_path):
    torch.save(build("small_cnn", 2, weights="none", seed=9).state_dict(), tmp_path / "w.pth")
    keys = {
        load_backbone("small_cnn", "none").key,
        load_backbone("small_cnn", "none", side=96).key,
        load_backbone("small_cnn", str(tmp_path / "w.pth")).key,
    }
    assert len(keys) == 3
    assert load_backbone("small_cnn", "none").key in keys


def test_a_backbones_key_is_the_one_that_kept_embeddings_have():
    """Caches, and the weights that come with `curate`, are found by it: names and values of the layers make it."""
    model = build("mobilenet_v2", 2, weights="none")
    for tensor in model.state_dict().values():
        tensor.zero_()
    assert backbone_of(model, "mobilenet_v2", 64).key == "mobilenet_v2-64-f703f0cab6ffbf5c"
