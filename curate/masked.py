"""Whether a model goes by the background: how well it tells the classes when it sees one part of each picture alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from curate.audit import C
from curate.errors import CurateError
from curate.shortcuts import FOLDS, LEAST, balanced_interval
from curate.threads import one_thread_each


def masked_accuracy(
    labels: np.ndarray, whole: np.ndarray, background: np.ndarray, foreground: np.ndarray, seed: int
) -> dict[str, Any]:
    """How well a model tells the classes by the background alone, and by the foreground alone, cross-validated.

    The model is that of the audit: logistic regression on standardised embeddings, every class of the same weight.

    Args:
        labels: (n,) class names.
        whole: (n, d) embeddings of the pictures; a row of NaN for what does not open.
        background: (n, d), the foreground masked; a row of NaN where there is no background.
        foreground: (n, d), the background masked.
        seed: of the folds.

    Returns:
        `chance`, and for each of `whole`, `background` and `foreground` (fitted on whole pictures, judged on that part
        of others) and `background_only` and `foreground_only` (fitted on it, too): `balanced_accuracy`, `interval`
        (95 %), `images` judged, and `recall` by class.

    Raises:
        CurateError: fewer than two classes of LEAST images that open.
    """
    names, sizes = np.unique(labels[np.isfinite(whole).all(axis=1)].astype(str), return_counts=True)
    names = names[sizes >= LEAST]
    if len(names) < 2:
        raise CurateError(f"two classes of at least {LEAST} images that open are needed, found {len(names)}.")
    rows = np.flatnonzero(np.isfinite(whole).all(axis=1) & np.isin(labels.astype(str), names))
    codes = np.searchsorted(names, labels[rows].astype(str))
    parts = {"whole": whole[rows], "background": background[rows], "foreground": foreground[rows]}
    seen = {part: np.isfinite(embeddings).all(axis=1) for part, embeddings in parts.items()}
    pairs = [("whole", part) for part in parts] + [("background", "background"), ("foreground", "foreground")]
    with one_thread_each():
        predicted = _cross_predicted(parts, seen, pairs, codes, seed)
    rng = np.random.default_rng(seed)
    result: dict[str, Any] = {"chance": 1 / len(names)}
    for (fitted, judged), answers in predicted.items():
        key = judged if fitted == "whole" else f"{judged}_only"
        result[key] = _judged(names, codes[seen[judged]], answers[seen[judged]], rng)
    return result


def _cross_predicted(
    parts: dict[str, np.ndarray],
    seen: dict[str, np.ndarray],
    pairs: Sequence[tuple[str, str]],
    codes: np.ndarray,
    seed: int,
) -> dict[tuple[str, str], np.ndarray]:
    """(part fitted on, part judged) -> (n,) classes by models of other folds, -1 where that part is missing."""
    predicted = {pair: np.full(len(codes), -1) for pair in pairs}
    for train, unseen in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(codes, codes):
        for fitted in parts:
            learned = train[seen[fitted][train]]
            if len(np.unique(codes[learned])) < 2:
                continue
            scaler = StandardScaler().fit(parts[fitted][learned])
            model = LogisticRegression(C=C, class_weight="balanced", max_iter=500)
            model.fit(scaler.transform(parts[fitted][learned]), codes[learned])
            for judged in (part for pair, part in pairs if pair == fitted):
                asked = unseen[seen[judged][unseen]]
                if len(asked):
                    predicted[fitted, judged][asked] = model.predict(scaler.transform(parts[judged][asked]))
    return predicted


def _judged(names: np.ndarray, codes: np.ndarray, answers: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    answered = answers >= 0
    codes, answers = codes[answered], answers[answered]
    there = np.unique(codes)
    recall = {str(names[code]): float((answers[codes == code] == code).mean()) for code in there}
    return {
        "balanced_accuracy": float(np.mean(list(recall.values()))) if recall else None,
        "interval": list(balanced_interval(answers == codes, codes, rng)) if recall else None,
        "images": len(codes),
        "recall": recall,
    }
