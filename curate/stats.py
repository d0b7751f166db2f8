"""Count a manifest: per class what is candidate, accepted, rejected (by reason), duplicate; imbalance and weights."""

from collections.abc import Sequence

import pandas as pd

from curate.errors import CurateError
from curate.manifest import class_weights, require_columns
from curate.sources import clean_text
from curate.words import STATUSES


def summary(manifest: pd.DataFrame) -> pd.DataFrame:
    """One row a class (index `label`), in order of first appearance.

    Returns:
        Columns `images`, the four statuses, and `weight`, the study's w_i = max(n) / n_i over the accepted images (over
        candidates where nothing is accepted yet).
    """
    require_columns(manifest, "label", "status", made_by="curate scrape")
    classes = pd.Index(manifest["label"].unique(), name="label")
    counts = pd.crosstab(manifest["label"], manifest["status"]).reindex(index=classes, columns=STATUSES, fill_value=0)
    counts.columns.name = None
    counts.insert(0, "images", counts.sum(axis=1))
    return counts.assign(weight=class_weights(counts[counted(counts)]).reindex(classes))


def rejections(manifest: pd.DataFrame) -> pd.DataFrame:
    """Rejected images: one row a reason, most frequent first, one column a class; empty where nothing is rejected."""
    require_columns(manifest, "label", "status", "reason", made_by="curate balance")
    rejected = manifest[manifest["status"] == "rejected"]
    counts = pd.crosstab(rejected["reason"].fillna("no reason given"), rejected["label"])
    return counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index]


def counted(summary: pd.DataFrame) -> str:
    """The column that balance is judged by: `accepted`, or `candidate` where nothing is accepted yet."""
    return "accepted" if summary["accepted"].any() else "candidate"


def imbalance_ratio(summary: pd.DataFrame) -> float:
    """Largest class over smallest, by `counted`; infinite when a class holds none."""
    counts = summary[counted(summary)]
    return float(counts.max() / counts.min()) if counts.min() else float("inf")


def tally(manifest: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Count images by the values of some columns: one row a combination, most frequent first.

    Args:
        columns: of the manifest, one or more.

    Returns:
        Index: one level a column, missing values as "unknown". Columns: the classes in order of first appearance, and
        `total`.

    Raises:
        CurateError: no column, or one that the manifest does not have; names those that it has.
    """
    require_columns(manifest, "label", made_by="curate scrape")
    wrong = [column for column in columns if column not in manifest]
    if wrong or not columns:
        held = ", ".join(map(str, manifest))
        raise CurateError(f"no column {', '.join(wrong) or 'is given'} to count by. The manifest has {held}.")
    texts = {name: manifest[name].astype("str").map(clean_text, na_action="ignore") for name in columns}
    keys = [text.where(manifest[name].notna(), "unknown") for name, text in texts.items()]
    counts = manifest.groupby([*keys, manifest["label"].rename("_label")], sort=False).size().unstack(fill_value=0)
    counts = counts.reindex(columns=manifest["label"].unique()).rename_axis(columns=None)
    total = counts.sum(axis=1)
    counts.insert(len(counts.columns), "total", total, allow_duplicates=True)  # a class may have that name
    return counts.loc[total.sort_values(ascending=False, kind="stable").index]
