"""The trunk of a model, which turns an image into a spatial map, and its head, which turns the map into logits.

Where one ends and the other begins, what of both trains, and trunks that are frozen.
"""

import copy
import hashlib
import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import resnet
from torchvision.models.googlenet import BasicConv2d as GoogLeNetConvolution
from torchvision.models.inception import BasicConv2d as InceptionConvolution

from classify.data import to_input
from classify.layers import ClassToken, Renormalised, Tail, Tokens
from classify.timm_models import Timm, explained_timm, split_timm
from curate.errors import CurateError

HEAD = ("avgpool", "dropout", "flatten", "fc", "classifier", "head", "heads")  # names of what follows the trunk
CHAINS = (
    "features",
    "layers",
    "blocks",
    "stages",
    "levels",
    "trunk_output",
)  # names of what holds the trunk's layers in a row
TOKENS = "vit_"  # torchvision's architectures whose trunk gives tokens, the class token first
POOLS_ITSELF = ("squeezenet", "maxvit", "convnext", "vgg", "alexnet")  # heads that take the map as it is
AT_ONCE = 4  # images that a thread takes through a trunk: what is computed of more of them leaves the cache

Freeze = Literal["head", "last_block", "none"]
FREEZE: tuple[Freeze, ...] = ("head", "last_block", "none")


@dataclass(frozen=True)
class Backbone:
    """A frozen trunk: its spatial map, averaged over space, is the embedding of an image.

    Of a vision transformer the map is that of the patch tokens.

    Attributes:
        dim: channels of the map = length of the embedding.
        key: names architecture, image size and weights; changes when any of them does.
        side: pixels of the square images it takes.
    """

    arch: str
    trunk: nn.Module
    dim: int
    key: str
    side: int

    def maps(self, pixels: np.ndarray) -> Tensor:
        """(n, side, side, 3) uint8 -> the map (n, dim, h, w) float32."""
        return spatial(forward(self.trunk, pixels))


def split(model: nn.Module, arch: str) -> tuple[nn.Sequential, nn.Sequential]:
    """(trunk, head) that share the model's layers: head(trunk(x)) = model(x).

    The trunk ends with the map that is pooled, channels first, or with the tokens of a vision transformer; DenseNet's
    includes the ReLU after `features`. The head has two parts: the pooling (to a vector, where the architecture pools
    first; the class token) and the rest.
    """
    if isinstance(model, Timm):
        return split_timm(model)
    if arch.startswith(TOKENS):
        encoder = model.get_submodule("encoder")
        layers = encoder.get_submodule("layers").children()
        trunk = nn.Sequential(Tokens(model), *layers, encoder.get_submodule("ln"))
        return trunk, nn.Sequential(ClassToken(), model.get_submodule("heads"))
    body: list[nn.Module] = []
    for name, module in model.named_children():
        if name not in HEAD:
            body.extend(module.children() if name in CHAINS else [module])
    rest = [module for name, module in model.named_children() if name in HEAD]
    if getattr(model, "transform_input", False):
        body = [Renormalised(), *body]
    if arch.startswith("densenet"):
        body = [*body, nn.ReLU()]
    return nn.Sequential(*body), _head(rest, arch)


def explained(model: nn.Module, arch: str) -> tuple[nn.Sequential, Tail]:
    """(body, tail) with tail(body(x)) = model(x); `tail.map` gives what Grad-CAM explains.

    The map that is pooled; of a vision transformer the tokens before the last attention, as pytorch-grad-cam does: of
    those after it only the class token reaches the logits.

    Raises:
        CurateError: a timm model without a map; see `classify.timm_models.explained_timm`.
    """
    if isinstance(model, Timm):
        return explained_timm(model)
    trunk, head = split(model, arch)
    if arch.startswith(TOKENS):
        return trunk[:-2], Tail(nn.Sequential(*trunk[-2:], head), trunk[-2].get_submodule("ln_1"))
    end = nn.Identity()
    return trunk, Tail(nn.Sequential(end, head), end)


def spatial(output: Tensor) -> Tensor:
    """A map (n, channels, h, w) as it is; of tokens (n, some + h * w, channels), h = w, the last h * w: the patches."""
    if output.ndim == 4:
        return output
    side = math.isqrt(output.shape[1])
    return output[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))


def last_block(model: nn.Module, arch: str) -> set[str]:
    """Names of the trunk's parameters from its first convolution at the lowest resolution on.

    VGG: conv5. ResNet: layer4. DenseNet: denseblock4 and the norm after it. Of a transformer, whose layers all give the
    same tokens, the last layer and the norm after it.

    Raises:
        CurateError: a timm model whose layers give something else.
    """
    heights = _heights(model, arch)
    units = list(heights)
    having = [unit for unit in units if any(isinstance(module, nn.Conv2d | nn.Linear) for module in unit.modules())]
    if not having:
        raise CurateError(f"{arch}: which of its layers are the last block cannot be told. Freeze the head or nothing.")
    lowest = min(heights[unit] for unit in having)
    begin = units.index(next(unit for unit in having if heights[unit] == lowest))
    ids = {id(p) for unit in units[begin:] for p in unit.parameters()}
    return {name for name, p in model.named_parameters() if id(p) in ids}


