"""Choose the images that are good and unlike each other: of what is too much, a varied part stays."""

import numpy as np


def choose_varied(
    quality: np.ndarray, embeddings: np.ndarray | None, number: int, *, weight: float, beside: np.ndarray | None = None
) -> np.ndarray:
    """Pick images one by one, each the best by `quality + weight * novelty` among those left.

    Novelty is half the cosine distance to the nearest image picked before (maximal marginal relevance: Carbonell and
    Goldstein, SIGIR 1998), so a picture much like one that stays is worth less. Time grows with images x picks.

    Args:
        quality: (n,) the higher the better, on the scale of a probability.
        embeddings: (n, d), rows of NaN for images that do not open, which are never novel; None leaves quality alone.
        number: images to pick.
        weight: of novelty against quality.
        beside: (m, d) embeddings of images that stay anyway.

    Returns:
        Indices in the order they were picked, at most `number`; of equal ones the earlier is picked first.
    """
    number = min(max(number, 0), len(quality))
    if embeddings is None or number == 0:
        return np.argsort(-quality, kind="stable")[:number]
    others = np.empty((0, embeddings.shape[1]), embeddings.dtype) if beside is None else beside
    directions = _directions(np.vstack([embeddings, others]))
    mine = directions[: len(quality)]
    novelty = np.where(np.isfinite(embeddings).all(axis=1), 1.0, 0.0)
    for direction in directions[len(quality) :]:
        novelty = np.minimum(novelty, (1 - mine @ direction) / 2)
    picked: list[int] = []
    score = np.asarray(quality, float)
    for _ in range(number):
        best = int(np.argmax(score + weight * novelty))
        picked.append(best)
        novelty = np.minimum(novelty, (1 - mine @ mine[best]) / 2)
        score = np.where(np.arange(len(score)) == best, -np.inf, score)
    return np.array(picked)


def _directions(embeddings: np.ndarray) -> np.ndarray:
    """Signed square roots of unit length, centred, then of unit length again; NaN becomes 0."""
    known = np.nan_to_num(embeddings.astype(np.float64))
    unit = _unit(np.sign(known) * np.sqrt(np.abs(known)))
    return _unit(unit - unit.mean(axis=0))


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)
