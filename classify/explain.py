"""What a model looks at: heatmaps of every image, for linear heads on a trunk and for runs.

The layer is always the end of the trunk, the map that is pooled; the methods are those of `classify.cam`.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from classify.augment import to_gray
from classify.cam import (
    OF_IMAGES,
    OF_NO_CLASS,
    SIDE,
    check_method,
    class_activation_maps,
    enlarged,
    trunk_and_tail,
    weighed,
)
from classify.data import (
    Decoded,
    Progress,
    batches,
    content_keys,
    decode_rows,
    pick_device,
    prefetched,
    split_rows,
    to_input,
    warn_unreadable,
)
from classify.evaluate import log_look
from classify.features import Maps, readable
from classify.frozen import forward, frozen
from classify.heatmaps import Part, maker, read_pair, write_folder, write_pair
from classify.layers import Tail
from classify.models import Trained, load_run
from classify.trunk import Backbone
from curate.errors import CurateError
from curate.memory import give_back

log = logging.getLogger("classify")

BATCH = 32

Head = tuple[np.ndarray, np.ndarray]  # weight (classes, dim), bias (classes,)
Target = str | tuple[str, ...]  # "predicted", "label", or names of classes


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
    """Grad-CAM of every image under a linear head on the pooled raw trunk features, as files and in parts.

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
    work = _Heads(manifest, root, backbone, heads, head_of_row, targets, out, maps)
    wanted = np.flatnonzero(work.head_of_row >= 0)
    done = 0
    for part, (heat, seen, images) in prefetched(work.prepared, batches(wanted, BATCH)):
        work.fill(part, heat, seen, images)
        there = ~np.isnan(heat[:, 0, 0, 0])
        yield part[there], heat[there]
        done += len(part)
        if progress:
            progress(done, len(wanted))
    warn_unreadable(manifest, work.causes)
    if maps is not None:
        maps.clear()


class _Heads:
    """What `explain_heads` works on."""

    def __init__(
        self,
        manifest: pd.DataFrame,
        root: Path,
        backbone: Backbone,
        heads: list[Head],
        head_of_row: np.ndarray,
        targets: np.ndarray,
        out: Path,
        maps: Maps | None,
    ) -> None:
        self.manifest, self.root, self.backbone, self.out, self.maps = manifest, root, backbone, out, maps
        self.head_of_row, self.targets = np.asarray(head_of_row, int), np.asarray(targets, int)
        n = len(manifest)
        if self.targets.shape != (n, 2) or len(self.head_of_row) != n:
            raise ValueError(f"{n} rows, {len(self.head_of_row)} heads, targets {self.targets.shape}: must be (n, 2)")
        self.ids = manifest["image_id"].astype(str).to_numpy()
        self.keys = content_keys(manifest, root)
        self.weights = [np.ascontiguousarray(weight, np.float32) for weight, _ in heads]
        self.makers = [[maker(backbone, row) for row in weight] for weight in self.weights]
        self.causes: dict[int, str] = {}

    def prepared(self, part: np.ndarray) -> tuple[np.ndarray, list[int], list[Decoded]]:
        """What is kept of a part (k, 2, 56, 56), NaN where nothing is; rows with maps; the others, decoded."""
        kept = np.stack([read_pair(self.out, self.ids[row], self.targets[row], self._makers(row)) for row in part])
        todo = part[np.isnan(kept[:, :, 0, 0]).any(axis=1)]
        seen = [row for row in todo.tolist() if self.maps is not None and self.keys[row] in self.maps]
        return kept, seen, self._decoded(np.setdiff1d(todo, seen))

    def fill(self, part: np.ndarray, heat: np.ndarray, seen: list[int], images: list[Decoded]) -> None:
        """Make and write what is missing of a part, and put it into `heat`."""
        rows, activations = self._activations(seen, images)
        if not rows:
            return
        weights = np.stack([self.weights[self.head_of_row[row]][self.targets[row]] for row in rows])
        both = torch.from_numpy(weights).to(activations.device)  # (k, 2, dim)
        pairs = np.stack([enlarged(weighed(activations, both[:, which])) for which in (0, 1)], axis=1)
        for row, pair in zip(rows, pairs, strict=True):
            kept = write_pair(self.out, self.ids[row], pair, self.targets[row], self._makers(row))
            heat[np.searchsorted(part, row)] = kept

    def _activations(self, seen: list[int], images: list[Decoded]) -> tuple[list[int], Tensor]:
        """Rows, and the trunk's maps of them: those kept, then those of the decoded images."""
        rows, pixels = readable(images, self.causes)
        found = [self.backbone.maps(pixels).cpu()] if rows else []
        if self.maps is None or not seen:
            return rows, torch.cat(found) if found else torch.empty(0)
        try:
            return seen + rows, torch.cat([self.maps.take([self.keys[row] for row in seen]), *found])
        except OSError:  # another process has made its heatmaps, and cleared the maps
            return self._activations([], [*self._decoded(np.array(seen)), *images])

    def _decoded(self, rows: np.ndarray) -> list[Decoded]:
        return decode_rows(self.manifest, self.root, rows, self.backbone.side)

    def _makers(self, row: int) -> list[str]:
        return self.makers[self.head_of_row[row]]


