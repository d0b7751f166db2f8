"""How well the artifact measures agree with an expert, on scraped photos, and what they cost.

    python -m benchmarks.artifacts [--photos DIR] [--truth CSV] [--weights PTH] [--quick]
    python -m benchmarks.artifacts --fit    # writes curate/cue_weights.py and curate/concept_weights.npz

Two sets of measures: from pixels alone (`curate.artifacts`), and from the embedding together with the pixels
(`curate.concepts`). Neither sees a label of the photos that it judges: of the classes that the weights were fitted on,
every class is judged by weights fitted on the other classes; photos of new classes are judged by the weights as they
come. CleanVision's dark, light and blurry scores stand beside them. AUROC with bootstrap intervals over photos,
doubtful rows apart. The last line is one JSON object.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from PIL import Image, ImageFilter, ImageStat
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold
from sklearn.preprocessing import normalize

import curate
from curate.artifacts import SIDE, background_kind, measure_detail, object_count, read, scores_of, summarise
from curate.concepts import (
    COLUMN_OF,
    HEARD,
    Concepts,
    Question,
    along,
    centred_roots,
    heard,
    likeness,
    log_probability,
    overlay_scores_by,
    scaled_cues,
    scores_by,
    shipped,
)
from curate.console import print_table
from curate.cue_weights import FITTED_ON
from curate.images import open_rgb, thumbnail
from curate.overlay import SIDE as OVERLAY_SIDE
from curate.overlay import letter_cues, letter_map, networks
from curate.store import ImageError
from curate.thresholds import THRESHOLDS

SHARED = Path(__file__).resolve().parents[2] / "shared"
STRENGTHS = {
    "texture": 0.03,
    "fill": 0.01,
    "clutter": 0.03,
    "multiple": 0.03,
    "many": 0.01,
    "illumination": 0.003,
    "text": 0.03,
}  # of the fit on pixels: scikit-learn's C, the best of 0.001 to 0.1 across left-out classes
UNSCALED = ("border_lightness", "border_chroma")
DOUBTFUL = 0.5  # what a doubtful row weighs in the fit of the concepts
ANSWERS = {
    "background": ("black", "cluttered", "natural", "none", "plain", "white"),
    "illumination": ("bright", "cast", "dark", "ok", "uneven"),
    "object_count": ("0", "1", "2-4", "fill", "many"),
    "overlay": ("none", "text", "watermark"),
    "overlay_pixels": ("none", "text", "watermark"),
    "reason": ("keep", "low_quality", "multiple_objects", "off_topic", "other", "polished_product"),  # other: the rarer
}


class Fit(NamedTuple):
    """How a question of `curate.concepts` is fitted.

    Attributes:
        embedding, likeness, cues, letters: what a unit of each is multiplied by: the less, the more it is penalised.
        strength: scikit-learn's C.
    """

    embedding: float
    likeness: float
    cues: float
    letters: float
    strength: float


FITS = {  # AUROC across left-out classes moves by less than 0.01 for half or twice of each
    "background": Fit(1.0, 0.0, 0.04, 0.04, 10.0),
    "object_count": Fit(1.0, 0.0, 0.04, 0.04, 20.0),
    "illumination": Fit(0.0, 0.0, 1.0, 0.0, 0.1),
    "overlay": Fit(1.0, 0.0, 0.04, 0.08, 10.0),
    "reason": Fit(0.0, 1.0, 0.02, 0.04, 30.0),
    "overlay_pixels": Fit(0.0, 0.0, 0.3, 1.0, 0.1),
}
AXES = 64  # of the embeddings, for the likeness; 40 to 64 do as well, all of them lose 0.005
FOLDS = 8  # the second opinions are fitted on first ones about photos of other folds
PASSES = 4  # each with folds of its own; what they lead to is averaged, so that it hangs on no draw
SECOND = {"object_count": 0.3, "reason": 1.0}  # strength of each second opinion
LIGHT = (  # the cues that the question of the illumination is fitted on
    *("shadow", "lightness_median", "lightness_high", "inside_median", "inside_extreme", "inside_dark"),
    *("inside_bright", "outside_mean", "unevenness", "band_2_skew", "band_16", "cast", "tint", "left_right"),
    *("top_bottom", "border_lightness", "border_chroma", "border_black", "black", "white"),
    *("highlight", "clipped", "vignetting", "slope", "white_point"),
    *("tone_light_a", "tone_light_b", "tone_shadow_a", "tone_shadow_b", "tone_highest", "tone_high"),
    *("tone_red_low", "tone_red_high", "tone_blue_low", "tone_blue_high"),
)
KEYS = {
    "multiple": "multiple_auroc",
    "off_topic": "off_topic_auroc",
    "off_topic against keep": "off_topic_keep_auroc",
    "texture": "background_auroc",
    "fill": "fill_auroc",
    "illumination": "illumination_auroc",
    "text": "text_auroc",
    "watermark": "watermark_auroc",
    "polished": "polished_auroc",
    "polished against keep": "polished_keep_auroc",
    "reject": "reject_auroc",
}


class Photos(NamedTuple):
    """What was read of the photos that open, n rows each.

    Attributes:
        truth: their labels.
        measures: of `curate.artifacts.summarise` and `measure_detail`, and `aspect_ratio`.
        cues: of `curate.artifacts.read`, `curate.tones`, and the letter network for the photo's class (`network_for`).
        cleanvision: its dark, light and blurry scores (low: an issue).
        milliseconds: of one core, an image: the measures; the letters.
    """

    truth: pd.DataFrame
    measures: pd.DataFrame
    cues: pd.DataFrame
    cleanvision: pd.DataFrame
    milliseconds: tuple[float, float]


class Labelled(NamedTuple):
    """What a question of `curate.concepts` is fitted on.

    Attributes:
        features: (n, w). answers: question -> the expert's answer, (n,) text. weight: (n,) of each photo.
    """

    features: np.ndarray
    answers: dict[str, np.ndarray]
    weight: np.ndarray

    def only(self, rows: np.ndarray) -> "Labelled":
        answers = {name: answer[rows] for name, answer in self.answers.items()}
        return Labelled(self.features[rows], answers, self.weight[rows])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--photos", type=Path, default=SHARED / "data" / "rocks", help="file_name is relative to it")
    options.add_argument("--truth", type=Path, help="CSV of labels; default: truth.csv in the folder")
    options.add_argument("--weights", default=str(SHARED / "weights" / "mobilenet_v2_imagenet_features.pth"))
    options.add_argument("--quick", action="store_true", help="every fifth photo")
    options.add_argument("--fit", action="store_true", help="write new weights instead")
    given = options.parse_args()
    truth_path = given.truth or given.photos / "truth.csv"
    if not truth_path.exists():
        print(f"no real photos here: no {truth_path}; give --photos DIR and --truth CSV (file_name, label, ...)")
        print(json.dumps({"skipped": str(truth_path)}))
        return
    cv2.setNumThreads(1)
    truth = pd.read_csv(truth_path, keep_default_na=False, dtype="str").iloc[:: 5 if given.quick else 1]
    photos = read_photos(truth.reset_index(drop=True), given.photos)
    embeddings, key = embedded(photos.truth, given.photos, given.weights)
    if given.fit:
        write_weights(photos, embeddings, key)
        return
    print(json.dumps({**judged(photos, embeddings, key), **costs(photos)}))


def costs(photos: Photos) -> dict[str, float]:
    measures, letters = photos.milliseconds
    return {"ms_per_image": round(measures, 1), "letters_ms_per_image": round(letters, 1)}


def read_photos(truth: pd.DataFrame, folder: Path) -> Photos:
    """Every photo read once; those that do not open are named and left out."""
    opened, measures, cues, cleanvision, seconds = [], [], [], [], np.zeros(2)
    for row, (file_name, label) in enumerate(zip(truth["file_name"], truth["label"], strict=True)):
        try:
            image = open_rgb(folder, file_name)
        except ImageError as error:
            print(f"{file_name}: {error}", file=sys.stderr)
            continue
        rgb, large = (np.asarray(thumbnail(image, side)) for side in (SIDE, OVERLAY_SIDE))
        times = [time.process_time()]
        reading = read(rgb)
        detail = measure_detail(np.asarray(image))
        measures.append({**summarise(reading)[0], **detail, "aspect_ratio": max(image.size) / min(image.size)})
        times.append(time.process_time())
        letters = letter_cues(letter_map(large, networks()[network_for(label)]))
        times.append(time.process_time())
        seconds += np.diff(times)
        cues.append({**reading.cues, **letters})
        cleanvision.append(cleanvision_scores(image))
        opened.append(row)
    table = truth.iloc[opened].reset_index(drop=True)
    milliseconds = 1000 * seconds / max(1, len(opened))
    tables = (pd.DataFrame(part) for part in (measures, cues, cleanvision))
    return Photos(table, *tables, (milliseconds[0], milliseconds[1]))


def network_for(label: str) -> str:
    """The letter network that has not seen photos of this class; `all` of a new class."""
    if label not in networks()["all"].fitted_on:
        return "all"
    return next(name for name, network in networks().items() if label not in network.fitted_on)


def cleanvision_scores(image: Image.Image) -> dict[str, float]:
    """Dark, light and blurry as CleanVision 0.3.7 scores them: its formulas, 0 (an issue) to 1."""
    red, green, blue = np.moveaxis(np.asarray(image).astype(np.int64), 2, 0)
    brightness = np.sqrt(0.241 * red * red + 0.691 * green * green + 0.068 * blue * blue) / 255
    ratio = max(1.0, max(image.size) / 64)
    small = image.resize((max(int(image.width // ratio), 1), max(int(image.height // ratio), 1))).convert("L")
    edges = ImageStat.Stat(small.filter(ImageFilter.FIND_EDGES)).var[0]
    spread = 1 - np.exp(-0.01 * np.std(small.histogram()))
    return {
        "dark": float(np.percentile(brightness, 99)),
        "light": float(1 - np.percentile(brightness, 5)),
        "blurry": float(min(1 - np.exp(-0.01 * np.sqrt(edges)) + (spread if spread > 0.18 else 0), 1)),
    }


def embedded(truth: pd.DataFrame, folder: Path, weights: str) -> tuple[np.ndarray | None, str]:
    """(n, d) MobileNetV2 embeddings and the key of the backbone; None without its weights."""
    if not Path(weights).exists():
        print(f"from pixels only: no {weights}; see --weights")
        return None, ""
    from classify.features import embed
    from classify.models import load_backbone

    backbone = load_backbone("mobilenet_v2", weights)
    table = truth.assign(image_id=[f"{row:016x}" for row in range(len(truth))])
    with tempfile.TemporaryDirectory() as cache:
        return embed(table, folder, backbone, cache=Path(cache)), backbone.key


def judged(photos: Photos, embeddings: np.ndarray | None, key: str) -> dict[str, float | list[float]]:
    """Print and return every figure."""
    truth, cues = photos.truth, photos.cues
    held_out = set(truth["label"]) <= set(FITTED_ON) and truth["label"].nunique() > 1
    source = "fitted on the other classes" if held_out else f"as they come, fitted on {', '.join(FITTED_ON)}"
    print(f"{len(truth)} photos of {truth['label'].nunique()} classes, judged by weights {source}")
    pixels = held_out_scores(truth, cues) if held_out else shipped_scores(cues)
    concepts, result = None, {}
    if embeddings is not None and key == shipped().backbone:
        concepts = held_out_concepts(truth, cues, embeddings) if held_out else shipped_concepts(cues, embeddings)
        lettering = concepts[["overlay_text", "overlay_watermark"]].set_axis(["text", "watermark"], axis=1)
        result |= agreement("pixels alone", truth, pixels.drop(columns="text").join(lettering), "_pixels")
        result |= agreement("embedding and pixels", truth, concepts, "")
        result |= calibration(truth, concepts["reject"])
    else:
        result |= agreement("pixels alone", truth, pixels, "_pixels")
    result |= beside_cleanvision(photos, pixels, concepts)
    print_thresholds(truth, photos.measures, pixels if concepts is None else concepts)
    return result


def questions(truth: pd.DataFrame) -> dict[str, tuple[pd.Series, pd.Series]]:
    """Measure -> (rows that are, rows that are not)."""
    count, background, overlay, reason = (truth[name] for name in ("object_count", "background", "overlay", "reason"))
    few, textured, keep = count.isin(["2", "3", "4"]), background.isin(["natural", "cluttered"]), reason == ""
    off_topic, polished = reason == "off_topic", reason == "polished_product"
    return {
        "texture": (textured, background.isin(["white", "black", "plain"])),
        "fill": (background == "none", background != "none"),
        "clutter": (background == "cluttered", background == "natural"),
        "multiple": (few | (count == "many"), count == "1"),
        "many": (count == "many", few),
        "illumination": (truth["illumination"] != "ok", truth["illumination"] == "ok"),
        "text": (overlay == "text", overlay != "text"),
        "watermark": (overlay == "watermark", overlay != "watermark"),
        "off_topic": (off_topic, ~off_topic),
        "off_topic against keep": (off_topic, keep),
        "polished": (polished, ~polished),
        "polished against keep": (polished, keep),
        "multiple_objects": (reason == "multiple_objects", keep),
        "low_quality": (reason == "low_quality", keep),
        "reject": (~keep, keep),
    }


def is_sure(truth: pd.DataFrame) -> pd.Series:
    return truth["doubtful"].astype(int) == 0


def fit(name: str, truth: pd.DataFrame, scaled: pd.DataFrame) -> LogisticRegression:
    """Balanced logistic regression on pixels; frame-filling surfaces count 0.3 among what is not several objects."""
    sure = is_sure(truth)
    yes, no = (rows & sure for rows in questions(truth)[name])
    weight = pd.Series(1.0, truth.index)
    if name == "multiple":
        filling = (truth["object_count"] == "fill") & sure
        no, weight = no | filling, weight.mask(filling, 0.3)
    rows = yes | no
    model = LogisticRegression(C=STRENGTHS[name], class_weight="balanced", max_iter=3000)
    return model.fit(scaled[rows], yes[rows], sample_weight=weight[rows])


def pixel_columns(cues: pd.DataFrame) -> pd.DataFrame:
    """The cues that the weights of `curate.cue_weights` are for."""
    return cues.drop(columns=[name for name in cues if name in UNSCALED or name.startswith("letters_")])


def held_out_scores(truth: pd.DataFrame, cues: pd.DataFrame) -> pd.DataFrame:
    """From pixels, each class scored by models fitted on all the others; with the words that follow."""
    columns = pixel_columns(cues)
    scores = pd.DataFrame(index=truth.index, columns=list(STRENGTHS), dtype="float64")
    for label in truth["label"].unique():
        out = truth["label"] == label
        mean, deviation = columns[~out].mean(), columns[~out].std()
        scaled = ((columns - mean) / deviation).clip(-3, 3)
        for name in STRENGTHS:
            model = fit(name, truth[~out], scaled[~out])
            scores.loc[out, name] = model.predict_proba(scaled[out])[:, 1]
    return with_words(scores, cues)


def shipped_scores(cues: pd.DataFrame) -> pd.DataFrame:
    """By the weights in `curate/cue_weights.py`."""
    return with_words(pd.DataFrame([scores_of(row) for row in cues.to_dict("records")]), cues)


def with_words(scores: pd.DataFrame, cues: pd.DataFrame) -> pd.DataFrame:
    rows = list(zip(cues.to_dict("records"), scores.to_dict("records"), strict=True))
    kinds = [background_kind(row, row_scores) for row, row_scores in rows]
    return scores.assign(background_kind=kinds, object_count=[object_count(row_scores) for _, row_scores in rows])


def held_out_concepts(truth: pd.DataFrame, cues: pd.DataFrame, embeddings: np.ndarray) -> pd.DataFrame:
    """From embeddings and pixels, each class scored by models fitted on all the others, among its own photos."""
    parts = []
    for label in truth["label"].unique():
        out = (truth["label"] == label).to_numpy()
        concepts = fit_concepts(truth[~out], cues[~out], embeddings[~out], "")
        parts.append(all_scores(concepts, cues[out], embeddings[out]))
    return pd.concat(parts).reindex(truth.index)


def shipped_concepts(cues: pd.DataFrame, embeddings: np.ndarray) -> pd.DataFrame:
    """By the weights in `curate/concept_weights.npz`."""
    return all_scores(shipped(), cues, embeddings)


def all_scores(concepts: Concepts, cues: pd.DataFrame, embeddings: np.ndarray) -> pd.DataFrame:
    """`scores_by`, and `overlay_scores_by` as `overlay_text`, `overlay_watermark`."""
    return scores_by(concepts, cues, embeddings).join(overlay_scores_by(concepts, cues).add_prefix("overlay_"))


def fit_concepts(truth: pd.DataFrame, cues: pd.DataFrame, embeddings: np.ndarray, key: str) -> Concepts:
    """The questions of `curate.concepts`, fitted on these photos."""
    roots = normalize(np.sign(embeddings) * np.sqrt(np.abs(embeddings)))
    centre = roots.mean(axis=0).astype(np.float16).astype(np.float32)  # as it is stored
    means, deviations = cues.mean().to_numpy(), cues.std().to_numpy() + 1e-9
    axes = axes_of(embeddings)
    landmarks = along(embeddings, axes).astype(np.float16).astype(np.float32)
    basis = basis_of(landmarks)
    near = likeness(landmarks, landmarks) @ basis
    blocks = centred_roots(embeddings, centre), near, scaled_cues(cues, means, deviations)
    units = {name: units_of(name, [block.shape[1] for block in blocks], cues) for name in FITS}
    photos = Labelled(np.hstack(blocks), true_answers(truth), np.where(is_sure(truth), 1.0, DOUBTFUL))
    fitted = {name: fit_question(name, how.strength, photos, units[name]) for name, how in FITS.items()}
    second = fit_second(photos, units)
    rows = slice(len(centre), len(centre) + len(landmarks))
    for question in fitted.values():
        question.weights[rows] = basis @ question.weights[rows]
    labels = tuple(sorted(set(truth["label"])))
    return Concepts(key, labels, centre, axes, landmarks, tuple(cues), means, deviations, fitted, second)


def axes_of(embeddings: np.ndarray) -> np.ndarray:
    """(d, p) principal axes of the embeddings at unit length, rounded as they are stored."""
    units = normalize(embeddings)
    _, _, axes = np.linalg.svd(units - units.mean(axis=0), full_matrices=False)
    return axes[:AXES].T.astype(np.float16).astype(np.float32)


def basis_of(landmarks: np.ndarray) -> np.ndarray:
    """(m, m): `likeness` times this has the kernel for its dot products, so that its weights can be penalised evenly.

    Williams and Seeger, "Using the Nystroem method to speed up kernel machines", NIPS 2000.
    """
    values, vectors = np.linalg.eigh(likeness(landmarks, landmarks).astype(np.float64))
    return (vectors / np.sqrt(values.clip(min=1e-3))).astype(np.float32)


def units_of(name: str, widths: list[int], cues: pd.DataFrame) -> np.ndarray:
    """What each feature of a question is multiplied by."""
    how = FITS[name]
    if name == "illumination":
        of_cues = [how.cues if cue in LIGHT else 0.0 for cue in cues]
    else:
        of_cues = [how.letters if cue.startswith("letters_") else how.cues for cue in cues]
    return np.r_[np.full(widths[0], how.embedding), np.full(widths[1], how.likeness), of_cues].astype(np.float32)


def fit_question(name: str, strength: float, photos: Labelled, units: np.ndarray) -> Question:
    """On features as they come; an answer that none of the photos had is as good as impossible."""
    used, mean = units > 0, photos.features.mean(axis=0)
    scaled = (photos.features - mean)[:, used] * units[used]
    model = LogisticRegression(C=strength, max_iter=3000)
    model.fit(scaled, photos.answers[name], sample_weight=photos.weight)
    weights, biases = np.zeros((len(units), len(ANSWERS[name]))), np.full(len(ANSWERS[name]), -20.0)
    columns = [ANSWERS[name].index(answer) for answer in model.classes_]
    weights[np.flatnonzero(used)[:, None], columns] = units[used][:, None] * model.coef_.T
    biases[columns] = model.intercept_ - mean @ weights[:, columns]
    return Question(ANSWERS[name], weights, biases)


def fit_second(photos: Labelled, units: dict[str, np.ndarray]) -> dict[str, Question]:
    """The second opinions, on what first opinions say of photos that they were not fitted on; the mean of all passes.

    Wolpert, "Stacked generalization", Neural Networks 5, 1992; the mean of fits on other draws: Breiman, "Bagging
    predictors", Machine Learning 24, 1996. The mean of linear opinions is one linear opinion, and costs no more.
    """
    passes: dict[str, list[Question]] = {name: [] for name in SECOND}
    for seed in range(PASSES):
        others = photos._replace(features=unseen_opinions(photos, units, seed))
        scale = 1 / (others.features.std(axis=0) + 1e-9)
        for name, strength in SECOND.items():
            passes[name].append(averaged(name, fit_question(name, strength, others, scale)))
    return {name: mean_of(fitted) for name, fitted in passes.items()}


def unseen_opinions(photos: Labelled, units: dict[str, np.ndarray], seed: int) -> np.ndarray:
    """(n, h): what is `heard` of each photo from first opinions that were fitted on the other folds."""
    said = np.zeros((len(photos.weight), sum(len(ANSWERS[name]) for name in HEARD)))
    for seen, unseen in KFold(FOLDS, shuffle=True, random_state=seed).split(said):
        known, features = photos.only(seen), photos.features[unseen]
        first = {name: fit_question(name, FITS[name].strength, known, units[name]) for name in HEARD}
        said[unseen] = heard({name: log_probability(question, features) for name, question in first.items()})
    return said


def mean_of(fitted: list[Question]) -> Question:
    """One question with the mean weights and biases of fits of the same question."""
    weights, biases = (np.mean([getattr(each, part) for each in fitted], axis=0) for part in ("weights", "biases"))
    return Question(fitted[0].answers, weights, biases)


def averaged(name: str, second: Question) -> Question:
    """The mean of the second opinion and the first, which is among what the second one heard."""
    heard_answers = [(asked, answer) for asked in HEARD for answer in ANSWERS[asked]]
    first = np.array([[pair == (name, answer) for answer in second.answers] for pair in heard_answers], dtype=float)
    return Question(second.answers, (first + second.weights) / 2, second.biases / 2)


def true_answers(truth: pd.DataFrame) -> dict[str, np.ndarray]:
    """Question -> the expert's answer, (n,) text."""
    count = truth["object_count"]
    reason = truth["reason"].where(truth["reason"] != "", "keep")
    answers = {
        "background": truth["background"],
        "object_count": count.where(~count.isin(["2", "3", "4"]), "2-4"),
        "illumination": truth["illumination"],
        "overlay": truth["overlay"],
        "reason": reason.where(reason.isin(ANSWERS["reason"]), "other"),
    }
    answers["overlay_pixels"] = answers["overlay"]
    return {name: column.to_numpy(dtype=object) for name, column in answers.items()}


