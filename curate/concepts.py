"""Artifacts told by an embedding: what a picture shows, how many, on what, in what light, with what printed on it.

Five multinomial logistic regressions, one a question, on the embedding of one backbone, on how near it lies to those of
the labelled photos, and on the pixel cues of `curate.artifacts`, `curate.tones` and `curate.overlay`; two more weigh
what those said. Their weights, in `concept_weights.npz`, were fitted on 1050 scraped photos of basalt, granite, marble
and quartzite that an expert labelled, for embeddings by torchvision's MobileNetV2 with its ImageNet weights: 224 x 224
pixels, the last map averaged. `python -m benchmarks.artifacts --fit` makes the file; without `--fit` it says how well
each question is answered on classes that were left out. Nothing is fitted on the user's images.
"""

from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

COLUMN_OF = {  # of the scores
    "multiple": "object_multiple",
    "texture": "background_texture",
    "fill": "background_fill",
    "illumination": "illumination_fault",
    "text": "overlay_text",
    "watermark": "overlay_watermark",
    "off_topic": "off_topic",
    "polished": "polished_product",
    "low_quality": "low_quality",
    "reject": "reject_prior",
    "background_kind": "background_kind",
    "object_count": "object_count",
}
HEARD = ("reason", "object_count", "background")  # the questions whose answers the second opinions are on
NEIGHBOURS = 4  # nearest images that an image shares its `reason` with
_TRUST = 2.0  # what the opinion of an equal image weighs, beside 1 of one's own
_WIDTH = 2.0  # of the kernel, on embeddings of unit length
_SILENT = -12.0  # log-probability below which an answer is as good as impossible
_CLIP = 3.0  # standard deviations beyond which a cue says no more
_TEXTURED, _EVEN, _SEVERAL = ("natural", "cluttered"), ("white", "black", "plain"), ("2-4", "many")

_SCORES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...] | None]] = {  # question, those, against (None: the rest)
    "multiple": ("object_count", _SEVERAL, ("1",)),
    "many": ("object_count", ("many",), ("2-4",)),
    "texture": ("background", _TEXTURED, _EVEN),
    "clutter": ("background", ("cluttered",), ("natural",)),
    "fill": ("background", ("none",), None),
    "illumination": ("illumination", ("bright", "cast", "dark", "uneven"), None),
    "text": ("overlay", ("text",), None),
    "watermark": ("overlay", ("watermark",), None),
    "off_topic": ("reason", ("off_topic",), None),
    "polished": ("reason", ("polished_product",), None),
    "multiple_objects": ("reason", ("multiple_objects",), None),
    "low_quality": ("reason", ("low_quality",), None),
    "reject": ("reason", ("off_topic", "polished_product", "multiple_objects", "low_quality", "other"), None),
}


class Question(NamedTuple):
    """A multinomial logistic regression.

    Attributes:
        answers: k words.
        weights: (d + m + c, k): of the d `centred_roots`, the m `likeness`, the c cues; of a second opinion, (h, k) of
            what is `heard`.
        biases: (k,).
    """

    answers: tuple[str, ...]
    weights: np.ndarray
    biases: np.ndarray


class Concepts(NamedTuple):
    """What was fitted, and on what.

    Attributes:
        backbone: `Backbone.key` of `classify.models`; other embeddings mean something else.
        fitted_on: the classes of the photos.
        centre: (d,) mean of the root-normalised embeddings.
        axes: (d, p) principal axes of embeddings at unit length. landmarks: (m, p) the photos, along these.
        cues: names of the c cues.
        cue_means, cue_deviations: (c,).
        questions: `background`, `object_count`, `illumination`, `overlay` and `reason` (of a rejection); and
            `overlay_pixels`, the same as `overlay` from the cues alone.
        second: the second opinions, that replace the first: of `object_count` and `reason`.
    """

    backbone: str
    fitted_on: tuple[str, ...]
    centre: np.ndarray
    axes: np.ndarray
    landmarks: np.ndarray
    cues: tuple[str, ...]
    cue_means: np.ndarray
    cue_deviations: np.ndarray
    questions: dict[str, Question]
    second: dict[str, Question]