def is_head_only(model: nn.Module) -> bool:
    """Whether nothing before the head trains, so that the trunk's output can be kept."""
    return not any(p.requires_grad for name, p in model.named_parameters() if name.split(".")[0] not in HEAD)


def train_mode(model: nn.Module) -> None:
    """Training mode for what trains, evaluation mode for what is frozen: its statistics stay, and it drops nothing."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def forward(module: nn.Module, pixels: np.ndarray) -> Tensor:
    """(n, side, side, 3) uint8 -> what the module makes of them, without gradients.

    On a CPU every thread takes a few images through all layers, rather than all threads through each layer: they need
    not wait for each other, which on cores that others use takes longer than the layers.
    """
    device, threads = pick_device(), torch.get_num_threads()

    def of(part: np.ndarray) -> Tensor:
        with torch.inference_mode():
            return module(to_input(part, device))

    if device.type != "cpu" or threads == 1 or len(pixels) <= 1:
        return torch.cat([of(pixels[i : i + AT_ONCE]) for i in range(0, len(pixels), AT_ONCE)])
    size = min(AT_ONCE, -(-len(pixels) // threads))
    parts = [pixels[i : i + size] for i in range(0, len(pixels), size)]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return torch.cat(list(pool.map(of, parts)))
    finally:
        torch.set_num_threads(threads)  # of threads to come; this one has kept its own


def backbone_of(model: nn.Module, arch: str, side: int) -> Backbone:
    """The trunk of a model as a `Backbone`: a frozen copy, in evaluation mode, batch norm folded into convolutions."""
    trunk = split(to_device(model), arch)[0]
    digest = hashlib.sha256()
    for name, tensor in sorted(trunk.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    folded = frozen(trunk)
    dim = spatial(forward(folded, np.zeros((1, side, side, 3), np.uint8))).shape[1]
    return Backbone(arch, folded, dim, f"{arch.replace('/', '-')}-{side}-{digest.hexdigest()[:16]}", side)


def frozen(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode, without gradients, batch norm folded into convolutions."""
    return _fold_norms(copy.deepcopy(module).requires_grad_(False).eval()).to(memory_format=torch.channels_last)


def pick_device() -> torch.device:
    """The first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_device(model: nn.Module) -> nn.Module:
    """The model, moved in place to `pick_device()`, channels_last."""
    return model.to(pick_device()).to(memory_format=torch.channels_last)


def _head(parts: list[nn.Module], arch: str) -> nn.Sequential:
    pool: list[nn.Module] = [part for part in parts if isinstance(part, nn.AdaptiveAvgPool2d)]
    rest = [part for part in parts if not isinstance(part, nn.AdaptiveAvgPool2d | nn.Flatten)]
    if not pool and not arch.startswith(POOLS_ITSELF):
        pool = [nn.AdaptiveAvgPool2d(1)]
    if pool and not arch.startswith("convnext"):
        pool.append(nn.Flatten())
    if arch.startswith("squeezenet"):
        rest.append(nn.Flatten())
    return nn.Sequential(nn.Sequential(*pool), nn.Sequential(*rest))


def _heights(model: nn.Module, arch: str) -> dict[nn.Module, int]:
    """Rows of the map that each layer of the trunk gives, in the order in which they run; of tokens, ever less.

    The shapes alone are computed.
    """
    trunk, was_training = split(model, arch)[0], model.training
    heights: dict[nn.Module, int] = {}

    def note(layer: nn.Module, _: Any, out: Any) -> None:
        out = out[0] if isinstance(out, tuple) else out
        if isinstance(out, Tensor):
            heights[layer] = out.shape[2] if out.ndim == 4 else -len(heights)

    hooks = [layer.register_forward_hook(note) for layer in _opened(model.trunk if isinstance(model, Timm) else trunk)]
    shapes = {name: t.to("meta") for name, t in itertools.chain(trunk.named_parameters(), trunk.named_buffers())}
    side = getattr(model, "image_size", 224)  # a vision transformer takes no other
    model.eval()
    with torch.no_grad(), torch.device("meta"):
        functional_call(trunk, shapes, torch.zeros(1, 3, side, side))
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    return heights


def _opened(module: nn.Module) -> Iterator[nn.Module]:
    """What a module holds, and in place of what holds others in a row these."""
    for child in module.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _opened(child)
        else:
            yield child


def _fold_norms(module: nn.Module) -> Any:
    """Batch norm that follows a convolution becomes part of it, in place: the same function with less to do.

    Pairs are neighbours in an `nn.Sequential`, conv1 and bn1, conv2 and bn2, ... of a ResNet block, conv and bn of
    GoogLeNet and Inception. Subclasses do something else besides, and stay.
    """
    children = dict(module.named_children())
    if isinstance(module, nn.Sequential):
        pairs = list(itertools.pairwise(children))
    elif isinstance(module, resnet.BasicBlock | resnet.Bottleneck | GoogLeNetConvolution | InceptionConvolution):
        pairs = [(name, name.replace("conv", "bn")) for name in children if name.startswith("conv")]
    else:
        pairs = []
    for name, norm_name in pairs:
        convolution, norm = children[name], children[norm_name]
        if type(convolution) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
            setattr(module, name, fuse_conv_bn_eval(convolution, norm))
            setattr(module, norm_name, nn.Identity())
    for child in children.values():
        _fold_norms(child)
    return module
