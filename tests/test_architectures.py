"""Every classifier of torchvision: it freezes, trains, is explained and exported. Slow but for eight of them."""

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from classify.cam import grad_cam
from classify.export import FromPicture
from classify.models import build, changing, freeze_model
from classify.trunk import FREEZE, explained, spatial, split, train_mode
from classify.weights import put_in

torch.set_num_threads(1)
ORDINARY = (
    "vgg19_bn",
    "resnet18",
    "densenet121",
    "mobilenet_v2",
    "squeezenet1_1",
    "efficientnet_b0",
    "convnext_tiny",
    "vit_b_16",
)
EVERY = torchvision.models.list_models(module=torchvision.models)
FIXED = ("maxvit_t", "vit_b_16", "vit_b_32")  # take 224 x 224 pixels only
SIZES = {"inception_v3": (96, 128), "alexnet": (64, 96), **dict.fromkeys(FIXED, (224, 224))}
LARGE = {
    "vit_h_14": 56,
    "vit_l_16": 64,
    "vit_l_32": 64,
}  # made for images of so many pixels: else 224, sixteen times the work
HEADS = ("avgpool", "classifier", "fc", "head", "heads")


class Built(NamedTuple):
    """A classifier of three classes, and two pictures for it (2, 3, height, width), not square where it takes that."""

    arch: str
    model: nn.Module
    images: Tensor


@pytest.fixture(
    scope="module",
    params=[arch if arch in ORDINARY else pytest.param(arch, marks=pytest.mark.slow) for arch in EVERY],
)
def built(request: pytest.FixtureRequest) -> Iterator[Built]:
    arch: str = request.param
    with pytest.MonkeyPatch.context() as patch:
        for name in ("kaiming_normal_", "kaiming_uniform_", "normal_", "trunc_normal_", "uniform_"):
            patch.setattr(nn.init, name, filled)
        if arch in LARGE:
            made = partial(torchvision.models.get_model, image_size=LARGE[arch])
            patch.setattr(torchvision.models, "get_model", made)
        model = build(arch, 3, weights="none", dropout=0.1)
    for module in model.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0  # else a layer may be left out, and not change
    size = (LARGE[arch], LARGE[arch]) if arch in LARGE else SIZES.get(arch, (32, 64))
    yield Built(arch, model, torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)))
    model.to("meta")  # the memory, before the next is built


def filled(tensor: Tensor, *_: object, **__: object) -> Tensor:
    """He's initialisation in a tenth of its time: the same normal numbers again and again."""
    deviation = (2 * len(tensor) / tensor.numel()) ** 0.5 if tensor.ndim > 1 else 0.02
    numbers = torch.randn(min(tensor.numel(), 131071)) * deviation
    with torch.no_grad():
        return tensor.copy_(numbers.repeat(-(-tensor.numel() // len(numbers)))[: tensor.numel()].view_as(tensor))


def test_the_trunk_gives_a_map_that_is_explained_and_the_head_makes_the_logits_of_it(built):
    arch, model, images = built
    trunk, head = split(model.eval().requires_grad_(False), arch)
    body, tail = explained(model, arch)
    with torch.inference_mode():
        logits = model(images)
    put_in(model, dict(model.state_dict()))  # as from a file, in which some layers' versions are not
    with torch.inference_mode():
        output, activations = trunk(images), body(images)
        assert torch.equal(head(output), logits)
        assert torch.equal(tail(activations), logits)
    assert logits.shape == (2, 3)
    maps = spatial(output)
    height, width = maps.shape[2:]
    if images.shape[2] == images.shape[3]:
        assert height == width > 1
    else:
        assert height < width, "rows, then columns"
    if not arch.startswith(("vgg", "alexnet", "mobilenet_v3")):  # their heads have other layers before the last
        last: Any = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
        assert maps.shape[1] == last.weight.shape[1], "channels first"
    heatmaps = grad_cam(tail, activations, [0, 2])
    assert heatmaps.shape == (2, 56, 56)
    assert np.isfinite(heatmaps).all()
    assert heatmaps.min() >= 0
    assert heatmaps.max() <= 1


def test_freezing_leaves_what_trains(built):
    arch, model, _ = built
    every = {name for name, _ in model.named_parameters()}
    in_head = {name for name in every if name.split(".")[0] in HEADS}
    trains = {}
    for freeze in FREEZE:
        freeze_model(model, arch, freeze, set())
        trains[freeze] = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert in_head
    assert trains["head"] == in_head
    assert in_head < trains["last_block"] < every
    assert trains["none"] == every


def test_a_step_changes_exactly_what_trains(built):
    arch, model, images = built
    for freeze in FREEZE if arch in ORDINARY else ("last_block",):
        freeze_model(model, arch, freeze, set())
        train_mode(model)
        may_change = set(changing(model))
        before = {name: print_of(tensor) for name, tensor in model.state_dict().items()}
        training = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        logits = model(images)
        assert torch.isfinite(logits).all()
        (-logits.sum()).backward()
        for parameter in training.values():
            parameter.grad.sign_()  # no step is lost in rounding, and none is too large
        torch.optim.SGD(training.values(), lr=1e-4).step()
        model.zero_grad()
        changed = {name for name, tensor in model.state_dict().items() if print_of(tensor) != before[name]}
        assert training.keys() <= changed, sorted(training.keys() - changed)
        assert changed <= may_change, sorted(changed - may_change)
        assert may_change - training.keys() <= {name for name, _ in model.named_buffers()}


def test_it_is_exported(built):
    _, model, images = built
    pictures = torch.randint(0, 256, (2, 1, *images.shape[2:], 3), dtype=torch.uint8)
    whole = FromPicture(model.eval().requires_grad_(False)).eval()
    with (
        warnings.catch_warnings(),
        torch.no_grad(),
        torch.jit.optimized_execution(False),
    ):  # it takes longer than it saves
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(whole, pictures[0], check_trace=False)
        torch.testing.assert_close(traced(pictures[1]), whole(pictures[1]))


def print_of(tensor: Tensor) -> tuple[int, bytes]:
    """Another where a value is another: the exclusive or of all bits, and the first values. Copies take gigabytes."""
    bits = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage()).numpy().view(np.uint32)
    return int(np.bitwise_xor.reduce(bits)), bits[:4096].tobytes()
