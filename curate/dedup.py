"""Find copies of the same photograph: candidates from fingerprints, each verified, in every class and run."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from curate.candidates import near_wholes, shared_words
from curate.compared import Compared
from curate.copies import Look, Match, same_photograph, swapped
from curate.errors import CurateError
from curate.manifest import require_columns
from curate.pictures import Pictures, lettering_of, pictures_of, read_fingerprints, take_kept
from curate.store import ImageError
from curate.threads import Progress, map_on_threads, one_thread_each
from curate.words import NOT_COMPARED

CLOSED = 24  # pictures that hang together are all compared with each other, up to this many
HUBS = 3  # of more: each with the largest ones, and with the one that has the most copies
PAIR_COLUMNS = {
    **{"first": "str", "second": "str", "distance": "Int64", "check": "str", "flipped": "bool"},
    **dict.fromkeys(("cover_first", "cover_second", "finer", "lettering_first", "lettering_second"), "float64"),
}


def find_copies(manifest: pd.DataFrame, root: Path, *, jobs: int = 2, progress: Progress | None = None) -> pd.DataFrame:
    """Pairs of images that are the same photograph, whatever was done to it.

    Candidates are pairs whose perceptual hashes lie near each other in one of the eight orientations, and pairs that
    share two words in the same arrangement (`curate.candidates`). A candidate becomes a pair when local features line
    the two up and their patches agree (`curate.copies`). Images that hang together over a third one are compared too.

    What was compared once is not compared again: an image that comes later costs what it costs by itself, and the
    pairs are those that one search of all images finds.

    Recall, precision and time: `python -m benchmarks.duplicates`.

    Args:
        manifest: with `image_id`, `file_name`; results are kept by `sha256`; `phash` is taken where it is there.
        root: the data root.
        jobs: threads.
        progress: called with what is done, how many are done, and how many there are.

    Returns:
        `first`, `second` (image_id, in the order of the manifest), `distance` (bits between the perceptual hashes, in
        the orientation in which it is least), `check` (what the verification saw), `flipped`, `cover_first` and
        `cover_second` (share of the image that the other one shows), `finer` (pixels of the first for a pixel of the
        second, along a side, where they show the same), `lettering_first` and `lettering_second` (share of the image
        under lines of text). An image that is not there or does not open is a row too: `first` its image_id, `second`
        missing, `check` the cause.

    Raises:
        CurateError: a column is missing, or a `phash` is no hash.
    """
    require_columns(manifest, "image_id", "file_name", made_by="curate scrape")
    return _find(manifest, [(root, name) for name in manifest["file_name"]], root, jobs, progress)


def known_copies(manifest: pd.DataFrame, root: Path) -> pd.DataFrame:
    """The pairs that `find_copies` found earlier, without a search.

    Args:
        manifest: with `image_id`, `file_name`, `sha256`.
        root: the data root.

    Raises:
        CurateError: as `find_copies`.
    """
    require_columns(manifest, "image_id", "file_name", made_by="curate scrape")
    compared = Compared(root)
    pictures = pictures_of(manifest, [(root, name) for name in manifest["file_name"]], compared)
    take_kept(pictures, manifest, root)
    return _table(pictures, compared, manifest, root)


def find_leaks(
    manifest: pd.DataFrame,
    root: Path,
    other: pd.DataFrame,
    other_root: Path,
    *,
    jobs: int = 2,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Pairs of an image of the manifest (`first`) and an image of another one (`second`): columns of `find_copies`.

    An image of either that does not open is a row too.

    Args:
        manifest: with `image_id`, `file_name`.
        root: its data root, where results are kept.
        other: a test set, with the same columns.
        other_root: the data root of that.
        jobs: threads.
        progress: as of `find_copies`.

    Raises:
        CurateError: a column is missing, or a `phash` is no hash.
    """
    for table in (manifest, other):
        require_columns(table, "image_id", "file_name", made_by="curate scrape")
    both = pd.concat([manifest, other], ignore_index=True)
    files = [(r, name) for r, table in ((root, manifest), (other_root, other)) for name in table["file_name"]]
    side = np.repeat([False, True], [len(manifest), len(other)])
    ids = both["image_id"].to_numpy(dtype=object)
    names = np.char.add(np.where(side, "other ", "mine "), ids.astype(str))
    found = _find(both.assign(image_id=names), files, root, jobs, progress)
    sides = found[["first", "second"]].map(lambda name: name.split(" ", 1)[0], na_action="ignore")
    crossing = sides["first"].eq("mine") & sides["second"].eq("other")
    found = found[crossing | found["second"].isna()].reset_index(drop=True)
    for column in ("first", "second"):
        found[column] = found[column].map(lambda name: name.split(" ", 1)[1], na_action="ignore").astype("str")
    return found


def _find(
    manifest: pd.DataFrame, files: list[tuple[Path, str]], root: Path, jobs: int, progress: Progress | None
) -> pd.DataFrame:
    compared = Compared(root)
    with one_thread_each():
        pictures = pictures_of(manifest, files, compared)
        read_fingerprints(pictures, manifest, root, jobs, progress)
        check = _Check(pictures, compared, jobs, progress)
        check(near_wholes(pictures.rows, pictures.start)[:, :2], "pairs by hash")
        step = None if progress is None else lambda done, total: progress("words", done, total)
        chosen = np.setdiff1d(np.arange(len(pictures.keys)), list(pictures.broken))
        check(shared_words(pictures.rows, chosen, pictures.start, step), "pairs by words")
        check(_hanging_together(pictures, compared, _sides(manifest).prod(axis=1)), "pairs over others")
        compared.flush()
        done = [n for n in range(len(pictures.keys)) if check.is_done(n)]
        compared.finish([pictures.keys[n] for n in done if n >= pictures.start], [pictures.keys[n] for n in done])
        return _table(pictures, compared, manifest, root)


