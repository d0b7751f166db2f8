"""Grad-CAM heatmaps: where in the image the evidence for a class lies, in batches, for linear heads and for runs.

Selvaraju et al., "Grad-CAM", ICCV 2017, by the library pytorch-grad-cam. The layer is always the end of the trunk: the
map that is pooled (for DenseNet after the last ReLU). The trunk runs without gradients and its map is the only leaf,
which is several times faster than differentiating the whole network and gives the same maps.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image, PngImagePlugin
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from classify.data import (
    Decoded,
    Progress,
    batches,
    content_keys,
    decode_rows,
    prefetched,
    split_rows,
    warn_unreadable,
)
from classify.features import Maps, readable
from classify.models import Backbone, Trained, explained, forward, frozen, load_run, spatial
from classify.report import explain_page, jpeg, write_png
from curate.errors import CurateError
from curate.files import replacing
from curate.images import open_rgb, square

SIDE = 56  # pixels of a heatmap
BATCH = 32
SHEET_SIDE = 160  # pixels of an overlay

Head = tuple[np.ndarray, np.ndarray]  # weight (classes, dim), bias (classes,)


class RowHeads(nn.Module):
    """One linear output an image on the pooled map, each image with a weight vector of its own."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.map = nn.Identity()  # the layer that is explained
        self.weight = nn.Parameter(weight, requires_grad=False)  # (n, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(n, dim, h, w) -> logits (n, 1), but for a bias, which moves no heatmap."""
        return (self.map(x).mean((2, 3)) * self.weight).sum(1, keepdim=True)


