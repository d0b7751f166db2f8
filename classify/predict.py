"""What a trained run says of images: probabilities for a manifest's rows, a table for photos and folders."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from classify.cam import grad_cam
from classify.data import (
    Progress,
    batches,
    check_rows,
    content_keys,
    data_digest,
    decode_rows,
    pick_device,
    prefetched,
    specimen,
    to_input,
    warn_unreadable,
)
from classify.features import readable
from classify.frozen import forward, frozen
from classify.heatmaps import overlay
from classify.identify import Known
from classify.models import Trained
from classify.report import jpeg
from classify.trunk import Backbone, explained
from curate.errors import CurateError
from curate.files import writing
from curate.images import decode, square
from curate.manifest import read_manifest
from curate.store import ImageError

BATCH = 32
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
TABLES = {".csv", ".parquet"}
MOST_BYTES = 500_000_000  # of a photo's file
LAST = ("specimen", "distance", "limit", "heatmap", "error")  # columns after the classes
LONGEST_NAME = 80  # characters of a photo's name that the name of its heatmap repeats


def predict_rows(
    trained: Trained,
    manifest: pd.DataFrame,
    root: Path,
    *,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Softmax probabilities (n, classes) float32 of a manifest's images; NaN rows for those that do not open.

    Args:
        change: what is done to the pixels (k, side, side, 3) uint8, k at least 1, before the model takes them.
    """
    out = np.full((len(manifest), len(trained.classes)), np.nan, np.float32)
    causes: dict[int, str] = {}
    done = 0

    def opened(part: np.ndarray) -> tuple[list[int], np.ndarray]:
        rows, pixels = readable(decode_rows(manifest, root, part, trained.side, crop=trained.crop), causes)
        return rows, change(pixels) if change and rows else pixels

    for part, (rows, pixels) in prefetched(opened, batches(np.arange(len(manifest)), BATCH)):
        if rows:
            out[rows] = probabilities(trained, pixels)
        done += len(part)
        if progress:
            progress(done, len(manifest))
    warn_unreadable(manifest, causes)
    return out


@torch.inference_mode()
def probabilities(trained: Trained, pixels: np.ndarray) -> np.ndarray:
    """Softmax probabilities (n, classes) of images in colour, (n, side, side, 3) uint8."""
    trained.model.eval()
    return trained.model(to_input(trained.seen(pixels), pick_device())).float().softmax(1).cpu().numpy()


class Familiar(NamedTuple):
    """What tells whether a photo is of the kind that a run learnt from.

    Attributes:
        backbone: that embeds; see `classify.identify.began_with`.
        known: the images that the run was trained on; see `classify.identify.Identifier.known`.
    """

    backbone: Backbone
    known: Known


class Photo(NamedTuple):
    """A photo, read.

    Attributes:
        number: position among the photos, from 1.
        pixels: (side, side, 3) uint8, what the model sees, in colour; None where it does not open.
        whole: what the backbone of `Familiar` sees, likewise; None where nobody asks.
        error: why it does not open.
    """

    number: int
    file: Path
    pixels: np.ndarray | None
    whole: np.ndarray | None
    error: str | None


Look = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]  # pixels -> probabilities, heatmaps


