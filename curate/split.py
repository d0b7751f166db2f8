"""Split the accepted images into train, val and test: exact counts in every class, copies never on two sides."""

import hashlib
import math

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from curate.errors import CurateError
from curate.manifest import require_columns

LEAST = 3  # images of a class: one for each part


def split(
    manifest: pd.DataFrame,
    *,
    val_share: float = 0.1,
    test_share: float = 0.1,
    seed: int = 0,
    copies: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Set `split` of the accepted images; missing for all others.

    A class of n images gives ceil(val_share n) to val and ceil(test_share n) to test, the rest to train: 57, 8 and 8 of
    the study's 73. Which image goes where depends on the seed and its `image_id`, not on the order of the rows.

    Args:
        manifest: with `image_id`, `label`, `status`.
        val_share: of each class, 0 to 1.
        test_share: of each class.
        seed: another seed, another split.
        copies: pairs of `find_copies` (`first`, `second`): images that are linked, also over others, stay in one part.
            They go to train; to val or test, whole, only where a class has too few other images.

    Raises:
        CurateError: nothing is accepted, a class has fewer than three images, the shares leave nothing to train on, or
            the copies of a class cannot be kept together.
    """
    require_columns(manifest, "image_id", "label", "status", made_by="curate balance")
    if not (val_share >= 0 and test_share >= 0 and val_share + test_share < 1):
        raise CurateError(f"shares of {val_share} val and {test_share} test leave nothing to train on: ask for less.")
    used = manifest[manifest["status"] == "accepted"].reset_index(drop=True)
    _refuse_too_few(manifest, used)
    group = _groups(used["image_id"], copies)
    part: dict[str, str] = {}
    for label, rows in used.groupby("label", sort=True).indices.items():
        wanted = {"test": _count(test_share, len(rows)), "val": _count(val_share, len(rows))}
        if sum(wanted.values()) >= len(rows):
            raise CurateError(
                f"class {label}: {wanted['val']} val and {wanted['test']} test of {len(rows)} images leave nothing to "
                "train on. Ask for smaller shares, or collect more images."
            )
        part |= _split_class(str(label), used["image_id"].iloc[rows].tolist(), group, wanted, seed)
    return manifest.assign(split=manifest["image_id"].map(part).astype("str"))


def _refuse_too_few(manifest: pd.DataFrame, used: pd.DataFrame) -> None:
    if used.empty:
        found = ", ".join(f"{n} {status}" for status, n in manifest["status"].value_counts().items()) or "no rows"
        raise CurateError(
            f"no image is accepted (found {found}): there is nothing to split. "
            "`curate review` or `curate decide` accepts images, `curate balance` takes the best ones."
        )
    counts = used["label"].value_counts()
    if few := [f"{label} {n}" for label, n in counts.sort_index().items() if n < LEAST]:
        raise CurateError(
            f"too few accepted images to split: {', '.join(few)}; each class needs {LEAST}. "
            "`curate balance` fetches more, or remove the class."
        )


def _groups(ids: pd.Series, copies: pd.DataFrame | None) -> dict[str, list[str]]:
    """image_id -> all image_ids that are linked to it by copies, itself among them."""
    row_of = {image: row for row, image in enumerate(ids)}
    pairs = [] if copies is None or copies.empty else copies[["first", "second"]].itertuples(index=False, name=None)
    links = np.array([(row_of[a], row_of[b]) for a, b in pairs if a in row_of and b in row_of], int).reshape(-1, 2)
    graph = coo_array((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(len(ids), len(ids)))
    _, component = connected_components(graph, directed=False)
    members = ids.groupby(component).agg(list)
    return {image: members[c] for image, c in zip(ids, component, strict=True)}


def _count(share: float, n: int) -> int:
    return math.ceil(share * n - 1e-9)  # 0.1 * 70 is 7.000000000000001


def _split_class(
    label: str, ids: list[str], group: dict[str, list[str]], wanted: dict[str, int], seed: int
) -> dict[str, str]:
    """image_id -> part, for one class."""
    ids = sorted(ids, key=lambda image: hashlib.sha256(f"{seed} {image}".encode()).digest())
    part = dict.fromkeys(ids, "train")
    singles = [image for image in ids if len(group[image]) == 1]
    room = dict(wanted)
    linked = [group[i] for i in ids if i == min(group[i]) and len(group[i]) > 1 and set(group[i]) <= part.keys()]
    for members in sorted(linked, key=len):
        roomiest = max(room, key=lambda name: room[name])
        if sum(room.values()) > len(singles) and len(members) <= room[roomiest]:
            part |= dict.fromkeys(members, roomiest)
            room[roomiest] -= len(members)
    if sum(room.values()) > len(singles):
        raise CurateError(
            f"class {label}: {len(ids) - len(singles)} of {len(ids)} images are copies of others, so that "
            f"{sum(wanted.values())} cannot be held out with copies kept together. Run `curate dedup` first."
        )
    held_out = [name for name, n in room.items() for _ in range(n)]
    return part | dict(zip(singles, held_out, strict=False))
