"""The one pass over the pixels: each file is decoded once, measured in a process, and handed to the trunk.

Workers decode and measure; their pixels go to the trunk of the caller while they are at the next chunk, so that every
core is busy. Imports no more than a worker needs.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import joblib
import numpy as np
import pandas as pd

from curate.artifacts import HEATMAP_SIDE, MEASURES_VERSION, measure_image
from curate.cache import DAMAGED
from curate.errors import CurateError
from curate.files import replacing
from curate.images import open_rgb, square
from curate.manifest import require_columns
from curate.store import ImageError, require_images
from curate.threads import Progress, one_thread_each

log = logging.getLogger("curate")
PART = 8  # images that a worker is given at a time
CHUNK = 128  # images after which what was measured is written
PACKED = HEATMAP_SIDE * HEATMAP_SIDE // 8  # bytes of a mask

Measures = dict[str, float | str | int]


class Trunk(Protocol):
    """A model that takes the pixels of images as they are decoded.

    Attributes:
        side: pixels of the square images that it takes.
    """

    @property
    def side(self) -> int: ...  # noqa: D102

    def unseen(self, keys: Sequence[str]) -> np.ndarray:
        """(n,) bool: of which images, by sha256, it wants the pixels."""

    def see(self, keys: list[str], pixels: np.ndarray) -> None:
        """Take the pixels (n, side, side, 3) uint8 of n images."""

    def flush(self) -> None:
        """Keep what it has made of them."""


class Chunk(NamedTuple):
    """A file of measures and masks, and the sha256 of the images in it."""

    path: Path
    keys: list[str]


class Look(NamedTuple):
    """One image, decoded once.

    Attributes:
        measures: as `measure`, or only `audit_error` where it does not open; None where they were not asked for.
        mask: (56, 56) bool, of the foreground.
        pixels: (side, side, 3) uint8; None where it does not open or they were not asked for.
    """

    measures: Measures | None
    mask: np.ndarray
    pixels: np.ndarray | None


@dataclass(frozen=True)
class Masks:
    """The foregrounds of n images, on the picture stretched to a square, a bit a pixel: 39 MB for 100,000.

    Attributes:
        packed: (n, 392) uint8.
    """

    packed: np.ndarray

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """(k, 56, 56) bool of these rows."""
        return np.unpackbits(self.packed[rows], axis=-1).astype(bool).reshape(-1, HEATMAP_SIDE, HEATMAP_SIDE)


def measure_all(
    manifest: pd.DataFrame, root: Path, jobs: int, progress: Progress | None = None, *, trunk: Trunk | None = None
) -> tuple[pd.DataFrame, Masks]:
    """Artifact measures, indexed as the manifest, and foreground masks; cached by content. The trunk sees what is new.

    Done in chunks, each written when it is ready: a run that is killed loses one chunk at most. What does not open is
    tried again by every run.

    Args:
        manifest: with `sha256` and `file_name`.
        root: the data root. Measures are cached below `cache/`.
        jobs: processes that decode and measure.

    Raises:
        CurateError: an image of the manifest is not there.
    """
    require_columns(manifest, "sha256", "file_name", made_by="curate scrape")
    require_images(root, manifest["file_name"])
    if nameless := int(manifest["sha256"].isna().sum()):
        raise CurateError(f"{nameless} rows have no sha256, by which measures are kept. `curate scrape` writes it.")
    folder = root / "cache" / f"measures-{MEASURES_VERSION}"
    kept = _read(folder)
    once = manifest.loc[~manifest["sha256"].duplicated(), ["sha256", "file_name"]]
    once["measured"] = ~once["sha256"].isin({key for chunk in kept for key in chunk.keys})
    once["shown"] = trunk.unseen(once["sha256"].tolist()) if trunk else False
    todo = once[once["measured"] | once["shown"]]
    errors: dict[str, Measures] = {}
    done = 0
    for chunk, looks in _looked(todo, root, jobs, trunk.side if trunk else 0):
        found = dict(zip(chunk["sha256"], looks, strict=True))
        errors |= {
            key: seen.measures for key, seen in found.items() if seen.measures and "audit_error" in seen.measures
        }
        kept += _write(folder, {key: seen for key, seen in found.items() if seen.measures and key not in errors})
        shown = {key: seen.pixels for key, seen in found.items() if seen.pixels is not None}
        if trunk and shown:
            trunk.see(list(shown), np.stack(list(shown.values())))
        done += len(chunk)
        if progress:
            progress("pixels", done, len(todo))
    if trunk:
        trunk.flush()
    return _gathered(manifest["sha256"], kept, errors)


def looks_of(root: Path, wanted: list[tuple[str, bool, bool]], side: int) -> list[Look]:
    """What a worker does: decode each file and measure it, and keep its pixels, as asked.

    Args:
        wanted: (file_name, measure it?, keep its pixels?) of each.
        side: of the pixels, stretched to a square.
    """
    looks = []
    for file_name, measured, shown in wanted:
        measures: Measures | None = None
        mask, pixels = np.ones((HEATMAP_SIDE, HEATMAP_SIDE), bool), None
        try:
            image = open_rgb(root, file_name)
        except ImageError as error:
            looks.append(Look({"audit_error": str(error)}, mask, None))
            continue
        if measured:
            measures, mask = measure_image(image)
        if shown:
            pixels = square(image, side)
        looks.append(Look(measures, mask, pixels))
    return looks


def _looked(todo: pd.DataFrame, root: Path, jobs: int, side: int) -> Iterator[tuple[pd.DataFrame, list[Look]]]:
    """Chunks with their looks, in order, the next one in work while the caller has this one."""
    chunks = [todo.iloc[start : start + CHUNK] for start in range(0, len(todo), CHUNK)]
    workers = max(1, min(jobs, -(-len(todo) // PART)))
    with one_thread_each(), joblib.Parallel(n_jobs=workers) as parallel, ThreadPoolExecutor(1) as ahead:

        def submit(chunk: pd.DataFrame) -> Future[list[list[Look]]]:
            wanted = list(chunk[["file_name", "measured", "shown"]].itertuples(index=False, name=None))
            parts = [wanted[start : start + PART] for start in range(0, len(wanted), PART)]
            return ahead.submit(parallel, (joblib.delayed(looks_of)(root, part, side) for part in parts))

        waiting = [submit(chunk) for chunk in chunks[:1]]
        for number, chunk in enumerate(chunks):
            parts = waiting.pop().result()
            waiting += [submit(following) for following in chunks[number + 1 : number + 2]]
            yield chunk, [seen for part in parts for seen in part]


def _gathered(keys: pd.Series, kept: list[Chunk], errors: dict[str, Measures]) -> tuple[pd.DataFrame, Masks]:
    """Of these keys: one chunk after the other, so that memory holds little more than what is returned."""
    missing = set(keys)
    frames = [pd.DataFrame(list(errors.values()), index=list(errors))] if errors else []
    packed = [np.full((len(errors), PACKED), 255, np.uint8)]
    missing -= set(errors)
    for chunk in kept:
        rows = [row for row, key in enumerate(chunk.keys) if key in missing]
        missing -= set(chunk.keys)
        if rows:
            with np.load(chunk.path, allow_pickle=False) as file:
                texts, masks = file["measures"], file["masks"].reshape(-1, PACKED)
            frames.append(pd.DataFrame([json.loads(texts[r]) for r in rows], index=[chunk.keys[r] for r in rows]))
            packed.append(masks[rows])
    found = pd.concat(frames) if frames else pd.DataFrame()
    places = found.index.get_indexer(pd.Index(keys))
    return found.iloc[places].set_axis(keys.index), Masks(np.concatenate(packed)[places])


def _write(folder: Path, looks: dict[str, Look]) -> list[Chunk]:
    if not looks:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{os.urandom(8).hex()}.npz"
    measures = np.array([json.dumps(seen.measures) for seen in looks.values()])
    masks = np.packbits(np.stack([seen.mask for seen in looks.values()]), axis=None)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, sha256=np.array(list(looks)), measures=measures, masks=masks)
    return [Chunk(path, list(looks))]


def _read(folder: Path) -> list[Chunk]:
    """What is kept; a file that is damaged is as if it were not there."""
    chunks = []
    for path in sorted(folder.glob("*.npz")):
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                sizes = {len(file["sha256"]), len(file["measures"]), file["masks"].size / PACKED}
                keys = file["sha256"].tolist()
        except DAMAGED as error:
            log.warning("%s: this part of the cache is damaged and is made again: %s", path, error)
            continue
        if len(sizes) == 1:
            chunks.append(Chunk(path, keys))
    return chunks