class Network(NamedTuple):
    """A trained model, ready to be explained.

    Attributes:
        body: what comes before the explained map, a frozen copy with batch norm folded into convolutions.
        tail: the rest.
        classes, side, crop, gray: as of `classify.models.Trained`.
    """

    body: nn.Module
    tail: Tail
    classes: tuple[str, ...]
    side: int
    crop: bool
    gray: bool


def network_of(trained: Trained) -> Network:
    """The parts of a model; its head is put into evaluation mode and gets no gradients any more.

    Raises:
        CurateError: as `classify.trunk.explained`.
    """
    trunk, tail = trunk_and_tail(trained.model, trained.arch)
    tail.requires_grad_(False).eval()
    return Network(frozen(trunk), tail, trained.classes, trained.side, trained.crop, trained.gray)


def explain_parts(
    network: Network,
    manifest: pd.DataFrame,
    root: Path,
    *,
    target: Target = "predicted",
    method: str = "gradcam",
    progress: Progress | None = None,
) -> Iterator[Part]:
    """What a network looks at, in parts: memory does not grow with the number of images.

    Args:
        network: see `network_of`.
        manifest: n rows with `file_name` and, for target "label", `label`.
        root: the data root.
        target: "predicted" explains the class that the model predicts, "label" the given one; names of classes: each.
        method: one of `classify.cam.METHODS`.
        progress: called with (images done, images to do).

    Raises:
        CurateError: unknown method, or a class that the network does not know.
    """
    check_method(method)
    asked = _asked(manifest, network.classes, target)
    give_back()  # of the model that was copied: else the peak for ResNet18 is 1.5 times as high
    causes: dict[int, str] = {}
    done = 0
    parts = batches(np.arange(len(manifest)), 1 if method in OF_IMAGES else BATCH)
    for part, images in prefetched(
        lambda part: decode_rows(manifest, root, part, network.side, crop=network.crop), parts
    ):
        rows, pixels = readable(images, causes)
        if rows:
            seen = to_gray(pixels) if network.gray else pixels
            activations = forward(network.body, seen)
            with torch.inference_mode():
                probabilities = network.tail(activations).float().softmax(1).cpu().numpy()
            shown = probabilities.argmax(1)[:, None] if asked is None else asked[rows]
            maps = [_heatmaps(network, seen, activations, column.tolist(), method) for column in shown.T]
            yield Part(rows, pixels, probabilities, shown, np.stack(maps, axis=1))
        done += len(part)
        if progress:
            progress(done, len(manifest))
    warn_unreadable(manifest, causes)


