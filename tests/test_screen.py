import numpy as np
import pandas as pd
import pytest

from curate.screen import PRIOR, certainty, explain, learn, next_first, see, suspicion


def two_kinds(n: int = 80, dims: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, dims) embeddings of images kept and rejected for one of two reasons; which are bad; why."""
    rng = np.random.default_rng(0)
    kind = np.arange(n) % 4  # 0 bad, 1 bad in another way, 2 and 3 good
    embeddings = rng.normal(0, 0.5, (n, dims)) + 4 * np.eye(dims)[np.minimum(kind, 2)]
    reasons = np.array(["off_topic", "multiple_objects", "", ""], dtype=object)[kind]
    return embeddings, kind < 2, reasons


def opinion_after(decided: int, n: int = 80):
    embeddings, bad, reasons = two_kinds(n)
    space = see(embeddings, pd.DataFrame(index=range(n)))
    verdicts = np.where(np.arange(n) < decided, bad.astype(float), np.nan)
    return space, learn(space, verdicts, reasons), bad, reasons


def test_the_screen_learns_what_the_reviewer_rejects_and_for_which_reason():
    _, opinion, bad, reasons = opinion_after(40)
    unseen = np.arange(80) >= 40
    assert opinion.probability[unseen & bad].mean() > 0.8
    assert opinion.probability[unseen & ~bad].mean() < 0.2
    assert (opinion.reason == reasons)[unseen & bad].mean() > 0.9


def test_the_screen_says_nothing_before_it_has_seen_five_of_both_verdicts():
    assert opinion_after(8)[1] is None
    assert opinion_after(12)[1] is not None
    embeddings, bad, reasons = two_kinds()
    space = see(embeddings, pd.DataFrame(index=range(80)))
    assert learn(space, np.where(bad, 1.0, np.nan), reasons) is None


def test_rejections_without_a_reason_are_learnt_from_too():
    embeddings, bad, _ = two_kinds()
    space = see(embeddings, pd.DataFrame(index=range(80)))
    opinion = learn(space, bad.astype(float), np.full(80, np.nan, dtype=object))
    assert opinion.probability[bad].mean() > opinion.probability[~bad].mean() + 0.5
    assert set(opinion.reason) == {""}


def test_an_image_that_does_not_open_is_rejected_for_sure():
    embeddings, bad, reasons = two_kinds()
    embeddings[7] = np.nan
    table = pd.DataFrame({PRIOR: np.linspace(0, 1, 80)})
    space = see(embeddings, table)
    opinion = learn(space, bad.astype(float), reasons)
    assert opinion.probability[7] == 1.0
    assert suspicion(space, opinion, table)[7] == suspicion(space, None, table)[7] == 1.0


def test_probabilities_are_calibrated_on_what_is_as_mixed_as_the_decisions():
    """One image in four of each kind cannot be told from the other kind: the screen says so."""
    rng = np.random.default_rng(1)
    kind = rng.random(1200) < 0.5
    embeddings = rng.normal(0, 0.5, (1200, 8)) + 3 * np.where(kind[:, None], np.eye(8)[0], np.eye(8)[1])
    bad = np.where(rng.random(1200) < 0.25, ~kind, kind)
    space = see(embeddings, pd.DataFrame(index=range(1200)))
    verdicts = np.where(np.arange(1200) < 600, bad.astype(float), np.nan)
    opinion = learn(space, verdicts, np.full(1200, "", dtype=object))
    assert opinion.probability[600:][kind[600:]].mean() == pytest.approx(0.75, abs=0.07)
    assert opinion.probability[600:][~kind[600:]].mean() == pytest.approx(0.25, abs=0.07)


def test_before_any_decision_the_prior_and_the_distance_from_the_crowd_decide():
    rng = np.random.default_rng(0)
    embeddings = np.abs(rng.normal(1, 0.1, (100, 8)))
    embeddings[3] = [9, 0, 0, 0, 0, 0, 0, 0]
    alone = pd.DataFrame(index=range(100))
    assert suspicion(see(embeddings, alone), None, alone).argmax() == 3
    prior = pd.DataFrame({PRIOR: np.where(np.arange(100) == 5, 0.99, 0.1)})
    order = suspicion(see(embeddings, prior), None, prior).argsort()
    assert set(order[-2:]) == {3, 5}


def test_the_screen_is_sure_or_not_and_knows_nothing_before_it_has_learnt():
    said = certainty(np.array([0.05, 0.5, 0.95, 0.2, np.nan]))
    assert said.tolist() == ["sure", "not sure", "sure", "not sure", "unknown"]


def test_an_opinion_is_explained_by_the_decided_images_most_alike_and_the_measures_that_speak():
    embeddings, bad, reasons = two_kinds()
    table = pd.DataFrame({PRIOR: np.where(bad, 0.9, 0.1) + np.linspace(0, 0.05, 80)})
    space = see(embeddings, table)
    opinion = learn(space, np.where(np.arange(80) < 40, bad.astype(float), np.nan), reasons)
    for row in (72, 73, 74):  # off topic, several objects, good
        why = explain(space, opinion, row, range(40))
        assert all(reasons[other] == reasons[row] for other, _ in why.nearest)
        assert why.nearest[0][1] >= why.nearest[-1][1] > 0.3
        assert dict(why.measures)[PRIOR] > 0 if bad[row] else dict(why.measures)[PRIOR] < 0


def test_what_comes_next_is_the_surest_bad_the_surest_good_or_the_least_sure():
    values = np.array([0.9, 0.45, 0.1])
    assert next_first(values, "suspicious").tolist() == [0, 1, 2]
    assert next_first(values, "good").tolist() == [2, 1, 0]
    assert next_first(values, "informative").tolist()[0] == 1


@pytest.mark.parametrize("images", [0, 1, 2, 7])
def test_a_handful_of_images_is_seen_too(images):
    table = pd.DataFrame({"width": [100] * images, "height": [90] * images})
    space = see(np.random.default_rng(0).normal(size=(images, 6)), table)
    assert suspicion(space, None, table).shape == (images,)
    assert learn(space, np.full(images, np.nan), np.full(images, "", dtype=object)) is None