def agreement(title: str, truth: pd.DataFrame, scores: pd.DataFrame, suffix: str) -> dict[str, float | list[float]]:
    """Print AUROC with its 95 % interval, by class and on the doubtful rows; return the figures by key."""
    result: dict[str, float | list[float]] = {}
    sure, rows = is_sure(truth), []
    for name, (yes, no) in questions(truth).items():
        column = name.split()[0]
        if column not in scores or not (yes & sure).any() or not (no & sure).any():
            continue
        auroc, low, high = bootstrap(scores.loc[yes & sure, column], scores.loc[no & sure, column])
        doubtful = auroc_of(scores.loc[yes & ~sure, column], scores.loc[no & ~sure, column])
        classes = [truth["label"] == label for label in sorted(truth["label"].unique())]
        of_class = [auroc_of(scores.loc[yes & sure & c, column], scores.loc[no & sure & c, column]) for c in classes]
        counts = f"{(yes & sure).sum()} : {(no & sure).sum()}"
        by_class = " ".join("-" if np.isnan(a) else f"{a:.3f}" for a in of_class)
        rows.append(
            (
                name,
                f"{auroc:.3f}",
                f"{low:.3f} to {high:.3f}",
                counts,
                by_class,
                "-" if np.isnan(doubtful) else f"{doubtful:.3f}",
            )
        )
        if key := KEYS.get(name):
            key = key.replace("_auroc", f"{suffix}_auroc")
            result |= {key: round(auroc, 4), f"{key}_interval": [round(low, 4), round(high, 4)]}
            result |= {} if np.isnan(doubtful) else {f"{key}_doubtful": round(doubtful, 4)}
    print_table((title, "AUROC", "95 % interval", "yes : no", "by class", "doubtful rows"), rows)
    return result | (accuracies(truth, scores, suffix) if "background_kind" in scores else {})