def explain_run(
    trained: Trained,
    manifest: pd.DataFrame,
    root: Path,
    *,
    target: Literal["predicted", "label"] = "predicted",
    method: str = "gradcam",
    progress: Progress | None = None,
) -> tuple[pd.DataFrame, np.ndarray]:
    """What a trained run looks at, all at once: `explain_parts` in a table and an array.

    Returns:
        A table with `predicted`, `probability` (of the predicted class) and `explained` (missing where the image does
        not open), and heatmaps (n, 56, 56) float32 in [0, 1], NaN there.
    """
    classes = np.array(trained.classes, dtype=object)
    table = pd.DataFrame(index=manifest.index, columns=["predicted", "probability", "explained"], dtype=object)
    maps = np.full((len(manifest), SIDE, SIDE), np.nan, np.float32)
    for part in explain_parts(network_of(trained), manifest, root, target=target, method=method, progress=progress):
        table.iloc[part.rows, 0] = classes[part.probabilities.argmax(1)]
        table.iloc[part.rows, 1] = part.probabilities.max(1)
        table.iloc[part.rows, 2] = classes[part.shown[:, 0]]
        maps[part.rows] = part.maps[:, 0]
    return table.astype({"probability": float}), maps


def explain_split(
    run: Path,
    manifest: pd.DataFrame,
    root: Path,
    *,
    split: str | None = None,
    labels: Sequence[str] = (),
    images: Sequence[str] = (),
    target: Target = "predicted",
    method: str = "gradcam",
    sort: Literal["error", "manifest"] = "error",
    out: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Path, int]:
    """Explain images of a manifest: pictures, contact sheets (or figures of several classes) and a page in a folder.

    A look at test images is appended to the run's test-log.jsonl.

    Args:
        run: the run folder.
        manifest: with `image_id`, `file_name`, `label` and `split`.
        root: the data root.
        split, labels, images: see `chosen_rows`.
        target, method: see `explain_parts`. Names of classes: their heatmaps side by side beside the image.
        sort: "error": the surest wrong first, then by the probability of the label, the least first.
        out: the folder; by default run/explain-<split>, which method and target are added to.
        progress: called with (images done, images to do).

    Returns:
        The page, and the number of images explained.

    Raises:
        CurateError: as `load_run`, `chosen_rows` and `explain_parts`; no image opens.
    """
    network = network_of(load_run(run))  # the model itself is not held: its trunk was copied
    rows = chosen_rows(manifest, root, split=split, labels=labels, images=images)
    if unknown := sorted(set(rows["label"].dropna()) - set(network.classes)):
        log.warning("label %s is none of the run's: its images count as wrong", ", ".join(map(repr, unknown)))
    tested = int(rows["split"].eq("test").sum()) if "split" in rows else 0
    if tested:
        log_look(run, {"images": tested, "split": "test", "explained": True})
    which = split or ("images" if images else "val")
    out = out or run / _folder(which, target, method)
    what = ", ".join(["chosen images" if which == "images" else f"split {which}", *labels])
    title = f"What {run.name} looks at: {what}"
    return _write(network, rows, root, out, title, target, method, sort, progress)


def explain_photos(
    run: Path,
    photos: Sequence[Path],
    *,
    target: Target = "predicted",
    method: str = "gradcam",
    out: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Path, int]:
    """`explain_split` of image files, which have no label; into run/explain-photos. The least sure comes first.

    Raises:
        CurateError: no photos, or none that opens; target "label"; as `load_run` and `explain_parts`.
    """
    if target == "label":
        raise CurateError("a photo has no label to explain: --target predicted, or --pair with two classes.")
    if not photos:
        raise CurateError("no photo to explain: give files, or folders that hold some.")
    files = [photo.resolve() for photo in photos]
    root = Path(os.path.commonpath([file.parent for file in files]))
    rows = pd.DataFrame(
        {
            "image_id": [f"photo{number}" for number in range(1, len(files) + 1)],
            "file_name": [file.relative_to(root).as_posix() for file in files],
            "label": np.nan,
        }
    )
    out = out or run / _folder("photos", target, method)
    title = f"What {run.name} looks at: photos"
    return _write(network_of(load_run(run)), rows, root, out, title, target, method, "error", progress)


