"""Copies as a person looks at them: images that hang together by verified pairs, with what became of each."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from typing import Any, Literal, NamedTuple

import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from curate.manifest import require_columns

Kind = Literal["conflict", "copies", "apart"]
Mark = Literal["kept", "copy", "stays", "rejected", "elsewhere"]
KINDS: tuple[Kind, ...] = ("conflict", "copies", "apart")
FOUND_EARLIER = "found earlier"
_FACTS = ("label", "status", "reason", "duplicate_of", "width", "height", "bytes", "file_name", "source", "url")


class Member(NamedTuple):
    """One image of a group; None where something is not known.

    Attributes:
        mark: kept (others are copies of it), copy (of one that is kept), stays, rejected, or elsewhere: not in this
            manifest, as when it was rejected in another one.
        why: of a copy, why the other one stays; of a rejected image, the reason.
        duplicate_of: image_id of the one that is kept instead.
        width: pixels, as is `height`.
        bytes: size of the file.
    """

    image_id: str
    mark: Mark
    label: str | None = None
    status: str | None = None
    why: str | None = None
    duplicate_of: str | None = None
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    file_name: str | None = None
    source: str | None = None
    url: str | None = None


class Pair(NamedTuple):
    """Two images that are copies of each other, columns of `dedup.PAIR_COLUMNS`; None where something is not known."""

    first: str
    second: str
    distance: int | None = None
    check: str = FOUND_EARLIER
    flipped: bool = False
    cover_first: float | None = None
    cover_second: float | None = None
    finer: float | None = None

    @property
    def images(self) -> frozenset[str]:
        """Both, whichever comes first."""
        return frozenset((self.first, self.second))


class Group(NamedTuple):
    """Images that hang together by pairs.

    Attributes:
        kind: conflict, where copies lie under different classes and nobody has settled it; copies, where one is kept
            for another; apart, where all stay.
        images: each kept one before its copies, the one with the most copies first.
        pairs: in the order of the images.
    """

    kind: Kind
    images: tuple[Member, ...]
    pairs: tuple[Pair, ...]

    @property
    def labels(self) -> list[str]:
        """The classes of its images, in their order."""
        return list(dict.fromkeys(image.label for image in self.images if image.label))


def groups(
    marked: pd.DataFrame, pairs: pd.DataFrame, different: Collection[frozenset[str]] = frozenset()
) -> list[Group]:
    """The groups of copies: label conflicts first, then those where one is kept, then the rest; the larger ones first.

    Links that an earlier run marked count as pairs too.

    Args:
        marked: with `image_id`, `label`; the columns of `mark_duplicates` where they are there.
        pairs: of `find_copies`; rows without `second` are passed over.
        different: pairs that a person called different: shown, but no reason for a conflict.

    Raises:
        CurateError: a column is missing.
    """
    require_columns(marked, "image_id", "label", made_by="curate scrape")
    links = _links(marked, pairs)
    members = _members(marked, {image for images in links for image in images})
    row = {image: n for n, image in enumerate(members)}
    component = _components([(row[pair.first], row[pair.second]) for pair in links.values()], len(row))
    of_group: defaultdict[int, list[Pair]] = defaultdict(list)
    for pair in links.values():
        of_group[component[row[pair.first]]].append(pair)
    inside: defaultdict[int, list[Member]] = defaultdict(list)
    for image, member in members.items():
        inside[component[row[image]]].append(member)
    found = [_group(inside[n], of_group[n], different) for n in inside]
    return sorted(found, key=lambda group: (KINDS.index(group.kind), -len(group.images)))


def not_compared(pairs: pd.DataFrame) -> list[tuple[str, str]]:
    """The images that `find_copies` could not compare: image_id and the cause."""
    failures = pairs[pairs["second"].isna()] if len(pairs) else pairs
    return list(zip(failures["first"], failures["check"], strict=True)) if len(failures) else []


def _links(marked: pd.DataFrame, pairs: pd.DataFrame) -> dict[frozenset[str], Pair]:
    """Each pair once: as it was measured, else as the manifest names it, else as somebody said."""
    verified = list(_verified(pairs))
    said = (pair for pair in verified if pair.distance is None)
    measured = (pair for pair in verified if pair.distance is not None)
    return {pair.images: pair for pair in [*said, *_named(marked), *measured]}


def _named(marked: pd.DataFrame) -> Iterator[Pair]:
    """The pairs that the manifest names; what the verification saw of a duplicate is in its reason."""
    for column in ("label_conflict", "duplicate_of"):
        if column in marked:
            reasons = marked["reason"] if "reason" in marked else pd.Series(None, marked.index, object)
            named = pd.DataFrame({"image": marked["image_id"], "other": marked[column], "reason": reasons})
            for image, other, reason in named[named["other"].notna()].itertuples(index=False):
                saw = _saw(_plain(reason), other) if column == "duplicate_of" else None
                if image != other:
                    yield Pair(other, image, check=saw or FOUND_EARLIER)


def _saw(reason: str | None, other: str) -> str | None:
    """ "copy of X: 61 matched points; the larger one (800x600) stays" -> "61 matched points"."""
    found = (reason or "").removeprefix(f"copy of {other}: ")
    return found.rpartition("; ")[0] if reason and found != reason else None


def _verified(pairs: pd.DataFrame) -> Iterator[Pair]:
    whole = pairs[pairs["second"].notna()] if len(pairs) else pairs
    for row in whole.to_dict("records"):
        values = {name: _plain(row.get(name)) for name in Pair._fields}
        yield Pair(**{name: value for name, value in values.items() if value is not None})


def _members(marked: pd.DataFrame, images: set[str]) -> dict[str, Member]:
    """The images by id, in the order of the manifest; those that it does not hold at the end."""
    table = marked.loc[marked["image_id"].isin(images), ["image_id", *(c for c in _FACTS if c in marked)]]
    whole = {name: table[name].astype("Int64") for name in ("width", "height", "bytes") if name in table}
    records = table.assign(**whole).to_dict("records")
    rows: list[dict[str, Any]] = [{name: _plain(value) for name, value in row.items()} for row in records]
    kept = {row.get("duplicate_of") for row in rows if row.get("status") == "duplicate"}
    members = {row["image_id"]: _member(row, row["image_id"] in kept) for row in rows}
    return members | {image: Member(image, "elsewhere") for image in sorted(images - set(members))}


def _member(row: dict[str, Any], has_copies: bool) -> Member:
    status, reason = row.get("status"), row.pop("reason", None)
    if status == "duplicate":
        return Member(**row, mark="copy", why=(reason or "").rpartition("; ")[2] or None)
    if status == "rejected":
        return Member(**row, mark="rejected", why=reason)
    return Member(**row, mark="kept" if has_copies else "stays")


def _components(links: list[tuple[int, int]], images: int) -> list[int]:
    """Number of the connected set of each image."""
    if not links:
        return []
    first, second = zip(*links, strict=True)
    graph = coo_array(([True] * len(links), (first, second)), shape=(images, images))
    return connected_components(graph, directed=False)[1].tolist()


def _group(images: list[Member], pairs: list[Pair], different: Collection[frozenset[str]]) -> Group:
    """A group in the order in which it is shown; `images` in the order of the manifest."""
    place = {image.image_id: n for n, image in enumerate(images)}
    head = {i.image_id: i.duplicate_of if i.duplicate_of in place else i.image_id for i in images}
    copies = Counter(head.values())
    order = sorted(
        images, key=lambda i: (-copies[head[i.image_id]], place[head[i.image_id]], i.image_id != head[i.image_id])
    )
    rank = {image.image_id: n for n, image in enumerate(order)}
    ranked = sorted(pairs, key=lambda pair: sorted((rank[pair.first], rank[pair.second])))
    by_id = {image.image_id: image for image in images}
    at_stake = (_in_conflict(by_id[p.first], by_id[p.second]) for p in pairs if p.images not in different)
    kind: Kind = "conflict" if any(at_stake) else "copies" if any(i.mark == "copy" for i in images) else "apart"
    return Group(kind, tuple(order), tuple(ranked))


def _in_conflict(one: Member, other: Member) -> bool:
    """Whether two copies lie under different classes and it matters: not if one is out for the other, or both are."""
    if "elsewhere" in (one.mark, other.mark) or one.label == other.label:
        return False
    settled = one.duplicate_of == other.image_id or other.duplicate_of == one.image_id
    return not settled and not {one.mark, other.mark} <= {"copy", "rejected"}


def _plain(value: Any) -> Any:
    """The Python value of a cell; None where it is missing."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    return value.item() if hasattr(value, "item") else value
