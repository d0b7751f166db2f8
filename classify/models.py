"""Classifiers by name, their weights, what of them trains, and their trunks.

Every model is a trunk, which turns an image into a spatial map, and a head, which turns the map into logits.
"""

import copy
import difflib
import hashlib
import itertools
import json
import math
import pickle
import re
import warnings
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import resnet

from classify.data import to_input
from curate.errors import CurateError
from curate.files import replacing

IMAGENET_CLASSES = 1000
FREEZE = ("head", "last_block", "none")
MODEL_FILE = "model.safetensors"
HEAD = ("avgpool", "dropout", "flatten", "fc", "classifier", "head", "heads")  # torchvision's names of what follows
NO_TRUNK = ("googlenet", "inception")  # their layers are not one chain from image to map
TOKENS = "vit_"  # architectures whose trunk gives tokens, the class token first
POOLS_ITSELF = ("squeezenet", "maxvit", "convnext", "vgg", "alexnet")  # heads that take the map as it is
NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    EOFError,
    pickle.UnpicklingError,
    safetensors.SafetensorError,
)

AT_ONCE = 4  # images that a thread takes through a trunk: what is computed of more of them leaves the cache

Freeze = Literal["head", "last_block", "none"]


class SmallCNN(nn.Module):
    """The study's simple network: four blocks of convolution, batch norm and ReLU, pooling in between.

    The first convolution has stride 2; the last map, a sixteenth of the side, is what the heatmaps are drawn from.
    """

    def __init__(self, num_classes: int, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        ins = (3, *widths)
        self.features = nn.Sequential(
            *(
                _conv_block(ins[i], width, stride=2 if i == 0 else 1, pool=i + 1 < len(widths))
                for i, width in enumerate(widths)
            )
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, side, side) -> logits (n, num_classes)."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class Tokens(nn.Module):
    """The first layer of torchvision's vision transformer: an image's patches and the class token, with positions."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.conv_proj, self.dropout = model.get_submodule("conv_proj"), model.get_submodule("encoder.dropout")
        self.class_token = model.get_parameter("class_token")
        self.pos_embedding = model.get_parameter("encoder.pos_embedding")

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, side, side) -> (n, 1 + patches, channels)."""
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), patches], dim=1)
        return self.dropout(tokens + self.pos_embedding)


class ClassToken(nn.Module):
    """What the head of a vision transformer sees of the tokens."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, 1 + patches, channels) -> (n, channels)."""
        return tokens[:, 0]


class Tail(nn.Module):
    """The last layers of a model, and the one among them, `map`, whose output Grad-CAM explains."""

    def __init__(self, layers: nn.Module, explained: nn.Module) -> None:
        super().__init__()
        self.layers, self.map = layers, explained

    def forward(self, x: Tensor) -> Tensor:
        """What the layers before gave -> logits (n, classes)."""
        return self.layers(x)


@dataclass(frozen=True)
class Trained:
    """A model that a run left, ready to predict.

    Attributes:
        side: pixels of the square images it takes.
        crop: whether these are of the specimen (see `classify.data.specimen`), not of the whole image.
    """

    arch: str
    model: nn.Module
    classes: tuple[str, ...]
    side: int
    crop: bool = False


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


def spatial(output: Tensor) -> Tensor:
    """A map (n, channels, h, w) as it is; of tokens (n, 1 + h * w, channels), h = w, without the class token."""
    if output.ndim == 4:
        return output
    side = math.isqrt(output.shape[1] - 1)
    return output[:, 1:].transpose(1, 2).unflatten(2, (side, side))


def architectures() -> list[str]:
    """Every name that `build` takes."""
    return ["small_cnn", *torchvision.models.list_models(module=torchvision.models)]


