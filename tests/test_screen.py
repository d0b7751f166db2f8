import numpy as np

from curate.screen import crowd_distance, reject_probability, suspicion


def two_kinds(n: int = 60, dims: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """(n, dims) embeddings of two kinds of image, and which are bad."""
    rng = np.random.default_rng(0)
    bad = np.arange(n) % 3 == 0
    return rng.normal(0, 1, (n, dims)) + 3 * np.where(bad[:, None], np.eye(dims)[0], np.eye(dims)[1]), bad


def test_the_screen_learns_from_decisions_what_the_reviewer_rejects():
    embeddings, bad = two_kinds()
    verdicts = np.where(np.arange(60) < 30, bad.astype(float), np.nan)
    probability = reject_probability(embeddings, verdicts)
    assert probability is not None
    unseen = np.arange(60) >= 30
    assert probability[unseen & bad].mean() > 0.6
    assert probability[unseen & ~bad].mean() < 0.3


def test_the_screen_says_nothing_before_it_has_seen_both_verdicts():
    embeddings, bad = two_kinds()
    assert reject_probability(embeddings, np.full(60, np.nan)) is None
    assert reject_probability(embeddings, np.where(bad, 1.0, np.nan)) is None


def test_an_image_that_does_not_open_is_rejected_for_sure():
    embeddings, bad = two_kinds()
    embeddings[7] = np.nan
    probability = reject_probability(embeddings, bad.astype(float))
    assert probability is not None
    assert probability[7] == 1.0


def test_what_is_unlike_all_others_is_far_from_the_crowd():
    rng = np.random.default_rng(0)
    embeddings = np.abs(rng.normal(1, 0.1, (100, 8)))
    embeddings[3] = [9, 0, 0, 0, 0, 0, 0, 0]
    assert crowd_distance(embeddings).argmax() == 3


def test_suspicion_is_the_screens_word_once_there_is_one():
    crowd, artifacts = np.array([0.1, 0.9, 0.5]), np.array([0.0, 0.0, 1.0])
    assert suspicion(np.array([0.2, 0.1, 0.7]), crowd, artifacts).tolist() == [0.2, 0.1, 0.7]
    assert suspicion(None, crowd, artifacts).argsort().tolist() == [0, 2, 1]
