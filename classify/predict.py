"""What a trained run says of images: probabilities for a manifest's rows, a table for photos and folders."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from classify.data import Progress, batches, decode_rows, prefetched, specimen, to_input, warn_unreadable
from classify.models import Trained, pick_device
from curate.errors import CurateError
from curate.images import decode, square
from curate.manifest import read_manifest
from curate.store import ImageError

BATCH = 32
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
TABLES = {".csv", ".parquet"}


def predict_rows(
    trained: Trained, manifest: pd.DataFrame, root: Path, *, progress: Progress | None = None
) -> np.ndarray:
    """Softmax probabilities (n, classes) float32 of a manifest's images; NaN rows for those that do not open."""
    out = np.full((len(manifest), len(trained.classes)), np.nan, np.float32)
    causes: dict[int, str] = {}
    done = 0
    parts = batches(np.arange(len(manifest)), BATCH)
    for part, images in prefetched(
        lambda part: decode_rows(manifest, root, part, trained.side, crop=trained.crop), parts
    ):
        causes.update({image.row: image.cause for image in images if image.pixels is None})
        good = [image for image in images if image.pixels is not None]
        if good:
            out[[image.row for image in good]] = probabilities(trained, np.array([image.pixels for image in good]))
        done += len(part)
        if progress:
            progress(done, len(manifest))
    warn_unreadable(manifest, causes)
    return out


@torch.inference_mode()
def probabilities(trained: Trained, pixels: np.ndarray) -> np.ndarray:
    """Softmax probabilities (n, classes) of images (n, side, side, 3) uint8."""
    trained.model.eval()
    return trained.model(to_input(pixels, pick_device())).float().softmax(1).cpu().numpy()


def predict_photos(
    trained: Trained, photos: list[Path], root: Path, *, top: int = 3, progress: Progress | None = None
) -> pd.DataFrame:
    """A row a photo: `file`, `predicted`, `probability`, `second`, `second_probability`, ..., `error`.

    Args:
        trained: see `classify.models.load_run`.
        photos: files, folders (searched through, by suffix) and manifests (.csv, .parquet).
        root: the data root of the manifests.
        top: how many classes to name.
        progress: called with (photos done, photos to do).

    Raises:
        CurateError: a path that does not exist, or nothing to predict.
    """
    files = [file for photo in photos for file in expand(photo, root)]
    if not files:
        raise CurateError(f"no photo in {', '.join(map(str, photos))}: looked for {', '.join(sorted(SUFFIXES))}.")
    rows: list[dict[str, object]] = []
    parts = batches(np.arange(len(files)), BATCH)
    for part, loaded in prefetched(lambda part: [_load(files[i], trained) for i in part], parts):
        good = [pixels for pixels, _ in loaded if pixels is not None]
        found = iter(probabilities(trained, np.array(good)) if good else ())
        for i, (pixels, error) in zip(part, loaded, strict=True):
            row: dict[str, object] = {"file": str(files[i])}
            if pixels is not None:
                row |= _best(next(found), trained.classes, top)
            rows.append({**row, "error": error})
        if progress:
            progress(len(rows), len(files))
    table = pd.DataFrame(rows)
    return table[[column for column in table if column != "error"] + ["error"]]


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


def _load(path: Path, trained: Trained) -> tuple[np.ndarray | None, str | None]:
    try:
        image = decode(path.read_bytes())
        return square(specimen(image) if trained.crop else image, trained.side), None
    except (ImageError, OSError) as error:
        return None, f"{type(error).__name__}: {error}"


def _best(row: np.ndarray, classes: tuple[str, ...], top: int) -> dict[str, object]:
    ranks = ("", "second_", "third_", *(f"{n}th_" for n in range(4, len(classes) + 1)))
    best: dict[str, object] = {}
    for rank, i in zip(ranks, np.argsort(-row, kind="stable")[:top], strict=False):
        best[rank.rstrip("_") or "predicted"] = classes[i]
        best[f"{rank}probability"] = float(row[i])
    return best