def build(
    arch: str, classes: int, *, weights: str = "DEFAULT", freeze: Freeze = "none", dropout: float = 0.5, seed: int = 0
) -> nn.Module:
    """A classifier with a new last layer; what does not train has `requires_grad` off.

    Args:
        arch: a torchvision classifier, or "small_cnn".
        classes: number of outputs.
        weights: "DEFAULT" (torchvision's best, downloaded; small_cnn has none and starts new), "none" (new), or the
            path of a state dict (.pth, .safetensors). The file must hold the whole trunk; what of the head it lacks
            is new.
        freeze: "head": only the new layers train. "last_block": these, all norm layers (the affine parameters of
            normalisation) and the convolutions at the trunk's lowest resolution (ResNet: layer4; VGG: conv5). "none":
            everything trains.
        dropout: probability before the last layer, and wherever else the architecture's head has dropout.
        seed: of the new layers.

    Raises:
        CurateError: unknown architecture, weights that cannot be had or do not fit, freezing what has no trunk.
    """
    if freeze not in FREEZE:
        raise CurateError(f"freeze={freeze!r} is unknown; known: {', '.join(FREEZE)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _skeleton(arch)
        if freeze != "none":
            split(model, arch)  # a CurateError where there is no trunk
        given = _load_weights(model, arch, weights)
        last = _new_last_layer(model, arch, classes, dropout)
    if freeze != "none":
        head_names = {name for name in dict(model.named_parameters()) if name.split(".")[0] in HEAD}
        new = {name for name in head_names if name not in given or name.startswith(f"{last}.")}
        trains = new if freeze == "head" else head_names | _last_block(model, arch)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trains)
    return to_device(model)


def split(model: nn.Module, arch: str) -> tuple[nn.Sequential, nn.Sequential]:
    """(trunk, head) that share the model's layers: head(trunk(x)) = model(x).

    The trunk ends with the map that is pooled, or with the tokens of a vision transformer; DenseNet's includes the
    ReLU after `features`. The head has two parts: the pooling (to a vector, where the architecture pools first; the
    class token) and the rest.

    Raises:
        CurateError: the architecture is not one chain (GoogLeNet, Inception).
    """
    if arch.startswith(NO_TRUNK):
        raise CurateError(
            f"{arch} has no trunk that ends in one spatial map; it trains with --freeze none only and is not explained."
            " Take resnet, densenet, vgg, mobilenet, efficientnet, convnext, vit, swin, squeezenet or small_cnn."
        )
    if arch.startswith(TOKENS):
        encoder = model.get_submodule("encoder")
        body = [Tokens(model), *encoder.get_submodule("layers").children(), encoder.get_submodule("ln")]
        return nn.Sequential(*body), nn.Sequential(ClassToken(), model.get_submodule("heads"))
    children = OrderedDict(model.named_children())
    body = [module for name, module in children.items() if name not in HEAD]
    rest = [module for name, module in children.items() if name in HEAD]
    if len(body) == 1 and isinstance(body[0], nn.Sequential):
        body = list(body[0].children())
    body = [unit for module in body for unit in (module if isinstance(module, nn.ModuleList) else [module])]
    if arch.startswith("densenet"):
        body.append(nn.ReLU())
    return nn.Sequential(*body), _head(rest, arch)


def explained(model: nn.Module, arch: str) -> tuple[nn.Sequential, Tail]:
    """(body, tail) with tail(body(x)) = model(x); `tail.map` gives what Grad-CAM explains.

    The map that is pooled; of a vision transformer the tokens before the last attention, as pytorch-grad-cam does: of
    those after it only the class token reaches the logits.

    Raises:
        CurateError: as `split`.
    """
    trunk, head = split(model, arch)
    if arch.startswith(TOKENS):
        return trunk[:-2], Tail(nn.Sequential(*trunk[-2:], head), trunk[-2].get_submodule("ln_1"))
    end = nn.Identity()
    return trunk, Tail(nn.Sequential(end, head), end)


def check_side(model: nn.Module, arch: str, side: int) -> None:
    """CurateError where the model does not take squares of `side` pixels."""
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, side, side, device=pick_device()))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise CurateError(f"{arch} does not take images of {side} pixels: {error}. Try --image-size 224.") from error


def train_mode(model: nn.Module, arch: str) -> None:
    """Training mode for what trains; evaluation mode for a frozen trunk and frozen norms, whose statistics stay."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters(recurse=False))
        if isinstance(module, NORMS) and parameters and not any(p.requires_grad for p in parameters):
            module.eval()
    if is_head_only(model):
        split(model, arch)[0].eval()


def is_head_only(model: nn.Module) -> bool:
    """Whether nothing before the head trains, so that the trunk's output can be kept."""
    return not any(p.requires_grad for name, p in model.named_parameters() if name.split(".")[0] not in HEAD)


def changing(model: nn.Module) -> list[str]:
    """State dict names that training changes: parameters that train, buffers of modules in training mode."""
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    training = {prefix for prefix, module in model.named_modules() if module.training}
    return [name for name in model.state_dict() if name in names or name.rpartition(".")[0] in training - {""}]


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
        arch, model, side = trained.arch, trained.model, trained.side
    else:
        model = build(arch, 2, weights=weights)
    return backbone_of(model, arch, side)


