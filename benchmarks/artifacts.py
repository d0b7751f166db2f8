"""How well the artifact measures agree with an expert, on scraped photos, and what they cost.

    python benchmarks/artifacts.py [--photos DIR] [--truth CSV] [--quick]
    python benchmarks/artifacts.py --fit > curate/cue_weights.py

For photos of the classes that the weights were fitted on, every class is scored by weights fitted on the other classes;
photos of new classes are scored by the weights as shipped. The last line is one JSON object.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from curate.artifacts import SIDE, THRESHOLDS, background_kind, read, scores_of, summarise
from curate.cue_weights import FITTED_ON
from curate.images import open_rgb, thumbnail
from curate.store import ImageError

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "rocks"
STRENGTHS = {
    "texture": 0.03,
    "fill": 0.01,
    "clutter": 0.03,
    "multiple": 0.03,
    "many": 0.01,
    "illumination": 0.003,
    "text": 0.03,
}  # of the fit: scikit-learn's C, the best of 0.001 to 0.1 across left-out classes
KEYS = {
    "multiple": "multiple_auroc",
    "texture": "background_auroc",
    "fill": "fill_auroc",
    "illumination": "illumination_auroc",
    "text": "text_auroc",
}
COLUMN_OF = {
    "background_texture": "texture",
    "object_multiple": "multiple",
    "illumination_fault": "illumination",
    "overlay_text": "text",
}
UNSCALED = ("border_lightness", "border_chroma")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--photos", type=Path, default=PHOTOS, help="folder that file_name is relative to")
    options.add_argument("--truth", type=Path, help="CSV of labels; default: truth.csv in the folder")
    options.add_argument("--quick", action="store_true", help="every fifth photo")
    options.add_argument("--fit", action="store_true", help="print a new curate/cue_weights.py instead")
    given = options.parse_args()
    truth_path = given.truth or given.photos / "truth.csv"
    if not truth_path.exists():
        print(f"no real photos here: no {truth_path}; give --photos DIR and --truth CSV (file_name, label, ...)")
        print(json.dumps({"skipped": str(truth_path)}))
        return
    cv2.setNumThreads(1)
    truth = pd.read_csv(truth_path, keep_default_na=False, dtype="str").iloc[:: 5 if given.quick else 1]
    truth, measures, cues, milliseconds = measured(truth.reset_index(drop=True), given.photos)
    if given.fit:
        print(fitted_module(truth, cues))
        return
    held_out = set(truth["label"]) <= set(FITTED_ON)
    scores = held_out_scores(truth, cues) if held_out else shipped_scores(cues)
    print(
        f"{len(truth)} photos, scored by weights fitted on {'the other classes' if held_out else 'rocks, as shipped'}"
    )
    result = agreement(truth, scores, cues)
    print_thresholds(truth, measures, scores if held_out else None)
    print(json.dumps({**result, "ms_per_image": round(milliseconds, 1)}))


def measured(truth: pd.DataFrame, photos: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, float]:
    """Rows that open, their measures, their cues, and milliseconds of one core that `measure` takes an image."""
    opened, measures, cues, seconds = [], [], [], 0.0
    for row, file_name in enumerate(truth["file_name"]):
        try:
            image = open_rgb(photos, file_name)
        except ImageError as error:
            print(f"{file_name}: {error}", file=sys.stderr)
            continue
        rgb = np.asarray(thumbnail(image, SIDE))
        start = time.process_time()
        reading = read(rgb)
        measures.append({**summarise(reading)[0], "aspect_ratio": max(image.size) / min(image.size)})
        seconds += time.process_time() - start
        cues.append(reading.cues)
        opened.append(row)
    table = truth.iloc[opened].reset_index(drop=True)
    return table, pd.DataFrame(measures), pd.DataFrame(cues), 1000 * seconds / max(1, len(opened))


def questions(truth: pd.DataFrame) -> dict[str, tuple[pd.Series, pd.Series]]:
    """Model -> (rows that are, rows that are not), without doubtful rows."""
    count, background, sure = truth["object_count"], truth["background"], truth["doubtful"].astype(int) == 0
    few, textured = count.isin(["2", "3", "4"]), background.isin(["natural", "cluttered"])
    pairs = {
        "texture": (textured, background.isin(["white", "black", "plain"])),
        "fill": (background == "none", background != "none"),
        "clutter": (background == "cluttered", background == "natural"),
        "multiple": (few | (count == "many"), count == "1"),
        "many": (count == "many", few),
        "illumination": (truth["illumination"] != "ok", truth["illumination"] == "ok"),
        "text": (truth["overlay"] == "text", truth["overlay"] != "text"),
    }
    return {name: (yes & sure, no & sure) for name, (yes, no) in pairs.items()}


def fit(name: str, truth: pd.DataFrame, scaled: pd.DataFrame) -> LogisticRegression:
    """Balanced logistic regression; frame-filling surfaces count 0.3 among what is not several objects."""
    yes, no = questions(truth)[name]
    weight = pd.Series(1.0, truth.index)
    if name == "multiple":
        filling = (truth["object_count"] == "fill") & (truth["doubtful"].astype(int) == 0)
        no, weight = no | filling, weight.mask(filling, 0.3)
    rows = yes | no
    model = LogisticRegression(C=STRENGTHS[name], class_weight="balanced", max_iter=3000)
    return model.fit(scaled[rows], yes[rows], sample_weight=weight[rows])


def held_out_scores(truth: pd.DataFrame, cues: pd.DataFrame) -> pd.DataFrame:
    """Each class scored by models fitted on all the others."""
    columns = cues.drop(columns=list(UNSCALED))
    scores = pd.DataFrame(index=truth.index, columns=list(STRENGTHS), dtype="float64")
    for label in truth["label"].unique():
        out = truth["label"] == label
        mean, deviation = columns[~out].mean(), columns[~out].std()
        scaled = ((columns - mean) / deviation).clip(-3, 3)
        for name in STRENGTHS:
            model = fit(name, truth[~out], scaled[~out])
            scores.loc[out, name] = model.predict_proba(scaled[out])[:, 1]
    return scores


def shipped_scores(cues: pd.DataFrame) -> pd.DataFrame:
    """By the weights in `curate/cue_weights.py`."""
    return pd.DataFrame([scores_of(row) for row in cues.to_dict("records")])


def agreement(truth: pd.DataFrame, scores: pd.DataFrame, cues: pd.DataFrame) -> dict[str, float]:
    """Print AUROC with its 95 % bootstrap interval for each question; return the figures by key."""
    result = {}
    for name, (yes, no) in questions(truth).items():
        if yes.any() and no.any():
            auroc, low, high = bootstrap(scores.loc[yes, name].to_numpy(), scores.loc[no, name].to_numpy())
            print(f"  {name:13} {auroc:.3f} [{low:.3f}, {high:.3f}]  {yes.sum()} against {no.sum()}")
            if name in KEYS:
                result[KEYS[name]] = round(auroc, 4)
    sure = truth["doubtful"].astype(int) == 0
    pairs = zip(cues.to_dict("records"), scores.to_dict("records"), strict=True)
    kinds = pd.Series([background_kind(row, row_scores) for row, row_scores in pairs])
    accuracy = float((kinds == truth["background"])[sure].mean())
    print(pd.crosstab(truth["background"][sure], kinds[sure], rownames=["background"], colnames=["measured"]))
    return {**result, "background_kind_accuracy": round(accuracy, 4)}


def bootstrap(yes: np.ndarray, no: np.ndarray, rounds: int = 200) -> tuple[float, float, float]:
    """AUROC, and the 2.5th and 97.5th percentile over resampled photos."""
    rng = np.random.default_rng(0)
    labels = np.r_[np.ones(len(yes)), np.zeros(len(no))]
    draws = [roc_auc_score(labels, np.r_[rng.choice(yes, len(yes)), rng.choice(no, len(no))]) for _ in range(rounds)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(roc_auc_score(labels, np.r_[yes, no])), float(low), float(high)


def print_thresholds(truth: pd.DataFrame, measures: pd.DataFrame, scores: pd.DataFrame | None) -> None:
    """Share of the clear keepers, and of the clear rejects, that each threshold flags."""
    sure = truth["doubtful"].astype(int) == 0
    keep, reject = sure & (truth["verdict"] == "keep"), sure & (truth["verdict"] == "reject")
    for name, (column, above, limit, _, _) in THRESHOLDS.items():
        values = scores[COLUMN_OF[column]] if scores is not None and column in COLUMN_OF else measures[column]
        beyond = values > limit if above else values < limit
        at_5 = values[keep].quantile(0.95 if above else 0.05)
        print(
            f"  {name:18} {column} {'>' if above else '<'} {limit:g}: flags {beyond[keep].mean():.1%} of keepers, "
            f"{beyond[reject].mean():.1%} of rejects (5 % of keepers at {at_5:.3g})"
        )


def fitted_module(truth: pd.DataFrame, cues: pd.DataFrame) -> str:
    """Source of `curate/cue_weights.py`, fitted on all the photos."""
    columns = cues.drop(columns=list(UNSCALED))
    mean, deviation = columns.mean(), columns.std()
    scaled = ((columns - mean) / deviation).clip(-3, 3)
    models = [fit(name, truth, scaled) for name in STRENGTHS]
    intercepts = ", ".join(
        f'"{name}": {model.intercept_[0]:.3f}' for name, model in zip(STRENGTHS, models, strict=True)
    )
    lines = [
        '"""Logistic regressions on the cues of `curate.cues`: made by `benchmarks/artifacts.py --fit`."""',
        "",
        f"FITTED_ON = {tuple(sorted(set(truth['label'])))!r}",
        f"INTERCEPTS = {{{intercepts}}}",
        "CUES = {  # name: mean, standard deviation, then the weight in each model, in the order of INTERCEPTS",
    ]
    for i, cue in enumerate(columns):
        weights = ", ".join(f"{model.coef_[0][i]:.3f}" for model in models)
        lines.append(f'    "{cue}": ({mean[cue]:.4g}, {deviation[cue]:.4g}, {weights}),')
    return "\n".join([*lines, "}"])


if __name__ == "__main__":
    main()
