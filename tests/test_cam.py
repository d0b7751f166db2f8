"""Class activation maps, beside those of pytorch-grad-cam on the whole network with the layers of its README."""

import numpy as np
import pytest
import pytorch_grad_cam as library
import torch
import torchvision
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from classify.cam import (
    METHODS,
    OF_IMAGES,
    OF_NO_CLASS,
    class_activation_maps,
    enlarged,
    grad_cam,
    pooled_linear,
    trunk_and_tail,
    weighed,
)
from classify.frozen import frozen
from classify.layers import Tail
from classify.models import build
from classify.trunk import spatial
from curate.errors import CurateError

torch.set_num_threads(1)

# The layer of each family, as the library's README names it where it does; whether its head is pooling and one layer.
FAMILIES = {
    "small_cnn": (lambda model: model.features, True),
    "resnet18": (lambda model: model.layer4[-1], True),
    "mobilenet_v2": (lambda model: model.features[-1], True),
    "efficientnet_b0": (lambda model: model.features[-1], True),
    "regnet_y_400mf": (lambda model: model.trunk_output[-1], True),
    "shufflenet_v2_x0_5": (lambda model: model.conv5, True),
    "mnasnet0_5": (lambda model: model.layers[-1], True),
    "densenet121": (lambda model: model.features[-1], True),
    "googlenet": (lambda model: model.inception5b, True),
    "mobilenet_v3_small": (lambda model: model.features[-1], False),
    "squeezenet1_1": (lambda model: model.features[-1], False),
    "alexnet": (lambda model: model.features[-1], False),
    "vgg16": (lambda model: model.features[-1], False),
    "convnext_tiny": (lambda model: model.features[-1], False),
    "swin_t": (lambda model: model.permute, True),
}
HEAVY = ("googlenet", "alexnet", "vgg16", "convnext_tiny", "swin_t")
IN_LIBRARY = {
    "gradcam": library.GradCAM,
    "gradcam++": library.GradCAMPlusPlus,
    "xgradcam": library.XGradCAM,
    "hirescam": library.HiResCAM,
    "gradcamelementwise": library.GradCAMElementWise,
    "layercam": library.LayerCAM,
    "finercam": library.FinerCAM,
    "shapleycam": library.ShapleyCAM,
    "ablationcam": library.AblationCAM,
    "scorecam": library.ScoreCAM,
    "fullgrad": library.FullGrad,
    "eigengradcam": library.EigenGradCAM,
    "segeigencam": library.SegEigenCAM,
    "eigencam": library.EigenCAM,
    "kpcacam": library.KPCA_CAM,
    "fem": library.FEM,
}


def parts_of(model, arch):
    """(frozen body, tail, whole network as a tail)."""
    trunk, tail = trunk_and_tail(model, arch)
    body = frozen(trunk)
    tail.requires_grad_(False).eval()
    return body, tail, Tail(nn.Sequential(body, tail.layers), tail.map)


@pytest.mark.parametrize(
    "arch", [pytest.param(arch, marks=pytest.mark.slow) if arch in HEAVY else arch for arch in FAMILIES]
)
def test_grad_cam_is_the_librarys_on_the_whole_network(arch):
    """In double precision, so that nothing but the definition can differ; ours with all but the head frozen."""
    layer, closed = FAMILIES[arch]
    model = build(arch, 3, weights="none", freeze="head", seed=1).double().eval()
    last = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)][-1]
    last.weight.data *= 1e6  # of an untrained network the maps are so small that the library's 1e-7 would count
    x, targets = torch.randn(2, 3, 64, 64, generator=torch.manual_seed(0)).double(), [2, 0]
    body, tail, _ = parts_of(model, arch)
    with torch.inference_mode():
        activations = body(x)
    found = enlarged(class_activation_maps(tail, activations, targets), 64)
    model.requires_grad_()
    with library.GradCAM(model, [layer(model)]) as cam:
        expected = cam(x, [ClassifierOutputTarget(target) for target in targets])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (pooled_linear(tail) is not None) == closed


@pytest.mark.parametrize(
    ("method", "arch"),
    [*((method, "small_cnn") for method in IN_LIBRARY)]
    + [(method, "squeezenet1_1") for method in IN_LIBRARY if method != "scorecam"],  # which takes ten seconds
)
def test_every_method_is_the_librarys_on_the_whole_network(method, arch):
    """Of a linear head and of another."""
    model = build(arch, 3, weights="none", seed=1).double().eval()
    last = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)][-1]
    nn.init.uniform_(last.weight, -0.5, 1)  # logits above 0, which ablation divides by
    x, targets = torch.randn(2, 3, 64, 64, generator=torch.manual_seed(0)).double(), [2, 0]
    body, tail, whole = parts_of(model, arch)
    with torch.inference_mode():
        activations = body(x)
    used = (whole, x) if method in OF_IMAGES else (tail, activations)
    found = class_activation_maps(*used, targets, method)
    model.requires_grad_()
    cam = IN_LIBRARY[method](model, [] if method == "fullgrad" else [model.features])
    if method == "finercam":
        expected = np.concatenate([cam(x[i : i + 1], target_idx=target) for i, target in enumerate(targets)])
    else:
        expected = cam(x, [ClassifierOutputTarget(target) for target in targets])
    getattr(cam, "base_cam", cam).activations_and_grads.gradients = []  # which the library cannot let go of itself
    np.testing.assert_allclose(enlarged(found, 64), expected, atol=1e-4)
    assert found.shape[1:] == ((64, 64) if method == "fullgrad" else activations.shape[2:])
    assert expected.max() > 0


