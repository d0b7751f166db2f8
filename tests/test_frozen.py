import threading

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.googlenet import BasicConv2d

from classify.data import to_input
from classify.frozen import DenseBlock, InBfloat16, PoolOfBits, ReLUOfBits, digest_of, forward, frozen, in_threads
from classify.models import build, load_backbone
from classify.trunk import split

torch.set_num_threads(1)


def trunk_of(arch: str) -> nn.Module:
    """With norms that do something, some of them the other way round."""
    model = build(arch, 2, weights="none").eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.1, 0.1)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.normal_(module.weight, 1, 0.5)
                nn.init.normal_(module.bias, 0, 0.2)
    return split(model, arch)[0]


def pixels_of(number: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (number, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "arch", ["small_cnn", "resnet18", "vgg11", "mobilenet_v2", "densenet121", "squeezenet1_1", "googlenet"]
)
@pytest.mark.parametrize("side", [96, 75])
def test_a_frozen_copy_is_the_same_function_and_leaves_the_model_alone(arch, side):
    trunk = trunk_of(arch)
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    x = to_input(pixels_of(2, side))
    with torch.inference_mode():
        expected, found = trunk(x), frozen(trunk)(x)
        quick = InBfloat16(frozen(trunk))(x).float()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert torch.linalg.norm(quick - expected) < 0.03 * torch.linalg.norm(expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trunk.state_dict().items())
    assert all(parameter.requires_grad for parameter in trunk.parameters())


def test_what_is_there_is_used_where_it_can_be():
    kinds = [type(module) for module in frozen(trunk_of("densenet121")).modules()]
    assert kinds.count(DenseBlock) == 4
    assert kinds.count(PoolOfBits) == 1
    assert nn.BatchNorm2d in kinds, "those between the blocks stay"
    layers = [module for module in frozen(trunk_of("googlenet")).modules() if isinstance(module, BasicConv2d)]
    assert layers
    assert all(isinstance(layer.bn, nn.Identity) for layer in layers)


class NormThatRectifies(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


def test_a_norm_that_does_more_than_norm_is_not_folded():
    chain = nn.Sequential(nn.Conv2d(3, 4, 3), NormThatRectifies(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)).eval()
    x = torch.randn(2, 3, 8, 8)
    copy = frozen(chain)
    assert [type(layer) for layer in copy] == [nn.Conv2d, NormThatRectifies, nn.Conv2d, nn.Identity]
    torch.testing.assert_close(copy(x), chain(x))


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2, 2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d((2, 2), (2, 2))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("size", [(8, 12), (7, 12), (8, 5)])
def test_bits_are_pooled_as_numbers_are(layer, dtype, size):
    x = torch.randn(2, 3, *size, generator=torch.manual_seed(0)).relu().to(dtype)
    x[0, 0, 0, 0] = float("inf")
    for laid_out in (x, x.to(memory_format=torch.channels_last)):
        before = laid_out.clone()
        assert torch.equal(PoolOfBits(layer)(laid_out), layer(laid_out))
        assert torch.equal(laid_out, before)


@pytest.mark.parametrize(
    "layer",
    [nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.MaxPool2d(3, 1, 1), nn.MaxPool2d((3, 2), 2, (1, 0))],
)
def test_other_poolings_stay(layer):
    assert isinstance(frozen(nn.Sequential(nn.ReLU(), layer))[1], nn.MaxPool2d)


def test_a_pooling_of_what_may_be_negative_stays():
    assert isinstance(frozen(nn.Sequential(nn.Conv2d(3, 3, 1), nn.MaxPool2d(2)))[1], nn.MaxPool2d)


def test_gradients_pass():
    x = torch.randn(1, 2, 4, 4).relu().requires_grad_()
    PoolOfBits(nn.MaxPool2d(2))(x).sum().backward()
    assert x.grad is not None
    assert x.grad.sum() == 8


@pytest.mark.parametrize("inplace", [False, True])
def test_relu_of_bits_is_relu(inplace):
    numbers = [-2.0, -0.0, 0.0, 3.5, float("inf"), -float("inf"), 1e-40, -1e-40]
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.tensor(numbers, dtype=dtype)
        assert torch.equal(ReLUOfBits(inplace)(x.clone()), x.relu())
    x = torch.tensor(numbers, dtype=torch.bfloat16)
    ReLUOfBits(inplace)(x)
    assert (x[0] == 0) == inplace


@pytest.mark.parametrize("images", [1, 5, 19])
def test_threads_that_share_the_images_give_what_one_gives(images, monkeypatch):
    backbone = load_backbone("small_cnn", "none", side=32)
    pixels = pixels_of(images, 32)
    alone = backbone.maps(pixels)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    torch.testing.assert_close(backbone.maps(pixels), alone)


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_parts_come_in_order_a_few_ahead_each_by_a_thread_of_its_own(three_threads):
    seen, made = set(), []

    def work(part):
        seen.add((threading.get_ident(), torch.get_num_threads()))
        made.append(part)
        return part * part

    found = in_threads(work, list(range(50)))
    assert next(found) == 0
    assert len(made) <= 10, "not all at once: what is made is kept until it is taken"
    assert list(found) == [part * part for part in range(1, 50)]
    assert threading.get_ident() not in {thread for thread, _ in seen}
    assert {number for _, number in seen} == {1}
    assert torch.get_num_threads() == 3


def test_an_error_of_a_thread_arrives_and_ends_the_others(three_threads):
    made = []

    def work(part):
        made.append(part)
        if part == 2:
            raise ValueError("part 2")
        return part

    with pytest.raises(ValueError, match="part 2"):
        list(in_threads(work, list(range(100))))
    assert len(made) < 100
    assert torch.get_num_threads() == 3


def test_no_gradients_and_as_many_as_were_given():
    out = forward(nn.Conv2d(3, 2, 1), pixels_of(7, 8))
    assert out.shape == (7, 2, 8, 8)
    assert not out.requires_grad


def test_a_digest_names_the_weights():
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    assert digest_of(one) != digest_of(other)
    other.load_state_dict(one.state_dict())
    assert digest_of(one) == digest_of(other)
    assert digest_of(nn.Sequential(one)) != digest_of(one)