def backbone_of(model: nn.Module, arch: str, side: int) -> Backbone:
    """The trunk of a model as a `Backbone`: a frozen copy, in evaluation mode, batch norm folded into convolutions."""
    trunk = split(to_device(model), arch)[0]
    digest = hashlib.sha256()
    for name, tensor in sorted(trunk.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    folded = frozen(trunk)
    dim = spatial(forward(folded, np.zeros((1, side, side, 3), np.uint8))).shape[1]
    return Backbone(arch, folded, dim, f"{arch}-{side}-{digest.hexdigest()[:16]}", side)


def frozen(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode, without gradients, batch norm folded into convolutions."""
    return _fold_norms(copy.deepcopy(module).requires_grad_(False).eval()).to(memory_format=torch.channels_last)


def save_model(trained: Trained, path: Path) -> None:
    """Write the model as safetensors: torchvision's own state dict keys; classes and preprocessing in the metadata."""
    about = {"arch": trained.arch, "classes": list(trained.classes), "side": trained.side, "crop": trained.crop}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trained.model.state_dict().items()}
    with replacing(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata={"deeprock": json.dumps(about)})


def load_run(run: Path) -> Trained:
    """The best model of a run, in evaluation mode.

    Raises:
        CurateError: no such run, or its file is damaged or was not written by `classify train`.
    """
    path = run / MODEL_FILE
    if not path.is_file():
        raise CurateError(
            f"{run}: no trained run: {MODEL_FILE} is missing. `classify train --name {run.name}` makes it."
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["deeprock"])
        arch, classes, side = about["arch"], tuple(map(str, about["classes"])), int(about["side"])
        crop = bool(about.get("crop", False))
        model = build(arch, len(classes), weights="none")
        model.load_state_dict(safetensors.torch.load_file(path))
    except UNREADABLE as error:
        raise CurateError(f"{path}: not a model that `classify train` wrote, or damaged: {error}") from error
    return Trained(arch, to_device(model).eval(), classes, side, crop)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file. Nothing in the file is executed.

    Raises:
        CurateError: no such file, damaged, holding more than tensors and plain values, or no tensors at all.
    """
    if not path.is_file():
        raise CurateError(f"--weights {path}: no such file. Give the path of a state dict, DEFAULT or none.")
    try:
        if path.suffix == ".safetensors":
            state: Any = safetensors.torch.load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Detected pickle protocol")  # files of other programs
                state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        first = str(error).strip().splitlines()[:1]
        raise CurateError(
            f"--weights {path}: refused: no plain state dict, or damaged ({type(error).__name__}: {' '.join(first)}). "
            "Only tensors are loaded: save it with torch.save(model.state_dict(), path) or as .safetensors."
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CurateError(f"--weights {path}: holds no state dict (names to tensors) but {type(state).__name__}.")
    return {str(name): value for name, value in state.items()}


def pick_device() -> torch.device:
    """The first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_device(model: nn.Module) -> nn.Module:
    """The model, moved in place to `pick_device()`, channels_last."""
    return model.to(pick_device()).to(memory_format=torch.channels_last)


def _fold_norms(module: nn.Module) -> Any:
    """Batch norm that follows a convolution becomes part of it, in place: the same function with less to do.

    Pairs are neighbours in an `nn.Sequential`, and conv1 and bn1, conv2 and bn2, ... of a ResNet block.
    """
    children = dict(module.named_children())
    if isinstance(module, nn.Sequential):
        pairs = list(itertools.pairwise(children))
    elif isinstance(module, resnet.BasicBlock | resnet.Bottleneck):
        pairs = [(name, name.replace("conv", "bn")) for name in children if name.startswith("conv")]
    else:
        pairs = []
    for name, norm_name in pairs:
        convolution, norm = children[name], children[norm_name]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(convolution, norm))
            setattr(module, norm_name, nn.Identity())
    for child in children.values():
        _fold_norms(child)
    return module


def _conv_block(ins: int, outs: int, stride: int, pool: bool) -> nn.Sequential:
    convolution = nn.Conv2d(ins, outs, 3, stride=stride, padding=1, bias=False)
    block = (convolution, nn.BatchNorm2d(outs), nn.ReLU(inplace=True))
    return nn.Sequential(*block, *([nn.MaxPool2d(2)] if pool else []))


