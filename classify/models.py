"""Classifiers by name: built with weights, frozen as asked, kept in a run and read from it.

Every model is a trunk, which turns an image into a spatial map, and a head, which turns the map into logits.
"""

import difflib
import json
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch
import torchvision
from torch import nn

from classify import timm_models
from classify.augment import to_gray
from classify.data import pick_device
from classify.layers import Dropout, Renormalised, SmallCNN
from classify.trunk import FREEZE, HEAD, Backbone, Freeze, backbone_of, last_block, to_device
from classify.weights import UNREADABLE, load_weights, put_in
from curate.errors import CurateError
from curate.files import replacing

IMAGENET_CLASSES = 1000
MODEL_FILE = "model.safetensors"
RENORMALISED = "efficientnet_v2_l"  # the one of torchvision whose weights were made of images normalised otherwise
LAYOUT = 2  # of what a model file says of itself: a change that older versions would misread must raise it
LARGEST_SIDE, MOST_CLASSES = 4096, 10_000  # no run has more, and what claims to would fill the memory


@dataclass(frozen=True)
class Trained:
    """A model that a run left, ready to predict.

    Attributes:
        side: pixels of the square images it takes.
        crop: whether these are of the specimen (see `classify.data.specimen`), not of the whole image.
        gray: whether it takes them without their colours; see `seen`.
    """

    arch: str
    model: nn.Module
    classes: tuple[str, ...]
    side: int
    crop: bool = False
    gray: bool = False

    def seen(self, pixels: np.ndarray) -> np.ndarray:
        """What it takes of pictures in colour, (n, side, side, 3) uint8."""
        return to_gray(pixels) if self.gray else pixels


def architectures() -> list[str]:
    """Every name that `build` takes, but for those of timm."""
    return ["small_cnn", *torchvision.models.list_models(module=torchvision.models)]


def build(
    arch: str, classes: int, *, weights: str = "DEFAULT", freeze: Freeze = "none", dropout: float = 0.5, seed: int = 0
) -> nn.Module:
    """A classifier with a new last layer; what does not train has `requires_grad` off.

    Args:
        arch: a torchvision classifier, "small_cnn", or "timm/<name>" where timm is installed.
        classes: number of outputs.
        weights: "DEFAULT" (the library's best, downloaded; small_cnn has none and starts new), "none" (new), the path
            of a state dict (.pth, .safetensors), or its URL: https://...#sha256=<64 hex digits>. The file must hold
            the whole trunk; what of the head it lacks is new, and so is the last layer.
        freeze: "head": only the new layers train. "last_block": all of the head (its affine layers, that is the fully
            connected ones) and the trunk from its first convolution at the lowest resolution on (VGG: conv5; ResNet:
            layer4; DenseNet: denseblock4). "none": everything trains.
        dropout: probability before the last layer, and wherever else the architecture's head has dropout.
        seed: of the new layers.

    Raises:
        CurateError: unknown architecture, weights that cannot be had or do not fit.
    """
    if freeze not in FREEZE:
        raise CurateError(f"freeze={freeze!r} is unknown; known: {', '.join(FREEZE)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, last = _new(arch, classes, dropout)
        given = load_weights(model, arch, weights, last)
    freeze_model(model, arch, freeze, given)
    return to_device(model)


def freeze_model(model: nn.Module, arch: str, freeze: Freeze, given: set[str]) -> None:
    """Let train what `freeze` says (see `build`); of the head with "head", what is not among the names given."""
    if freeze == "none":
        model.requires_grad_()
        return
    trains = {name for name, _ in model.named_parameters() if name.split(".")[0] in HEAD}
    trains = trains - given if freeze == "head" else trains | last_block(model, arch)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trains)


def check_side(model: nn.Module, arch: str, side: int) -> None:
    """CurateError where the model does not take squares of `side` pixels; all of torchvision take their own size."""
    if side == getattr(model, "image_size", 224) and not isinstance(model, timm_models.Timm):
        return
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, side, side, device=pick_device()))
    except (RuntimeError, AssertionError, ValueError) as error:
        takes = getattr(model, "image_size", 224)
        raise CurateError(
            f"{arch} does not take images of {side} pixels: {error}. Try --image-size {takes}."
        ) from error


def changing(model: nn.Module) -> list[str]:
    """State dict names that training changes: parameters that train, buffers of modules in training mode."""
    trains = {name: p.requires_grad for name, p in model.named_parameters()}
    training = {prefix for prefix, module in model.named_modules() if module.training} - {""}
    return [name for name in model.state_dict() if trains.get(name, name.rpartition(".")[0] in training)]


def load_backbone(arch: str, weights: str = "DEFAULT", *, run: Path | None = None, side: int = 224) -> Backbone:
    """The frozen trunk of a pretrained architecture, or of a trained run (then `arch` and `weights` do not matter).

    Args:
        arch: as `build`.
        weights: as `build`.
        run: a run folder; its image size is taken.
        side: pixels; otherwise.

    Raises:
        CurateError: as `build` and `load_run`.
    """
    if run is not None:
        trained = load_run(run)
        return backbone_of(trained.model, trained.arch, trained.side, gray=trained.gray)
    return backbone_of(build(arch, 2, weights=weights), arch, side)


