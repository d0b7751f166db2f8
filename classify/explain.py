"""Grad-CAM heatmaps: where in the image the evidence for a class lies, in batches, for linear heads and for runs.

Selvaraju et al., "Grad-CAM", ICCV 2017, by the library pytorch-grad-cam. The layer is always the end of the trunk: the
map that is pooled (for DenseNet after the last ReLU). The trunk runs without gradients and its map is the only leaf,
which is several times faster than differentiating the whole network and gives the same maps.
"""

import hashlib
import re
from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image, PngImagePlugin
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from classify.data import Decoded, Progress, batches, decode_rows, prefetched, split_rows, warn_unreadable
from classify.models import Backbone, Trained, backbone_of, load_run
from classify.models import split as split_model
from classify.report import explain_page, jpeg, write_png
from curate.errors import CurateError
from curate.files import replacing
from curate.images import open_rgb, square

SIDE = 56  # pixels of a heatmap
BATCH = 16
SHEET_SIDE = 160  # pixels of an overlay

Head = tuple[np.ndarray, np.ndarray]  # weight (classes, dim), bias (classes,)


class RowHeads(nn.Module):
    """One linear output an image on the pooled map, each image with a weight vector of its own."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.map = nn.Identity()  # the layer that is explained
        self.weight = nn.Parameter(weight, requires_grad=False)  # (n, dim)
        self.bias = nn.Parameter(bias, requires_grad=False)  # (n,)

    def forward(self, x: Tensor) -> Tensor:
        """(n, dim, h, w) -> logits (n, 1)."""
        return (self.map(x).mean((2, 3)) * self.weight).sum(1, keepdim=True) + self.bias[:, None]


def explain_heads(
    manifest: pd.DataFrame,
    root: Path,
    backbone: Backbone,
    heads: list[Head],
    head_of_row: np.ndarray,
    target_of_row: np.ndarray,
    out: Path,
    *,
    progress: Progress | None = None,
) -> np.ndarray:
    """The heatmap of every image under a linear head on the pooled raw trunk features, as files and as an array.

    A file that the same trunk and the same weights made is not made again (its PNG text says which made it).

    Args:
        manifest: n rows with `image_id` and `file_name`.
        root: the data root.
        backbone: the trunk; its embedding is what the heads were fitted on (fold a scaler into the weights first).
        heads: (weight (classes, dim), bias (classes,)) of each; a head of one output may be given as (1, dim).
        head_of_row: (n,) index into `heads`; -1: no heatmap.
        target_of_row: (n,) index of the class to explain.
        out: folder of <image_id>.png, 56 x 56, 8 bit grey, peak 255, all 0 where nothing speaks for the class.
        progress: called with (images done, images to do).

    Returns:
        (n, 56, 56) float32 in [0, 1]; NaN for rows without a heatmap (unreadable, or head -1).
    """
    head_of_row, target_of_row = np.asarray(head_of_row, int), np.asarray(target_of_row, int)
    if not len(manifest) == len(head_of_row) == len(target_of_row):
        raise ValueError(f"{len(manifest)} rows, {len(head_of_row)} heads, {len(target_of_row)} targets: must be equal")
    files = [heatmap_path(out, str(image_id)) for image_id in manifest["image_id"]]
    maps = np.full((len(manifest), SIDE, SIDE), np.nan, np.float32)
    makers = [_maker(backbone, heads, h, t) for h, t in zip(head_of_row, target_of_row, strict=True)]
    for row in np.flatnonzero(head_of_row >= 0).tolist():
        kept = _read_heatmap(files[row], makers[row])
        if kept is not None:
            maps[row] = kept
    wanted = np.flatnonzero((head_of_row >= 0) & np.isnan(maps[:, 0, 0]))
    weights = [weight[target] for weight, target in _targets(heads, head_of_row, target_of_row)]
    causes: dict[int, str] = {}
    done = 0
    parts = batches(wanted, BATCH)
    for part, images in prefetched(lambda part: decode_rows(manifest, root, part, backbone.side), parts):
        rows, pixels = _readable(images, causes)
        if rows:
            activations = backbone.maps(pixels)
            weight = torch.from_numpy(np.array([weights[row] for row in rows], np.float32)).to(activations.device)
            model = RowHeads(weight, torch.zeros(len(rows), device=activations.device))
            for row, heatmap in zip(rows, grad_cam(model, activations, [0] * len(rows)), strict=True):
                maps[row] = _write_heatmap(files[row], heatmap, makers[row])
        done += len(part)
        if progress:
            progress(done, len(wanted))
    warn_unreadable(manifest, causes)
    return maps


def explain_run(
    trained: Trained, manifest: pd.DataFrame, root: Path, *, target: str = "predicted", progress: Progress | None = None
) -> tuple[pd.DataFrame, np.ndarray]:
    """What a trained run looks at.

    Args:
        trained: see `classify.models.load_run`.
        manifest: n rows with `file_name` and, for target "label", `label`.
        root: the data root.
        target: "predicted" explains the class that the model predicts, "label" the given one.
        progress: called with (images done, images to do).

    Returns:
        A table with `predicted`, `probability` (of the predicted class) and `explained` (missing where the image does
        not open), and heatmaps (n, 56, 56) float32 in [0, 1], NaN there.
    """
    backbone = backbone_of(trained.model, trained.arch, trained.side)
    head = split_model(trained.model, trained.arch)[1].requires_grad_(False).eval()
    model = nn.Sequential(OrderedDict(map=nn.Identity(), head=head))
    classes = np.array(trained.classes, dtype=object)
    table = pd.DataFrame(index=manifest.index, columns=["predicted", "probability", "explained"], dtype=object)
    maps = np.full((len(manifest), SIDE, SIDE), np.nan, np.float32)
    causes: dict[int, str] = {}
    done = 0
    parts = batches(np.arange(len(manifest)), BATCH)
    for part, images in prefetched(lambda part: decode_rows(manifest, root, part, backbone.side), parts):
        rows, pixels = _readable(images, causes)
        if rows:
            activations = backbone.maps(pixels)
            with torch.inference_mode():
                probabilities = model(activations).softmax(1).cpu().numpy()
            predicted = probabilities.argmax(1)
            explained = _explained(manifest, rows, predicted, trained.classes, target)
            maps[rows] = grad_cam(model, activations, explained.tolist())
            table.iloc[rows, 0] = classes[predicted]
            table.iloc[rows, 1] = probabilities.max(1)
            table.iloc[rows, 2] = classes[explained]
        done += len(part)
        if progress:
            progress(done, len(manifest))
    warn_unreadable(manifest, causes)
    return table.astype({"probability": float}), maps


def explain_split(
    run: Path, manifest: pd.DataFrame, root: Path, *, split: str, target: str, progress: Progress | None = None
) -> tuple[Path, int]:
    """Explain a split's images; writes overlays, a contact sheet and a page into run/explain-<split>/.

    Returns:
        The page, and the number of images explained.

    Raises:
        CurateError: as `load_run`, `split_rows` and `explain_run`.
    """
    trained = load_run(run)
    rows = split_rows(manifest, split)
    table, maps = explain_run(trained, rows, root, target=target, progress=progress)
    out = run / f"explain-{split}"
    out.mkdir(exist_ok=True)
    cards: list[tuple[np.ndarray, str]] = []
    for i, (image_id, label, said) in enumerate(zip(rows["image_id"], rows["label"], table.itertuples(), strict=True)):
        if not np.isnan(maps[i, 0, 0]):
            picture = overlay(square(open_rgb(root, rows["file_name"].iloc[i]), SHEET_SIDE), maps[i])
            with replacing(heatmap_path(out, str(image_id)).with_suffix(".jpg")) as temporary:
                temporary.write_bytes(jpeg(picture))
            mark = "" if label == said.predicted else " (wrong)"
            text = f"{image_id}: {label}, predicted {said.predicted} {said.probability:.0%}{mark}"
            cards.append((picture, text if target == "predicted" else f"{text}; evidence for {said.explained}"))
    if not cards:
        raise CurateError(f"split {split}: none of its {len(rows)} images opens under {root}. Is --data wrong?")
    write_png(contact_sheet([picture for picture, _ in cards]), out / "contact.png")
    explain_page(f"What {run.name} looks at: split {split}", cards, out / "index.html")
    return out / "index.html", len(cards)


def grad_cam(model: nn.Module, activations: Tensor, targets: list[int]) -> np.ndarray:
    """Grad-CAM of one logit an image with respect to the output of `model.map`, its first layer.

    Args:
        model: takes activations, gives logits; has a layer `map` and no parameter that requires a gradient.
        activations: (n, channels, h, w).
        targets: one class index an image.

    Returns:
        (n, 56, 56) float32: the library's map (ReLU, least value 0), enlarged, the peak 1; all 0 where nothing speaks
        for the class.
    """
    if len(targets) != len(activations):  # the library would silently zero the maps that have none
        raise ValueError(f"{len(targets)} targets for {len(activations)} images")
    leaf = activations.detach().clone().requires_grad_()  # clone: an inference tensor cannot take part in autograd
    cam = GradCAM(model=model, target_layers=[model.map])
    try:
        maps = cam(input_tensor=leaf, targets=[ClassifierOutputTarget(target) for target in targets])
    finally:
        cam.activations_and_grads.release()  # hooks and graph: the library keeps them otherwise
    return np.stack([_scaled(heatmap) for heatmap in maps])


def overlay(image: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """(side, side, 3) uint8 RGB with the heatmap (h, w) in [0, 1] laid over it in colour; NaN leaves it as it is."""
    if np.isnan(heatmap).any():
        return image
    side = image.shape[0]
    heat = cv2.resize(heatmap, (side, side), interpolation=cv2.INTER_LINEAR)
    colour = cv2.cvtColor(cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    return (image * 0.5 + colour * 0.5).astype(np.uint8)


def contact_sheet(images: list[np.ndarray], *, columns: int = 8, gap: int = 4) -> np.ndarray:
    """Equal squares (side, side, 3) uint8 laid out in rows on white."""
    side = images[0].shape[0]
    lines = -(-len(images) // columns)
    sheet = np.full((lines * (side + gap) + gap, columns * (side + gap) + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * (side + gap) + gap, (i % columns) * (side + gap) + gap
        sheet[y : y + side, x : x + side] = image
    return sheet


def heatmap_path(out: Path, image_id: str) -> Path:
    """Where the heatmap of an image is kept; CurateError for an `image_id` that is no plain file name."""
    if not re.fullmatch(r"\w[\w.-]*", image_id):
        raise CurateError(f"image_id {image_id!r} is no plain name of letters, digits, '_', '-' and '.'.")
    return out / f"{image_id}.png"


def _scaled(heatmap: np.ndarray) -> np.ndarray:
    peak = heatmap.max()
    if not peak > 0:
        return np.zeros((SIDE, SIDE), np.float32)
    large = cv2.resize((heatmap / peak).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return np.clip(large / large.max(), 0, 1)


def _readable(images: list[Decoded], causes: dict[int, str]) -> tuple[list[int], np.ndarray]:
    causes.update({image.row: image.cause for image in images if image.pixels is None})
    good = [image for image in images if image.pixels is not None]
    return [image.row for image in good], np.array([image.pixels for image in good])


def _targets(heads: list[Head], head_of_row: np.ndarray, target_of_row: np.ndarray) -> list[tuple[np.ndarray, int]]:
    return [(heads[max(h, 0)][0], t if h >= 0 else 0) for h, t in zip(head_of_row, target_of_row, strict=True)]


def _maker(backbone: Backbone, heads: list[Head], head: int, target: int) -> str:
    """Names what a heatmap was made with: trunk and weights (a bias moves no heatmap)."""
    if head < 0:
        return ""
    weight = np.ascontiguousarray(heads[head][0][target], np.float32)
    return f"grad-cam {backbone.key} {hashlib.sha256(weight.tobytes()).hexdigest()[:16]}"


def _read_heatmap(path: Path, maker: str) -> np.ndarray | None:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.info.get("maker") != maker or image.size != (SIDE, SIDE) or image.mode != "L":
                return None
            return np.asarray(image, np.float32) / 255
    except (OSError, ValueError, SyntaxError):
        return None


def _write_heatmap(path: Path, heatmap: np.ndarray, maker: str) -> np.ndarray:
    """Write it, and return it as reading it would."""
    grey = np.round(heatmap * 255).astype(np.uint8)
    text = PngImagePlugin.PngInfo()
    text.add_text("maker", maker)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        Image.fromarray(grey).save(temporary, format="PNG", pnginfo=text)
    return grey.astype(np.float32) / 255


def _explained(
    manifest: pd.DataFrame, rows: list[int], predicted: np.ndarray, classes: tuple[str, ...], target: str
) -> np.ndarray:
    if target == "predicted":
        return predicted
    labels = manifest["label"].iloc[rows]
    if not set(labels) <= set(classes):
        raise CurateError(
            f"label {sorted(set(labels) - set(classes))[0]!r} is none of the run's: {', '.join(classes)}."
        )
    return np.array([classes.index(label) for label in labels])