def accuracies(truth: pd.DataFrame, scores: pd.DataFrame, suffix: str) -> dict[str, float | list[float]]:
    """Of the kind of background and the number of objects, among the sure rows."""
    sure, answers, result = is_sure(truth), true_answers(truth), {}
    for column, question in (("background_kind", "background"), ("object_count", "object_count")):
        given, expert = scores[column][sure], pd.Series(answers[question])[sure]
        print(pd.crosstab(expert, given, rownames=[question], colnames=["measured"]))
        low, high = resampled((given == expert).to_numpy(dtype=float))
        key, accuracy = f"{column}{suffix}_accuracy", float((given == expert).mean())
        print(f"  {key} {accuracy:.3f} [{low:.3f}, {high:.3f}]")
        result |= {key: round(accuracy, 4), f"{key}_interval": [round(low, 4), round(high, 4)]}
    return result


def calibration(truth: pd.DataFrame, reject: pd.Series) -> dict[str, float]:
    """Mean distance between the probability of a rejection and its frequency, in tenths of the photos."""
    bad = (truth["verdict"] == "reject").to_numpy(dtype=float)
    tenth = reject.rank(method="first", pct=True).mul(10).clip(upper=9.999).astype(int).to_numpy()
    gaps = [abs(reject[tenth == i].mean() - bad[tenth == i].mean()) for i in range(10) if (tenth == i).any()]
    print(f"  expected calibration error of reject: {np.mean(gaps):.3f}")
    return {"reject_calibration_error": round(float(np.mean(gaps)), 4)}