@dataclass
class _Check:
    """Verifies pairs of pictures, each once, on threads; what comes out goes to `compared`."""

    pictures: Pictures
    compared: Compared
    jobs: int
    progress: Progress | None

    def __call__(self, pairs: Iterable[Iterable[int]], what: str) -> None:
        """Look at those of the pairs that were not looked at."""
        keys = self.pictures.keys
        sides = (sorted(map(int, pair), key=keys.__getitem__) for pair in pairs)  # whatever the order, one result
        todo = [(a, b) for a, b in sides if (keys[a], keys[b]) not in self.compared]
        for (a, b), match in zip(todo, map_on_threads(self._verify, todo, what, self.jobs, self.progress), strict=True):
            if isinstance(match, str):
                continue
            keep = self.pictures.lasts(a) and self.pictures.lasts(b)
            self.compared.add(keys[a], keys[b], match, keep=keep)

    def is_done(self, picture: int) -> bool:
        """Whether a picture has been searched for good."""
        return self.pictures.lasts(picture) and picture not in self.pictures.broken

    def _verify(self, pair: tuple[int, int]) -> Match | str | None:
        looks: list[Look] = []
        for picture in pair:
            try:
                looks.append(self.pictures.look(picture))
            except (CurateError, ImageError) as error:  # it is gone since its fingerprint was taken
                self.pictures.broken[picture] = f"{NOT_COMPARED}: {error}"
                return str(error)
        return same_photograph(*looks)


def _hanging_together(pictures: Pictures, compared: Compared, area: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of pictures that are linked by copies over others: all of a few, of many those with the likely best."""
    number = {key: n for n, key in enumerate(pictures.keys)}
    links = np.array([(number[a], number[b]) for a, b in compared.copies(set(number))], int).reshape(-1, 2)
    graph = coo_array((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(len(number),) * 2)
    _, component = connected_components(graph, directed=False)
    degree = np.bincount(links.ravel(), minlength=len(number))
    size = np.array([np.nan_to_num(area[images]).max() for images in pictures.images])
    linked = np.flatnonzero(degree)
    pairs: list[tuple[int, int]] = []
    for members in (group.tolist() for group in _split_by(component[linked], linked)):
        if len(members) <= CLOSED:
            pairs += combinations(members, 2)
        else:
            largest = sorted(members, key=lambda n: -size[n])[:HUBS]
            hubs = [*largest, max(members, key=lambda n: degree[n])]
            pairs += {(min(hub, n), max(hub, n)) for hub in hubs for n in members if n != hub}
    return pairs


def _split_by(group: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(group, kind="stable")
    return np.split(values[order], np.flatnonzero(np.diff(group[order])) + 1) if len(values) else []


def _table(pictures: Pictures, compared: Compared, manifest: pd.DataFrame, root: Path) -> pd.DataFrame:
    """The pairs of images, columns of PAIR_COLUMNS."""
    number = {key: n for n, key in enumerate(pictures.keys)}
    longer = _sides(manifest).max(axis=1)
    pairs: dict[tuple[int, int], tuple[int, int, Match]] = {}
    for keys in compared.copies(set(number)):
        match = compared.outcome(*keys)
        assert match
        one, other = (number[key] for key in keys)
        for a, b in product(pictures.images[one], pictures.images[other]):
            pairs[min(a, b), max(a, b)] = (one, other, match) if a < b else (other, one, swapped(match))
    lettered = lettering_of(pictures, {n for first, second, _ in pairs.values() for n in (first, second)}, root)
    ids = manifest["image_id"].tolist()
    rows: list[dict[str, Any]] = []
    for images in pictures.images:
        alike = [*combinations(images[:CLOSED], 2), *((images[0], image) for image in images[CLOSED:])]
        rows += [_same_bytes(ids[a], ids[b]) | {"at": (a, b)} for a, b in alike]
    for (a, b), (first, second, match) in pairs.items():
        rows.append(
            {
                "at": (a, b),
                "first": ids[a],
                "second": ids[b],
                "distance": pictures.distance(first, second),
                "check": str(match),
                "flipped": match.flipped,
                "cover_first": match.cover_first,
                "cover_second": match.cover_second,
                "finer": longer[a] / longer[b] / match.scale,
                "lettering_first": lettered[first],
                "lettering_second": lettered[second],
            }
        )
    rows.sort(key=lambda row: row["at"])
    for n, cause in sorted(pictures.broken.items(), key=lambda item: pictures.images[item[0]]):
        rows += [{"first": ids[image], "check": cause, "flipped": False} for image in pictures.images[n]]
    return pd.DataFrame(rows, columns=list(PAIR_COLUMNS)).astype(PAIR_COLUMNS)


def _same_bytes(first: str, second: str) -> dict[str, Any]:
    even = dict.fromkeys(("cover_first", "cover_second", "finer"), 1.0)
    return {"first": first, "second": second, "distance": 0, "check": "the same bytes", "flipped": False, **even}


def _sides(manifest: pd.DataFrame) -> np.ndarray:
    """(n, 2) float64, width and height in pixels; missing where they are not known."""
    if "width" not in manifest or "height" not in manifest:
        return np.full((len(manifest), 2), np.nan)
    sides = manifest[["width", "height"]].astype("Float64").to_numpy("float64", na_value=np.nan)
    return np.where(sides > 0, sides, np.nan)
