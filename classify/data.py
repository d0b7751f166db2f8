"""What is trained on: the rows of the splits; their pixels, decoded once."""

import hashlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import joblib
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from curate.cache import RowCache
from curate.errors import CurateError
from curate.foreground import HOPELESS, segment
from curate.images import open_rgb, square, thumbnail
from curate.manifest import require_columns
from curate.store import ImageError, locate

log = logging.getLogger("classify")

MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB in [0, 1]
STD = (0.229, 0.224, 0.225)
DECODE = 64  # images decoded ahead
SEGMENTED = 192  # pixels of the longer side of a picture in which the specimen is looked for
MARGIN = 0.05  # of the box around it, to each side

T = TypeVar("T")
Progress = Callable[[int, int], None]  # (done, total)


def split_rows(manifest: pd.DataFrame, split: str) -> pd.DataFrame:
    """The rows of a split that are accepted (or have no status column).

    Raises:
        CurateError: no `split` column, or no row in it.
    """
    require_columns(manifest, "split", made_by="curate split` or `curate balance")
    used = manifest["split"] == split
    if "status" in manifest:
        used &= manifest["status"] == "accepted"
    if not used.any():
        counts = manifest["split"].value_counts().to_dict() or "none"
        raise CurateError(
            f"split {split} is empty (images by split: {counts}). `curate split` makes train, val and test."
        )
    return manifest[used]