def concept_scores(cues: pd.DataFrame | None, embeddings: np.ndarray, key: str) -> pd.DataFrame | None:
    """Probability of each artifact, by the weights that come with DeepRock.

    Args:
        cues: n rows: the cues of `curate.artifacts.read`, `curate.tones.tone_cues` and `curate.overlay.overlay_cues`;
            a column or value that is missing says nothing, as does None.
        embeddings: (n, d) as `classify.features.embed` gives them; rows of NaN for images that do not open.
        key: the backbone's.

    Returns:
        n rows of what `scores_by` gives; None where the weights are not for this backbone.
    """
    concepts = shipped()
    return scores_by(concepts, cues, embeddings) if key == concepts.backbone else None


def overlay_scores(cues: pd.DataFrame) -> pd.DataFrame:
    """Probability of `text` and of `watermark` from the cues alone, whatever the backbone: n rows of each."""
    return overlay_scores_by(shipped(), cues)


def concept_measures(cues: pd.DataFrame, embeddings: np.ndarray, key: str) -> pd.DataFrame:
    """The audit columns that `concept_scores` tells; of a backbone without weights, those of what is printed on it.

    Args:
        cues: n rows; missing where an image does not open. embeddings, key: as `concept_scores`.
    """
    scores = concept_scores(cues, embeddings, key)
    if scores is None:
        scores = overlay_scores(cues).where(cues.notna().any(axis=1))
    return scores.rename(columns=COLUMN_OF)[[name for old, name in COLUMN_OF.items() if old in scores]]


@cache
def shipped() -> Concepts:
    """The weights in `concept_weights.npz`."""
    with (files("curate") / "concept_weights.npz").open("rb") as file, np.load(file, allow_pickle=False) as stored:
        arrays = dict(stored)
    names = sorted(key.removesuffix(".answers") for key in arrays if key.endswith(".answers"))
    questions = {
        name: Question(
            tuple(arrays[f"{name}.answers"].tolist()),
            arrays[f"{name}.weights"].astype(np.float32),
            arrays[f"{name}.biases"].astype(np.float32),
        )
        for name in names
    }
    second = {name.removeprefix("second."): questions.pop(name) for name in names if name.startswith("second.")}
    return Concepts(
        str(arrays["backbone"]),
        tuple(arrays["fitted_on"].tolist()),
        arrays["centre"].astype(np.float32),
        arrays["axes"].astype(np.float32),
        arrays["landmarks"].astype(np.float32),
        tuple(arrays["cues"].tolist()),
        arrays["cue_means"],
        arrays["cue_deviations"],
        questions,
        second,
    )


def scores_by(concepts: Concepts, cues: pd.DataFrame | None, embeddings: np.ndarray) -> pd.DataFrame:
    """Probabilities (0 to 1), and two words, of each image; missing where the embedding is.

    multiple: several objects rather than one; many: more than four rather than 2 to 4; texture: a natural or cluttered
    background rather than an even one; clutter: cluttered rather than natural; fill: the surface fills the frame;
    illumination: at fault; text, watermark: the picture carries one; reject: an expert would not keep it; off_topic,
    polished, multiple_objects, low_quality: and that is the reason. background_kind, object_count: the likeliest
    answer, as in `curate.columns.COLUMNS`, and "0" where there is no specimen at all.
    """
    usable = np.isfinite(embeddings).all(axis=1)
    scores = pd.DataFrame(np.nan, index=range(len(embeddings)), columns=list(_SCORES), dtype="float64")
    words = pd.DataFrame({"background_kind": [None] * len(embeddings), "object_count": None}, dtype="str")
    if usable.any():
        centred = centred_roots(embeddings[usable], concepts.centre)
        near = likeness(along(embeddings[usable], concepts.axes), concepts.landmarks)
        features = np.hstack([centred, near, _scaled(concepts, cues, usable)])
        answers = {name: log_probability(question, features) for name, question in concepts.questions.items()}
        said = heard(answers)
        answers |= {name: log_probability(question, said) for name, question in concepts.second.items()}
        answers["reason"] = spread(answers["reason"], centred)
        for name, (question, those, others) in _SCORES.items():
            scores.loc[usable, name] = _probability(answers[question], those, others)
        words.loc[usable, "background_kind"] = answers["background"].idxmax(axis=1).to_numpy()
        words.loc[usable, "object_count"] = answers["object_count"].idxmax(axis=1).to_numpy()
    table = pd.concat([scores, words], axis=1)
    return table if cues is None else table.set_axis(cues.index)


