"""Find copies of the same photograph, verified pair by pair, and mark all but the best of each class."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from curate.cache import RowCache
from curate.copies import VIEWS, VIEWS_VERSION, Look, look_at, same_photograph, to_gray, view_hashes
from curate.errors import CurateError
from curate.hamming import Groups, cross, group, near
from curate.images import open_rgb
from curate.manifest import require_columns
from curate.store import ImageError

MAX_DISTANCE = 12
NEAREST = 12  # candidates of one image that are verified, nearest first: keeps the time linear
LAY_DISTANCE = 6  # bits within which pictures without enough points are compared as they lie
PAIR_COLUMNS = {"first": "str", "second": "str", "distance": "Int64", "check": "str", "flipped": "bool"}

Progress = Callable[[str, int, int], None]
Known = dict[int, dict[int, str]]  # row -> row of a verified copy -> what the verification saw


def find_copies(
    manifest: pd.DataFrame,
    root: Path,
    *,
    max_distance: int = MAX_DISTANCE,
    verify: bool = True,
    new_ids: set[str] | None = None,
    jobs: int = 2,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Pairs of images that are the same photograph: recompressed, resized, recoloured, cropped, bordered, mirrored.

    Candidates are pairs of which the hash of one picture, upright or mirrored, whole or without its plain border, lies
    within `max_distance` bits of a view of the other (whole, crops, without border); of each image the NEAREST are
    kept. A candidate becomes a pair when local features line the two up and their patches agree (`curate.copies`).

    Measured on 1,290 scraped rock photographs: 3,561 candidates, 69 pairs; all were seen by eye and none is of two
    photographs. Up to 15 bits the least alike pair has a median patch correlation of 0.84, the most alike of the
    refused ones 0.69 (MIN_ALIKE is 0.8). Of 99 distinct photographs the copies found: recompressed, resized, darkened,
    grey, mirrored, letterboxed, cropped by 10 or 15 % anywhere 99; crop to 80, 75, 70 % at a random place 81, 58, 44;
    turned by 5 degrees 79; large text across it 82; overexposed 88. With 10 bits instead of 12 there are 946
    candidates and 59 pairs, and 58 of the turned ones are found. A copy turned further or cropped harder is not met.
    Linear in the images, up to the look-up of hashes (7 CPU-seconds for 100,000 at 12 bits).

    Args:
        manifest: with `image_id`, `file_name`; `phash` is taken where it is there, else computed.
        root: the data root.
        max_distance: bits of 64.
        verify: False gives the pairs whose whole pictures, upright or mirrored, lie within the distance: candidates.
        new_ids: only pairs that touch one of these images.
        jobs: threads.
        progress: called with what is done, how many are done, and how many there are.

    Returns:
        `first`, `second` (image_id, in the order of the manifest), `distance` (bits between the two views that met),
        `check` (what the verification saw), `flipped`. An image that is not there or does not open is a row too:
        `first` its image_id, `second` missing, `check` the cause.

    Raises:
        CurateError: a column is missing, or a `phash` is no hash.
    """
    require_columns(manifest, "image_id", "file_name", made_by="curate scrape")
    names, ids, rank = manifest["file_name"].tolist(), manifest["image_id"].to_numpy(dtype=object), _rank(manifest)
    new = np.ones(len(manifest), bool) if new_ids is None else manifest["image_id"].isin(new_ids).to_numpy()
    with _one_thread_each():
        views, known, broken = _hash_all(manifest, root, jobs, progress)
        views[:, 0, 0] = _given_hashes(manifest, views[:, 0, 0])
        found = _candidates(views, known, not verify, rank, max_distance)
        found = found[new[found["a"]] | new[found["b"]]]
        if verify:
            found = _verified(_nearest(found, rank), names, root, jobs, progress)
    pairs = found.assign(first=ids[found["a"]], second=ids[found["b"]])
    failures = [{"first": ids[row], "check": cause, "flipped": False} for row, cause in broken.items() if new[row]]
    rows = pairs.to_dict("records") + failures
    return pd.DataFrame(rows, columns=list(PAIR_COLUMNS)).astype(PAIR_COLUMNS)


