"""Layers that no longer train, as fast as a processor runs them: norms folded, bits pooled, images in threads."""

import copy
import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import densenet, resnet
from torchvision.models.googlenet import BasicConv2d as GoogLeNetConvolution
from torchvision.models.inception import BasicConv2d as InceptionConvolution

from classify.data import pick_device, to_input

AT_ONCE = 4  # images that a thread takes through float32 layers: what is computed of more of them leaves the cache
ON_GPU = 64
INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
BLOCKS = (resnet.BasicBlock, resnet.Bottleneck, GoogLeNetConvolution, InceptionConvolution)  # conv1 and bn1, ...

T = TypeVar("T")
Part = TypeVar("Part")


def frozen(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode, without gradients, for `forward`: the same function with less to do."""
    copied = copy.deepcopy(module).requires_grad_(False).eval()
    for part in copied.modules():
        _fold_norms(part)
        _pool_bits(part)
        _join_layers(part)
    return copied.to(memory_format=torch.channels_last)


def digest_of(module: nn.Module) -> str:
    """16 hex digits that name a module's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()[:16]


class InBfloat16(nn.Module):
    """A frozen module in bfloat16, for float32 images; the module itself is changed."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for part in module.modules():
            for name, child in part.named_children():
                if type(child) is nn.ReLU:
                    setattr(part, name, ReLUOfBits(child.inplace))
        self.module = module.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, side, side) float32 -> what the module makes of it."""
        return self.module(x.to(torch.bfloat16))


class ReLUOfBits(nn.ReLU):
    """ReLU of bfloat16 on a processor: as integers, negative numbers are negative too, and no number is converted."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        if x.requires_grad or x.dtype != torch.bfloat16 or x.device.type != "cpu":
            return super().forward(x)
        bits = x.view(torch.int16)
        return (bits.clamp_(min=0) if self.inplace else bits.clamp(min=0)).view(torch.bfloat16)


class DenseBlock(nn.Module):
    """A frozen dense block of DenseNet whose layers write into one map, which none of them copies.

    A layer's first norm is a scale and a shift, which take a part of that map as it lies; its second becomes part of
    the convolution before it.
    """

    def __init__(self, block: nn.ModuleDict) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.ends: list[int] = []  # channels of the map when a layer is done
        for layer in block.values():
            part: Any = layer
            inner = fuse_conv_bn_eval(part.conv1, part.norm2)
            self.layers.append(nn.Sequential(Scaled(part.norm1), part.relu1, inner, part.relu2, part.conv2))
            self.ends.append(part.norm1.num_features + part.conv2.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> (n, channels and those of every layer, h, w)."""
        size, begin = (len(x), self.ends[-1], *x.shape[2:]), x.shape[1]
        out = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        out[:, :begin] = x
        for layer, end in zip(self.layers, self.ends, strict=True):
            out[:, begin:end] = layer(out[:, :begin])
            begin = end
        return out


class Scaled(nn.Module):
    """What a batch norm does in evaluation mode."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        scale = norm.weight / torch.sqrt(variance + norm.eps)
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("shift", (norm.bias - mean * scale)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> the same shape."""
        return torch.addcmul(self.get_buffer("shift"), x, self.get_buffer("scale"))


class PoolOfBits(nn.Module):
    """`nn.MaxPool2d` after a ReLU: numbers that are not negative are ordered as their bits are, as integers.

    Two kinds: windows of 2 x 2 side by side, and of 3 x 3 every two pixels, padded by one. What else there is (odd
    sizes, gradients, a GPU) is left to the layer itself, which besides the maxima writes down where they were.
    """

    def __init__(self, layer: nn.MaxPool2d) -> None:
        super().__init__()
        self.layer, self.overlaps = layer, _is_pool(layer, 3, 1)

    @staticmethod
    def knows(layer: nn.MaxPool2d) -> bool:
        """Whether it does what this layer does."""
        return _is_pool(layer, 2, 0) or _is_pool(layer, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> (n, channels, h / 2, w / 2)."""
        if x.requires_grad or x.device.type != "cpu" or x.dtype not in INTEGERS or x.shape[2] % 2 or x.shape[3] % 2:
            return self.layer(x)
        bits = x.view(INTEGERS[x.dtype])
        for axis in (2, 3):
            even, odd = bits.unflatten(axis, (-1, 2)).unbind(axis + 1)
            bits = torch.maximum(even, odd)
            if self.overlaps:
                later = bits.narrow(axis, 1, bits.shape[axis] - 1)
                torch.maximum(later, odd.narrow(axis, 0, later.shape[axis]), out=later)
        return bits.view(x.dtype)


def forward(module: nn.Module, pixels: np.ndarray) -> Tensor:
    """(n, side, side, 3) uint8 -> what the module makes of them, without gradients; see `in_threads`."""
    device = pick_device()
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    size = min(at_once(), -(-len(pixels) // workers)) or 1
    parts = [pixels[i : i + size] for i in range(0, len(pixels), size)]

    def of(part: np.ndarray) -> Tensor:
        with torch.inference_mode():
            return module(to_input(part, device))

    return torch.cat(list(in_threads(of, parts)))


def at_once(*, bfloat16: bool = False) -> int:
    """Images that one thread best takes through all layers."""
    if pick_device().type != "cpu":
        return ON_GPU
    return AT_ONCE * 3 // 2 if bfloat16 else AT_ONCE


def in_threads(work: Callable[[Part], T], parts: list[Part]) -> Iterator[T]:
    """work(part) of every part, in order, some parts ahead.

    On a CPU every thread takes a few images through all layers, rather than all threads through each layer: they need
    not wait for each other, which on cores that others use takes longer than the layers. A GPU is given its next part
    while it computes.
    """
    threads = torch.get_num_threads()
    on_cpu = pick_device().type == "cpu"
    if len(parts) <= 1 or (on_cpu and threads == 1):
        yield from map(work, parts)
        return
    own: dict[str, Any] = {"initializer": torch.set_num_threads, "initargs": (1,)} if on_cpu else {}
    ahead: deque[Future[T]] = deque()
    try:
        with ThreadPoolExecutor(threads if on_cpu else 2, **own) as pool:
            try:
                for part in parts:
                    ahead.append(pool.submit(work, part))
                    if len(ahead) > 2 * threads:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()
    finally:
        torch.set_num_threads(threads)  # of threads to come; this one has kept its own


def _fold_norms(module: nn.Module) -> None:
    """Batch norm that follows a convolution becomes part of it, in place.

    Pairs are neighbours in an `nn.Sequential`, and those of a block of ResNet, GoogLeNet or Inception (conv and bn).
    Subclasses do something else besides, and stay.
    """
    children = dict(module.named_children())
    pairs: list[tuple[str, str]] = []
    if isinstance(module, nn.Sequential):
        pairs = list(itertools.pairwise(children))
    elif isinstance(module, BLOCKS):
        pairs = [(name, name.replace("conv", "bn")) for name in children if name.startswith("conv")]
    for name, norm_name in pairs:
        convolution, norm = children[name], children[norm_name]
        if type(convolution) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
            setattr(module, name, fuse_conv_bn_eval(convolution, norm))
            setattr(module, norm_name, nn.Identity())


def _pool_bits(module: nn.Module) -> None:
    """`PoolOfBits` in a chain, in place, where a ReLU comes before a pooling that it knows."""
    if isinstance(module, nn.Sequential):
        for (_, before), (name, layer) in itertools.pairwise(list(module.named_children())):
            if isinstance(before, nn.ReLU) and type(layer) is nn.MaxPool2d and PoolOfBits.knows(layer):
                setattr(module, name, PoolOfBits(layer))


def _join_layers(module: nn.Module) -> None:
    """`DenseBlock`, in place, for those of DenseNet."""
    for name, child in list(module.named_children()):
        if isinstance(child, densenet._DenseBlock):
            setattr(module, name, DenseBlock(child))


def _is_pool(layer: nn.MaxPool2d, kernel: int, padding: int) -> bool:
    """Whether a pooling has this window, every two pixels, and gives half the size of an even one."""
    given = [layer.kernel_size, layer.stride, layer.padding, layer.dilation]
    sizes = [value if isinstance(value, int) else value[0] if len(set(value)) == 1 else -1 for value in given]
    plain = not layer.return_indices and not (layer.ceil_mode and kernel == 3)
    return plain and sizes == [kernel, 2, padding, 1]