def overlay_scores_by(concepts: Concepts, cues: pd.DataFrame) -> pd.DataFrame:
    """As `overlay_scores`, by these weights."""
    asked = concepts.questions["overlay_pixels"]
    of_cues = Question(asked.answers, asked.weights[-len(concepts.cues) :], asked.biases)
    answers = log_probability(of_cues, _scaled(concepts, cues, np.ones(len(cues), bool)))
    parts = {name: _probability(answers, (name,), None) for name in ("text", "watermark")}
    return pd.DataFrame(parts, index=cues.index)


def centred_roots(embeddings: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """(n, d) float32: signed square roots at unit length, less `centre`.

    Perronnin et al., "Improving the Fisher kernel for large-scale image classification", ECCV 2010, section 3.
    """
    return normalize(np.sign(embeddings) * np.sqrt(np.abs(embeddings))).astype(np.float32) - centre


def along(embeddings: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """(n, p) float32: the embeddings, at unit length, along the axes."""
    return (normalize(embeddings) @ axes).astype(np.float32)


def likeness(places: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(n, m) float32: a Gaussian of the distance of each place from each landmark."""
    squared = (places**2).sum(axis=1)[:, None] - 2 * places @ landmarks.T + (landmarks**2).sum(axis=1)
    return np.exp(-_WIDTH * squared.clip(min=0)).astype(np.float32)


def heard(answers: dict[str, pd.DataFrame]) -> np.ndarray:
    """(n, h): the log-probabilities of all answers to the questions of `HEARD`."""
    return np.hstack([answers[name].to_numpy() for name in HEARD]).clip(_SILENT)


def scaled_cues(cues: pd.DataFrame, means: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """(n, c) float32 in standard deviations from the mean, at most `_CLIP`; 0 where missing."""
    scaled = (cues.to_numpy(dtype="float64") - means) / deviations
    return np.nan_to_num(scaled, nan=0.0).clip(-_CLIP, _CLIP).astype(np.float32)


def spread(log_probabilities: pd.DataFrame, features: np.ndarray) -> pd.DataFrame:
    """Let every image share its opinion with the images most like it; images that are like no other keep their own.

    The minimum of a quadratic energy on the graph of nearest images, whose edges weigh twice the third power of the
    cosine (Zhu et al., "Semi-supervised learning using Gaussian fields and harmonic functions", ICML 2003; Zhou et al.,
    "Learning with local and global consistency", NIPS 2003). Time grows with n squared.

    Args:
        log_probabilities: (n, k). features: (n, d), centred.
    """
    own = log_probabilities.to_numpy()
    near = min(NEIGHBOURS, len(own) - 1)
    if near < 1:
        return log_probabilities
    distance, index = NearestNeighbors(n_neighbors=near).fit(normalize(features)).kneighbors()
    weight = _TRUST * (1 - distance**2 / 2).clip(min=0) ** 3
    mixed = own
    for _ in range(10):
        mixed = (own + np.einsum("nk,nka->na", weight, mixed[index])) / (1 + weight.sum(axis=1, keepdims=True))
    return pd.DataFrame(_normalised(mixed), columns=log_probabilities.columns)


def _scaled(concepts: Concepts, cues: pd.DataFrame | None, usable: np.ndarray) -> np.ndarray:
    if cues is None:
        return np.zeros((int(usable.sum()), len(concepts.cues)), np.float32)
    known = cues.reindex(columns=list(concepts.cues))[usable]
    return scaled_cues(known, concepts.cue_means, concepts.cue_deviations)


def log_probability(question: Question, features: np.ndarray) -> pd.DataFrame:
    """(n, k), columns the answers."""
    return pd.DataFrame(_normalised(features @ question.weights + question.biases), columns=list(question.answers))


def _normalised(logits: np.ndarray) -> np.ndarray:
    return logits - np.logaddexp.reduce(logits, axis=1)[:, None]


def _probability(log_p: pd.DataFrame, those: tuple[str, ...], others: tuple[str, ...] | None) -> np.ndarray:
    """Of one of `those` answers, if it is one of those or of the `others`."""
    rest = [answer for answer in log_p if answer not in those] if others is None else list(others)
    yes, no = (np.logaddexp.reduce(log_p[answers].to_numpy(), axis=1) for answers in (list(those), rest))
    return 1 / (1 + np.exp(no - yes))
