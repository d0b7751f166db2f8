"""The audit: artifact measures, out-of-fold predictions, heatmaps and the screen, joined into one table.

Embeddings and heatmaps come in as functions, so that this room needs no torch.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from curate.artifacts import CUE
from curate.concepts import COLUMN_OF, concept_measures
from curate.judge import judge
from curate.looking import Masks, Trunk, measure_all
from curate.threads import Progress, one_thread_each

FOLDS = 5
STALE = ("audit_error", "predicted", "label_probability", *COLUMN_OF.values())  # of an earlier audit
C = 0.003  # inverse L2 penalty of the out-of-fold models, on standardised embeddings

Embed = Callable[[pd.DataFrame], np.ndarray]


class Heads(NamedTuple):
    """What the cross-validation learned, for the heatmaps of images that each model has not seen.

    Attributes:
        classes: (k,) class names, in the order of the rows of a weight.
        weights: one (k, d) per fold, on the embeddings as they are.
        fold: (n,) which of them has not seen the image; -1 for an image that does not open.
        probability: (n, k) out-of-fold class probabilities, NaN for an image that does not open.
    """

    classes: np.ndarray
    weights: list[tuple[np.ndarray, np.ndarray]]
    fold: np.ndarray
    probability: np.ndarray


Heatmaps = tuple[np.ndarray, np.ndarray]  # rows (k,), and their heatmaps (k, targets, h, w) in [0, 1]
Explain = Callable[[pd.DataFrame, Heads, np.ndarray], Iterable[Heatmaps]]


def audit(
    manifest: pd.DataFrame,
    standing: pd.DataFrame,
    *,
    root: Path,
    embed: Embed,
    backbone: str,
    explain: Explain | None = None,
    trunk: Trunk | None = None,
    jobs: int = 2,
    seed: int = 0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Add the audit's columns: what each image shows, what a model expects of it, and how suspicious it is.

    Args:
        manifest: with `image_id`, `sha256`, `file_name`, `label`, `status`.
        standing: `Ledger.standing()`; the screen learns from it.
        root: the data root. Measures are cached below `cache/`.
        embed: manifest -> (n, d) embeddings, rows of NaN for images that do not open.
        backbone: its key; of a known one `curate.concepts` tells more from the embeddings.
        explain: manifest, heads, (n, 2) class indices (the label, what is predicted) -> heatmaps, in parts; images of
            which none come keep their earlier figures. None makes none.
        trunk: sees the pixels as they are decoded, so that `embed` and `explain` need not decode them again.
        jobs: processes, and threads.

    Returns:
        All rows in their order. An image that does not open keeps its row, with the cause in `flags`.
    """
    measured, masks = measure_all(manifest, root, jobs, progress, trunk=trunk)
    embeddings = embed(manifest)
    measured = _with_concepts(measured, embeddings, backbone)
    table = manifest.drop(columns=[*measured, *STALE], errors="ignore").join(measured)
    heads = cross_predict(embeddings, table["label"].to_numpy(), seed=seed, jobs=jobs, photographs=_photographs(table))
    if heads is not None:
        table = _with_predictions(table, heads)
        if explain is not None:
            table = _with_heatmaps(table, explain(table, heads, _targets(table, heads)), masks)
    with one_thread_each():
        return judge(table, embeddings, standing, root)


def cross_predict(
    embeddings: np.ndarray, labels: np.ndarray, *, seed: int, jobs: int = 2, photographs: np.ndarray | None = None
) -> Heads | None:
    """Predict each image's class with a logistic regression that has seen neither it nor a copy (stratified 5-fold).

    Half a second for 1,000 images of 1280 numbers in 4 classes, some seconds for 10,000 in 10; grows with n.

    Args:
        embeddings: (n, d); rows of NaN are left out.
        labels: (n,) class names; classes of fewer than five photographs are left out.
        jobs: threads.
        photographs: (n,) which photograph each image is of; copies have the same. None: each image is one.

    Returns:
        None with fewer than two classes of five photographs.
    """
    photographs = np.arange(len(labels)) if photographs is None else photographs
    usable = np.isfinite(embeddings).all(axis=1)
    distinct = pd.Series(photographs[usable]).groupby(labels[usable].astype(str)).nunique()
    classes = np.sort(distinct.index[distinct >= FOLDS].to_numpy(dtype=str))
    if len(classes) < 2:
        return None
    rows = np.flatnonzero(usable & np.isin(labels.astype(str), classes))
    names = labels[rows].astype(str)
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    parts = list(splitter.split(rows, names, pd.factorize(photographs[rows])[0]))
    with one_thread_each():  # BLAS threads of so small products wait for each other more than they compute
        weights = joblib.Parallel(jobs, prefer="threads")(
            joblib.delayed(_fitted)(embeddings[rows[train]], names[train]) for train, _ in parts
        )
    fold = np.full(len(labels), -1)
    probability = np.full((len(labels), len(classes)), np.nan)
    for k, (_, unseen) in enumerate(parts):
        fold[rows[unseen]] = k
        weight, bias = weights[k]
        probability[rows[unseen]] = softmax(embeddings[rows[unseen]] @ weight.T + bias, axis=1)
    return Heads(classes, weights, fold, probability)


