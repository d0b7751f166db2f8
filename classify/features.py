"""Embeddings of images by a frozen trunk, cached by content and trunk; cached augmented views for training heads."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from classify.data import (
    Pixels,
    Progress,
    RowCache,
    augment,
    batches,
    content_keys,
    decode_rows,
    prefetched,
    sample_number,
    to_input,
    warn_unreadable,
)
from classify.models import Backbone, pick_device

BATCH = 32
VIEWS_VERSION = "1"  # of the augmentation: a change of `augment` must change it


def embed(
    manifest: pd.DataFrame, root: Path, backbone: Backbone, *, cache: Path, progress: Progress | None = None
) -> np.ndarray:
    """The embedding of every image: the trunk's map averaged over space, raw.

    A second run, or new images, cost only what is new: rows are kept under cache/embeddings/<backbone.key>/.

    Args:
        manifest: with `image_id`, `file_name`; `sha256` is used where present.
        root: the data root.
        backbone: see `classify.models.load_backbone`.
        cache: the cache folder (data/cache).
        progress: called with (images done, images to do) after every batch; not at all where nothing is new.

    Returns:
        (n, dim) float32; a row of NaN for an image that does not open (which is named in a warning).
    """
    kept = RowCache(cache / "embeddings" / backbone.key)
    keys = content_keys(manifest, root)
    wanted = np.array([i for i, key in enumerate(keys) if key not in kept], int)
    causes: dict[int, str] = {}
    done = 0
    parts = batches(wanted, BATCH)
    for part, images in prefetched(lambda part: decode_rows(manifest, root, part, backbone.side), parts):
        causes.update({image.row: image.cause for image in images if image.pixels is None})
        good = [image for image in images if image.pixels is not None]
        if good:
            vectors = backbone.maps(np.array([image.pixels for image in good])).mean((2, 3)).float().cpu().numpy()
            kept.append([keys[image.row] for image in good], vectors)
        done += len(part)
        if progress:
            progress(done, len(wanted))
    kept.flush()
    warn_unreadable(manifest, causes)
    readable = [i for i, key in enumerate(keys) if key in kept]
    out = np.full((len(manifest), backbone.dim), np.nan, np.float32)
    if readable:
        out[readable] = kept.take([keys[i] for i in readable])
    return out


class Views:
    """The head's inputs for images in several augmented views and one plain view, kept under cache/views/<key>/.

    View v of an image is `augment(..., seed=0, epoch=v)`: the same for every run, so that runs share the work.
    """

    def __init__(self, pixels: Pixels, backbone: Backbone, pool: nn.Module, *, cache: Path) -> None:
        self.pixels, self.backbone, self.pool = pixels, backbone, pool
        self._kept = RowCache(cache / "views" / f"{backbone.key}-{VIEWS_VERSION}")

    def fill(self, rows: np.ndarray, views: Sequence[int | None], progress: Progress | None = None) -> None:
        """Compute what is missing of these rows (positions) in these views; None is the plain view."""
        wanted = [(row, view) for view in views for row in rows if self._key(row, view) not in self._kept]
        order = np.arange(len(wanted))
        made = prefetched(lambda part: self._pixels([wanted[i] for i in part]), batches(order, BATCH))
        for part, images in made:
            with torch.inference_mode():
                vectors = self.pool(self.backbone.trunk(to_input(images, pick_device()))).float().cpu().numpy()
            self._kept.append([self._key(*wanted[i]) for i in part], vectors)
            if progress:
                progress(int(part[-1]) + 1, len(wanted))
        self._kept.flush()

    def take(self, rows: np.ndarray, views: np.ndarray | None = None) -> np.ndarray:
        """(n, ...) float32: row i in view views[i], or all in the plain view."""
        chosen = [None] * len(rows) if views is None else views.tolist()
        return self._kept.take([self._key(r, v) for r, v in zip(rows, chosen, strict=True)])

    def _key(self, row: int, view: int | None) -> str:
        return f"{self.pixels.keys[row]} {'plain' if view is None else view}"

    def _pixels(self, wanted: list[tuple[int, int | None]]) -> np.ndarray:
        images = self.pixels.take([row for row, _ in wanted])
        for i, (row, view) in enumerate(wanted):
            if view is not None:
                number = sample_number(self.pixels.keys[row])
                images[i] = augment(images[i : i + 1], [number], seed=0, epoch=view)[0]
        return images
