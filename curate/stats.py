"""Count a manifest: per class what is candidate, accepted, rejected (by reason), duplicate; imbalance and weights."""

import pandas as pd

from curate.manifest import STATUSES, class_weights, require_columns


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
