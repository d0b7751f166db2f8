"""The light, the sharpness and the compression of pictures whose fault is known, because it was put there."""

import cv2
import numpy as np
import pytest

from curate.foreground import to_lab
from curate.lighting import (
    blockiness,
    clipped,
    edge_blur,
    highlight,
    lies_on_all,
    light_field,
    middle,
    white_point,
)


def scene(side: int = 128) -> np.ndarray:
    """Grey and brown patches of many sizes in even light, with a few white ones: (side, side, 3) uint8."""
    rng = np.random.default_rng(0)
    canvas = np.full((side, side, 3), 110, np.uint8)
    for _ in range(160):
        centre, radius = rng.integers(0, side, 2).tolist(), int(rng.integers(2, side // 8))
        colour = rng.integers(50, 190) + np.array([12, 0, -12])
        cv2.circle(canvas, centre, radius, colour.tolist(), -1)
    for x, y in rng.integers(0, side - 4, (6, 2)):
        canvas[y : y + 4, x : x + 4] = 250
    return canvas


def multiplied(rgb: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return np.clip(rgb * gain + 0.5, 0, 255).astype(np.uint8)


def white_point_of(rgb: np.ndarray) -> float:
    return white_point(rgb, rgb, to_lab(rgb))


def grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y, 1 in the corners of the diagonal's length: r = 1 there."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j] / np.sqrt(2)
    return x, y


def test_the_highlight_is_the_95th_percentile_of_the_largest_channel():
    picture = np.zeros((10, 10, 3), np.uint8)
    picture[..., 2] = np.arange(100).reshape(10, 10)  # blue alone, 0 to 99
    assert highlight(picture) == pytest.approx(94, abs=1)
    assert highlight(multiplied(scene(), np.array(0.4))) <= 102


def test_a_white_background_is_not_clipped_and_a_burnt_stone_is():
    picture = np.full((80, 80, 3), 255, np.uint8)
    mask = np.zeros((80, 80), bool)
    mask[20:60, 20:60] = True
    picture[mask] = 128
    calm = np.zeros((80, 80))
    assert clipped(picture, mask, calm) == 0
    picture[20:40, 20:60] = (255, 240, 200)  # one channel is enough
    assert clipped(picture, mask, calm) == pytest.approx(0.5 / 3)
    rough = np.where(mask, 2.0, 0.0)
    assert clipped(picture, mask, rough) == pytest.approx(0.5)


@pytest.mark.parametrize("stops", [1.0, 2.0])
def test_vignetting_is_measured_in_stops_and_even_light_has_none(stops):
    x, y = grid(128)
    falloff = (1 + x * x + y * y) ** -stops
    assert light_field(scene())[0] == pytest.approx(0, abs=0.2)
    assert light_field(multiplied(scene(), falloff[..., None]))[0] == pytest.approx(stops, abs=0.3)


def test_light_from_one_side_is_a_slope_and_no_vignetting():
    x, _ = grid(128)
    vignetting, slope = light_field(multiplied(scene(), 2 ** (-0.3 + 1.2 * x)[..., None]))
    assert slope == pytest.approx(1.2, abs=0.25)
    assert vignetting == pytest.approx(0, abs=0.4)


def test_a_stone_on_black_is_not_vignetted():
    """Its own shading towards its outline says nothing of the light in the corners, which are black."""
    x, y = grid(128)
    lit = np.where(np.hypot(x, y) < 0.45, 1 - 1.8 * (x * x + y * y), 0)
    assert light_field(multiplied(np.full((128, 128, 3), 200, np.uint8), lit[..., None])) == (0, 0)


@pytest.mark.parametrize("gains", [(1.3, 1, 0.7), (0.7, 1, 1.3), (0.8, 1.2, 0.8)])
def test_a_cast_moves_the_white_point_and_a_coloured_rock_does_not(gains):
    brown = multiplied(scene(), np.array([1, 0.8, 0.6]))
    brown[scene() == 250] = 250  # glints
    assert white_point_of(brown) < 0.1
    assert white_point_of(multiplied(brown, np.array(gains))) > 0.3


def test_what_holds_much_grey_has_no_cast_though_it_has_no_highlight():
    grey = np.full((64, 64, 3), 120, np.uint8)
    grey[:40] = (150, 100, 60)
    assert white_point_of(grey) == 0


def stone_before(ground: tuple[int, int, int], stone: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A stone of one colour in the middle of a ground of another, of levels 60 to 100 % of them; and its mask."""
    mask = np.zeros((96, 128), bool)
    mask[20:76, 30:98] = True
    grain = np.random.default_rng(0).uniform(0.6, 1, (96, 128, 1))
    return (np.where(mask[..., None], stone, ground) * grain).astype(np.uint8), mask


@pytest.mark.parametrize("gains", [(1.3, 1, 0.7), (0.7, 1, 1.3), (0.8, 1.2, 0.8)])
def test_a_cast_lies_on_the_stone_and_on_what_is_around_it(gains):
    picture, mask = stone_before((180, 180, 180), (110, 108, 104))
    assert lies_on_all(multiplied(picture, np.array(gains)), mask)
    assert lies_on_all(multiplied(picture, np.array(gains)), np.ones_like(mask))


def test_a_brown_stone_on_blue_paper_and_a_grey_one_on_brown_ground_have_no_cast():
    assert not lies_on_all(*stone_before((150, 168, 184), (150, 100, 60)))
    assert not lies_on_all(*stone_before((200, 150, 110), (112, 110, 116)))


def test_a_yellow_that_red_and_green_share_is_no_lamp():
    picture, mask = stone_before((160, 170, 95), (165, 170, 90))  # olivine on moss
    assert not lies_on_all(picture, np.ones_like(mask))
    assert lies_on_all(*stone_before((190, 150, 105), (185, 140, 100)))  # a tungsten lamp


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_burnt_pictures_tell_nothing_of_the_light(level):
    assert lies_on_all(np.full((40, 50, 3), level, np.uint8), np.ones((40, 50), bool))


@pytest.mark.parametrize("sigma", [1.5, 2.0, 3.0])
def test_the_blur_of_edges_is_measured_in_pixels(sigma):
    steps = np.full((200, 200, 3), 60, np.uint8)
    steps[:, 100:] = 180
    steps[100:] = 255 - steps[100:]
    soft = cv2.GaussianBlur(steps, (0, 0), sigma)
    assert edge_blur(middle(soft)) == pytest.approx(sigma, rel=0.2)
    assert edge_blur(middle(steps)) < 0.9


def test_what_has_no_edges_counts_as_blurred():
    assert edge_blur(np.full((50, 50), 90, np.uint8)) == 9
    assert edge_blur(np.zeros((3, 3), np.uint8)) == 9


@pytest.mark.parametrize("crop", [0, 3])
def test_a_strongly_compressed_picture_shows_its_blocks_wherever_they_begin(crop):
    noise = np.random.default_rng(0).normal(0, 30, (160, 160)).astype(np.float32)
    smooth = np.clip(128 + 3 * cv2.GaussianBlur(noise, (0, 0), 3), 0, 255).astype(np.uint8)
    coarse = cv2.imdecode(cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 8])[1], cv2.IMREAD_GRAYSCALE)
    assert blockiness(smooth) < 1.3
    assert blockiness(np.ascontiguousarray(coarse[crop:, crop:])) > 1.8
    assert blockiness(np.zeros((5, 5), np.uint8)) == 1