def test_every_method_is_tried_above():
    assert set(METHODS) == set(IN_LIBRARY)
    assert set(OF_IMAGES) | set(OF_NO_CLASS) <= set(METHODS)


def tiny_transformer():
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(64, 16, 3, 2, 32, 64, num_classes=3).eval()
    nn.init.normal_(model.heads.head.weight)
    return model


def test_a_vision_transformer_is_explained_before_its_last_attention_as_the_library_does():
    model, x, targets = tiny_transformer(), torch.randn(2, 3, 64, 64, generator=torch.manual_seed(1)), [2, 0]
    body, tail, _ = parts_of(model, "vit_b_16")
    found = enlarged(class_activation_maps(tail, body(x), targets), 64)
    model.requires_grad_()
    with library.GradCAM(model, [model.encoder.layers[-1].ln_1], spatial) as cam:
        expected = cam(x, [ClassifierOutputTarget(target) for target in targets])
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_explains_a_vision_transformer(method):
    body, tail, whole = parts_of(tiny_transformer(), "vit_b_16")
    x = torch.randn(2, 3, 64, 64, generator=torch.manual_seed(1))
    with torch.inference_mode():
        tokens = body(x)
    found = enlarged(class_activation_maps(*((whole, x) if method in OF_IMAGES else (tail, tokens)), [2, 0], method))
    assert found.shape == (2, 56, 56)
    assert found.min() == 0
    assert found.max((1, 2)).tolist() == [1, 1]


def test_an_unknown_method_is_refused_and_the_known_ones_are_named():
    with pytest.raises(CurateError, match=r"--method 'randomcam' is unknown; known: gradcam, gradcam\+\+, xgradcam"):
        class_activation_maps(pooled_tail(torch.ones(1, 2)), torch.ones(1, 2, 3, 3), [0], "randomcam")


def test_too_few_targets_are_an_error_not_an_empty_map():
    with pytest.raises(ValueError, match="1 targets for 2 images"):
        grad_cam(pooled_tail(torch.ones(1, 2)), torch.rand(2, 2, 3, 3), [0])


def pooled_tail(weight):
    """Pooling and a linear layer of these weights (classes, channels)."""
    end, linear = nn.Identity(), nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight.data = weight
    return Tail(nn.Sequential(end, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), linear), end).eval()


def test_a_class_of_one_channel_lights_up_where_that_channel_is_active():
    """Channel 1 is active in the upper left, channel 2 in the lower right."""
    maps = torch.zeros(2, 3, 7, 7)
    maps[:, 1, 0, 0] = 5
    maps[:, 2, 6, 6] = 5
    heat = grad_cam(pooled_tail(torch.tensor([[0.0, 1, 0], [0, 0, 1]])), maps, [0, 1])
    assert heat.shape == (2, 56, 56)
    assert heat[0, :8, :8].max() == 1.0
    assert heat[0, 20:].max() == 0
    assert heat[1, -8:, -8:].max() == 1.0
    assert heat[1, :36].max() == 0


def test_where_nothing_speaks_for_the_class_the_map_is_zero():
    assert grad_cam(pooled_tail(torch.tensor([[-1.0]])), torch.rand(1, 1, 7, 7), [0]).max() == 0


def test_a_logit_of_zero_which_ablation_divides_by_gives_no_map():
    end, tail = nn.Identity(), nn.Sequential(nn.Conv2d(2, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.constant_(tail[0].weight, -1)
    nn.init.constant_(tail[0].bias, -1)
    tail = Tail(nn.Sequential(end, tail), end).requires_grad_(False)
    maps = torch.rand(2, 2, 3, 3)
    assert class_activation_maps(tail, maps, [0, 0], "ablationcam").max() == 0
    assert tail.layers[0] is end, "what stood in for the layer is gone"


def test_a_head_of_more_than_pooling_and_one_layer_has_no_closed_form():
    end = nn.Identity()
    pool, linear = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(4, 2)
    assert pooled_linear(Tail(nn.Sequential(end, pool, nn.Sequential(nn.Dropout(), linear)), end)) == (linear, False)
    assert pooled_linear(Tail(nn.Sequential(end, nn.ReLU(), pool, linear), end)) == (linear, True)
    for other in (
        nn.Sequential(end, pool, nn.LayerNorm(4), linear),
        nn.Sequential(end, pool, linear, nn.Tanh()),
        nn.Sequential(end, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2)),
        nn.Sequential(nn.Conv2d(4, 4, 1), end, pool, linear),
    ):
        assert pooled_linear(Tail(other, end)) is None


def test_weights_of_an_images_own():
    """ReLU(2 A_0 - A_1) by hand."""
    maps = torch.tensor([[[[1.0, 2]], [[3, 1]]]])
    assert weighed(maps, torch.tensor([[2.0, -1]])).tolist() == [[[0, 3]]]


@pytest.mark.parametrize("side", [56, 224])
def test_maps_are_scaled_as_the_library_scales(side):
    maps = np.random.default_rng(0).random((3, 7, 7)).astype(np.float32) + 1
    maps[1] = 2.0
    expected = scale_cam_image(scale_cam_image(maps, (side, side)))
    np.testing.assert_allclose(enlarged(maps, side), expected, atol=1e-6)
    assert enlarged(maps, side).max((1, 2)).tolist() == [1, 0, 1]
