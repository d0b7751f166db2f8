"""Classifiers of the library timm, in two parts as every model here: a trunk, which ends in a map, and a head.

A timm model is `forward_head(forward_features(x))`. Of what `forward_features` gives, three kinds are known: maps
(n, channels, h, w), maps (n, h, w, channels), and tokens (n, some of its own + h * w, channels), h = w.
"""

import copy
import difflib
from typing import Any

import torch
from torch import Tensor, nn

from classify.data import MEAN, STD
from classify.layers import Renormalised, Tail
from curate.errors import CurateError

PREFIX = "timm/"  # of the names of architectures
PARTS = ("trunk", "head")


class Timm(nn.Module):
    """A timm model whose parts share nothing: `trunk` runs its `forward_features`, `head` its `forward_head`.

    State dict names are timm's own behind "trunk." and "head.". Both parts are the timm model with some of its
    children: nothing but these two methods works on them.

    Attributes:
        image_size: pixels of the squares that it was made for; some take no others.
        last: names of the last layers, whose outputs are the classes.
        averages: whether the head begins with the mean over space.
    """

    def __init__(self, model: nn.Module, in_head: frozenset[str], averages: bool) -> None:
        super().__init__()
        self.averages = averages
        about: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
        mean, std = about["mean"], about["std"]
        self.input = nn.Identity() if (tuple(mean), tuple(std)) == (MEAN, STD) else Renormalised(mean, std)
        self.trunk: Any = _part(model, {n: m for n, m in model._modules.items() if n not in in_head})
        self.head: Any = _part(model, {n: m for n, m in model._modules.items() if n in in_head})
        self.head._parameters, self.head._buffers = {}, {}
        self.image_size: int = about["input_size"][-1]
        last = about["classifier"]
        self.last = tuple(f"head.{name}" for name in ([last] if isinstance(last, str) else last))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, side, side) -> logits (n, classes)."""
        return self.head.forward_head(self.trunk.forward_features(self.input(x)))

    def named_as_here(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict with timm's own names, or with ours, with ours."""
        if all(name.startswith(tuple(f"{part}." for part in PARTS)) for name in state):
            return state
        in_head = self.head._modules
        return {f"{'head' if n.split('.')[0] in in_head else 'trunk'}.{n}": tensor for n, tensor in state.items()}


class Features(nn.Module):
    """The trunk of a `Timm`."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part: Any = part

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, side, side) -> a map or tokens."""
        return self.part.forward_features(x)


