"""What a model is fed: augmented images for an epoch, or what its frozen layers make of a few views of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import nn

from classify import group
from classify.augment import augment, to_gray
from classify.config import TrainConfig
from classify.data import Pixels, Progress, check_rows, load_pixels, prefetched, sample_number
from classify.trunk import is_head_only
from classify.views import Views, prefix_of, room_for
from curate.errors import CurateError

MOST_VIEWS = 50_000_000_000  # bytes of views that are kept of one run
MOST_AT_HAND = 500_000_000  # bytes of vectors that a run holds in memory


class Data(NamedTuple):
    """What is trained on: rows (positions in the pixels) and their labels (indices into classes)."""

    pixels: Pixels
    classes: tuple[str, ...]
    labels: np.ndarray
    train: np.ndarray
    val: np.ndarray
    unreadable: list[str]


class Feed(NamedTuple):
    """The layers that run every epoch, and their input for rows: augmented for an epoch, or plain.

    Attributes:
        light: whether they are a head on vectors, which float32 serves best.
        at_hand: whether the input lies in memory, so that nothing is gained by making it ahead.
    """

    module: nn.Module
    augmented: Callable[[np.ndarray, int], np.ndarray]
    plain: Callable[[np.ndarray], np.ndarray]
    light: bool
    at_hand: bool

    def batches(
        self, make: Callable[[np.ndarray], np.ndarray], parts: list[np.ndarray]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(part, make(part)) of every part, in order."""
        return zip(parts, map(make, parts), strict=True) if self.at_hand else prefetched(make, parts)


def load_data(
    used: pd.DataFrame,
    classes: tuple[str, ...],
    root: Path,
    config: TrainConfig,
    cache: Path,
    progress: Progress | None,
) -> Data:
    """The images of train and val that open.

    Raises:
        CurateError: none does of a class.
    """
    with group.first():
        pixels = load_pixels(used, root, config.image_size, cache=cache, crop=config.crop, progress=progress)
    readable = ~np.isin(np.arange(len(used)), list(pixels.causes))
    if pixels.causes:
        check_rows(used[readable])
    labels = np.array([classes.index(label) for label in used["label"]])
    rows = {part: np.flatnonzero((used["split"] == part).to_numpy() & readable) for part in ("train", "val")}
    unreadable = used["file_name"][~readable].tolist()
    if lost := sorted(set(classes) - {classes[i] for i in labels[rows["train"]]}):
        raise CurateError(f"no training image of {', '.join(lost)} opens. Is --data {root} right?")
    return Data(pixels, classes, labels, rows["train"], rows["val"], unreadable)


def feed_of(model: nn.Module, config: TrainConfig, data: Data, cache: Path, progress: Progress | None) -> Feed:
    """Views where the first layers are frozen and the disk has room for them; else images."""
    if config.freeze != "none":
        prefix = prefix_of(model, config.arch, bfloat16=config.precision == "bfloat16")
        views = Views(data.pixels, prefix, config.augmentation, cache=cache, crop=config.crop)
        lacking = views.lacking(data.val, [None]) + views.lacking(data.train, range(config.views))
        if prefix.key and group.agreed(room_for(views.bytes_of(lacking), cache, MOST_VIEWS)):
            return _view_feed(views, config, data, is_head_only(model), cache, progress)
    return _image_feed(model, config, data)


def _image_feed(model: nn.Module, config: TrainConfig, data: Data) -> Feed:
    numbers = {int(row): sample_number(data.pixels.keys[row]) for row in data.train}
    chosen = config.augmentation

    def augmented(rows: np.ndarray, epoch: int) -> np.ndarray:
        mine = [numbers[int(row)] for row in rows]
        return augment(data.pixels.take(rows), mine, seed=config.seed, epoch=epoch, chosen=chosen)

    def plain(rows: np.ndarray) -> np.ndarray:
        pixels = data.pixels.take(rows)
        return to_gray(pixels) if chosen.all_gray else pixels

    return Feed(model, augmented, plain, light=False, at_hand=False)


def _view_feed(
    views: Views, config: TrainConfig, data: Data, light: bool, cache: Path, progress: Progress | None
) -> Feed:
    """Every image goes through its views in turn, from a first one drawn by the seed."""
    views.fill(views.lacking(group.share(data.val), [None]), progress)
    views.fill(views.lacking(group.share(data.train), range(config.views)), progress)
    group.barrier()
    if group.size() > 1:  # what the others have written
        views = Views(data.pixels, views.prefix, config.augmentation, cache=cache, crop=config.crop)
    first = np.array([sample_number(f"{config.seed} {key}") % config.views for key in data.pixels.keys])

    at_hand = light and views.take(data.val[:1]).nbytes * len(data.train) * config.views <= MOST_AT_HAND
    take = _at_hand(views, config, data) if at_hand else views.take

    def augmented(rows: np.ndarray, epoch: int) -> np.ndarray:
        return take(rows, (first[rows] + epoch) % config.views)

    return Feed(views.prefix.rest, augmented, take, light, at_hand)


def _at_hand(views: Views, config: TrainConfig, data: Data) -> Callable[..., np.ndarray]:
    """`Views.take` of vectors that lie in memory."""
    place = np.zeros(len(data.labels), int)
    for rows in (data.train, data.val):
        place[rows] = np.arange(len(rows))
    kept = np.stack([views.take(data.train, np.full(len(data.train), view)) for view in range(config.views)])
    plain = views.take(data.val)

    def take(rows: np.ndarray, wanted: np.ndarray | None = None) -> np.ndarray:
        return plain[place[rows]] if wanted is None else kept[wanted, place[rows]]

    return take