def _skeleton(arch: str) -> nn.Module:
    if arch == "small_cnn":
        return SmallCNN(IMAGENET_CLASSES)
    if arch not in (known := architectures()):
        near = difflib.get_close_matches(arch, known, n=4) or ["densenet121", "resnet18", "vgg19_bn", "small_cnn"]
        raise CurateError(
            f"--arch {arch!r} is unknown. Did you mean {', '.join(near)}? Any torchvision classifier will do."
        )
    if arch in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": False, "transform_input": True}
        return torchvision.models.get_model(arch, weights=None, **options)
    return torchvision.models.get_model(arch, weights=None)


def _load_weights(model: nn.Module, arch: str, weights: str) -> set[str]:
    """Load them in place; the names of the state dict that came from the file."""
    if weights == "none" or (weights == "DEFAULT" and arch == "small_cnn"):
        return set()
    state = _download(arch) if weights == "DEFAULT" else read_state(Path(weights))
    state = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", name): t for name, t in state.items()}
    own = model.state_dict()
    trunk = {name for name in own if name.split(".")[0] not in HEAD and not name.endswith("num_batches_tracked")}
    problems = [f"{name} is missing" for name in sorted(trunk - state.keys())]
    problems += [
        f"{name} is {tuple(state[name].shape)}, needs {tuple(own[name].shape)}"
        for name in sorted(trunk & state.keys())
        if state[name].shape != own[name].shape
    ]
    problems += [
        f"{name} is not part of {arch}"
        for name in sorted(state.keys() - own.keys())
        if name.split(".")[0] not in HEAD and not name.lower().startswith("aux")
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CurateError(
            f"--weights {weights}: does not fit --arch {arch}: {'; '.join(problems[:5])}{more}. "
            "Give the architecture that the file was made with, or another file."
        )
    fitting = {name: t for name, t in state.items() if name in own and t.shape == own[name].shape}
    model.load_state_dict(fitting, strict=False)
    return set(fitting)


def _download(arch: str) -> dict[str, Tensor]:
    default = torchvision.models.get_model_weights(arch).DEFAULT
    try:
        return default.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong checksum a RuntimeError
        file = default.url.rsplit("/", 1)[-1]
        raise CurateError(
            f"{arch}: the pretrained weights could not be downloaded ({error}). Get the file {file} (torchvision, "
            f"{default}) where there is a network and give its path: --weights path/to/{file}. "
            "--weights none trains from random weights."
        ) from error


def _new_last_layer(model: nn.Module, arch: str, classes: int, dropout: float) -> str:
    """Replace the last layer, set dropout; the new layer's name."""
    kind = nn.Conv2d if arch.startswith("squeezenet") else nn.Linear
    name, old = [(n, m) for n, m in model.named_modules() if n.split(".")[0] in HEAD and isinstance(m, kind)][-1]
    drops = [m for n, m in model.named_modules() if n.split(".")[0] in HEAD and isinstance(m, nn.Dropout)]
    for module in drops:
        module.p = dropout
    new: nn.Module
    if isinstance(old, nn.Conv2d):
        new = nn.Conv2d(old.in_channels, classes, 1)
    else:
        new = nn.Linear(old.in_features, classes, bias=old.bias is not None)
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, new if drops else nn.Sequential(nn.Dropout(dropout), new))
    return name


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


def _last_block(model: nn.Module, arch: str) -> set[str]:
    """Names of the trunk's norm parameters and of its convolutions at the lowest resolution."""
    trunk = split(model, arch)[0]
    heights: dict[nn.Module, int] = {}
    side = getattr(model, "image_size", 224)  # a vision transformer takes no other
    x = torch.zeros(1, 3, side, side)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for unit in trunk:
            x = unit(x)
            heights[unit] = x.shape[2] if x.ndim == 4 else len(heights)  # tokens: the last layer alone
    model.train(was_training)
    holders = [unit for unit in trunk if any(isinstance(m, nn.Conv2d | nn.Linear) for m in unit.modules())]
    lowest = [unit for unit in holders if heights[unit] == heights[holders[-1]]]
    modules = [m for unit in lowest for m in unit.modules()] + [m for m in trunk.modules() if isinstance(m, NORMS)]
    ids = {id(p) for module in modules for p in module.parameters(recurse=False)}
    return {name for name, p in model.named_parameters() if id(p) in ids}