def check_rows(manifest: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The accepted rows of train and val, by `image_id`, and the sorted classes.

    Raises:
        CurateError: no split, an empty one, fewer than two classes, a class with one image, a label of val that train
            lacks.
    """
    parts = {name: split_rows(manifest, name) for name in ("train", "val")}
    classes = tuple(sorted(parts["train"]["label"].unique()))
    used = pd.concat(parts.values()).sort_values("image_id", ignore_index=True)
    if unknown := sorted(set(parts["val"]["label"]) - set(classes)):
        raise CurateError(
            f"label {', '.join(unknown)} is in split val but not in train. `curate split` divides every class."
        )
    if len(classes) < 2:
        raise CurateError(f"only one class, {classes[0]!r}: a classifier needs at least two.")
    counts = used["label"].value_counts()
    if lonely := sorted(counts[counts < 2].index):
        raise CurateError(
            f"class {', '.join(lonely)} has one image only. `curate balance` collects more, or leave it out."
        )
    if absent := sorted(set(classes) - set(parts["val"]["label"])):
        log.warning("no image of %s in split val: macro averages are over the other classes", ", ".join(absent))
    return used, classes


def split_counts(used: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Images by split (train, val) and label."""
    parts = {part: used.loc[used["split"] == part, "label"].value_counts().sort_index() for part in ("train", "val")}
    return {part: {str(label): int(n) for label, n in counts.items()} for part, counts in parts.items()}


def data_digest(used: pd.DataFrame, keys: list[str]) -> str:
    """What a run's config.json says of its data: sha256 over the images' own (`keys`), their labels and splits."""
    rows = sorted(f"{key} {label} {part}" for key, label, part in zip(keys, used["label"], used["split"], strict=True))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


class Decoded(NamedTuple):
    """One image of a manifest: its row, and its pixels (side, side, 3) uint8 or the cause of their absence."""

    row: int
    pixels: np.ndarray | None
    cause: str


def content_keys(manifest: pd.DataFrame, root: Path) -> list[str]:
    """sha256 of every row's file: as the manifest says, else computed; "" where there is no file to read."""
    require_columns(manifest, "image_id", "file_name", made_by="curate scrape")
    if "sha256" in manifest and manifest["sha256"].notna().all():
        return [str(key) for key in manifest["sha256"]]
    given = manifest["sha256"] if "sha256" in manifest else pd.Series(np.nan, manifest.index)
    return [
        str(key) if isinstance(key, str) else _hash_file(root, str(name))
        for key, name in zip(given, manifest["file_name"], strict=True)
    ]


def decode_rows(
    manifest: pd.DataFrame, root: Path, rows: np.ndarray, side: int, *, crop: bool = False
) -> list[Decoded]:
    """Decode these rows (positions) in two threads, in order. A damaged or missing file comes with its cause.

    Args:
        crop: stretch the specimen's part of the image to a square, not the whole; see `specimen`.
    """
    names = manifest["file_name"].to_numpy()
    work = (joblib.delayed(_decode)(root, str(names[row]), int(row), side, crop) for row in rows)
    return list(joblib.Parallel(n_jobs=2, prefer="threads")(work))


class Pixels(NamedTuple):
    """The readable rows of a manifest as pixels.

    Attributes:
        cache: pixels by content key, (side, side, 3) uint8.
        keys: content key of every row of the manifest.
        causes: row (position) -> why it would not open. Such rows have no pixels.
    """

    cache: RowCache
    keys: list[str]
    causes: dict[int, str]

    def take(self, rows: np.ndarray | list[int]) -> np.ndarray:
        """(n, side, side, 3) uint8 of these rows (positions)."""
        return self.cache.take([self.keys[row] for row in rows])


def load_pixels(
    manifest: pd.DataFrame,
    root: Path,
    side: int,
    *,
    cache: Path,
    crop: bool = False,
    progress: Progress | None = None,
) -> Pixels:
    """Every image, or its `specimen`, stretched to side x side, decoded once and kept under cache/pixels/<side>/.

    A row that does not open is named in a warning and in `causes`.
    """
    rows = RowCache(cache / "pixels" / (f"{side}-crop" if crop else str(side)))
    keys = content_keys(manifest, root)
    wanted = np.array([i for i, key in enumerate(keys) if key not in rows], int)
    causes: dict[int, str] = {}
    done = 0
    for part, images in prefetched(
        lambda part: decode_rows(manifest, root, part, side, crop=crop), batches(wanted, DECODE)
    ):
        causes.update({image.row: image.cause for image in images if image.pixels is None})
        good = [image for image in images if image.pixels is not None]
        if good:
            rows.append([keys[image.row] for image in good], np.array([image.pixels for image in good]))
        done += len(part)
        if progress:
            progress(done, len(wanted))
    rows.flush()
    warn_unreadable(manifest, causes)
    return Pixels(rows, keys, causes)


def warn_unreadable(manifest: pd.DataFrame, causes: dict[int, str]) -> None:
    """One warning a row that would not open: which, and why."""
    for row, cause in causes.items():
        log.warning("%s is left out: %s", manifest["file_name"].iloc[row], cause)


def sample_number(key: str) -> int:
    """A number for an image that depends on its content only."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:15], 16)


def pick_device() -> torch.device:
    """The first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_input(pixels: np.ndarray, device: torch.device | None = None) -> Tensor:
    """(n, side, side, 3) uint8 -> (n, 3, side, side) float32, ImageNet-normalised, channels_last in memory."""
    if pixels.size and (device is None or device.type == "cpu"):
        rows = cv2.LUT(pixels.reshape(-1, *pixels.shape[2:]), NORMALISED)
        return torch.from_numpy(rows).view(pixels.shape).permute(0, 3, 1, 2)
    return _normalised(torch.from_numpy(np.ascontiguousarray(pixels)).to(device)).permute(0, 3, 1, 2)


def _normalised(levels: Tensor) -> Tensor:
    """(..., 3) from 0 to 255 -> float32 of ImageNet's mean and deviation."""
    mean, std = (torch.tensor(values, device=levels.device) * 255 for values in (MEAN, STD))
    return levels.float().sub_(mean).div_(std)


NORMALISED = _normalised(torch.arange(256)[None, :, None].expand(1, 256, 3)).numpy()  # of each level and channel


def batches(rows: np.ndarray, size: int, *, least: int = 2) -> list[np.ndarray]:
    """Consecutive batches; a last one of fewer than `least` joins the one before it."""
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    if len(parts) > 1 and len(parts[-1]) < least:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts


def prefetched(make: Callable[[np.ndarray], T], parts: list[np.ndarray]) -> Iterator[tuple[np.ndarray, T]]:
    """(part, make(part)) in order, the next one made in a thread while the caller computes."""
    with ThreadPoolExecutor(1) as pool:
        ahead = [pool.submit(make, part) for part in parts[:1]]
        for i, part in enumerate(parts):
            made = ahead.pop().result()
            ahead = [pool.submit(make, part) for part in parts[i + 1 : i + 2]]
            yield part, made


def specimen(image: Image.Image) -> Image.Image:
    """The box around what stands out from the border, a twentieth wider to all sides; all of it where nothing does."""
    picture = thumbnail(image, SEGMENTED)
    mask, quality = segment(np.asarray(picture))
    if quality < HOPELESS:
        return image
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([columns[0] / picture.width, rows[0] / picture.height])
    end = np.array([(columns[-1] + 1) / picture.width, (rows[-1] + 1) / picture.height])
    size, margin = np.array(image.size), (end - box) * MARGIN
    low = np.floor(np.clip(box - margin, 0, 1) * size).astype(int)
    high = np.ceil(np.clip(end + margin, 0, 1) * size).astype(int)
    return image.crop((int(low[0]), int(low[1]), int(high[0]), int(high[1])))


def _decode(root: Path, file_name: str, row: int, side: int, crop: bool) -> Decoded:
    try:
        image = open_rgb(root, file_name)
        return Decoded(row, square(specimen(image) if crop else image, side), "")
    except (ImageError, CurateError, OSError) as error:
        return Decoded(row, None, str(error))


def _hash_file(root: Path, file_name: str) -> str:
    try:
        return hashlib.sha256(locate(root, file_name).read_bytes()).hexdigest()
    except (CurateError, OSError):
        return ""
