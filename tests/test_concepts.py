"""Artifacts told from embedding and cues."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.artifacts import mean_of
from curate.artifacts import read
from curate.columns import COLUMNS
from curate.concepts import (
    Concepts,
    Question,
    concept_scores,
    likeness,
    log_probability,
    overlay_scores_by,
    scores_by,
    shipped,
    spread,
)
from curate.overlay import overlay_cues
from curate.tones import tone_cues

ANSWERS = {
    "background": ("black", "cluttered", "natural", "none", "plain", "white"),
    "illumination": ("bright", "cast", "dark", "ok", "uneven"),
    "object_count": ("0", "1", "2-4", "fill", "many"),
    "overlay": ("none", "text", "watermark"),
    "overlay_pixels": ("none", "text", "watermark"),
    "reason": ("keep", "low_quality", "multiple_objects", "off_topic", "other", "polished_product"),
}


def concepts(near=None, second=None, **logits):
    """Two features and the cue `white`; question -> answer -> (weight of each of the three, bias), else all 0.

    near: `reason` -> weight of the likeness to the one landmark (1, 0); second: the second opinions.
    """
    questions = {}
    for name, answers in ANSWERS.items():
        rows = np.array([logits.get(name, {}).get(answer, (0, 0, 0, 0)) for answer in answers], np.float32)
        alike = [(near or {}).get(answer, 0) if name == "reason" else 0 for answer in answers]
        questions[name] = Question(answers, np.vstack([rows[:, :2].T, alike, rows[:, 2]]), rows[:, 3])
    space = {"centre": np.zeros(2), "axes": np.eye(2), "landmarks": np.array([[1.0, 0.0]])}
    cues = {"cues": ("white",), "cue_means": np.array([0.5]), "cue_deviations": np.array([0.25])}
    return Concepts("trunk", ("basalt",), **space, **cues, questions=questions, second=second or {})


def test_a_probability_is_the_softmax_of_weighted_roots_and_scaled_cues():
    """(9, -16) has the roots (3, -4), at unit length (0.6, -0.8); `white` 0.75 lies one deviation above its mean."""
    fitted = concepts(overlay={"text": (1, 0.5, 2, -1)})
    scores = scores_by(fitted, pd.DataFrame({"white": [0.75]}), np.array([[9.0, -16.0]]))
    odds = np.exp(0.6 - 0.4 + 2 - 1)
    assert scores["text"][0] == pytest.approx(odds / (odds + 2), rel=1e-5)
    assert scores["watermark"][0] == pytest.approx(1 / (odds + 2), rel=1e-5)


def test_an_image_like_a_labelled_one_is_judged_as_that_one():
    """Unit vectors at a right angle are sqrt(2) apart: their likeness is exp(-2 * 2)."""
    places = np.array([[1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(likeness(places, places[:1])[:, 0], [1, np.exp(-4)], rtol=1e-6)
    scores = scores_by(concepts(near={"off_topic": 3}), None, np.array([[5.0, 0], [0, 5.0]]))["off_topic"]
    assert scores[0] == pytest.approx(np.exp(3) / (np.exp(3) + 5), rel=1e-5)
    assert scores[1] == pytest.approx(np.exp(3 * np.exp(-4)) / (np.exp(3 * np.exp(-4)) + 5), rel=1e-5)


def test_a_second_opinion_on_a_reason_hears_how_many_objects_there_are():
    weights = np.zeros((17, 6))  # heard: 6 of the reason, 5 of the count, 6 of the background
    weights[6, 3] = -1.0  # no specimen at all -> off_topic
    second = {"reason": Question(ANSWERS["reason"], weights, np.zeros(6))}
    fitted = concepts(second=second, reason={"keep": (0, 0, 0, 9)}, object_count={"0": (0, 0, 0, np.log(4))})
    odds = 1 / 0.5  # of the log-probability -log(2) of "0"
    assert scores_by(fitted, None, np.ones((1, 2)))["off_topic"][0] == pytest.approx(odds / (odds + 5))


def test_the_mean_of_several_fits_is_one_question_with_the_mean_of_their_odds():
    one, other = (Question(("keep", "off_topic"), np.diag(odds), np.array(odds)) for odds in ([1.0, 3.0], [2.0, -1.0]))
    features = np.array([[1.0, 2.0], [-1.0, 0.5]])
    logits = (features @ one.weights + one.biases + features @ other.weights + other.biases) / 2
    mean = log_probability(mean_of([one, other]), features)
    np.testing.assert_allclose(mean, logits - np.logaddexp.reduce(logits, axis=1)[:, None])


def test_several_are_weighed_against_one_and_an_even_background_against_a_textured_one():
    fitted = concepts(
        object_count={"many": (0, 0, 0, np.log(3)), "fill": (0, 0, 0, 9)},
        background={"natural": (0, 0, 0, np.log(4)), "none": (0, 0, 0, -9)},
    )
    scores = scores_by(fitted, None, np.ones((1, 2)))
    assert scores["multiple"][0] == pytest.approx((1 + 3) / (1 + 3 + 1))
    assert scores["many"][0] == pytest.approx(3 / 4)
    assert scores["texture"][0] == pytest.approx((4 + 1) / (4 + 1 + 3))
    assert scores["clutter"][0] == pytest.approx(1 / 5)
    assert (scores["object_count"][0], scores["background_kind"][0]) == ("fill", "natural")


def test_what_did_not_open_is_missing_and_an_unknown_cue_says_nothing():
    fitted = concepts(overlay={"text": (0, 0, 2, 0)})
    cues = pd.DataFrame({"white": [1.0, np.nan, np.nan]}, index=[7, 8, 9])
    scores = scores_by(fitted, cues, np.array([[1.0, 1], [1, 1], [np.nan, np.nan]]))
    assert scores.index.tolist() == [7, 8, 9]
    assert scores["text"][7] > 0.9
    assert scores["text"][8] == pytest.approx(1 / 3)
    assert scores.loc[9].isna().all()
    assert scores_by(fitted, None, np.full((2, 2), np.nan)).isna().all().all()


def test_images_alike_share_their_opinion_and_an_image_like_no_other_keeps_its_own():
    features = np.array([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]])
    own = pd.DataFrame(np.log([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]), columns=["keep", "off_topic"])
    shared = np.exp(spread(own, features))
    assert 0.5 < shared["keep"][1] < shared["keep"][0] < 0.9
    assert shared["keep"][2] == pytest.approx(0.2)
    np.testing.assert_allclose(shared.sum(axis=1), 1)
    pd.testing.assert_frame_equal(spread(own[:1], features[:1]), own[:1])


def test_lettering_is_told_without_an_embedding():
    fitted = concepts(overlay_pixels={"text": (9, 9, 2, 0)}, overlay={"watermark": (0, 0, 0, 9)})
    scores = overlay_scores_by(fitted, pd.DataFrame({"white": [0.75, 0.5]}, index=[3, 4]))
    assert scores["text"].tolist() == pytest.approx([np.exp(2) / (np.exp(2) + 2), 1 / 3])
    assert scores["watermark"].tolist() == pytest.approx([1 / (np.exp(2) + 2), 1 / 3])


def test_weights_of_another_backbone_say_nothing():
    assert concept_scores(None, np.ones((1, 1280)), "resnet18-224-0123456789abcdef") is None


def test_the_weights_that_come_with_it_ask_for_cues_that_are_measured_and_give_words_of_the_manifest():
    fitted = shipped()
    picture = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    cues = pd.DataFrame([{**read(picture).cues, **tone_cues(picture), **overlay_cues(picture)}])
    assert set(fitted.cues) <= set(cues)
    embeddings = np.abs(np.random.default_rng(1).normal(size=(1, len(fitted.centre))))
    scores = concept_scores(cues, embeddings, fitted.backbone)
    probabilities = scores.drop(columns=["background_kind", "object_count"]).to_numpy()
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert set(fitted.questions["background"].answers) == set(COLUMNS["background_kind"].values)
    assert set(fitted.questions["object_count"].answers) >= {"1", "2-4", "many", "fill"}
    assert {name: question.answers for name, question in fitted.questions.items()} == ANSWERS