def mark_duplicates(manifest: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Within each class the best copy stays; every image with a verified pair to one that stays is a duplicate of it.

    An accepted image is better than a candidate, then the larger area, the larger file, the earlier row. Nothing is
    chained: a copy of a copy stays unless it is itself a pair with the one that stays. A candidate that is a copy of a
    rejected image of its class is a duplicate of that; rejected images stay rejected. Copies under different classes
    are not resolved: `label_conflict` of both names the other.

    What an earlier run marked counts as pairs too, so that later the pairs of new images are enough.

    Args:
        manifest: with `image_id`, `label`; `status`, `width`, `height`, `bytes` are used where they are there.
        pairs: of `find_copies`; a row with `second` missing says why an image could not be compared (goes into
            `reason` where that is empty). Pairs of images that are not in the manifest are passed over.

    Returns:
        All rows in order, with `status`, `reason`, `duplicate_of`, `label_conflict`.

    Raises:
        CurateError: a column is missing.
    """
    require_columns(manifest, "image_id", "label", made_by="curate scrape")
    text = ("status", "reason", "duplicate_of", "label_conflict")
    before = {c: manifest[c].to_numpy(dtype=object) if c in manifest else _nothing(manifest) for c in text}
    known = _known_pairs(manifest, pairs, before)
    status, reason, duplicate_of = (before[c].copy() for c in text[:3])
    marked = status == "duplicate"
    status[marked | pd.isna(status)] = "candidate"
    reason[marked] = duplicate_of[:] = np.nan
    ids, labels = manifest["image_id"].to_numpy(dtype=object), manifest["label"].to_numpy(dtype=object)
    rank = _rank(manifest.assign(status=status))
    copy_of = _copies_of(known, labels, status, rank)
    for row, better in copy_of.items():
        duplicate_of[row] = ids[better]
        as_before = marked[row] and before["duplicate_of"][row] == ids[better] and pd.notna(before["reason"][row])
        reason[row] = before["reason"][row] if as_before else _reason(manifest, row, better, known[row][better], status)
    status[list(copy_of)] = "duplicate"
    conflict = _conflicts(known, ids, labels, status, rank)
    _note_failures(pairs, ids, reason)
    columns = zip(text, (status, reason, duplicate_of, conflict), strict=True)
    return manifest.assign(**{c: pd.Series(values, manifest.index, dtype="str") for c, values in columns})


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """OpenCV and BLAS without threads of their own: ours share the cores."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        cv2.setNumThreads(before)


def _hash_all(
    manifest: pd.DataFrame, root: Path, jobs: int, progress: Progress | None
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Views (n, v, 2) uint64, known (n, v) bool, and row -> cause for what does not open; cached by sha256."""
    names, width = manifest["file_name"].tolist(), len(VIEWS) + 1
    keys = manifest["sha256"].fillna("").tolist() if "sha256" in manifest else [""] * len(names)
    kept = RowCache(root / "cache" / f"views-{VIEWS_VERSION}")
    todo = [row for row, key in enumerate(keys) if key not in kept]
    rows = np.zeros((len(names), width, 3), np.uint64)  # hash, hash of the mirror image, whether there is such a view
    broken: dict[int, str] = {}
    for row, result in zip(
        todo, _map(lambda row: _hash_one(root, names[row]), todo, "hashes", jobs, progress), strict=True
    ):
        if isinstance(result, str):
            broken[row] = result
            continue
        rows[row, :, :2], rows[row, :, 2] = result
        if keys[row]:
            kept.append([keys[row]], rows[row : row + 1])
    kept.flush()
    old = [row for row in range(len(names)) if row not in set(todo)]
    if old:
        rows[old] = kept.take([keys[row] for row in old])
    return rows[..., :2].copy(), rows[..., 2].astype(bool), broken


def _hash_one(root: Path, name: str) -> tuple[np.ndarray, np.ndarray] | str:
    try:
        return view_hashes(to_gray(np.asarray(open_rgb(root, name))))
    except (CurateError, ImageError) as error:
        return f"not compared: {error}"


def _map(
    function: Callable[[Any], Any], items: Sequence[Any], what: str, jobs: int, progress: Progress | None
) -> list[Any]:
    """The function of each item, in order, on threads."""
    results = []
    for result in Parallel(jobs, prefer="threads", return_as="generator")(delayed(function)(item) for item in items):
        results.append(result)
        if progress:
            progress(what, len(results), len(items))
    return results


def _given_hashes(manifest: pd.DataFrame, computed: np.ndarray) -> np.ndarray:
    """(n,) uint64: `phash` where the manifest has it, else what was computed."""
    if "phash" not in manifest:
        return computed
    given = computed.copy()
    for row, text in enumerate(manifest["phash"]):
        if isinstance(text, str):
            try:
                given[row] = int(text, 16)
            except (ValueError, OverflowError):
                raise CurateError(
                    f"row {row + 1}, column phash: {text!r} is no hash of 16 hex digits. Empty the cell: "
                    "`curate dedup` computes what is missing."
                ) from None
    return given


def _candidates(views: np.ndarray, known: np.ndarray, whole: bool, rank: np.ndarray, radius: int) -> pd.DataFrame:
    """Rows a < b with `flipped` and the least `distance` of two views, for all pairs within the radius."""
    asked, shown = ([0], [0]) if whole else ([0, views.shape[1] - 1], list(range(views.shape[1])))
    answers = _group_views(views[:, shown, 0], known[:, shown], rank)
    tables = []
    for flipped in (0, 1):
        questions = _group_views(views[:, asked, flipped], known[:, asked], rank)
        i, j, distance = near(questions.hashes, answers.hashes, radius)
        a, b, pair = cross(i, j, questions, answers, most=NEAREST + 1)
        tables.append(pd.DataFrame({"a": a, "b": b, "distance": distance[pair], "flipped": bool(flipped)}))
    table = pd.concat(tables, ignore_index=True)
    table = table[table["a"] != table["b"]]
    low, high = table[["a", "b"]].min(axis=1), table[["a", "b"]].max(axis=1)
    least = table.assign(a=low, b=high).groupby(["a", "b", "flipped"], as_index=False)["distance"].min()
    return least.astype({"a": int, "b": int, "flipped": bool, "distance": int})


def _nearest(candidates: pd.DataFrame, rank: np.ndarray) -> pd.DataFrame:
    """What is among the NEAREST of one of its two images; of equal distances the better image comes first."""
    a, b, distance = (candidates[c].to_numpy() for c in ("a", "b", "distance"))
    ends = pd.DataFrame({"image": np.append(a, b), "other": rank[np.append(b, a)], "distance": np.tile(distance, 2)})
    ends["pair"] = np.tile(np.arange(len(a)), 2)
    place = ends.sort_values(["image", "distance", "other"]).groupby("image").cumcount()
    kept = np.zeros(len(a), bool)
    kept[ends.loc[place.index[place < NEAREST], "pair"]] = True
    return candidates[kept]


def _verified(
    candidates: pd.DataFrame, names: list[str], root: Path, jobs: int, progress: Progress | None
) -> pd.DataFrame:
    """The candidates that are copies, with `check`; at most one of an upright and a mirrored one."""

    @lru_cache(maxsize=1024)  # about 100 kB each
    def look(row: int, flipped: bool) -> Look:
        gray = to_gray(np.asarray(open_rgb(root, names[row])))
        return look_at(np.ascontiguousarray(gray[:, ::-1]) if flipped else gray)

    def check(candidate: tuple[int, int, bool, int]) -> str | None:
        a, b, flipped, distance = candidate
        match = same_photograph(look(a, flipped), look(b, False), lay=distance <= LAY_DISTANCE)
        return None if match is None else str(match)

    ordered = candidates.sort_values(["a", "b", "flipped"])[["a", "b", "flipped", "distance"]]
    checks = _map(check, list(ordered.itertuples(index=False, name=None)), "copies", jobs, progress)
    found = ordered.assign(check=pd.Series(checks, ordered.index, dtype=object))
    return found[found["check"].notna()].drop_duplicates(["a", "b"])


def _group_views(views: np.ndarray, known: np.ndarray, rank: np.ndarray) -> Groups:
    """(n, v) uint64 and bool: the images by the hashes of their known views."""
    image, _ = np.nonzero(known)
    return group(views[known], image, rank)


def _rank(manifest: pd.DataFrame) -> np.ndarray:
    """(n,) 0 for the best image: accepted before others, then area, bytes, earlier row."""
    width, height, size = (_numbers(manifest, column) for column in ("width", "height", "bytes"))
    accepted = manifest["status"].eq("accepted").to_numpy(bool) if "status" in manifest else np.zeros(len(manifest))
    order = np.lexsort([-size, -width * height, -accepted.astype(int)])
    return np.argsort(order)


def _numbers(manifest: pd.DataFrame, column: str) -> np.ndarray:
    if column not in manifest:
        return np.zeros(len(manifest))
    return manifest[column].astype("float64").fillna(0).to_numpy()


def _nothing(manifest: pd.DataFrame) -> np.ndarray:
    return np.full(len(manifest), np.nan, object)


def _known_pairs(manifest: pd.DataFrame, pairs: pd.DataFrame, before: dict[str, np.ndarray]) -> Known:
    """Verified pairs of rows of the manifest, both ways: of `pairs`, and what an earlier run has marked."""
    row_of = {image: row for row, image in enumerate(manifest["image_id"])}
    known: Known = {}

    def add(first: str, second: str, saw: str) -> None:
        if first in row_of and second in row_of and first != second:
            for a, b in ((first, second), (second, first)):
                known.setdefault(row_of[a], {})[row_of[b]] = saw

    for column in ("duplicate_of", "label_conflict"):
        for image, other in zip(manifest["image_id"], before[column], strict=True):
            add(image, other, "found earlier")
    for pair in pairs[pairs["second"].notna()].to_dict("records") if len(pairs) else []:
        mirrored = "mirrored, " if pair["flipped"] else ""
        add(pair["first"], pair["second"], f"{mirrored}{pair['distance']} bits, {pair['check']}")
    return known


def _copies_of(known: Known, labels: np.ndarray, status: np.ndarray, rank: np.ndarray) -> dict[int, int]:
    """Row of a duplicate -> row of the image of its class that it is a copy of."""
    copy_of: dict[int, int] = {}
    stays: set[int] = set()
    for row in np.argsort(rank).tolist():
        if status[row] == "rejected":
            continue
        same = [other for other in known.get(row, {}) if labels[other] == labels[row]]
        rejected = [other for other in same if status[other] == "rejected" and status[row] != "accepted"]
        better = rejected or [other for other in same if other in stays]
        if better:
            copy_of[row] = min(better, key=rank.__getitem__)
        else:
            stays.add(row)
    return copy_of


def _reason(manifest: pd.DataFrame, row: int, better: int, saw: str, status: np.ndarray) -> str:
    """Why a row is out: what it is a copy of, what the verification saw, and why the other one stays."""
    copy = f"copy of {manifest['image_id'].iat[better]}: {saw}"
    if status[better] == "rejected":
        return f"{copy}; that one was rejected"
    width, height, size = (_numbers(manifest, column)[[row, better]] for column in ("width", "height", "bytes"))
    area = width * height
    if status[better] == "accepted" and status[row] != "accepted":
        why = "accepted one"
    elif area[1] > area[0]:
        why = "larger one"
    else:
        why = "larger file" if size[1] > size[0] else "earlier one"
    return f"{copy}; the {why} ({width[1]:.0f}x{height[1]:.0f}) stays"


def _conflicts(known: Known, ids: np.ndarray, labels: np.ndarray, status: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """(n,) the image_id of a copy under another class, one in use before others; missing where there is none."""
    conflict = np.full(len(ids), np.nan, object)
    for row, copies in known.items():
        others = [o for o in copies if labels[o] != labels[row] and not status[o] == status[row] == "rejected"]
        if others:
            conflict[row] = ids[min(others, key=lambda o: (status[o] in ("duplicate", "rejected"), rank[o]))]
    return conflict


def _note_failures(pairs: pd.DataFrame, ids: np.ndarray, reason: np.ndarray) -> None:
    failures = pairs[pairs["second"].isna()] if len(pairs) else pairs
    causes = dict(zip(failures["first"], failures["check"], strict=True)) if len(failures) else {}
    for row, image in enumerate(ids):
        if image in causes and pd.isna(reason[row]):
            reason[row] = causes[image]
