"""The pictures of a manifest as the search for copies sees them: each content once, with its fingerprint."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from curate.cache import RowCache
from curate.compared import Compared
from curate.copies import SIDE, Look, look_at, to_gray
from curate.cues import lettering
from curate.errors import CurateError
from curate.fingerprint import LENGTH, ORIENTATIONS, VERSION, fingerprint, to_row
from curate.images import open_gray
from curate.store import ImageError
from curate.threads import Progress, map_on_threads
from curate.words import NOT_COMPARED

LETTERING_VERSION = 1  # goes up when the lettering of the same picture changes
SHA256 = re.compile(r"[0-9a-fA-F]{64}")
LOOKS = 4096  # pictures that are kept in memory with their features, 100 kB each


@dataclass
class Pictures:
    """The pictures under comparison, those that were searched before first; images of the same bytes are one.

    Attributes:
        keys: 16 digits of the content; where the manifest has no sha256, a name for this run alone.
        images: the rows of the manifest that show each.
        files: (data root, file name) of each.
        start: how many were searched before.
        rows: (n, LENGTH) uint64, fingerprints.
        broken: picture -> why it cannot be compared.
    """

    keys: list[str]
    images: list[list[int]]
    files: list[tuple[Path, str]]
    start: int
    rows: np.ndarray
    broken: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.look = lru_cache(maxsize=LOOKS)(self._look)

    def gray(self, picture: int) -> np.ndarray:
        """(h, w) uint8, the longer side SIDE pixels."""
        return to_gray(open_gray(*self.files[picture], SIDE))

    def _look(self, picture: int) -> Look:
        return look_at(self.gray(picture))

    def lasts(self, picture: int) -> bool:
        """Whether what is found out about it can be kept for another run."""
        return not self.keys[picture].startswith("-")

    def distance(self, first: int, second: int) -> int | None:
        """Bits between two hashes, in the orientation in which they are least; None where one has none."""
        a, b = self.rows[first], self.rows[second]
        if not a[ORIENTATIONS] & b[ORIENTATIONS] & np.uint64(1):
            return None
        ways = np.append(a[:ORIENTATIONS] ^ b[0], b[:ORIENTATIONS] ^ a[0])
        return int(np.bitwise_count(ways).min())


def pictures_of(manifest: pd.DataFrame, files: list[tuple[Path, str]], compared: Compared) -> Pictures:
    """The pictures of a manifest, of which these files are the images, without fingerprints."""
    hashes = manifest["sha256"].tolist() if "sha256" in manifest else [None] * len(manifest)
    showing: dict[str, list[int]] = {}
    for row, sha256 in enumerate(hashes):
        known = isinstance(sha256, str) and SHA256.fullmatch(sha256)
        showing.setdefault(sha256[:16].lower() if known else f"-{row}", []).append(row)
    before = compared.searched(showing)
    keys = [*before, *(key for key in showing if key not in before)]
    images = [showing[key] for key in keys]
    there = [next((files[row] for row in mine if _is_there(*files[row])), files[mine[0]]) for mine in images]
    return Pictures(keys, images, there, len(before), np.zeros((len(keys), LENGTH), np.uint64))


def _is_there(root: Path, name: str) -> bool:
    try:
        return (root / name).is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def read_fingerprints(
    pictures: Pictures, manifest: pd.DataFrame, root: Path, jobs: int, progress: Progress | None
) -> None:
    """Fill in the fingerprints: those that were kept under the data root, and those of pictures that are opened now.

    Raises:
        CurateError: a `phash` of the manifest is no hash.
    """
    kept = _fingerprints(root)
    todo = [n for n, key in enumerate(pictures.keys) if key not in kept or not _is_there(*pictures.files[n])]
    made = map_on_threads(lambda n: _fingerprint(pictures, n), todo, "images", jobs, progress)
    for n, row in zip(todo, made, strict=True):
        if isinstance(row, str):
            pictures.broken[n] = row
            continue
        pictures.rows[n] = row
        if pictures.lasts(n):
            kept.append([pictures.keys[n]], row[None])
    kept.flush()
    take_kept(pictures, manifest, root)
    for n in pictures.broken:
        pictures.rows[n] = 0


def take_kept(pictures: Pictures, manifest: pd.DataFrame, root: Path) -> None:
    """Fill in the fingerprints that were kept, with the hashes that the manifest has.

    Raises:
        CurateError: a `phash` of the manifest is no hash.
    """
    kept = _fingerprints(root)
    old = [n for n, key in enumerate(pictures.keys) if key in kept]
    if old:
        pictures.rows[old] = kept.take([pictures.keys[n] for n in old])
    for n, given in _given_hashes(pictures, manifest):
        if pictures.rows[n, ORIENTATIONS] & np.uint64(1):
            pictures.rows[n, 0] = given


def lettering_of(pictures: Pictures, wanted: set[int], root: Path) -> dict[int, float]:
    """Share of each picture that is under lines of text (`cues.lettering`); missing where it does not open any more."""
    kept, found = RowCache(root / "cache" / f"lettering-{LETTERING_VERSION}"), {}
    for picture in sorted(wanted):
        key = pictures.keys[picture]
        if key in kept:
            found[picture] = float(kept.take([key])[0])
            continue
        try:
            found[picture] = lettering(pictures.gray(picture).astype(np.float32) * np.float32(100 / 255))
        except (CurateError, ImageError):
            found[picture] = math.nan
            continue
        if pictures.lasts(picture):
            kept.append([key], np.array([found[picture]]))
    kept.flush()
    return found


def _fingerprints(root: Path) -> RowCache:
    return RowCache(root / "cache" / f"fingerprints-{VERSION}")


def _fingerprint(pictures: Pictures, picture: int) -> np.ndarray | str:
    try:
        return to_row(fingerprint(pictures.look(picture)))
    except (CurateError, ImageError) as error:
        return f"{NOT_COMPARED}: {error}"


def _given_hashes(pictures: Pictures, manifest: pd.DataFrame) -> Iterator[tuple[int, int]]:
    """Pictures of which the manifest has the `phash`, and that."""
    if "phash" not in manifest:
        return
    texts = manifest["phash"].tolist()
    for n, images in enumerate(pictures.images):
        text = texts[images[0]]
        if isinstance(text, str):
            try:
                yield n, int(np.uint64(int(text, 16)))
            except (ValueError, OverflowError):
                raise CurateError(
                    f"row {images[0] + 1}, column phash: {text!r} is no hash of 16 hex digits. Empty the cell: "
                    "`curate dedup` computes what is missing."
                ) from None
