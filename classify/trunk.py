"""The trunk of a model, which turns an image into a spatial map, and its head, which turns the map into logits.

Where one ends and the other begins, and what of both trains.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from classify.augment import to_gray
from classify.data import pick_device
from classify.frozen import digest_of, forward, frozen
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
        gray: whether it sees them without their colours.
    """

    arch: str
    trunk: nn.Module
    dim: int
    key: str
    side: int
    gray: bool = False

    def maps(self, pixels: np.ndarray) -> Tensor:
        """(n, side, side, 3) uint8 -> the map (n, dim, h, w) float32."""
        return spatial(forward(self.trunk, to_gray(pixels) if self.gray else pixels))


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
    _rest_frozen(model)


def backbone_of(model: nn.Module, arch: str, side: int, *, gray: bool = False) -> Backbone:
    """The trunk of a model as a `Backbone`: a frozen copy, in evaluation mode, batch norm folded into convolutions."""
    trunk = split(to_device(model), arch)[0]
    folded = frozen(trunk)
    dim = spatial(forward(folded, np.zeros((1, side, side, 3), np.uint8))).shape[1]
    key = f"{arch.replace('/', '-')}-{side}{'-gray' if gray else ''}-{digest_of(trunk)}"
    return Backbone(arch, folded, dim, key, side, gray)


def to_device(model: nn.Module) -> nn.Module:
    """The model, moved in place to `pick_device()`, channels_last."""
    return model.to(pick_device()).to(memory_format=torch.channels_last)


def _rest_frozen(module: nn.Module) -> set[bool]:
    """Put what is frozen below a module in evaluation mode; whether its parameters train, as far as it has any."""
    trains = {p.requires_grad for p in module.parameters(recurse=False)}.union(*map(_rest_frozen, module.children()))
    if trains == {False}:
        module.eval()
    return trains


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
