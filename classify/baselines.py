"""Classical classifiers on colour and texture, the study's related work: what a network has to beat.

Features are computed once an image and kept by its content; every classifier is tuned by cross-validation on split
`train` alone and then judged on split `val`.
"""

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import joblib
import numpy as np
import pandas as pd
from skimage.color import rgb2hsv, rgb2lab
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from classify.data import Pixels, Progress, batches, check_rows, load_pixels
from classify.scores import confusion_matrix, summary
from curate.cache import RowCache
from curate.errors import CurateError
from curate.threads import one_thread_each

SIDE = 128  # pixels of the squares that are measured
VERSION = "1"  # of the features: a change of `features` must change it
CHUNK = 64
FOLDS = 5
LAB_RANGE = ((0, 100), (-60, 60), (-60, 60))  # of the histograms; what lies outside counts in the last bin
COLOUR_BINS = 8
GREYS = 32  # levels of the co-occurrence matrix
DISTANCES = (1, 3)  # pixels between the two of a pair
ANGLES = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
HARALICK = ("contrast", "homogeneity", "energy", "correlation")
PATTERNS = ((8, 1), (16, 2))  # points and radius of the local binary patterns

CLASSIFIERS: dict[str, tuple[Any, dict[str, list[Any]]]] = {  # name -> classifier, values that are tried
    "k-nearest neighbours": (
        KNeighborsClassifier(),
        {"n_neighbors": [1, 3, 5, 9, 15], "weights": ["uniform", "distance"]},
    ),
    "support vector machine": (
        SVC(class_weight="balanced"),
        {"C": [0.1, 1.0, 10.0, 100.0], "gamma": [0.001, 0.01, 0.1, "scale"]},
    ),
    "decision tree": (
        DecisionTreeClassifier(class_weight="balanced"),
        {"max_depth": [2, 4, 8, None], "min_samples_leaf": [1, 3, 5]},
    ),
}


class Guesses(NamedTuple):
    """What the classical classifiers say of split val.

    Attributes:
        classes: sorted.
        image_ids: of the readable images of val.
        label: (n,) indices into classes.
        predicted: name of the classifier -> (n,) indices into classes.
        settings: name of the classifier -> what cross-validation on train chose.
        cross_validated: name of the classifier -> macro-F1 of that, mean over the folds.
    """

    classes: tuple[str, ...]
    image_ids: list[str]
    label: np.ndarray
    predicted: dict[str, np.ndarray]
    settings: dict[str, dict[str, Any]]
    cross_validated: dict[str, float]


def baselines(
    manifest: pd.DataFrame, root: Path, *, seed: int, cache: Path, progress: Progress | None = None
) -> pd.DataFrame:
    """How good k-nearest neighbours, a support vector machine and a decision tree are on split val.

    Args:
        manifest: with `split`; rows whose `status` is not accepted are left out.
        root: the data root.
        seed: of the folds and of the tree.
        cache: of decoded pixels and of the features.
        progress: called with (images done, images to do) while features are computed.

    Returns:
        One row a classifier: `classifier`, `accuracy`, `accuracy_low`, `accuracy_high`, `macro_f1`, `macro_f1_low`,
        `macro_f1_high` (95 % intervals), `cross_validated_macro_f1` (on train), `settings`, `images` (of val).

    Raises:
        CurateError: as `classify.data.check_rows`, or a class has fewer than two readable images in train.
    """
    return figures(guess(manifest, root, seed=seed, cache=cache, progress=progress))


def figures(guesses: Guesses) -> pd.DataFrame:
    """The table of `baselines`."""
    rows = []
    for name, predicted in guesses.predicted.items():
        found = summary(confusion_matrix(guesses.label, predicted, len(guesses.classes)), guesses.classes)
        row: dict[str, Any] = {"classifier": name}
        for measure in ("accuracy", "macro_f1"):
            low, high = found["interval_95"][measure]
            row |= {measure: found[measure], f"{measure}_low": low, f"{measure}_high": high}
        row["cross_validated_macro_f1"] = guesses.cross_validated[name]
        row["settings"] = ", ".join(f"{key} {value}" for key, value in guesses.settings[name].items())
        rows.append({**row, "images": found["images"]})
    return pd.DataFrame(rows)


def guess(manifest: pd.DataFrame, root: Path, *, seed: int, cache: Path, progress: Progress | None = None) -> Guesses:
    """As `baselines`, image by image."""
    used, classes = check_rows(manifest)
    pixels = load_pixels(used, root, SIDE, cache=cache)
    opens = ~np.isin(np.arange(len(used)), list(pixels.causes))
    train, val = (np.flatnonzero(opens & (used["split"] == part).to_numpy()) for part in ("train", "val"))
    label = np.array([classes.index(name) for name in used["label"]])
    folds = _folds(label[train], classes, seed)
    measured = measure(pixels, np.concatenate([train, val]), cache=cache, progress=progress)
    of_train, of_val = measured[: len(train)], measured[len(train) :]
    found = Guesses(classes, used["image_id"].iloc[val].astype(str).tolist(), label[val], {}, {}, {})
    for name, (classifier, values) in CLASSIFIERS.items():
        with one_thread_each():  # the tables are small: more threads only wait for each other
            search = _tuned(classifier, values, folds, len(train), seed).fit(of_train, label[train])
        found.predicted[name] = search.predict(of_val)
        found.settings[name] = {key.removeprefix("classifier__"): v for key, v in search.best_params_.items()}
        found.cross_validated[name] = float(search.best_score_)
    return found


