"""Class activation maps: where the evidence for a class lies on the map that the trunk of a network makes of an image.

Grad-CAM (Selvaraju et al., "Grad-CAM", ICCV 2017) weighs the channels of that map A by the mean gradient of the class's
logit y: ReLU(sum_k w_k A_k) with w_k = mean over space of dy/dA_k. Nothing before the map is ever differentiated: A is
the only leaf. Where all that follows is pooling and one linear layer W, not even that needs a gradient: w = W[c] / hw.
Other heads, and other methods than Grad-CAM, are left to the library pytorch-grad-cam.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from classify.layers import Tail
from classify.trunk import explained, spatial
from curate.errors import CurateError

SIDE = 56  # pixels of a heatmap

Method = Callable[[Tail, Tensor, list[int]], np.ndarray]


def trunk_and_tail(model: nn.Module, arch: str) -> tuple[nn.Sequential, Tail]:
    """`classify.trunk.explained`, with DenseNet's tail as the library sees it: the heatmaps are the library's.

    Between DenseNet's `features` and its pooling torchvision applies a ReLU in place. pytorch-grad-cam, with the layer
    that its README names, `features[-1]`, keeps the map A that this ReLU has overwritten, but the gradient from before
    it: ReLU(sum_k w_k ReLU(A_k)) with w = W[c] mean(A > 0) / hw. A second ReLU, which changes no logit, does the same.

    Raises:
        CurateError: as `classify.trunk.explained`.
    """
    trunk, tail = explained(model, arch)
    if arch.startswith("densenet"):
        tail = Tail(nn.Sequential(tail.map, nn.ReLU(), tail.layers), tail.map)
    return trunk, tail


def class_activation_maps(tail: Tail, inputs: Tensor, targets: list[int], method: str = "gradcam") -> np.ndarray:
    """The map of one class an image, as large as the output of `tail.map`.

    Args:
        tail: see `trunk_and_tail`; in evaluation mode, no parameter of it requires a gradient.
        inputs: what it takes: activations (n, channels, h, w), or tokens (n, 1 + h * w, channels). For the methods in
            `OF_IMAGES` images (n, 3, side, side), and the whole network as tail.
        targets: one class index an image.
        method: one of `METHODS`.

    Returns:
        (n, h, w) float32, at least 0; in closed form unscaled, by the library from 0 to 1; all 0 where nothing speaks
        for the class. Of "fullgrad" as large as the image.

    Raises:
        CurateError: unknown method.
    """
    check_method(method)
    if len(targets) != len(inputs):  # the library would silently zero the maps that have none
        raise ValueError(f"{len(targets)} targets for {len(inputs)} images")
    head = pooled_linear(tail)
    if head is None or method not in ("gradcam", "shapleycam"):  # the latter adds second derivatives: here they are 0
        return METHODS[method](tail, inputs, targets)
    linear, gated = head
    with torch.inference_mode():
        weights = linear.weight[targets] / inputs[0, 0].numel()
        if gated:
            weights = weights * (inputs > 0).float().mean((2, 3))
        return weighed(inputs, weights)


def check_method(method: str) -> None:
    """CurateError where there is no such method."""
    if method not in METHODS:
        raise CurateError(f"--method {method!r} is unknown; known: {', '.join(METHODS)}.")


def pooled_linear(tail: Tail) -> tuple[nn.Linear, bool] | None:
    """The one linear layer of a tail that pools the explained map, and whether a ReLU comes first; None of others."""
    first, *rest = _in_order(tail.layers)
    if first is not tail.map or not isinstance(first, nn.Identity):
        return None
    match [layer for layer in rest if not isinstance(layer, nn.Identity | nn.Flatten | nn.Dropout)]:
        case [nn.AdaptiveAvgPool2d(output_size=1 | (1, 1)), nn.Linear() as linear]:
            return linear, False
        case [nn.ReLU(), nn.AdaptiveAvgPool2d(output_size=1 | (1, 1)), nn.Linear() as linear]:
            return linear, True
    return None


def weighed(activations: Tensor, weights: Tensor) -> np.ndarray:
    """ReLU of the weighted sum of the channels: maps (n, channels, h, w), weights (n, channels) -> (n, h, w) float32.

    Selvaraju et al., eq. (2).
    """
    return torch.einsum("nchw,nc->nhw", activations, weights).relu().float().cpu().numpy()


def grad_cam(tail: Tail, activations: Tensor, targets: list[int]) -> np.ndarray:
    """Heatmaps (n, 56, 56) float32 in [0, 1] by Grad-CAM; see `class_activation_maps` and `enlarged`."""
    return enlarged(class_activation_maps(tail, activations, targets))


def enlarged(maps: np.ndarray, side: int = SIDE) -> np.ndarray:
    """(n, h, w) -> (n, side, side) float32 in [0, 1], as the library scales: stretched, enlarged (bilinear), stretched.

    All 0 where a map is the same everywhere.
    """
    how = cv2.INTER_LINEAR if maps.shape[-1] <= side else cv2.INTER_AREA
    return _stretched(np.stack([cv2.resize(image, (side, side), interpolation=how) for image in _stretched(maps)]))


def _stretched(maps: np.ndarray) -> np.ndarray:
    """Each map from its least value at 0 to its largest at 1."""
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    return ((maps - low) / np.maximum(high - low, np.finfo(np.float32).tiny)).astype(np.float32)


def _in_order(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of nested chains; what is no plain `nn.Sequential` counts as one."""
    if type(module) is not nn.Sequential:
        yield module
        return
    for child in module:
        yield from _in_order(child)


