"""The screen: what this reviewer's decisions teach about the images not yet decided, why, and which to look at next.

Measured on 1,050 scraped rock photos with an expert's verdicts by `python -m benchmarks.screen`: learning on decisions
drawn by chance in three classes, judging the fourth.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse
from scipy.special import ndtri

from curate.thresholds import artifact_score

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

COMPONENTS = 128  # of the embeddings; 128 and 256 learn as well as all 1,280
CROWD = 60  # nearest images whose mean distance tells how far an image is from the crowd
NEIGHBOURS = 10  # nearest images that an image shares its verdict with; of 5, 10, 15
SPREAD = 0.7  # of an image's score that comes from its neighbours; of 0.3, 0.6, 0.7, 0.8, 0.9
C = 10.0  # inverse L2 penalty; of 5, 10, 20
CLIP = 3.0  # log-odds beyond which an image counts no more towards its neighbours
LEAST_DECISIONS = 5  # of each verdict, before the screen says anything
PLATT_C = 10.0  # inverse L2 penalty of Platt's scaling
FOLDS = 5  # of the cross-validation that calibrates
SURE = 0.1  # probability of the other verdict up to which the screen is sure
PRIOR = "reject_prior"
MEASURES = (  # what the screen sees beside the embedding
    PRIOR,
    "off_topic",
    "polished_product",
    "low_quality",
    "object_multiple",
    "background_texture",
    "background_fill",
    "illumination_fault",
    "overlay_text",
    "overlay_watermark",
)
# The larger a weight, the fewer decisions it takes to follow the feature (the components have unit length together).
PRIOR_WEIGHT, FITTED_WEIGHT, PIXEL_WEIGHT = 0.8, 0.2, 0.1  # of `PRIOR`; of measures beside it; of measures without it
SIZE_WEIGHT, CROWD_WEIGHT = 0.2, 0.1
PRIOR_SHARE = 0.8  # against the distance from the crowd, while there are no decisions
CROWD_SHARE = 0.8  # against the artifacts, while there are neither decisions nor a prior
KEEP = "keep"

Next = Literal["suspicious", "informative", "good"]


class Space(NamedTuple):
    """What the screen sees of a data set: made once by an audit; every refit works on it.

    Attributes:
        usable: (n,) whether the image opened.
        features: (n, p) float32: components of the embedding, then the measures; rows of 0 where it did not open.
        measures: names of the last columns of `features`.
        near: (n, k) rows of the nearest images, -1 where there are fewer.
        likeness: (n, k) float32 cosine of the embeddings' components, cubed; 0 where there are fewer.
    """

    usable: np.ndarray
    features: np.ndarray
    measures: tuple[str, ...]
    near: np.ndarray
    likeness: np.ndarray


class Opinion(NamedTuple):
    """What the screen thinks of each image.

    Attributes:
        probability: (n,) that the reviewer rejects it; 1 where it did not open.
        reason: (n,) the likeliest reason of a rejection; "" where no rejection had one.
        kinds: the verdicts told apart: `KEEP` and the reasons.
        weights: (kinds, p) of the linear model on `Space.features`; biases (kinds,) beside them.
    """

    probability: np.ndarray
    reason: np.ndarray
    kinds: tuple[str, ...]
    weights: np.ndarray
    biases: np.ndarray


class Why(NamedTuple):
    """Why the screen thinks so of one image.

    Attributes:
        nearest: decided rows that look most alike, and their cosine, the most alike first.
        measures: measures that speak for a rejection (> 0) or against it (< 0), in log-odds, the strongest first.
    """

    nearest: list[tuple[int, float]]
    measures: list[tuple[str, float]]


def see(embeddings: np.ndarray, table: pd.DataFrame) -> Space:
    """The space that the screen works in.

    Root-normalised embeddings (signed square root, unit length: Perronnin et al., "Improving the Fisher kernel", ECCV
    2010), centred, their principal components; the mean distance to the nearest images (Ramaswamy et al., "Efficient
    algorithms for mining outliers", SIGMOD 2000); the measures as normal scores of their ranks. Time grows with n
    squared, for the nearest images: 10,000 take a second.

    Args:
        embeddings: (n, d); rows of NaN for images that do not open.
        table: n rows with whatever of `MEASURES`, `width` and `height` there is.
    """
    usable = np.isfinite(embeddings).all(axis=1)
    size = int(usable.sum())
    components = _components(embeddings[usable])
    crowd, near, likeness = _nearest(components)
    weights = dict.fromkeys(MEASURES, FITTED_WEIGHT if PRIOR in table else PIXEL_WEIGHT) | {PRIOR: PRIOR_WEIGHT}
    measured = {name: (table[name], weight) for name, weight in weights.items() if name in table}
    if {"width", "height"} <= set(table):
        measured["shorter_side"] = (table[["width", "height"]].min(axis=1), SIZE_WEIGHT)
    columns = [_normal_scores(values.to_numpy(dtype=float)[usable]) * w for values, w in measured.values()]
    columns.append(_normal_scores(crowd) * CROWD_WEIGHT)
    features = np.zeros((len(embeddings), components.shape[1] + len(columns)), np.float32)
    features[usable] = np.column_stack([components, *columns]) if size else 0
    rows = np.flatnonzero(usable)
    all_near = np.full((len(embeddings), near.shape[1]), -1, np.int32)
    all_likeness = np.zeros(all_near.shape, np.float32)
    all_near[usable], all_likeness[usable] = rows[near] if size else near, likeness
    return Space(usable, features, (*measured, "crowd_distance"), all_near, all_likeness)


def learn(
    space: Space, rejected: np.ndarray, reasons: np.ndarray, graph: scipy.sparse.csr_matrix | None = None
) -> Opinion | None:
    """The screen's opinion after some decisions: well under a second for 10,000 images.

    Multinomial logistic regression tells the images kept from those rejected for each reason; its log-odds are spread
    over the graph of nearest images (Zhou et al., "Learning with local and global consistency", NIPS 2003), and made
    probabilities by Platt's scaling of cross-validated ones ("Probabilistic outputs for support vector machines",
    1999), which weighs `PRIOR` against what was learnt: a reviewer of another taste loses little by it.

    Args:
        space: of `see`.
        rejected: (n,) 1 rejected, 0 accepted, NaN undecided.
        reasons: (n,) the reason of a rejection; "" or missing where there is none.
        graph: `graph_of(space)`, for who learns again and again; a fifth of the time, and most of the memory.

    Returns:
        None while there are fewer than five decisions of either kind.
    """
    decided = np.flatnonzero(space.usable & np.isfinite(rejected))
    verdicts = rejected[decided].astype(int)
    if np.bincount(verdicts, minlength=2).min() < LEAST_DECISIONS:
        return None
    from sklearn.linear_model import LogisticRegression  # loaded by who learns, not by every command
    from sklearn.model_selection import StratifiedKFold

    kinds = np.where(verdicts == 0, KEEP, [reason if isinstance(reason, str) else "" for reason in reasons[decided]])
    graph = graph_of(space) if graph is None else graph
    model = LogisticRegression(C=C, max_iter=1000, tol=1e-3).fit(space.features[decided], kinds)
    weights, biases = _by_kind(model)
    logits = space.features @ weights.T + biases
    scores = [_reject_log_odds(logits, model.classes_)]
    splits = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(decided, verdicts))
    for seen, _ in splits:
        part = LogisticRegression(C=C, max_iter=1000, tol=1e-3).fit(space.features[decided[seen]], kinds[seen])
        w, b = _by_kind(part)
        scores.append(_reject_log_odds(space.features @ w.T + b, part.classes_))
    spread = _spread(graph, np.column_stack(scores))
    unseen = np.empty(len(decided))
    for fold, (_, held_out) in enumerate(splits, 1):
        unseen[held_out] = spread[decided[held_out], fold]
    beside = _prior_of(space)
    said = np.column_stack([spread[:, 0], beside])
    probability = _calibrated(np.column_stack([unseen, beside[decided]]), verdicts, said)
    probability[~space.usable] = 1.0
    return Opinion(probability, _likeliest_reason(logits, model.classes_), tuple(model.classes_), weights, biases)


def suspicion(space: Space, opinion: Opinion | None, table: pd.DataFrame) -> np.ndarray:
    """Order of the review queue, (n,) from 0 to 1.

    The screen's probability as soon as there is one; until then the mean of the ranks of `PRIOR` and of the distance
    from the crowd, or, where the backbone has no prior, of that distance and of how far the measures are beyond their
    limits.
    """
    if opinion is not None:
        return np.clip(opinion.probability, 0.0, 1.0)
    crowd = _ranks(space.features[:, -1])
    if PRIOR in table:
        order = PRIOR_SHARE * _ranks(table[PRIOR].to_numpy(dtype=float)) + (1 - PRIOR_SHARE) * crowd
    else:
        order = CROWD_SHARE * crowd + (1 - CROWD_SHARE) * _ranks(artifact_score(table).to_numpy())
    return np.where(space.usable, order, 1.0)


def certainty(probability: np.ndarray) -> np.ndarray:
    """(n,) probabilities of rejection -> "sure" or "not sure" of each image; "unknown" where there is none (NaN)."""
    known = np.where(np.minimum(probability, 1 - probability) <= SURE, "sure", "not sure")
    return np.where(np.isnan(probability), "unknown", known)


def explain(space: Space, opinion: Opinion, row: int, decided: Sequence[int], *, most: int = 3) -> Why:
    """The decided images most like an image, and the measures that speak loudest (the gradient times the value)."""
    from sklearn.preprocessing import normalize

    parts = space.features.shape[1] - len(space.measures)
    directions = normalize(space.features[:, :parts][[row, *decided]])
    cosines = directions[1:] @ directions[0]
    nearest = [(int(decided[i]), float(cosines[i])) for i in np.argsort(-cosines)[:most]]
    logits = opinion.weights @ space.features[row] + opinion.biases
    keep = opinion.kinds.index(KEEP)
    shares = np.exp(logits - np.delete(logits, keep).max())
    shares[keep] = 0
    direction = (shares / shares.sum()) @ opinion.weights - opinion.weights[keep]
    parts_played = direction[parts:] * space.features[row, parts:]
    order = np.argsort(-np.abs(parts_played))[:most]
    return Why(nearest, [(space.measures[i], float(parts_played[i])) for i in order])


def next_first(suspicion: np.ndarray, what: Next) -> np.ndarray:
    """(n,) indices in the order of review.

    suspicious: the surest bad ones first. good: the surest good ones, which fill a class. informative: those that the
    screen is least sure of (uncertainty sampling: Lewis and Gale, SIGIR 1994).
    """
    key = {"suspicious": -suspicion, "good": suspicion, "informative": np.abs(suspicion - 0.5)}[what]
    return np.argsort(key, kind="stable")


def _components(embeddings: np.ndarray) -> np.ndarray:
    """(n, d) -> (n, at most COMPONENTS) float32."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import normalize

    if len(embeddings) < 2:
        return np.zeros((len(embeddings), 0), np.float32)
    unit = normalize(np.sign(embeddings) * np.sqrt(np.abs(embeddings)))
    number = min(COMPONENTS, *unit.shape)
    pca = PCA(number, svd_solver="randomized" if number < min(unit.shape) else "full", random_state=0)
    return pca.fit_transform(unit.astype(np.float32)).astype(np.float32)


