"""How good a classifier is: confusion matrix, precision, recall and F1 by class and averaged, with an interval.

Averages. Macro averages are taken over the classes that have at least one image in the split: recall is undefined for
the others (NaN in the table), and an image wrongly given to such a class counts against the class it belongs to. The
precision and the F1 of a class that is never predicted are 0.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

RESAMPLES = 2000


class Scores(NamedTuple):
    """Scores of confusion matrices (..., k, k): the arrays have the leading shape, by-class ones (..., k)."""

    accuracy: np.ndarray
    precision_per_class: np.ndarray
    recall_per_class: np.ndarray
    f1_per_class: np.ndarray
    macro_precision: np.ndarray
    macro_recall: np.ndarray
    macro_f1: np.ndarray


def confusion_matrix(label: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) counts; rows are the true class, columns the predicted one."""
    matrix = np.zeros((classes, classes), int)
    np.add.at(matrix, (label, predicted), 1)
    return matrix


def scores(matrix: np.ndarray) -> Scores:
    """Scores of a confusion matrix, or of many at once (..., k, k); for absent classes see the module's docstring."""
    matrix = np.asarray(matrix, float)
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    true, guessed = matrix.sum(-1), matrix.sum(-2)
    present = true > 0
    recall = np.where(present, hits / np.maximum(true, 1), np.nan)
    precision = hits / np.maximum(guessed, 1)
    f1 = np.where(present, 2 * hits / np.maximum(true + guessed, 1), np.nan)
    number = np.maximum(present.sum(-1), 1)

    def macro(values: np.ndarray) -> np.ndarray:
        return np.where(present, values, 0).sum(-1) / number

    accuracy = hits.sum(-1) / np.maximum(true.sum(-1), 1)
    return Scores(accuracy, precision, recall, f1, macro(precision), macro(recall), macro(f1))


def bootstrap(matrix: np.ndarray, *, seed: int = 0, share: float = 0.95) -> dict[str, tuple[float, float]]:
    """Percentile intervals of accuracy, macro recall and macro-F1: the images resampled with replacement, 2000 times.

    Resampling images is drawing the cells of their confusion matrix, so that the matrix is all that is needed.
    """
    matrix = np.asarray(matrix)
    total = int(matrix.sum())
    if not total:
        return dict.fromkeys(("accuracy", "macro_recall", "macro_f1"), (math.nan, math.nan))
    rng = np.random.default_rng(seed)
    drawn = scores(rng.multinomial(total, matrix.ravel() / total, RESAMPLES).reshape(RESAMPLES, *matrix.shape))
    ends = ((1 - share) / 2, (1 + share) / 2)
    return {
        name: (float(low), float(high))
        for name, values in (
            ("accuracy", drawn.accuracy),
            ("macro_recall", drawn.macro_recall),
            ("macro_f1", drawn.macro_f1),
        )
        for low, high in [np.quantile(values, ends)]
    }


def summary(matrix: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
    """All figures of a confusion matrix in plain types, with chance (guessing evenly, and always the largest class)."""
    found = scores(matrix)
    total = int(matrix.sum())
    per_class = [
        {
            "label": name,
            "images": int(matrix[i].sum()),
            "precision": float(found.precision_per_class[i]),
            "recall": _plain(found.recall_per_class[i]),
            "f1": _plain(found.f1_per_class[i]),
        }
        for i, name in enumerate(classes)
    ]
    return {
        "images": total,
        "accuracy": float(found.accuracy),
        "macro_f1": float(found.macro_f1),
        "macro_recall": float(found.macro_recall),
        "macro_precision": float(found.macro_precision),
        "interval_95": {name: [_plain(low), _plain(high)] for name, (low, high) in bootstrap(matrix).items()},
        "chance_accuracy": 1 / len(classes),
        "chance_loss": math.log(len(classes)),
        "largest_class_accuracy": float(matrix.sum(1).max() / max(total, 1)),
        "per_class": per_class,
        "confusion_matrix": matrix.tolist(),
    }


def confusion_table(matrix: np.ndarray, classes: tuple[str, ...]) -> pd.DataFrame:
    """The matrix as a table: rows the true class (column `label`), columns the predicted one."""
    table = pd.DataFrame(matrix, columns=list(classes))
    table.insert(0, "label", list(classes))
    return table


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