class _AtMapSize:
    """Before a method of the library: its maps stay as large as the layer's output."""

    def get_target_width_height(self, input_tensor: Tensor) -> None:
        """No size to enlarge to: by default it is that of an image, which activations are not."""


class _OfTokensToo(_AtMapSize):
    """Before the library's Shapley-CAM, which reshapes tokens to a map for the weights alone."""

    get_cam_weights: Callable[..., np.ndarray]

    def get_cam_image(self, inputs: Tensor, layer: Any, targets: Any, activations: Tensor, *more: Any) -> np.ndarray:
        """(n, h, w)."""
        weights = self.get_cam_weights(inputs, layer, targets, activations, more[0])
        return (weights[:, :, None, None] * spatial(activations).detach().cpu().numpy()).sum(1)


def _library(
    name: str, tail: Tail, inputs: Tensor, targets: list[int], *, before: type = _AtMapSize, **options: Any
) -> np.ndarray:
    return _run(_kind(name, before)(tail, [tail.map], spatial, **options), inputs, targets)


def _one_by_one(name: str, tail: Tail, inputs: Tensor, targets: list[int]) -> np.ndarray:
    """For what keeps something of every channel at the size of the image."""
    parts = zip(inputs.split(1), targets, strict=True)
    return np.concatenate([_library(name, tail, image, [target]) for image, target in parts])


def _ablation(tail: Tail, inputs: Tensor, targets: list[int]) -> np.ndarray:
    layer = "AblationLayer"
    if inputs.ndim == 3:  # tokens: the library repeats what has three axes an image
        tail, inputs = Tail(nn.Sequential(nn.Flatten(0, 1), tail.layers), tail.map), inputs[:, None]
        layer = "AblationLayerVit"
    return _library("AblationCAM", tail, inputs, targets, ablation_layer=_kind(layer)())


def _finer(tail: Tail, inputs: Tensor, targets: list[int]) -> np.ndarray:
    """Each class against the three whose logits are nearest to its own."""
    maps = []
    for image, target in zip(inputs.split(1), targets, strict=True):
        cam = _kind("FinerCAM")(tail, [tail.map], spatial, base_method=_kind("GradCAM", _AtMapSize))
        try:
            maps.append(cam(_leaf(image), target_idx=target))
        finally:
            _release(cam.base_cam)
    return np.concatenate(maps)


def _shapley(tail: Tail, inputs: Tensor, targets: list[int]) -> np.ndarray:
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention has no second derivative
        return _library("ShapleyCAM", tail, inputs, targets, before=_OfTokensToo)


def _full_gradient(tail: Tail, inputs: Tensor, targets: list[int]) -> np.ndarray:
    """At the size of the image: the gradients at many layers are added up. Biases of convolutions alone count."""
    parts = zip(inputs.split(1), targets, strict=True)
    return np.concatenate([_run(_kind("FullGrad")(tail, []), image, [target]) for image, target in parts])


def _kind(name: str, *before: type) -> type:
    import pytorch_grad_cam  # takes seconds to load, and the closed form does without it

    kind = getattr(pytorch_grad_cam, name)
    return type(name, (*before, kind), {}) if before else kind


def _run(cam: Any, inputs: Tensor, targets: list[int]) -> np.ndarray:
    """What a method of the library says; 0 where it divides by nothing, as by a logit of 0. Its bars are not shown."""
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    try:
        with np.errstate(divide="ignore", invalid="ignore"), redirect_stderr(io.StringIO()):
            maps = cam(_leaf(inputs), [ClassifierOutputTarget(target) for target in targets])
    finally:
        _release(cam)
    return np.nan_to_num(maps)


def _release(cam: Any) -> None:
    """Hooks and graph, which the library keeps otherwise; it stumbles over views that it cannot detach in place."""
    kept = cam.activations_and_grads
    kept.activations, kept.gradients = [], []
    kept.release()


def _leaf(inputs: Tensor) -> Tensor:
    return inputs.detach().clone().requires_grad_()  # clone: an inference tensor cannot take part in autograd


METHODS: dict[str, Method] = {
    "gradcam": partial(_library, "GradCAM"),
    "gradcam++": partial(_library, "GradCAMPlusPlus"),
    "xgradcam": partial(_library, "XGradCAM"),
    "hirescam": partial(_library, "HiResCAM"),
    "gradcamelementwise": partial(_library, "GradCAMElementWise"),
    "layercam": partial(_library, "LayerCAM"),
    "finercam": _finer,
    "shapleycam": _shapley,
    "ablationcam": _ablation,
    "scorecam": partial(_one_by_one, "ScoreCAM"),
    "fullgrad": _full_gradient,
    "eigengradcam": partial(_library, "EigenGradCAM"),
    "segeigencam": partial(_library, "SegEigenCAM"),
    "eigencam": partial(_library, "EigenCAM"),
    "kpcacam": partial(_library, "KPCA_CAM"),
    "fem": partial(_library, "FEM"),
}
OF_IMAGES = ("scorecam", "fullgrad")  # run the whole network time and again, or differentiate it
OF_NO_CLASS = ("eigencam", "kpcacam", "fem")  # show what is strongest in the map, whatever the class