def save_model(trained: Trained, path: Path) -> None:
    """Write the model as safetensors: the library's own state dict keys; classes and preprocessing in the metadata."""
    about = {
        "version": LAYOUT,
        "arch": trained.arch,
        "classes": list(trained.classes),
        "side": trained.side,
        "crop": trained.crop,
        "gray": trained.gray,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trained.model.state_dict().items()}
    with replacing(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata={"deeprock": json.dumps(about)})


def load_run(run: Path) -> Trained:
    """The best model of a run, in evaluation mode. Nothing in its file is executed.

    Raises:
        CurateError: no such run; its file is damaged, was not written by `classify train`, or by a later version.
    """
    path = run / MODEL_FILE
    if not path.is_file():
        raise CurateError(
            f"{run}: no trained run: {MODEL_FILE} is missing. `classify train --name {run.name}` makes it."
        )
    try:
        about = _about(path)
        model = build(about.arch, len(about.classes), weights="none")
        tensors = safetensors.torch.load_file(path)
        if lacking := sorted(model.state_dict().keys() - tensors.keys()):
            raise KeyError(f"{lacking[0]} is missing")
        put_in(model, tensors)
    except (*UNREADABLE, TypeError, OverflowError) as error:
        raise CurateError(f"{path}: not a model that `classify train` wrote, or damaged: {error}") from error
    return Trained(model=to_device(model).eval(), **about._asdict())


class _About(NamedTuple):
    """What a model file says of itself: the rest of a `Trained`."""

    arch: str
    classes: tuple[str, ...]
    side: int
    crop: bool
    gray: bool


def _about(path: Path) -> _About:
    """CurateError where a later version wrote the file."""
    with safetensors.safe_open(path, framework="pt") as file:
        about = dict(json.loads((file.metadata() or {})["deeprock"]))
    if (version := int(about.get("version", 0))) > LAYOUT:  # the first files had none
        raise CurateError(
            f"{path}: a later version of DeepRock wrote it (layout {version}; this one reads up to {LAYOUT}). Update "
            "DeepRock, or train the model again with this one."
        )
    arch, classes, side = str(about["arch"]), about["classes"], int(about["side"])
    if version == 0 and arch == RENORMALISED:
        raise CurateError(
            f"{path}: an earlier version of DeepRock trained it on images normalised otherwise. Train it again."
        )
    if not (isinstance(classes, list) and 0 < len(classes) <= MOST_CLASSES and 0 < side <= LARGEST_SIDE):
        raise ValueError(f"classes {str(classes)[:40]}, images of {side} pixels")
    return _About(arch, tuple(map(str, classes)), side, *(bool(about.get(name, False)) for name in ("crop", "gray")))


def _new(arch: str, classes: int, dropout: float) -> tuple[nn.Module, tuple[str, ...]]:
    """A model with random weights, and the names of its last layers, which have `classes` outputs."""
    if arch.startswith(timm_models.PREFIX):
        timm_model = timm_models.create(arch, classes, dropout)
        return timm_model, timm_model.last
    model = _skeleton(arch)
    return model, (_new_last_layer(model, arch, classes, dropout),)


def _skeleton(arch: str) -> nn.Module:
    if arch == "small_cnn":
        return SmallCNN(IMAGENET_CLASSES)
    if arch not in (known := architectures()):
        near = difflib.get_close_matches(arch, known, n=4) or ["densenet121", "resnet18", "vgg19_bn", "small_cnn"]
        raise CurateError(
            f"--arch {arch!r} is unknown. Did you mean {', '.join(near)}? Any torchvision classifier will do, and "
            "timm/<name> where timm is installed."
        )
    if arch in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": False, "transform_input": True}
        return torchvision.models.get_model(arch, weights=None, **options)
    model = torchvision.models.get_model(arch, weights=None)
    if arch == RENORMALISED:
        stem = model.features[0]
        model.features[0] = nn.Sequential(OrderedDict(input=Renormalised(), **dict(stem.named_children())))
    return model


def _new_last_layer(model: nn.Module, arch: str, classes: int, dropout: float) -> str:
    """Replace the last layer, set dropout; the new layer's name."""
    kind = nn.Conv2d if arch.startswith("squeezenet") else nn.Linear
    name, old = [(n, m) for n, m in model.named_modules() if n.split(".")[0] in HEAD and isinstance(m, kind)][-1]
    drops = [n for n, m in model.named_modules() if n.split(".")[0] in HEAD and isinstance(m, nn.Dropout)]
    for place in drops:
        _put(model, place, Dropout(dropout))
    new: nn.Module
    if isinstance(old, nn.Conv2d):
        new = nn.Conv2d(old.in_channels, classes, 1)
    else:
        new = nn.Linear(old.in_features, classes, bias=old.bias is not None)
    _put(model, name, new if drops else nn.Sequential(Dropout(dropout), new))
    return name


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Replace the layer of this name."""
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer)
