"""Colours of lights and shadows."""

import numpy as np
import pytest

from curate.foreground import quantile, ranked
from curate.tones import tone_cues


def grey_ramp():
    """From black to white, left to right, (64, 128, 3) uint8."""
    return np.repeat(np.tile(np.linspace(0, 255, 128).astype(np.uint8), (64, 1))[..., None], 3, axis=2)


def test_grey_in_white_light_has_no_tone():
    cues = tone_cues(grey_ramp())
    colours = [value for name, value in cues.items() if name not in ("tone_highest", "tone_high")]
    np.testing.assert_allclose(colours, 0, atol=0.2)
    assert cues["tone_high"] == pytest.approx(0.9 * 255, abs=3)


def test_warm_lights_and_blue_shadows_are_told_apart():
    picture = grey_ramp().astype(float)
    picture[:, 96:] *= (1, 0.9, 0.7)
    picture[:, 16:48] *= (0.7, 0.85, 1)
    picture[:, :16] = (10, 15, 30)
    cues = tone_cues(picture.astype(np.uint8))
    assert cues["tone_light_b"] > 10
    assert cues["tone_shadow_b"] < -3
    assert cues["tone_red_high"] > 0.05 > 0 > cues["tone_red_low"]
    assert cues["tone_blue_high"] > 0.1 > -0.1 > cues["tone_blue_low"]


@pytest.mark.parametrize("level", [0, 255])
def test_a_picture_of_one_level_has_finite_cues(level):
    assert np.isfinite(list(tone_cues(np.full((20, 30, 3), level, np.uint8)).values())).all()


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.97, 1])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (7, 9), (40, 31)])
def test_the_quantiles_are_those_of_numpy(share, shape):
    levels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    even = levels % 2 == 0 if shape[0] > 1 else levels >= 0
    assert quantile(levels, share) == pytest.approx(np.quantile(levels, share))
    assert quantile(levels, share, even.view(np.uint8)) == pytest.approx(np.quantile(levels[even], share))
    assert ranked(levels / np.float32(7), share) == pytest.approx(np.quantile(levels / 7, share))