def _photographs(table: pd.DataFrame) -> np.ndarray:
    """(n,) the `image_id` of the copy that stays."""
    if "duplicate_of" not in table:
        return table["image_id"].to_numpy()
    return table["duplicate_of"].fillna(table["image_id"]).to_numpy()


def energy_outside(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Share of each heatmap's energy outside the foreground: (n, h, w) twice -> (n,); NaN for an empty map."""
    maps = np.nan_to_num(maps)
    total = maps.sum(axis=(1, 2), dtype=np.float64)
    outside = (maps * ~masks).sum(axis=(1, 2), dtype=np.float64)
    return np.divide(outside, total, out=np.full(len(maps), np.nan), where=total > 0)


def peak_distance(maps: np.ndarray) -> np.ndarray:
    """Distance of each heatmap's peak from the centre, 1 = a corner: (n, h, w) -> (n,); NaN for an empty map."""
    n, height, width = maps.shape
    maps = np.nan_to_num(maps)
    y, x = np.divmod(maps.reshape(n, -1).argmax(axis=1), width)
    distance = np.hypot((y + 0.5) / height - 0.5, (x + 0.5) / width - 0.5) / np.hypot(0.5, 0.5)
    return np.where(maps.max(axis=(1, 2)) > 0, distance, np.nan)


def _with_concepts(measured: pd.DataFrame, embeddings: np.ndarray, backbone: str) -> pd.DataFrame:
    """The measures, those that the embedding tells better in place of those of the pixels, without the cues."""
    cues = measured.filter(regex=f"^{CUE}").rename(columns=lambda name: name.removeprefix(CUE))
    told = concept_measures(cues, embeddings, backbone)
    kept = measured.drop(columns=[CUE + name for name in cues])
    return told.combine_first(kept)[[*kept, *(name for name in told if name not in kept)]]


def _fitted(embeddings: np.ndarray, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(k, d) weights and (k,) biases on the embeddings as they are: what they are standardised by is part of them."""
    scaler = StandardScaler().fit(embeddings)
    model = LogisticRegression(C=C, class_weight="balanced", max_iter=500, tol=1e-3)
    model.fit(scaler.transform(embeddings), names)
    weight, bias = _both_classes(model)
    weight = weight / scaler.scale_
    return weight.astype(np.float32), (bias - weight @ scaler.mean_).astype(np.float32)


def _targets(table: pd.DataFrame, heads: Heads) -> np.ndarray:
    """(n, 2) class indices: of the label, and of what is predicted; any where nothing is."""
    given = np.searchsorted(heads.classes, table["label"].to_numpy(dtype=str))
    best = np.nan_to_num(heads.probability).argmax(axis=1)
    return np.stack([np.minimum(given, len(heads.classes) - 1), best], axis=1)


def _with_predictions(table: pd.DataFrame, heads: Heads) -> pd.DataFrame:
    given, best = _targets(table, heads).T
    predicted = pd.Series(heads.classes[best], table.index, dtype="str").where(heads.fold >= 0)
    return table.assign(predicted=predicted, label_probability=heads.probability[np.arange(len(table)), given])


def _with_heatmaps(table: pd.DataFrame, parts: Iterable[Heatmaps], masks: Masks) -> pd.DataFrame:
    """Add the figures of the heatmaps, of which no more than a part is in memory at once."""
    given, peak, best = np.full((3, len(table)), np.nan)
    for rows, maps in parts:
        front = masks[rows]
        given[rows], best[rows] = energy_outside(maps[:, 0], front), energy_outside(maps[:, 1], front)
        peak[rows] = peak_distance(maps[:, 0])
    looks = {
        "cam_background_energy": given,
        "cam_peak_distance": peak,
        "cam_predicted_background_energy": best,
    }
    kept = {name: pd.Series(v, table.index).fillna(table.get(name, np.nan)) for name, v in looks.items()}
    return table.assign(**kept)


def _both_classes(model: LogisticRegression) -> tuple[np.ndarray, np.ndarray]:
    """(k, d) weights and (k,) biases; scikit-learn keeps one row for two classes."""
    if len(model.classes_) > 2:
        return model.coef_, model.intercept_
    return np.vstack([-model.coef_, model.coef_]) / 2, np.concatenate([-model.intercept_, model.intercept_]) / 2
