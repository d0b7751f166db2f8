"""Which classes a model takes for which, and what of each class can be learnt: from out-of-fold predictions."""

import numpy as np
import pandas as pd

from curate.manifest import require_columns

MADE_BY = "curate audit"
Z = 1.96  # of a 95 % interval


def confusion(manifest: pd.DataFrame) -> pd.DataFrame:
    """Images by label (rows) and predicted class (columns): counts, the same classes in the same order on both sides.

    Args:
        manifest: with `label`, `predicted`; rows without a prediction do not count.

    Raises:
        CurateError: there are no predictions.
    """
    require_columns(manifest, "label", "predicted", made_by=MADE_BY)
    said = manifest.loc[manifest["predicted"].notna(), ["label", "predicted"]].astype(str)
    classes = sorted(set(said["label"]) | set(said["predicted"]))
    counts = pd.crosstab(said["label"], said["predicted"])
    return counts.reindex(index=classes, columns=classes, fill_value=0)


def learnability(counts: pd.DataFrame) -> pd.DataFrame:
    """How well each class is recognised on images that the model had not seen, the worst first.

    Args:
        counts: of `confusion`.

    Returns:
        Index: the class. `images`, `recall` with its 95 % interval `recall_low`, `recall_high` (Wilson, "Probable
        inference", 1927), `precision`, `f1`, and `taken_for`: the class that most of its images are mistaken for, and
        `taken`, how many. A ratio of nothing is missing; an F1 without a hit is 0.
    """
    table, classes = counts.to_numpy(), counts.index
    hits, images, said = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    mistaken = table * ~np.eye(len(table), dtype=bool)
    worst = mistaken.argmax(axis=1) if len(table) else np.empty(0, int)
    taken = mistaken.max(axis=1, initial=0)
    low, high = wilson(hits, images)
    found = pd.DataFrame(
        {
            "images": images,
            "recall": _ratio(hits, images),
            "recall_low": low,
            "recall_high": high,
            "precision": _ratio(hits, said),
            "f1": _ratio(2 * hits, images + said),
            "taken_for": pd.Series(classes[worst], classes).where(taken > 0),
            "taken": taken,
        },
        index=classes,
    )
    return found.sort_values("f1", kind="stable")


def confused_pairs(counts: pd.DataFrame) -> pd.DataFrame:
    """Pairs of classes taken for one another, the most first: `first`, `second`, `images` (both ways), `share` of both.

    Args:
        counts: of `confusion`.
    """
    table = counts.to_numpy()
    first, second = np.triu_indices(len(table), 1)
    both = table[first, second] + table[second, first]
    images = table.sum(axis=1)
    pairs = pd.DataFrame(
        {
            "first": counts.index[first],
            "second": counts.index[second],
            "images": both,
            "share": _ratio(both, images[first] + images[second]),
        }
    )
    return pairs[both > 0].sort_values("images", ascending=False, kind="stable", ignore_index=True)


def label_suspicion(manifest: pd.DataFrame) -> pd.Series:
    """How little a model that has not seen an image believes its label, 0 to 1: 1 - `label_probability`.

    The self-confidence of Northcutt et al., "Confident learning", 2021, turned round. Missing without a prediction.
    """
    require_columns(manifest, "label_probability", made_by=MADE_BY)
    return 1 - manifest["label_probability"].astype(float)


def wilson(hits: np.ndarray, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % intervals of shares hits / of, (n,) each; (0, 1) of nothing."""
    n = np.maximum(of, 1)
    share = hits / n
    middle = share + Z**2 / (2 * n)
    half = Z * np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low, high = ((middle + side * half) / (1 + Z**2 / n) for side in (-1, 1))
    return np.where(of > 0, low.clip(0, 1), 0.0), np.where(of > 0, high.clip(0, 1), 1.0)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
