"""The audit: artifact measures, out-of-fold predictions, heatmaps and the screen, joined into one table.

Pixels are measured here; embeddings and heatmaps come in as functions, so that this room needs no torch.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from curate.artifacts import MEASURES_VERSION, artifact_score, flags, measure_file
from curate.files import replacing
from curate.manifest import require_columns
from curate.screen import crowd_distance, reject_probability, suspicion
from curate.store import require_images

FOLDS = 5
MASK_SIDE = 56

Progress = Callable[[str, int, int], None]
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


Explain = Callable[[pd.DataFrame, Heads, np.ndarray], np.ndarray]


def audit(
    manifest: pd.DataFrame,
    standing: pd.DataFrame,
    *,
    root: Path,
    embed: Embed,
    explain: Explain | None = None,
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
        explain: manifest, heads, (n,) class index -> (n, 56, 56) heatmaps of that class in [0, 1], NaN for images
            whose earlier figures stay; None makes none.
        jobs: processes.

    Returns:
        All rows in their order. An image that does not open keeps its row, with the cause in `flags`.
    """
    measured, masks = measure_all(manifest, root, jobs, progress)
    table = manifest.drop(columns=[c for c in measured if c in manifest]).join(measured)
    embeddings = embed(table)
    heads = cross_predict(embeddings, table["label"].to_numpy(), seed=seed)
    if heads is not None:
        table = _with_predictions(table, heads)
        if explain is not None:
            given = np.searchsorted(heads.classes, table["label"].to_numpy(dtype=str))
            maps = explain(table, heads, given)
            looks = {"cam_background_energy": energy_outside(maps, masks), "cam_peak_distance": peak_distance(maps)}
            for column, values in looks.items():
                table[column] = pd.Series(values, table.index).fillna(table.get(column, np.nan))
    return judge(table, embeddings, standing)


def judge(table: pd.DataFrame, embeddings: np.ndarray, standing: pd.DataFrame) -> pd.DataFrame:
    """Add `flags`, `reject_probability` (once there are decisions) and `suspicion` to a measured table."""
    verdicts = standing["verdict"].reindex(table["image_id"])
    rejected = np.where(verdicts.isna(), np.nan, (verdicts == "reject").to_numpy(dtype=float))
    probability = reject_probability(embeddings, rejected)
    score = artifact_score(table).to_numpy(dtype=float)
    raised = flags(table)
    return table.assign(
        flags=raised.where(raised != ""),
        reject_probability=np.nan if probability is None else probability,
        suspicion=suspicion(probability, crowd_distance(embeddings), score),
    )


def measure_all(
    manifest: pd.DataFrame, root: Path, jobs: int, progress: Progress | None = None
) -> tuple[pd.DataFrame, np.ndarray]:
    """Artifact measures, indexed as the manifest, and (n, 56, 56) foreground masks; cached by content.

    Done in chunks, each written when it is ready: a run that is killed loses one chunk at most.

    Raises:
        CurateError: an image of the manifest is not there.
    """
    require_columns(manifest, "sha256", "file_name", made_by="curate scrape")
    require_images(root, manifest["file_name"])
    folder = root / "cache" / f"measures-{MEASURES_VERSION}"
    known = _read_cache(folder)
    todo = manifest[~manifest["sha256"].isin(known)]
    with joblib.Parallel(n_jobs=jobs, return_as="list") as parallel:
        for done, chunk in _chunks(todo, 64):
            rows = parallel(joblib.delayed(measure_file)(root, name) for name in chunk["file_name"])
            fresh = dict(zip(chunk["sha256"], rows, strict=True))
            _write_cache(folder, fresh)
            known |= fresh
            if progress:
                progress("measures", done + len(chunk), len(todo))
    pairs = [known[sha256] for sha256 in manifest["sha256"]]
    measured = pd.DataFrame([measures for measures, _ in pairs], index=manifest.index)
    return measured, np.stack([mask for _, mask in pairs])


def cross_predict(embeddings: np.ndarray, labels: np.ndarray, *, seed: int) -> Heads | None:
    """Predict each image's class with a logistic regression that has not seen it (stratified 5-fold).

    Args:
        embeddings: (n, d); rows of NaN are left out.
        labels: (n,) class names.

    Returns:
        None with fewer than two classes of five images.
    """
    usable = np.isfinite(embeddings).all(axis=1)
    classes, counts = np.unique(labels[usable].astype(str), return_counts=True)
    if len(classes) < 2 or counts.min() < FOLDS:
        return None
    fold = np.full(len(labels), -1)
    probability = np.full((len(labels), len(classes)), np.nan)
    weights = []
    rows = np.flatnonzero(usable)
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for k, (train, unseen) in enumerate(splitter.split(rows, labels[rows].astype(str))):
        scaler = StandardScaler().fit(embeddings[rows[train]])
        model = LogisticRegression(C=0.003, class_weight="balanced", max_iter=500)
        model.fit(scaler.transform(embeddings[rows[train]]), labels[rows[train]].astype(str))
        fold[rows[unseen]] = k
        probability[rows[unseen]] = model.predict_proba(scaler.transform(embeddings[rows[unseen]]))
        weight, bias = _both_classes(model)
        weight = weight / scaler.scale_
        weights.append((weight.astype(np.float32), (bias - weight @ scaler.mean_).astype(np.float32)))
    return Heads(classes, weights, fold, probability)


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


def _with_predictions(table: pd.DataFrame, heads: Heads) -> pd.DataFrame:
    given = np.searchsorted(heads.classes, table["label"].to_numpy(dtype=str))
    seen = heads.fold >= 0
    best = np.where(seen, np.nan_to_num(heads.probability).argmax(axis=1), 0)
    predicted = pd.Series(heads.classes[best], table.index, dtype="str").where(seen)
    return table.assign(
        predicted=predicted,
        label_probability=heads.probability[np.arange(len(table)), np.minimum(given, len(heads.classes) - 1)],
    )


def _both_classes(model: LogisticRegression) -> tuple[np.ndarray, np.ndarray]:
    """(k, d) weights and (k,) biases; scikit-learn keeps one row for two classes."""
    if len(model.classes_) > 2:
        return model.coef_, model.intercept_
    return np.vstack([-model.coef_, model.coef_]) / 2, np.concatenate([-model.intercept_, model.intercept_]) / 2


def _chunks(table: pd.DataFrame, size: int) -> Iterator[tuple[int, pd.DataFrame]]:
    for start in range(0, len(table), size):
        yield start, table.iloc[start : start + size]


def _write_cache(folder: Path, rows: dict[str, tuple[dict, np.ndarray]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    masks = np.packbits(np.stack([mask for _, mask in rows.values()]), axis=None)
    measures = np.array([json.dumps(measured) for measured, _ in rows.values()])
    with replacing(folder / f"{next(iter(rows))[:32]}.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, sha256=np.array(list(rows)), measures=measures, masks=masks)


def _read_cache(folder: Path) -> dict[str, tuple[dict, np.ndarray]]:
    known: dict[str, tuple[dict, np.ndarray]] = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as chunk:
            shape = (len(chunk["sha256"]), MASK_SIDE, MASK_SIDE)
            masks = np.unpackbits(chunk["masks"], count=int(np.prod(shape))).reshape(shape).astype(bool)
            measures = [json.loads(text) for text in chunk["measures"]]
            known |= dict(zip(chunk["sha256"].tolist(), zip(measures, masks, strict=True), strict=True))
    return known