def _nearest(components: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance from the crowd (n,), the nearest rows (n, k), and their likeness (n, k)."""
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import normalize

    others = min(CROWD, len(components) - 1)
    if others < 1:
        return np.zeros(len(components)), np.zeros((len(components), 0), np.int32), np.zeros((len(components), 0))
    distances, rows = NearestNeighbors(n_neighbors=others).fit(components).kneighbors()
    directions = normalize(components)
    k = min(NEIGHBOURS, others)
    cosines = np.einsum("nd,nkd->nk", directions, directions[rows[:, :k]])
    return distances.mean(axis=1), rows[:, :k], np.maximum(cosines, 0) ** 3


def _calibrated(unseen: np.ndarray, verdicts: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(n,) probabilities of rejection of (n, k) scores, by Platt's scaling of those of the decided images.

    A score that few decisions speak against is left out, never turned round.
    """
    from sklearn.linear_model import LogisticRegression

    columns = list(range(unseen.shape[1]))
    while columns:
        platt = LogisticRegression(C=PLATT_C).fit(unseen[:, columns], verdicts)
        slopes = platt.coef_[0]
        if slopes.min() >= 0:
            return platt.predict_proba(scores[:, columns])[:, 1]
        columns.pop(int(slopes.argmin()))
    return np.full(len(scores), verdicts.mean())


def _prior_of(space: Space) -> np.ndarray:
    """(n, 1) normal scores of `PRIOR`; (n, 0) where the backbone has none."""
    if PRIOR not in space.measures:
        return np.zeros((len(space.features), 0), np.float32)
    column = space.features.shape[1] - len(space.measures) + space.measures.index(PRIOR)
    return space.features[:, [column]] / PRIOR_WEIGHT


def graph_of(space: Space) -> scipy.sparse.csr_matrix:
    """The symmetric graph of nearest images, normalised by the degrees of both ends."""
    size, k = space.near.shape
    there = space.near >= 0
    rows = np.repeat(np.arange(size), k)[there.ravel()]
    graph = scipy.sparse.csr_matrix((space.likeness[there], (rows, space.near[there])), shape=(size, size))
    graph = graph.maximum(graph.T)
    scale = scipy.sparse.diags(1 / np.sqrt(np.asarray(graph.sum(axis=1)).ravel() + 1e-9))
    return (scale @ graph @ scale).tocsr()


def _spread(graph: scipy.sparse.csr_matrix, scores: np.ndarray) -> np.ndarray:
    """(n, m) scores, each mixed with those of its neighbours, and theirs, until nothing changes any more."""
    mixed = scores
    for _ in range(20):
        mixed = SPREAD * (graph @ mixed) + (1 - SPREAD) * scores
    return mixed


def _by_kind(model: "LogisticRegression") -> tuple[np.ndarray, np.ndarray]:
    """(kinds, p) weights and (kinds,) biases; scikit-learn keeps one row for two kinds."""
    weights, biases = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        weights, biases = np.vstack([0 * weights, weights]), np.concatenate([0 * biases, biases])
    return weights.astype(np.float32), biases.astype(np.float32)


def _reject_log_odds(logits: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """(n, kinds) -> (n,) log-odds of any rejection against keeping, cut at `CLIP`."""
    kept = kinds == KEEP
    return np.clip(np.logaddexp.reduce(logits[:, ~kept], axis=1) - logits[:, kept][:, 0], -CLIP, CLIP)


def _likeliest_reason(logits: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    reasons = kinds != KEEP
    return kinds[reasons][logits[:, reasons].argmax(axis=1)]


def _normal_scores(values: np.ndarray) -> np.ndarray:
    """(n,) -> (n,) normal scores of the ranks (van der Waerden); 0 where missing."""
    known = np.isfinite(values)
    scores = np.zeros(len(values))
    if known.any():
        scores[known] = ndtri((pd.Series(values[known]).rank().to_numpy() - 0.5) / known.sum())
    return scores


def _ranks(values: np.ndarray) -> np.ndarray:
    return pd.Series(values).rank(pct=True).fillna(1.0).to_numpy()