def predict_photos(
    trained: Trained,
    photos: list[Path],
    root: Path,
    *,
    top: int = 3,
    familiar: Familiar | None = None,
    heatmaps: Path | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """A row a photo; of one that does not open, `error` says why.

    Args:
        trained: see `classify.models.load_run`.
        photos: files, folders (searched through, by suffix) and manifests (.csv, .parquet).
        root: the data root of the manifests.
        top: how many classes to name.
        familiar: adds `specimen`, `distance` and `limit`.
        heatmaps: a folder, made if need be, for Grad-CAM of the likeliest class, laid over what the model sees of each
            photo: <number>-<name>.jpg; adds `heatmap`, its path.
        progress: called with (photos done, photos to do).

    Returns:
        `file`, `predicted`, `probability`, `second`, `second_probability`, ...; `specimen` ("yes", "no" where
        `distance` is above `limit`, "unknown" where the photo does not open); `heatmap`; `error`.

    Raises:
        CurateError: a path that does not exist, nothing to predict, heatmaps of an architecture that has none.
    """
    files = [file for photo in photos for file in expand(photo, root)]
    if not files:
        raise CurateError(f"no photo in {', '.join(map(str, photos))}: looked for {', '.join(sorted(SUFFIXES))}.")
    look = _looking(trained) if heatmaps else lambda pixels: (probabilities(trained, pixels), None)
    unknown: dict[str, object] = {"predicted": None, "probability": None}
    unknown |= {"specimen": "unknown", "distance": None, "limit": None} if familiar else {}
    unknown |= {"heatmap": None} if heatmaps else {}
    rows: list[dict[str, object]] = []
    parts = batches(np.arange(len(files)), BATCH)
    for _, loaded in prefetched(lambda part: _load(files, part, trained, familiar), parts):
        there = [photo for photo in loaded if photo.error is None]
        said = iter(_judged(there, trained.classes, look, top, familiar, heatmaps) if there else ())
        rows += [
            {"file": str(photo.file), **(unknown if photo.error else next(said)), "error": photo.error}
            for photo in loaded
        ]
        if progress:
            progress(len(rows), len(files))
    table = pd.DataFrame(rows)
    last = [column for column in LAST if column in table]
    return table[[column for column in table if column not in last] + last]


def trained_on(run: Path, manifest: pd.DataFrame, root: Path) -> bool:
    """Whether these are the images, labels and splits that a run was trained on; False where nothing says so."""
    try:
        digest = json.loads((run / "config.json").read_text(encoding="utf-8"))["data"]["digest"]
        used = check_rows(manifest)[0]
    except (OSError, ValueError, KeyError, TypeError, CurateError):
        return False
    return bool(digest == data_digest(used, content_keys(used, root)))


def expand(photo: Path, root: Path) -> list[Path]:
    """The image files that a path stands for: itself, a folder's, or a manifest's.

    Raises:
        CurateError: it does not exist.
    """
    if photo.is_dir():
        return sorted(p for p in photo.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not photo.is_file():
        raise CurateError(f"{photo}: no such photo, folder or manifest.")
    if photo.suffix in TABLES:
        return [root / name for name in read_manifest(photo)["file_name"]]
    return [photo]


def _load(files: list[Path], part: np.ndarray, trained: Trained, familiar: Familiar | None) -> list[Photo]:
    work = (joblib.delayed(_load_one)(int(i) + 1, files[i], trained, familiar) for i in part)
    return list(joblib.Parallel(n_jobs=2, prefer="threads")(work))


def _load_one(number: int, path: Path, trained: Trained, familiar: Familiar | None) -> Photo:
    try:
        image = decode(_read(path))
        pixels = square(specimen(image) if trained.crop else image, trained.side)
        whole = square(image, familiar.backbone.side) if familiar else None
    except (ImageError, OSError) as error:
        return Photo(number, path, None, None, f"{type(error).__name__}: {error}")
    return Photo(number, path, pixels, whole, None)


def _read(path: Path) -> bytes:
    if (size := path.stat().st_size) > MOST_BYTES:
        raise ImageError(f"{size:,} bytes, more than {MOST_BYTES:,}")
    return path.read_bytes()


def _looking(trained: Trained) -> Look:
    """Probabilities and, for the likeliest class, heatmaps (n, 56, 56)."""
    trunk, tail = explained(trained.model, trained.arch)
    body = frozen(trunk)
    tail.requires_grad_(False).eval()

    def look(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        activations = forward(body, trained.seen(pixels))
        with torch.inference_mode():
            given = tail(activations).float().softmax(1).cpu().numpy()
        return given, grad_cam(tail, activations, given.argmax(1).tolist())

    return look


def _judged(
    photos: list[Photo],
    classes: tuple[str, ...],
    look: Look,
    top: int,
    familiar: Familiar | None,
    heatmaps: Path | None,
) -> list[dict[str, object]]:
    """What is said of photos that open, a row each."""
    given, heat = look(np.stack([photo.pixels for photo in photos if photo.pixels is not None]))
    rows = [_best(row, classes, top) for row in given]
    if familiar:
        limit = familiar.known.limit
        for row, distance in zip(rows, _distances(photos, familiar), strict=True):
            row |= {"specimen": "yes" if distance <= limit else "no", "distance": distance, "limit": limit}
    if heatmaps and heat is not None:
        for row, photo, heatmap in zip(rows, photos, heat, strict=True):
            row["heatmap"] = str(_write_overlay(photo, heatmap, heatmaps))
    return rows


def _best(row: np.ndarray, classes: tuple[str, ...], top: int) -> dict[str, object]:
    ranks = ("", "second_", "third_", *(f"{n}th_" for n in range(4, len(classes) + 1)))
    best: dict[str, object] = {}
    for rank, i in zip(ranks, np.argsort(-row, kind="stable")[:top], strict=False):
        best[rank.rstrip("_") or "predicted"] = classes[i]
        best[f"{rank}probability"] = float(row[i])
    return best


def _distances(photos: list[Photo], familiar: Familiar) -> list[float]:
    maps = familiar.backbone.maps(np.stack([photo.whole for photo in photos if photo.whole is not None]))
    vectors = functional.normalize(maps.mean((2, 3)).float()).cpu().numpy()
    return [familiar.known.distance(vector) for vector in vectors]


def _write_overlay(photo: Photo, heatmap: np.ndarray, folder: Path) -> Path:
    assert photo.pixels is not None
    name = re.sub(r"[^\w.-]", "_", photo.file.stem)[:LONGEST_NAME]
    with writing(path := folder / f"{photo.number:04d}-{name}.jpg") as temporary:
        temporary.write_bytes(jpeg(overlay(photo.pixels, heatmap)))
    return path
