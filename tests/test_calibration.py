import math

import numpy as np
import pytest

from classify.calibration import (
    calibration_error,
    cross_entropy,
    error_by_chance,
    fit_temperature,
    reliability,
    reliability_figure,
    tempered,
)


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def drawn(logits, seed=0):
    """Labels drawn with the probabilities of the softmax: a model that says these is calibrated."""
    return (softmax(logits).cumsum(1) < np.random.default_rng(seed).random((len(logits), 1))).sum(1)


def test_bins_hold_what_is_above_their_lower_end_and_at_most_their_upper():
    """Three images in the bin (0.8, 0.8667] of which two are right, one at 1.0, one at exactly 0.6 = 9/15."""
    sure = np.array([0.82, 0.84, 0.86, 1.0, 0.6])
    bins = reliability(np.stack([sure, 1 - sure], 1), np.array([0, 0, 1, 0, 1]))
    assert bins["images"].tolist() == [1, 3, 1]
    np.testing.assert_allclose(bins["high"], [9 / 15, 13 / 15, 1])
    np.testing.assert_allclose(bins["confidence"], [0.6, 0.84, 1])
    np.testing.assert_allclose(bins["accuracy"], [0, 2 / 3, 1])
    by_hand = (1 * 0.6 + 3 * (0.84 - 2 / 3) + 1 * 0) / 5
    assert calibration_error(bins) == pytest.approx(by_hand)


def test_a_calibrated_model_has_hardly_any_error_and_one_that_is_too_sure_has():
    logits = np.random.default_rng(1).normal(size=(20000, 4)) * 2
    label = drawn(logits)
    assert calibration_error(reliability(softmax(logits), label)) < 0.02
    assert calibration_error(reliability(softmax(logits * 3), label)) > 0.1


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_what_the_logits_were_multiplied_by(factor):
    logits = np.random.default_rng(1).normal(size=(4000, 4)) * 2
    label = drawn(logits)
    said = softmax(logits * factor)
    temperature = fit_temperature(said, label)
    assert temperature == pytest.approx(factor, rel=0.06)
    assert cross_entropy(tempered(said, temperature), label) <= cross_entropy(said, label)
    assert (tempered(said, temperature).argmax(1) == said.argmax(1)).all()


def test_no_temperature_near_the_fitted_one_is_better():
    logits = np.random.default_rng(3).normal(size=(200, 3)) * 4
    label = drawn(logits / 2)
    said = softmax(logits)
    best = fit_temperature(said, label)
    losses = [cross_entropy(tempered(said, best * change), label) for change in (1, 0.98, 1.02)]
    assert min(losses) == losses[0]


def test_few_images_of_a_calibrated_model_have_an_error_and_it_is_the_one_by_chance():
    logits = np.random.default_rng(1).normal(size=(40, 4)) * 2
    said = softmax(logits)
    seen = np.mean([calibration_error(reliability(said, drawn(logits, seed))) for seed in range(300)])
    assert seen > 0.05
    assert error_by_chance(said) == pytest.approx(seen, rel=0.1)
    assert error_by_chance(np.tile(said, (50, 1))) < 0.03


def test_tempering_divides_the_logits():
    logits = np.array([[2.0, 0.0, -1.0]])
    np.testing.assert_allclose(tempered(softmax(logits), 2.5), softmax(logits / 2.5))
    np.testing.assert_allclose(tempered(softmax(logits), 1.0), softmax(logits))
    certain = tempered(np.array([[1.0, 0.0]], np.float32), 2.0)
    assert certain[0, 0] == pytest.approx(1 / (1 + math.sqrt(1e-12))), "a probability of 0 counts as 1e-12"


@pytest.mark.parametrize("label", [[0, 0, 0], [1, 1, 1]])
def test_images_that_are_all_right_or_all_wrong_determine_no_temperature(label):
    said = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    assert fit_temperature(said, np.array(label)) is None


def test_the_cross_entropy_is_the_mean_of_minus_log_p():
    said = np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]])
    assert cross_entropy(said[:2], np.array([0, 1])) == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert cross_entropy(said[2:], np.array([1])) == pytest.approx(math.log(1e12))


def test_the_diagram_has_the_bins_as_bars():
    sure = np.array([0.82, 0.84, 1.0])
    bins = reliability(np.stack([sure, 1 - sure], 1), np.array([0, 1, 0]))
    figure = reliability_figure({"as it is": bins, "again": bins})
    assert len(figure.axes) == 2
    bars = figure.axes[0].patches
    assert [bar.get_height() for bar in bars] == pytest.approx([0.5, 1.0])
    assert [bar.get_x() for bar in bars] == pytest.approx([12 / 15, 14 / 15])
