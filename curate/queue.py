"""The review queue: which images wait for a person, in which order, and how far each class is.

Before the first balance the most suspicious images come first, and before the screen has learnt anything those that
teach it most. A balanced manifest knows what each class is short of: there the images come first that fill it with the
fewest decisions.
"""

from collections import defaultdict

import numpy as np
import pandas as pd

from curate.balance import LIMIT, SPARE, doubt
from curate.decide import apply_decisions
from curate.manifest import require_columns
from curate.screen import Next, next_first


def review_queue(
    manifest: pd.DataFrame,
    standing: pd.DataFrame,
    *,
    label: str | None = None,
    target: int | None = None,
    what: Next | None = None,
) -> pd.DataFrame:
    """The rows that wait for a decision, in the order they are shown; ties stay in order.

    Before any balance the most suspicious come first; a missing suspicion counts as 0. After one (`balance_round`)
    come, the surest good one first: the images that the last balance brought, then older ones, then those of either
    kind that the screen would reject, at last spares. A copy of a decided image of another class does not wait.

    Args:
        manifest: with `image_id`, `label`, `status`; `suspicion` if there was an audit.
        standing: `Ledger.standing()`: the decisions in force, index `image_id`.
        label: of this class only.
        target: images wanted of each class: after a balance, those of full classes come last.
        what: comes first, whether there was a balance or not; see `curate.screen.next_first`.

    Raises:
        CurateError: a column is missing.
    """
    require_columns(manifest, "image_id", "label", "status", made_by="curate scrape")
    barred = [
        bool(copies & set(standing.index))
        for copies in map(conflicting_copies(manifest).__getitem__, manifest["image_id"])
    ]
    waits = (manifest["status"] == "candidate") & ~manifest["image_id"].isin(standing.index) & ~np.array(barred, bool)
    if label is not None:
        waits &= manifest["label"] == label
    rows = manifest.loc[[row for row in review_order(manifest, what) if waits[row]]]
    if label is None and target is not None and "balance_round" in manifest:
        counts = progress(manifest, standing, target)
        full = rows["label"].isin(counts.index[counts["accepted"] >= target])
        rows = pd.concat([rows[~full], rows[full]])
    return rows


def progress(manifest: pd.DataFrame, standing: pd.DataFrame, target: int) -> pd.DataFrame:
    """Images per class: `accepted`, `rejected`, `waiting`, `target` (int64), index `label` in alphabetical order.

    A relabelled image counts as accepted in the class it was given to; copies that are left out count nowhere.
    """
    require_columns(manifest, "image_id", "label", "status", made_by="curate scrape")
    decided = apply_decisions(manifest, standing)
    labels = sorted(set(manifest["label"]) | set(decided["label"]))
    copies, judged = conflicting_copies(manifest), set(standing.index)
    barred = [bool(copies[image_id] & judged) for image_id in decided["image_id"]]
    counted = decided[~(decided["status"].eq("candidate") & np.array(barred, bool))]
    counts = pd.crosstab(counted["label"], counted["status"])
    counts = counts.reindex(index=labels, columns=["accepted", "rejected", "candidate"], fill_value=0)
    counts = counts.rename(columns={"candidate": "waiting"}).rename_axis(index="label", columns=None)
    return counts.assign(target=target).astype("int64")


def review_order(manifest: pd.DataFrame, what: Next | None) -> list:
    """The index of a manifest in the order of review; `what` comes first, None: as `review_queue` says."""
    if "suspicion" not in manifest:
        return list(manifest.index)
    if what or "balance_round" not in manifest:
        first = what or ("informative" if _is_new(manifest) else "suspicious")
        return list(manifest.index[next_first(manifest["suspicion"].fillna(0.0).to_numpy(), first)])
    doubts = doubt(manifest).fillna(1.0)
    rounds = pd.to_numeric(manifest["balance_round"]).fillna(0)
    older = (rounds < max(rounds.max(), 1)).astype(int)
    spare = manifest["reason"].eq(SPARE) if "reason" in manifest else False
    keys = pd.DataFrame({"spare": spare, "unfit": doubts >= LIMIT, "older": older, "doubt": doubts})
    return list(keys.sort_values(list(keys), kind="stable").index)


def _is_new(manifest: pd.DataFrame) -> bool:
    """Whether the screen has learnt nothing yet: the most suspicious images, nearly all bad, would teach it little."""
    return "reject_probability" in manifest and bool(manifest["reject_probability"].isna().all())


def conflicting_copies(manifest: pd.DataFrame) -> defaultdict[str, set[str]]:
    """Image -> its copies under other classes."""
    copies: defaultdict[str, set[str]] = defaultdict(set)
    if "label_conflict" in manifest:
        for one, other in manifest[["image_id", "label_conflict"]].dropna().itertuples(index=False):
            copies[one].add(other)
            copies[other].add(one)
    return copies