def measure(pixels: Pixels, rows: np.ndarray, *, cache: Path, progress: Progress | None = None) -> np.ndarray:
    """(len(rows), features) of these rows (positions); computed once, kept under cache/classical/."""
    kept = RowCache(cache / "classical" / f"{SIDE}-{VERSION}")
    wanted = np.array([row for row in rows if pixels.keys[row] not in kept], int)
    done = 0
    for part in batches(wanted, CHUNK):
        work = (joblib.delayed(features)(image) for image in pixels.take(part))
        made = joblib.Parallel(n_jobs=2, prefer="threads")(work)
        kept.append([pixels.keys[row] for row in part], np.stack(made))
        done += len(part)
        if progress:
            progress(done, len(wanted))
    kept.flush()
    return kept.take([pixels.keys[row] for row in rows])


def features(image: np.ndarray) -> np.ndarray:
    """Colour and texture of an image (side, side, 3) uint8: (n,) float32.

    Colour: histograms of L*, a*, b* (shares); mean, deviation and skewness of L*, a*, b*, saturation and value; the hue
    as the mean of its sine and cosine, weighted by saturation. Texture: contrast, homogeneity, energy and correlation
    of the grey-level co-occurrence matrix (Haralick et al. 1973), averaged over four angles, at two distances;
    histograms of uniform local binary patterns (Ojala et al. 2002) at two radii.
    """
    lab, hsv = rgb2lab(image).reshape(-1, 3), rgb2hsv(image).reshape(-1, 3)
    turn, saturation = 2 * np.pi * hsv[:, 0], hsv[:, 1]
    hue = [np.mean(saturation * np.sin(turn)), np.mean(saturation * np.cos(turn))]
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    colour = [_colour_histograms(lab), _moments(np.column_stack([lab, hsv[:, 1:]])), np.array(hue)]
    return np.concatenate([*colour, _co_occurrence(grey), _binary_patterns(grey)]).astype(np.float32)


def _colour_histograms(lab: np.ndarray) -> np.ndarray:
    """(pixels, 3) -> shares of the pixels by bin, channel after channel."""
    shares = [
        np.histogram(np.clip(channel, low, high), COLOUR_BINS, (low, high))[0] / len(lab)
        for channel, (low, high) in zip(lab.T, LAB_RANGE, strict=True)
    ]
    return np.concatenate(shares)


def _moments(values: np.ndarray) -> np.ndarray:
    """(pixels, channels) -> mean, standard deviation and cube root of the third central moment of every channel."""
    mean, deviation = values.mean(0), values.std(0)
    return np.concatenate([mean, deviation, np.cbrt(((values - mean) ** 3).mean(0))])


def _co_occurrence(grey: np.ndarray) -> np.ndarray:
    levels = (grey // (256 // GREYS)).astype(np.uint8)
    matrix = graycomatrix(levels, DISTANCES, ANGLES, levels=GREYS, symmetric=True, normed=True)
    return np.concatenate([graycoprops(matrix, name).mean(axis=1) for name in HARALICK])


def _binary_patterns(grey: np.ndarray) -> np.ndarray:
    shares = []
    for points, radius in PATTERNS:
        patterns = local_binary_pattern(grey, points, radius, method="uniform")  # values 0 to points + 1
        shares.append(np.bincount(patterns.astype(int).ravel(), minlength=points + 2) / grey.size)
    return np.concatenate(shares)


def _folds(label: np.ndarray, classes: tuple[str, ...], seed: int) -> StratifiedKFold:
    counts = np.bincount(label, minlength=len(classes))
    if counts.min() < 2:
        few = ", ".join(f"{name} {n}" for name, n in zip(classes, counts, strict=True) if n < 2)
        raise CurateError(
            f"too few readable training images to cross-validate: {few}; each class needs 2. `curate balance` collects "
            "more, or leave the class out."
        )
    return StratifiedKFold(min(FOLDS, int(counts.min())), shuffle=True, random_state=seed)


def _tuned(
    classifier: Any, values: dict[str, list[Any]], folds: StratifiedKFold, images: int, seed: int
) -> GridSearchCV:
    """A search over the values; more neighbours than the smallest part to fit on has images are not tried."""
    classifier, least = clone(classifier), images - -(-images // folds.n_splits)
    if "random_state" in classifier.get_params():
        classifier.set_params(random_state=seed)
    steps = Pipeline([("scaler", StandardScaler()), ("classifier", classifier)])
    grid = {f"classifier__{key}": options for key, options in values.items()}
    if "n_neighbors" in values:
        grid["classifier__n_neighbors"] = [n for n in values["n_neighbors"] if n <= least]
    return GridSearchCV(steps, grid, scoring="f1_macro", cv=folds)
