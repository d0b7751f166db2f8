"""Embeddings of images by a frozen trunk, and the maps that heatmaps are made of, cached by content and trunk."""

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from classify.data import (
    MEAN,
    Decoded,
    Progress,
    RowCache,
    batches,
    content_keys,
    decode_rows,
    prefetched,
    warn_unreadable,
)
from classify.trunk import Backbone

BATCH = 64
MOST_MAPS = 8_000_000_000  # bytes of maps that are kept for the heatmaps of a run


class Sight:
    """What a trunk makes of images: embeddings, kept below cache/embeddings/, and maps until the heatmaps are made."""

    def __init__(self, backbone: Backbone, cache: Path, *, with_maps: bool = False) -> None:
        self.backbone, self.side = backbone, backbone.side
        self.embeddings = RowCache(cache / "embeddings" / backbone.key)
        self.maps = Maps(cache / "maps" / backbone.key) if with_maps else None

    def unseen(self, keys: Sequence[str]) -> np.ndarray:
        """(n,) bool: which of these images, by sha256, it has no embedding of."""
        return np.array([key not in self.embeddings for key in keys], bool)

    def see(self, keys: list[str], pixels: np.ndarray) -> None:
        """Pixels (n, side, side, 3) uint8 of images."""
        maps = self.backbone.maps(pixels)
        self.embeddings.append(keys, maps.mean((2, 3)).float().cpu().numpy())
        if self.maps is not None:
            self.maps.append(keys, maps)

    def flush(self) -> None:
        """Write what was seen."""
        self.embeddings.flush()
        if self.maps is not None:
            self.maps.flush()


class Maps:
    """Maps of images, 8 bits a value: each channel of each image between its least and its largest value.

    The error of a value is at most 1/510 of that range. 73 kB an image for MobileNetV2.
    """

    def __init__(self, folder: Path) -> None:
        self._kept = RowCache(folder)
        self._bytes = 0

    def __contains__(self, key: str) -> bool:
        return key in self._kept

    def append(self, keys: list[str], maps: Tensor) -> None:
        """Keep maps (n, channels, h, w), h = w; not beyond `MOST_MAPS` bytes."""
        values = maps.float().cpu().flatten(2)
        low, high = values.amin(2, keepdim=True), values.amax(2, keepdim=True)
        step = ((high - low) / 255).clamp_min(torch.finfo(torch.float32).tiny)
        levels = ((values - low) / step).round_().to(torch.uint8)
        rows = torch.cat([levels, torch.cat([low, step], 2).view(torch.uint8)], dim=2).numpy()
        if self._bytes + rows.nbytes <= MOST_MAPS:
            self._kept.append(keys, rows)
            self._bytes += rows.nbytes

    def flush(self) -> None:
        """Write what was appended; from then on it can be taken."""
        self._kept.flush()

    def take(self, keys: list[str]) -> Tensor:
        """(n, channels, h, w) float32; OSError where another process has cleared them."""
        rows = torch.from_numpy(self._kept.take(keys))
        low, step = rows[:, :, -8:].contiguous().view(torch.float32).split(1, dim=2)
        side = math.isqrt(rows.shape[2] - 8)
        return rows[:, :, :-8].float().mul_(step).add_(low).unflatten(2, (side, side))

    def clear(self) -> None:
        """Delete them: the heatmaps are made."""
        shutil.rmtree(self._kept.folder, ignore_errors=True)
        self._kept = RowCache(self._kept.folder)


def embed(
    manifest: pd.DataFrame,
    root: Path,
    backbone: Backbone,
    *,
    cache: Path,
    sight: Sight | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """The embedding of every image: the trunk's map averaged over space, raw.

    A second run, or new images, cost only what is new: rows are kept under cache/embeddings/<backbone.key>/.

    Args:
        manifest: with `image_id`, `file_name`; `sha256` is used where present.
        root: the data root.
        backbone: see `classify.models.load_backbone`.
        cache: the cache folder (data/cache).
        sight: of this backbone and cache, where there is one that has seen images.
        progress: called with (images done, images to do) after every batch; not at all where nothing is new.

    Returns:
        (n, dim) float32; a row of NaN for an image that does not open (which is named in a warning).
    """
    sight = sight or Sight(backbone, cache)
    return _embedded(manifest, root, sight.embeddings, sight.see, backbone, None, progress)


def embed_masked(
    manifest: pd.DataFrame,
    root: Path,
    backbone: Backbone,
    painted: Callable[[np.ndarray], np.ndarray],
    variant: str,
    *,
    cache: Path,
    progress: Progress | None = None,
) -> np.ndarray:
    """`embed` of pictures of which a part is painted over with the mean colour of ImageNet.

    Args:
        painted: rows (k,) of the manifest -> (k, h, w) bool: what is painted over, on the square picture.
        variant: names what is painted over; rows are kept under cache/embeddings/<backbone.key>-<variant>/.
    """
    kept = RowCache(cache / "embeddings" / f"{backbone.key}-{variant}")

    def see(keys: list[str], pixels: np.ndarray) -> None:
        kept.append(keys, backbone.maps(pixels).mean((2, 3)).float().cpu().numpy())

    return _embedded(manifest, root, kept, see, backbone, painted, progress)


def paint_over(pixels: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(n, side, side, 3) uint8 with the mean colour of ImageNet where the masks (n, h, w) bool, stretched, are True."""
    side = pixels.shape[1]
    out = pixels.copy()
    for image, mask in zip(out, masks, strict=True):
        large = cv2.resize(mask.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST)
        image[large > 0] = np.round(255 * np.array(MEAN))
    return out


def _embedded(
    manifest: pd.DataFrame,
    root: Path,
    kept: RowCache,
    see: Callable[[list[str], np.ndarray], None],
    backbone: Backbone,
    painted: Callable[[np.ndarray], np.ndarray] | None,
    progress: Progress | None,
) -> np.ndarray:
    keys = content_keys(manifest, root)
    wanted = np.array([i for i, key in enumerate(keys) if key not in kept], int)
    causes: dict[int, str] = {}
    done = 0
    decoded = prefetched(lambda part: decode_rows(manifest, root, part, backbone.side), batches(wanted, BATCH))
    for part, images in decoded:
        rows, pixels = readable(images, causes)
        if rows:
            seen = pixels if painted is None else paint_over(pixels, painted(np.array(rows)))
            see([keys[row] for row in rows], seen)
        done += len(part)
        if progress:
            progress(done, len(wanted))
    kept.flush()
    warn_unreadable(manifest, causes)
    there = [i for i, key in enumerate(keys) if key in kept]
    out = np.full((len(manifest), backbone.dim), np.nan, np.float32)
    if there:
        out[there] = kept.take([keys[i] for i in there])
    return out


def readable(images: list[Decoded], causes: dict[int, str]) -> tuple[list[int], np.ndarray]:
    """The rows that opened, and their pixels (k, side, side, 3) uint8; the causes of the others are added."""
    causes.update({image.row: image.cause for image in images if image.pixels is None})
    good = [image for image in images if image.pixels is not None]
    return [image.row for image in good], np.array([image.pixels for image in good])
