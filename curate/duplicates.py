"""Mark the copies of a photograph: the best one of each class stays, and what lies under two classes is shown."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from curate.manifest import require_columns
from curate.words import NOT_COMPARED

LETTERED = 0.03  # share of a picture under text by which two copies must differ, that the cleaner one is better
FINER = 1.25  # pixels for a pixel, along a side, by which the one with more of them is better


class Link(NamedTuple):
    """One image as seen from a copy of it; numbers are missing where the pair was not measured in this run.

    Attributes:
        saw: what the verification saw.
        finer: pixels of this image for a pixel of the copy, along a side, where both show the same.
        lettering: share of this image under lines of text, less that of the copy.
    """

    saw: str
    finer: float = math.nan
    lettering: float = math.nan


Known = dict[int, dict[int, Link]]  # row -> row of a verified copy -> the first one as seen from the second


def mark_duplicates(manifest: pd.DataFrame, pairs: pd.DataFrame, judged: pd.DataFrame | None = None) -> pd.DataFrame:
    """Within each class the best copy stays; every image with a verified pair to one that stays is a duplicate of it.

    An accepted image is better than a candidate; then one without lettering; then the one that shows the photograph
    with more pixels, the larger one, the larger file, the earlier row. Nothing is chained: a copy of a copy stays
    unless it is itself a pair with the one that stays. A candidate that is a copy of a rejected image of its class is
    a duplicate of that; rejected images stay rejected. Copies under different classes are not resolved:
    `label_conflict` of both names the other.

    What an earlier run marked counts as pairs too.

    Args:
        manifest: with `image_id`, `label`; `status`, `width`, `height`, `bytes` are used where they are there.
        pairs: of `find_copies`; a row with `second` missing says why an image could not be compared (goes into
            `reason` where that is empty). Pairs of images that are not in the manifest are passed over.
        judged: `Ledger.judged_pairs()`: what a person called the same is a pair, what they called different is none.

    Returns:
        All rows in order, with `status`, `reason`, `duplicate_of`, `label_conflict`.

    Raises:
        CurateError: a column is missing.
    """
    require_columns(manifest, "image_id", "label", made_by="curate scrape")
    text = ("status", "reason", "duplicate_of", "label_conflict")
    before = {c: manifest[c].to_numpy(dtype=object) if c in manifest else _nothing(manifest) for c in text}
    known = _known_pairs(manifest, pairs, judged, before)
    status, reason, duplicate_of = (before[c].copy() for c in text[:3])
    marked = status == "duplicate"
    status[marked | pd.isna(status)] = "candidate"
    reason[marked | _is_failure(reason)] = duplicate_of[:] = np.nan
    ids, labels = manifest["image_id"].to_numpy(dtype=object), manifest["label"].to_numpy(dtype=object)
    facts = _Facts(status == "accepted", *(_numbers(manifest, c) for c in ("width", "height", "bytes")))
    rank = _rank(facts, known)
    copy_of = _copies_of(known, labels, status, rank)
    for row, better in copy_of.items():
        duplicate_of[row] = ids[better]
        as_before = marked[row] and before["duplicate_of"][row] == ids[better] and pd.notna(before["reason"][row])
        why = "that one was rejected" if status[better] == "rejected" else facts.why(better, row, known[better][row])
        fresh = f"copy of {ids[better]}: {known[row][better].saw}; {why}"
        reason[row] = before["reason"][row] if as_before else fresh
    status[list(copy_of)] = "duplicate"
    conflict = _conflicts(known, ids, labels, status, rank)
    _note_failures(pairs, ids, reason)
    columns = zip(text, (status, reason, duplicate_of, conflict), strict=True)
    return manifest.assign(**{c: pd.Series(values, manifest.index, dtype="str") for c, values in columns})


def mark_leaks(manifest: pd.DataFrame, leaks: pd.DataFrame, where: str) -> pd.DataFrame:
    """Reject the images that another data set holds too, as a test set must not.

    Args:
        manifest: with `image_id`; `status` and `reason` if they are there.
        leaks: of `find_leaks`.
        where: how that data set is called.

    Returns:
        All rows in order, with `status` and `reason`.
    """
    pairs = leaks[leaks["second"].notna()].drop_duplicates("first").set_index("first")
    mine = manifest["image_id"].isin(pairs.index)
    found = pairs.reindex(manifest.loc[mine, "image_id"])
    table = manifest.assign(status=manifest.get("status", "candidate"))
    table["reason"] = (manifest["reason"] if "reason" in manifest else pd.Series(index=table.index)).astype("str")
    table.loc[mine, "status"] = "rejected"
    table.loc[mine, "reason"] = [
        f"copy of {pair.second} in {where}: {_saw(pair.distance, pair.check)}" for pair in found.itertuples()
    ]
    return table


def links(pairs: pd.DataFrame, manifest: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """All links of images, `first` and `second`: the pairs, and those that a manifest names, but for the judged ones.

    Args:
        pairs: of `find_copies`.
        manifest: through `mark_duplicates` or not.
        judged: `Ledger.judged_pairs()`.
    """
    named = [manifest[["image_id", c]].dropna() for c in ("duplicate_of", "label_conflict") if c in manifest]
    both = [table.set_axis(["first", "second"], axis=1) for table in named]
    return settled(pd.concat([pairs, *both], ignore_index=True), judged)


def settled(pairs: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """The pairs as a person sees them: without those called different, and with those called the same.

    Args:
        pairs: of `find_copies`.
        judged: `Ledger.judged_pairs()`.
    """
    different = {frozenset(p) for p in judged.loc[judged["verdict"] == "different", ["first", "second"]].to_numpy()}
    found = [frozenset(p) for p in pairs[["first", "second"]].to_numpy()]
    kept = np.array([pair not in different for pair in found], bool)
    same = judged[judged["verdict"] == "same"]
    same = same[np.array([frozenset(p) not in found for p in same[["first", "second"]].to_numpy()], bool)]
    said = pd.DataFrame({"first": same["first"], "second": same["second"], "check": same["reviewer"] + " says so"})
    return pd.concat([pairs[kept], said.assign(flipped=False)], ignore_index=True) if len(said) else pairs[kept]


class _Facts(NamedTuple):
    """By which of two copies the better one is told: (n,) each."""

    accepted: np.ndarray
    width: np.ndarray
    height: np.ndarray
    size: np.ndarray

    def better(self, row: int, other: int, link: Link) -> tuple[bool, str]:
        """Whether a row is better than its copy, of which `link` is this row's view, and by what."""
        if self.accepted[row] != self.accepted[other]:
            return bool(self.accepted[row]), "accepted one"
        cleaner = link.finer if link.lettering < 0 else 1 / link.finer
        if abs(link.lettering) > LETTERED and cleaner > 0.5:
            return link.lettering < 0, "one with less lettering"
        if abs(math.log(link.finer)) > math.log(FINER):
            return link.finer > 1, "one with more pixels of it"
        area, other_area = (self.width[n] * self.height[n] for n in (row, other))
        if area != other_area and min(area, other_area) > 0:
            return area > other_area, "larger one"
        if self.size[row] != self.size[other]:
            return self.size[row] > self.size[other], "larger file"
        return row < other, "earlier one"

    def why(self, kept: int, row: int, link: Link) -> str:
        """Why one stays and its copy goes; `link` is the kept one's view."""
        is_better, by = self.better(kept, row, link)
        size = f" ({self.width[kept]:.0f}x{self.height[kept]:.0f})" if self.width[kept] * self.height[kept] else ""
        return f"the {by if is_better else 'best of all copies'}{size} stays"