def explain_heads(
    manifest: pd.DataFrame,
    root: Path,
    backbone: Backbone,
    heads: list[Head],
    head_of_row: np.ndarray,
    targets: np.ndarray,
    out: Path,
    *,
    maps: Maps | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The heatmaps of every image under a linear head on the pooled raw trunk features, as files and in parts.

    A file that the same trunk and the same weights made is not made again (its PNG text says which made it).

    Args:
        manifest: n rows with `image_id` and `file_name`; `sha256` is used where present.
        root: the data root.
        backbone: the trunk; its embedding is what the heads were fitted on (fold a scaler into the weights first).
        heads: (weight (classes, dim), bias (classes,)) of each.
        head_of_row: (n,) index into `heads`; -1: no heatmap.
        targets: (n, 2) class indices: of the given label and of what is predicted.
        out: folder of <image_id>.png of the label and, where that is another class, <image_id>-predicted.png; 56 x 56,
            8 bit grey, peak 255, all 0 where nothing speaks for the class.
        maps: what a pass over the pixels kept of the trunk's maps; cleared in the end. Other images are decoded.
        progress: called with (images done, images to do).

    Yields:
        Rows (k,), and their heatmaps (k, 2, 56, 56) float32 in [0, 1]; not for rows without one (unreadable, head -1).
    """
    head_of_row, targets = np.asarray(head_of_row, int), np.asarray(targets, int)
    if targets.shape != (len(manifest), 2) or len(head_of_row) != len(manifest):
        raise ValueError(f"{len(manifest)} rows, {len(head_of_row)} heads, targets {targets.shape}: must be (n, 2)")
    ids = manifest["image_id"].astype(str).to_numpy()
    keys = content_keys(manifest, root)
    weights = [np.ascontiguousarray(weight, np.float32) for weight, _ in heads]
    makers = [[_maker(backbone, row) for row in weight] for weight in weights]
    causes: dict[int, str] = {}

    def prepared(part: np.ndarray) -> tuple[np.ndarray, list[int], list[Decoded]]:
        """What is kept of a part (k, 2, 56, 56), NaN where nothing is; rows with maps; the others, decoded."""
        kept = np.stack([_read_pair(out, ids[r], targets[r], makers[head_of_row[r]]) for r in part])
        todo = part[np.isnan(kept[:, :, 0, 0]).any(axis=1)]
        seen = [row for row in todo.tolist() if maps is not None and keys[row] in maps]
        return kept, seen, decode_rows(manifest, root, np.setdiff1d(todo, seen), backbone.side)

    def activations(seen: list[int], images: list[Decoded]) -> tuple[list[int], list[Tensor]]:
        """Rows, and the trunk's maps of them: those kept, then those of the decoded images."""
        rows, pixels = readable(images, causes)
        found = [backbone.maps(pixels)] if rows else []
        if maps is None or not seen:
            return rows, found
        try:
            return seen + rows, [maps.take([keys[row] for row in seen]), *found]
        except OSError:  # another process has made its heatmaps, and cleared the maps
            again = decode_rows(manifest, root, np.array(seen), backbone.side)
            return activations([], [*again, *images])

    wanted = np.flatnonzero(head_of_row >= 0)
    done = 0
    for part, (heat, seen, images) in prefetched(prepared, batches(wanted, BATCH)):
        made, found = activations(seen, images)
        if made:
            pairs = [weights[head_of_row[row]][targets[row]] for row in made]
            fresh = _pairs(torch.cat(found), np.stack(pairs), targets[made])
            for row, pair in zip(made, fresh, strict=True):
                kept = _write_pair(out, ids[row], pair, targets[row], makers[head_of_row[row]])
                heat[np.searchsorted(part, row)] = kept
        there = ~np.isnan(heat[:, 0, 0, 0])
        yield part[there], heat[there]
        done += len(part)
        if progress:
            progress(done, len(wanted))
    warn_unreadable(manifest, causes)
    if maps is not None:
        maps.clear()


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
    trunk, tail = explained(trained.model, trained.arch)
    body = frozen(trunk)
    tail.requires_grad_(False).eval()
    classes = np.array(trained.classes, dtype=object)
    table = pd.DataFrame(index=manifest.index, columns=["predicted", "probability", "explained"], dtype=object)
    maps = np.full((len(manifest), SIDE, SIDE), np.nan, np.float32)
    causes: dict[int, str] = {}
    done = 0
    parts = batches(np.arange(len(manifest)), BATCH)
    for part, images in prefetched(
        lambda part: decode_rows(manifest, root, part, trained.side, crop=trained.crop), parts
    ):
        rows, pixels = readable(images, causes)
        if rows:
            activations = forward(body, pixels)
            with torch.inference_mode():
                probabilities = tail(activations).softmax(1).cpu().numpy()
            predicted = probabilities.argmax(1)
            shown = _explained(manifest, rows, predicted, trained.classes, target)
            maps[rows] = grad_cam(tail, activations, shown.tolist())
            table.iloc[rows, 0] = classes[predicted]
            table.iloc[rows, 1] = probabilities.max(1)
            table.iloc[rows, 2] = classes[shown]
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


class SmallCAM(GradCAM):
    """Grad-CAM at the size of the map: the library would enlarge it to the size of what the model takes, an image's."""

    def get_target_width_height(self, input_tensor: Tensor) -> None:
        """No size to enlarge to."""


def grad_cam(model: nn.Module, activations: Tensor, targets: list[int]) -> np.ndarray:
    """Grad-CAM of one logit an image with respect to the output of `model.map`.

    Args:
        model: takes activations, gives logits; has a layer `map` and no parameter that requires a gradient.
        activations: (n, channels, h, w), or tokens (n, 1 + h * w, channels).
        targets: one class index an image.

    Returns:
        (n, 56, 56) float32: the library's map (ReLU, least value 0), enlarged, the peak 1; all 0 where nothing speaks
        for the class.
    """
    if len(targets) != len(activations):  # the library would silently zero the maps that have none
        raise ValueError(f"{len(targets)} targets for {len(activations)} images")
    leaf = activations.detach().clone().requires_grad_()  # clone: an inference tensor cannot take part in autograd
    cam = SmallCAM(model=model, target_layers=[model.map], reshape_transform=spatial)
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


def _pairs(activations: Tensor, weights: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Heatmaps of the label and of what is predicted: maps (k, dim, h, w), weights (k, 2, dim) -> (k, 2, 56, 56)."""
    other = np.flatnonzero(targets[:, 0] != targets[:, 1])
    leaf = torch.cat([activations, activations[other]])
    weight = torch.from_numpy(np.concatenate([weights[:, 0], weights[other, 1]])).to(leaf.device)
    made = grad_cam(RowHeads(weight), leaf, [0] * len(leaf))
    pairs = np.stack([made[: len(targets)]] * 2, axis=1)
    pairs[other, 1] = made[len(targets) :]
    return pairs


def _maker(backbone: Backbone, weight: np.ndarray) -> str:
    """Names what a heatmap was made with: trunk and weights (a bias moves no heatmap)."""
    return f"grad-cam {backbone.key} {hashlib.sha256(weight.tobytes()).hexdigest()[:16]}"


def _read_pair(out: Path, image_id: str, targets: np.ndarray, makers: list[str]) -> np.ndarray:
    """(2, 56, 56) float32, NaN where no file is or others made it. A second file where one serves both is deleted."""
    label, predicted = targets
    first, other = _read_heatmap(heatmap_path(out, image_id), makers[label]), heatmap_path(out, f"{image_id}-predicted")
    if label == predicted:
        other.unlink(missing_ok=True)
        return np.stack([first, first])
    return np.stack([first, _read_heatmap(other, makers[predicted])])


def _write_pair(out: Path, image_id: str, pair: np.ndarray, targets: np.ndarray, makers: list[str]) -> np.ndarray:
    """Write them, and return them as reading would."""
    label, predicted = targets
    first = _write_heatmap(heatmap_path(out, image_id), pair[0], makers[label])
    if label == predicted:
        return np.stack([first, first])
    return np.stack([first, _write_heatmap(heatmap_path(out, f"{image_id}-predicted"), pair[1], makers[predicted])])


def _read_heatmap(path: Path, maker: str) -> np.ndarray:
    """(56, 56) float32 in [0, 1]; NaN where it is damaged, was made by others or is not there: it is made again."""
    nothing = np.full((SIDE, SIDE), np.nan, np.float32)
    try:
        with Image.open(path, formats=["PNG"]) as image:
            ours = image.info.get("maker") == maker and image.size == (SIDE, SIDE) and image.mode == "L"
            return np.asarray(image, np.float32) / 255 if ours else nothing
    except (OSError, ValueError, SyntaxError):
        return nothing


def _write_heatmap(path: Path, heatmap: np.ndarray, maker: str) -> np.ndarray:
    """Write it, and return it as reading it would.

    Whole or not at all, but not synced: a power failure may leave a damaged file, which is made again.
    """
    grey = np.round(heatmap * 255).astype(np.uint8)
    text = PngImagePlugin.PngInfo()
    text.add_text("maker", maker)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}~{os.getpid()}.tmp")
    Image.fromarray(grey).save(temporary, format="PNG", pnginfo=text, compress_level=1)
    temporary.replace(path)
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