class Head(nn.Module):
    """The head of a `Timm`."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part: Any = part

    def forward(self, x: Tensor) -> Tensor:
        """What `Features` gives -> logits (n, classes)."""
        return self.part.forward_head(x)


class Permuted(nn.Module):
    """A map with its channels elsewhere."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        """Four dimensions -> the same in another order."""
        return x.permute(self.order)


def create(arch: str, classes: int, dropout: float) -> Timm:
    """A timm classifier with random weights.

    Args:
        arch: "timm/<name>", such as timm/mobilenetv3_small_050 or, with the tag of its weights,
            timm/resnet50.a1_in1k.
        classes: number of outputs.
        dropout: probability before the last layer.

    Raises:
        CurateError: timm is not installed, has no such model, or the model is no classifier of the kinds above.
    """
    timm, name = _timm(), _known(arch)
    options = {"pretrained": False, "num_classes": classes, "drop_rate": dropout}
    try:
        with torch.device("meta"):  # shapes only: no memory, no time
            in_head, averages = _of_head(timm.create_model(name, **options).eval())
        return Timm(timm.create_model(name, **options), in_head, averages)
    except (NotImplementedError, TypeError) as error:
        raise CurateError(
            f"--arch {arch}: timm has it, but not as a classifier that ends in one map or in tokens ({error}). Take a "
            "convolutional network or a vision transformer, such as timm/resnet50 or timm/vit_tiny_patch16_224."
        ) from error


def download(arch: str) -> dict[str, Tensor]:
    """The pretrained weights, from where timm keeps them; nothing that they hold is executed.

    Raises:
        CurateError: there are none, or no network.
    """
    timm, name = _timm(), _known(arch)
    about = timm.get_pretrained_cfg(name)
    if not (about and about.has_weights):
        raise CurateError(f"{arch}: timm has no pretrained weights. --weights none trains from random ones.")
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except (OSError, RuntimeError) as error:
        cause = str(error).partition("\n")[0]
        raise CurateError(
            f"{arch}: the pretrained weights could not be downloaded ({cause}). Get the file "
            f"model.safetensors of {about.hf_hub_id or name} (Hugging Face) where there is a network and give its "
            "path: --weights path/to/model.safetensors. --weights none trains from random weights."
        ) from error


def split_timm(model: Timm) -> tuple[nn.Sequential, nn.Sequential]:
    """See `classify.trunk.split`; the head's first part gives a map of one pixel, or where the head does not begin with
    the mean over space, the map as it is.
    """
    before: list[nn.Module] = [model.input, Features(model.trunk)]
    after: list[nn.Module] = [Head(model.head)]
    if getattr(model.trunk, "output_fmt", "NCHW") == "NHWC":
        before, after = [*before, Permuted(0, 3, 1, 2)], [Permuted(0, 2, 3, 1), *after]
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1)) if model.averages else nn.Sequential()
    return nn.Sequential(*before), nn.Sequential(pool, nn.Sequential(*after))


def explained_timm(model: Timm) -> tuple[nn.Sequential, Tail]:
    """See `classify.trunk.explained`.

    Maps, and tokens that are pooled, are explained at the end of the trunk. Where the class token alone is taken, the
    tokens before the last attention are: in models of timm's class VisionTransformer (vit, deit, dinov2, clip and
    siglip among them).

    Raises:
        CurateError: another model that takes the class token.
    """
    from timm.models.vision_transformer import VisionTransformer

    trunk, head = split_timm(model)
    if getattr(model.trunk, "global_pool", None) != "token":
        end = nn.Identity()
        return trunk, Tail(nn.Sequential(end, head), end)
    if not isinstance(model.trunk, VisionTransformer) or not hasattr(model.trunk.blocks[-1], "norm1"):
        raise CurateError(
            f"{type(model.trunk).__name__} hands its class token alone to the head and is no plain vision transformer: "
            "it trains and predicts, but has no heatmap. Take a convolutional network, or a model named timm/vit_..."
        )
    *first, last = model.trunk.blocks
    shorter = {**model.trunk._modules, "blocks": nn.Sequential(*first), "norm": nn.Identity()}
    body = nn.Sequential(model.input, Features(_part(model.trunk, shorter)))
    return body, Tail(nn.Sequential(last, model.trunk.norm, head), last.get_submodule("norm1"))


def _timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise CurateError("architectures named timm/... need the library timm: pip install timm") from error
    return timm


def _known(arch: str) -> str:
    """The name without "timm/". Names that timm would look for on the web or on the disk are unknown."""
    timm, name = _timm(), arch.removeprefix(PREFIX)
    known = {*timm.list_models(), *timm.list_pretrained()}
    if name not in known:
        near = difflib.get_close_matches(name, sorted(known), n=4) or ["resnet50", "vit_tiny_patch16_224"]
        raise CurateError(f"--arch {arch!r} is unknown. Did you mean {', '.join(PREFIX + n for n in near)}?")
    return name


def _part(model: nn.Module, modules: dict[str, nn.Module | None]) -> nn.Module:
    """The same object but for its children, which are those given."""
    part = copy.copy(model)
    part._modules = modules
    return part


def _of_head(model: Any) -> tuple[frozenset[str], bool]:
    """Names of the children that `forward_head` runs, and whether the first that it does is the mean over space.

    TypeError where the features are neither map nor tokens.
    """
    from timm.layers.adaptive_avgmax_pool import FastAdaptiveAvgPool

    side = model.pretrained_cfg["input_size"][-1]
    ran: list[tuple[str, nn.Module]] = []
    with torch.no_grad():
        features = model.forward_features(torch.zeros(2, 3, side, side))
        if not isinstance(features, Tensor) or features.ndim not in (3, 4):
            raise TypeError(f"its features are {type(features).__name__}")
        for name, module in model.named_modules():
            if name:
                module.register_forward_pre_hook(lambda module, _, name=name: ran.append((name.split(".")[0], module)))
        model.forward_head(features)
    first = next((module for _, module in ran if not any(module.children())), None)
    averages = features.ndim == 4 and isinstance(first, nn.AdaptiveAvgPool2d | FastAdaptiveAvgPool)
    return frozenset(name for name, _ in ran), averages