def chosen_rows(
    manifest: pd.DataFrame,
    root: Path,
    *,
    split: str | None = None,
    labels: Sequence[str] = (),
    images: Sequence[str] = (),
) -> pd.DataFrame:
    """The accepted rows that are asked for.

    Args:
        manifest: with `image_id`, `file_name`, `label`; with `split` unless all of it is asked for.
        root: the data root.
        split: train, val, test or all; None: val and, of `images`, train too. Test images only when asked for.
        labels: of these classes only.
        images: only these: by `image_id`, `file_name`, or path of the file.

    Raises:
        CurateError: as `split_rows`; a label or an image that is not there.
    """
    accepted = manifest[manifest["status"] == "accepted"] if "status" in manifest else manifest
    if split is None and images:
        rows = accepted[accepted["split"] != "test"] if "split" in manifest else accepted
    else:
        rows = accepted if split == "all" else split_rows(manifest, split or "val")
    if unknown := sorted(set(labels) - set(rows["label"])):
        known = ", ".join(sorted(rows["label"].dropna().unique()))
        raise CurateError(f"--class {unknown[0]!r}: none of the {len(rows)} images has that label; there are {known}.")
    if labels:
        rows = rows[rows["label"].isin(labels)]
    return _named(rows, root, images) if images else rows


def _named(rows: pd.DataFrame, root: Path, images: Sequence[str]) -> pd.DataFrame:
    wanted = {os.path.normpath(image) for image in images}
    ids, files = rows["image_id"].astype(str), rows["file_name"].astype(str)
    names = [{*pair, os.path.normpath(root / pair[1])} for pair in zip(ids, files, strict=True)]
    if missing := sorted(wanted.difference(*names)):
        raise CurateError(
            f"--image {missing[0]!r} is none of the {len(rows)} accepted images that are looked through (test images "
            "only with --split test or all). Give an image_id or a file_name of the manifest; a photo that is in no "
            "manifest is given by its path, without --image."
        )
    return rows[[not wanted.isdisjoint(some) for some in names]]


def _asked(manifest: pd.DataFrame, classes: tuple[str, ...], target: Target) -> np.ndarray | None:
    """(n, m) indices of the classes to explain; None: of what is predicted."""
    if target == "predicted":
        return None
    names = [target] * len(manifest) if isinstance(target, tuple) else [(label,) for label in manifest["label"]]
    if unknown := sorted({str(name) for some in names for name in some if name not in classes}):
        raise CurateError(f"label {unknown[0]!r} is none of the run's: {', '.join(classes)}.")
    return np.array([[classes.index(name) for name in some] for some in names], int)


def _heatmaps(network: Network, pixels: np.ndarray, activations: Tensor, targets: list[int], method: str) -> np.ndarray:
    """(k, 56, 56) of one class an image."""
    if method not in OF_IMAGES:
        return enlarged(class_activation_maps(network.tail, activations, targets, method))
    whole = Tail(nn.Sequential(network.body, network.tail.layers), network.tail.map)
    return enlarged(class_activation_maps(whole, to_input(pixels, pick_device()), targets, method))


def _folder(which: str, target: Target, method: str) -> str:
    """explain-val, explain-val-label, explain-test-pair, explain-photos-layercam, ..."""
    kind = "pair" if isinstance(target, tuple) else target
    return "-".join(
        ["explain", which, *([kind] if kind != "predicted" else []), *([method] if method != "gradcam" else [])]
    )


def _write(
    network: Network,
    rows: pd.DataFrame,
    root: Path,
    out: Path,
    title: str,
    target: Target,
    method: str,
    sort: str,
    progress: Progress | None,
) -> tuple[Path, int]:
    compared = target if isinstance(target, tuple) else ()
    if compared and method in OF_NO_CLASS:
        raise CurateError(f"--method {method} shows the same for every class: there is no pair to compare.")
    parts = explain_parts(network, rows, root, target=target, method=method, progress=progress)
    number = write_folder(
        parts, rows, network.classes, out, title=title, method=method, compared=compared, by_error=sort == "error"
    )
    if not number:
        raise CurateError(f"none of the {len(rows)} images opens under {root}. Is --data wrong?")
    return out / "index.html", number