def beside_cleanvision(photos: Photos, pixels: pd.DataFrame, concepts: pd.DataFrame | None) -> dict[str, float]:
    """AUROC of CleanVision's dark, light and blurry against what an expert calls dark, bright and of low quality."""
    truth, sure, rows, result = photos.truth, is_sure(photos.truth), [], {}
    ok, keep = truth["illumination"] == "ok", truth["verdict"] == "keep"
    ours = {"pixels": pixels["illumination"]} | ({} if concepts is None else {"concepts": concepts["illumination"]})
    quality = {} if concepts is None else {"concepts": concepts["low_quality"]}
    asked = (
        ("dark", truth["illumination"] == "dark", ok, ours),
        ("light", truth["illumination"] == "bright", ok, ours),
        ("blurry", truth["reason"] == "low_quality", keep, quality),
    )
    for name, yes, no, own in asked:
        for who, scores in {"cleanvision": -photos.cleanvision[name], **own}.items():
            auroc = auroc_of(scores[yes & sure], scores[no & sure])
            rows.append((name, who, f"{auroc:.3f}", f"{(yes & sure).sum()} : {(no & sure).sum()}"))
            result[f"{name}_{who}_auroc"] = round(auroc, 4)
    for who, scores in {"cleanvision": -photos.cleanvision[["dark", "light"]].min(axis=1), **ours}.items():
        rows.append(("any fault", who, f"{auroc_of(scores[~ok & sure], scores[ok & sure]):.3f}", ""))
    print_table(("fault", "by", "AUROC", "yes : no"), rows)
    return {name: value for name, value in result.items() if not np.isnan(value)}