def _known_pairs(
    manifest: pd.DataFrame, pairs: pd.DataFrame, judged: pd.DataFrame | None, before: dict[str, np.ndarray]
) -> Known:
    """Verified pairs of rows of the manifest, both ways: of `pairs`, by a person, and what an earlier run marked."""
    row_of = {image: row for row, image in enumerate(manifest["image_id"])}
    known: Known = {}

    def add(first: str, second: str, link: Link) -> None:
        if first in row_of and second in row_of and first != second:
            a, b = row_of[first], row_of[second]
            known.setdefault(a, {})[b] = link
            known.setdefault(b, {})[a] = Link(link.saw, 1 / link.finer, -link.lettering)

    for column in ("duplicate_of", "label_conflict"):
        for image, other in zip(manifest["image_id"], before[column], strict=True):
            add(image, other, Link("found earlier"))
    for pair in pairs[pairs["second"].notna()].to_dict("records") if len(pairs) else []:
        mirrored = "mirrored, " if pair["flipped"] and "mirrored" not in pair["check"] else ""
        lettering = pair.get("lettering_first", math.nan) - pair.get("lettering_second", math.nan)
        saw = mirrored + _saw(pair["distance"], pair["check"])
        add(pair["first"], pair["second"], Link(saw, pair.get("finer", math.nan), lettering))
    for pair in judged.to_dict("records") if judged is not None else []:
        a, b = (row_of.get(pair[name], -1) for name in ("first", "second"))
        if pair["verdict"] == "same" and b not in known.get(a, {}):
            add(pair["first"], pair["second"], Link(f"{pair['reviewer']} says so"))
        elif pair["verdict"] == "different":
            known.get(a, {}).pop(b, None)
            known.get(b, {}).pop(a, None)
    return known


def _rank(facts: _Facts, known: Known) -> np.ndarray:
    """(n,) 0 for the best image: accepted before others, then fewer copies that are better, area, size, earlier row."""
    lost = np.zeros(len(facts.size), int)
    for row, copies in known.items():
        lost[row] = sum(not facts.better(row, other, link)[0] for other, link in copies.items())
    order = np.lexsort([-facts.size, -facts.width * facts.height, lost, ~facts.accepted])
    return np.argsort(order)


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


def _saw(distance: int | None, check: str) -> str:
    return check if pd.isna(distance) else f"{distance} bits, {check}"


def _is_failure(reason: np.ndarray) -> np.ndarray:
    """(n,) whether a reason is that the image could not be compared, which another run may find otherwise."""
    return np.array([isinstance(text, str) and text.startswith(NOT_COMPARED) for text in reason], bool)


def _numbers(manifest: pd.DataFrame, column: str) -> np.ndarray:
    if column not in manifest:
        return np.zeros(len(manifest))
    return manifest[column].astype("Float64").fillna(0).clip(lower=0).to_numpy("float64")


def _nothing(manifest: pd.DataFrame) -> np.ndarray:
    return np.full(len(manifest), np.nan, object)
