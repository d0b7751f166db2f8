"""Lettering found by the small network."""

import cv2
import numpy as np
import pytest
from scipy.signal import correlate2d

from curate.overlay import letter_map, log_odds, networks, overlay_cues, planes_of


def surface(seed=0, shape=(240, 320)):
    """A grey surface with grain of several sizes, (h, w, 3) uint8."""
    rng = np.random.default_rng(seed)
    grain = sum(cv2.GaussianBlur(rng.normal(0, 1, shape), (0, 0), sigma) * 25 * sigma for sigma in (1.0, 2.0, 4.0))
    return np.dstack([np.clip(120 + grain, 0, 255).astype(np.uint8)] * 3)


def lettered(picture, text, at, size, colour, opacity=1.0):
    drawn = cv2.putText(picture.copy(), text, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 2, cv2.LINE_AA)
    return cv2.addWeighted(drawn, opacity, picture, 1 - opacity, 0)


@pytest.mark.parametrize(
    ("text", "at", "size", "colour", "opacity"),
    [
        ("geology.com", (190, 228), 0.6, (255, 255, 255), 1.0),
        ("shuttersnap", (40, 130), 1.2, (255, 255, 255), 0.5),
        ("Fig. 3 Basalt", (20, 40), 0.8, (0, 0, 0), 1.0),
    ],
)
def test_a_caption_or_a_faint_watermark_is_found_and_where_it_is(text, at, size, colour, opacity):
    plain = surface()
    written = lettered(plain, text, at, size, colour, opacity)
    assert overlay_cues(written)["letters_top_24"] > overlay_cues(plain)["letters_top_24"] + 1
    likely = letter_map(written, networks()["all"])
    row, column = np.unravel_index(cv2.blur(likely, (5, 5)).argmax(), likely.shape)
    y, x = 240 * row / likely.shape[0], 320 * column / likely.shape[1]
    assert at[1] - 40 * size < y < at[1] + 10
    assert at[0] - 10 < x < at[0] + 20 * size * len(text)


def test_the_strip_below_and_the_strip_above_are_told_apart():
    below = overlay_cues(lettered(surface(), "photo: J. Smith", (90, 232), 0.6, (255, 255, 255)))
    above = overlay_cues(lettered(surface(), "photo: J. Smith", (90, 22), 0.6, (255, 255, 255)))
    assert below["letters_bottom"] > below["letters_upper"] + 1
    assert above["letters_upper"] > above["letters_bottom"] + 1


def convolved(planes, weight, bias, stride, dilation):
    """As torch's `conv2d` with zeros beyond the frame."""
    side = dilation * (weight.shape[2] - 1) + 1
    spaced = np.zeros((*weight.shape[:2], side, side))
    spaced[..., ::dilation, ::dilation] = weight
    sums = [sum(correlate2d(p, k, "same") for p, k in zip(planes, kernels, strict=True)) for kernels in spaced]
    return np.array(sums)[:, ::stride, ::stride] + bias[:, None, None]


@pytest.mark.parametrize("shape", [(1, 1), (7, 34), (32, 32), (47, 66), (101, 65), (134, 90)])
def test_the_log_odds_are_those_of_six_convolutions(shape):
    network = networks()["all"]
    planes = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    expected = planes
    layers = zip(network.layers, (2, 2, 1, 1, 1, 1), (1, 1, 1, 2, 4, 1), strict=True)
    for number, ((weight, bias), stride, dilation) in enumerate(layers):
        expected = convolved(expected if number == 0 else np.maximum(expected, 0), weight, bias, stride, dilation)
    np.testing.assert_allclose(log_odds(planes, network), expected[0], atol=1e-4)


@pytest.mark.parametrize("shape", [(32, 32), (33, 200), (150, 64)])
def test_what_the_networks_see_is_lightness_and_detail_in_units_of_the_local_contrast(shape):
    grey = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    light = grey / np.float32(255)
    detail = light - cv2.GaussianBlur(light, (0, 0), 4)
    contrast = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), 8))
    expected = [light - 0.5, detail / (contrast + 0.02) * 0.5]
    np.testing.assert_allclose(planes_of(grey), expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (512, 40)])
def test_pictures_of_any_size_have_finite_cues(shape):
    cues = overlay_cues(np.full((*shape, 3), 200, np.uint8))
    assert np.isfinite(list(cues.values())).all()
    assert cues["letters_lines"] == 0


def test_of_every_class_one_network_has_seen_nothing():
    found = networks()
    for label in found["all"].fitted_on:
        assert any(label not in network.fitted_on for network in found.values())