def auroc_of(yes: pd.Series, no: pd.Series) -> float:
    if not len(yes) or not len(no):
        return float("nan")
    return float(roc_auc_score(np.r_[np.ones(len(yes)), np.zeros(len(no))], np.r_[yes, no]))


def bootstrap(yes: pd.Series, no: pd.Series, rounds: int = 200) -> tuple[float, float, float]:
    """AUROC, and the 2.5th and 97.5th percentile over resampled photos."""
    rng = np.random.default_rng(0)
    yes, no = yes.to_numpy(), no.to_numpy()
    draws = [auroc_of(rng.choice(yes, len(yes)), rng.choice(no, len(no))) for _ in range(rounds)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return auroc_of(yes, no), float(low), float(high)


def resampled(values: np.ndarray, rounds: int = 1000) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the mean over resampled values."""
    rng = np.random.default_rng(0)
    low, high = np.percentile(rng.choice(values, (rounds, len(values))).mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def print_thresholds(truth: pd.DataFrame, measures: pd.DataFrame, scores: pd.DataFrame) -> None:
    """Share of the clear keepers, and of the clear rejects, that each threshold flags."""
    sure = is_sure(truth)
    keep, reject = sure & (truth["verdict"] == "keep"), sure & (truth["verdict"] == "reject")
    told = scores.rename(columns=COLUMN_OF)
    told = told.loc[:, ~told.columns.duplicated()]
    for name, (column, above, limit, _, _) in THRESHOLDS.items():
        if column not in told and column not in measures:
            continue
        values = told[column] if column in told else measures[column]
        beyond = values > limit if above else values < limit
        at_5 = values[keep].quantile(0.95 if above else 0.05)
        print(
            f"  {name:18} {column} {'>' if above else '<'} {limit:g}: flags {beyond[keep].mean():.1%} of keepers, "
            f"{beyond[reject].mean():.1%} of rejects (5 % of keepers at {at_5:.3g})"
        )


def write_weights(photos: Photos, embeddings: np.ndarray | None, key: str) -> None:
    """Fit on all the photos: `cue_weights.py`, and with embeddings `concept_weights.npz`, in the package."""
    package = Path(curate.__file__).parent
    (package / "cue_weights.py").write_text(fitted_module(photos.truth, photos.cues), encoding="utf-8")
    if embeddings is None:
        return
    concepts = fit_concepts(photos.truth, photos.cues, embeddings, key)
    questions = concepts.questions | {f"second.{name}": question for name, question in concepts.second.items()}
    kept = {name: value for name, value in concepts._asdict().items() if name not in ("questions", "second")}
    arrays = {name: np.array(value) for name, value in kept.items()}
    arrays |= {name: arrays[name].astype(np.float16) for name in ("centre", "axes", "landmarks")}
    for name, question in questions.items():
        arrays[f"{name}.answers"] = np.array(question.answers, dtype="U")
        arrays[f"{name}.weights"] = question.weights.astype(np.float32)
        arrays[f"{name}.biases"] = question.biases.astype(np.float32)
    np.savez_compressed(package / "concept_weights.npz", **arrays)


def fitted_module(truth: pd.DataFrame, cues: pd.DataFrame) -> str:
    """Source of `curate/cue_weights.py`, fitted on all the photos."""
    columns = pixel_columns(cues)
    mean, deviation = columns.mean(), columns.std()
    scaled = ((columns - mean) / deviation).clip(-3, 3)
    models = {name: fit(name, truth, scaled) for name in STRENGTHS}
    lines = [
        '"""Logistic regressions on the cues of `curate.cues`: made by `python -m benchmarks.artifacts --fit`."""',
        "",
        f"FITTED_ON = ({', '.join(json.dumps(label) for label in sorted(set(truth['label'])))})",
        "INTERCEPTS = {",
        *(f'    "{name}": {model.intercept_[0]:.3f},' for name, model in models.items()),
        "}",
        "CUES = {  # name: mean, standard deviation, then the weight in each model, in the order of INTERCEPTS",
    ]
    for i, cue in enumerate(columns):
        weights = ", ".join(f"{model.coef_[0][i]:.3f}" for model in models.values())
        lines.append(f'    "{cue}": ({mean[cue]:.4g}, {deviation[cue]:.4g}, {weights}),')
    return "\n".join([*lines, "}", ""])


if __name__ == "__main__":
    main()
