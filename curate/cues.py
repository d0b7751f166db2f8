"""Statistics of a small picture from which `curate.artifacts` tells background, objects, lighting and lettering."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np

from curate.foreground import chi_square, colour_bins, histogram, lab_of, quantile, ranked, regions, resized, ring

SIDE = 128  # longer side of the picture, pixels
UNIFORM = 5.0  # CIE76 colour difference from the border's median
GLYPH_CONTRAST = 18.0  # L* units between a stroke and its ground
_LINE, _WIDE, _STROKE = np.ones((1, 9), np.uint8), np.ones((7, 7), np.uint8), np.ones((9, 9), np.uint8)


class View(NamedTuple):
    """One picture, ready to be measured.

    Attributes:
        rgb: (h, w, 3) uint8, longer side `SIDE`.
        lab: (h, w, 3), as CIE Lab.
        levels: L*, a*, b* (h, w) uint8 each, as OpenCV's Lab.
        lightness: (h, w), L* of `lab`.
        flat: (h, w) standard deviation of L* in 3 x 3 pixels.
        border: (h, w) bool, 5 % wide.
        mask: (h, w) bool, the specimen.
        quality: of the mask, 0 to 1.
    """

    rgb: np.ndarray
    lab: np.ndarray
    levels: Sequence[np.ndarray]
    lightness: np.ndarray
    flat: np.ndarray
    border: np.ndarray
    mask: np.ndarray
    quality: float


def view(rgb: np.ndarray, mask: np.ndarray, quality: float) -> View:
    """The picture ((h, w, 3) uint8) and its mask at `SIDE` pixels."""
    rgb = resized(rgb, SIDE)
    levels = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)
    lab = lab_of(levels)
    small = cv2.resize(mask.astype(np.float32), lab.shape[1::-1], interpolation=cv2.INTER_AREA) > 0.5
    lightness = cv2.extractChannel(lab, 0)
    solid = small if small.any() else ~small
    border = ring(*lightness.shape)
    return View(rgb, lab, cv2.split(levels), lightness, _deviation(lightness), border, solid, quality)


def border_cues(v: View) -> dict[str, float]:
    """How calm, bright and even the border is; shares, 0 to 1."""
    lightness, a, b = planes = cv2.split(v.lab)
    white = (lightness > 92) & (cv2.magnitude(a, b) < 6)
    border = v.border.view(np.uint8)
    width = max(2, round(0.05 * max(lightness.shape)))
    sides = (np.s_[:width], np.s_[-width:], np.s_[:, :width], np.s_[:, -width:])
    quarter = len(lightness) // 4
    middle = _medians(v.levels, border)
    return {
        "border_lightness": middle[0],
        "border_chroma": np.hypot(*middle[1:]),
        "border_uniform": uniformity(planes, middle, border),
        "border_flat": share(v.flat < 1, border),
        "border_white": share(white, border),
        "border_black": share(lightness < 15, border),
        "worst_side": min(
            uniformity([plane[side] for plane in planes], _medians([plane[side] for plane in v.levels]))
            for side in sides
        ),
        "top_flat": share(v.flat[:quarter] < 1.5),
        "white": share(white),
        "black": share(lightness < 12),
        "flat": share(v.flat < 2),
    }


def colour_cues(v: View) -> dict[str, float]:
    """What differs in colour between the parts of the picture (chi-square 0 to 1, or Lab units), and what colours."""
    lab, (height, width) = v.lab, v.lab.shape[:2]
    y, x = height // 4, width // 4
    middle = np.s_[y : height - y, x : width - x]
    cells = colour_bins(cv2.merge(v.levels))
    thirds = (cells[: height // 3], cells[-(height // 3) :], cells[:, : width // 3], cells[:, -(width // 3) :])
    top, bottom, left, right = (histogram(part) for part in thirds)
    centre_mean, border_mean = np.array(cv2.mean(lab[middle])), np.array(cv2.mean(lab, v.border.view(np.uint8)))
    flat_centre, flat_border = ranked(v.flat[middle], 0.5), ranked(v.flat[v.border], 0.5)
    means, deviations = cv2.meanStdDev(lab)
    cast = np.hypot(*means[1:, 0])
    _, a, b = v.levels
    return {
        "centre_border": chi_square(histogram(cells[middle]), histogram(cells[v.border])),
        "centre_border_distance": np.linalg.norm(centre_mean - border_mean),
        "centre_border_texture": abs(np.log((flat_centre + 0.5) / (flat_border + 0.5))),
        "top_bottom": chi_square(top, bottom),
        "left_right": chi_square(left, right),
        "green": share((a < 128 - 6) & (b > 128 + 4)),
        "blue": share(b < 128 - 8),
        "cast": cast,
        "tint": cast / (np.hypot(*deviations[1:, 0]) + 2),
    }


def texture_cues(v: View) -> dict[str, float]:
    """At which scale, and how evenly over the frame, the lightness varies; logarithms of L* units, or ratios."""
    lightness = v.lightness
    blurred = [lightness, *(_blurred(lightness, sigma) for sigma in (1, 2, 4, 8, 16))]
    bands = [fine - coarse for fine, coarse in pairwise(blurred)]
    energy = cv2.resize(cv2.blur(bands[2] * bands[2], (15, 15)), (5, 5), interpolation=cv2.INTER_AREA)
    inner = cv2.erode(v.mask.view(np.uint8), _WIDE)
    inner = inner if cv2.countNonZero(inner) > 50 else v.mask.view(np.uint8)
    gaps = _hat(v.levels[0], cv2.MORPH_BLACKHAT, 7)  # in levels of 255
    half = cv2.resize(lightness, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return {
        "band_1": np.log(spread(bands[0]) + 0.5),
        "band_4": np.log(spread(bands[2]) + 0.5),
        "band_16": np.log(spread(bands[4]) + 0.5),
        "band_4_patchy": energy.std() / (energy.mean() + 1),
        "band_2_skew": cv2.mean(bands[1] * bands[1] * bands[1])[0] / (spread(bands[1]) ** 3 + 1),
        "inner_band_4": np.log(spread(lightness - blurred[3], inner) + 0.5),
        "gaps": cv2.mean(gaps)[0] * 100 / 255,
        "inner_gaps": share(gaps > 15 * 255 / 100, inner),
        "bumps": cv2.mean(_hat(half, cv2.MORPH_TOPHAT, 15))[0],
        **_spectrum(lightness),
    }


def edge_cues(v: View) -> dict[str, float]:
    """Straight horizontal and vertical edges (frames, tables, buildings), and what the mask is like."""
    lightness = v.lightness
    dx, dy = (np.abs(cv2.Sobel(lightness, cv2.CV_32F, *order)) / 8 for order in ((1, 0), (0, 1)))
    strong = dx * dx + dy * dy > 25
    straight = np.minimum(dx, dy) < 0.15 * np.maximum(dx, dy)
    rows, columns = (dy > 4) & (dy > 3 * dx), (dx > 4) & (dx > 3 * dy)
    return {
        "straight": share(straight, strong.view(np.uint8)),
        "row_edge": cv2.reduce(rows.view(np.uint8), 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).max() / rows.shape[1],
        "column_edge": cv2.reduce(columns.view(np.uint8), 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).max() / len(columns),
        "mask_quality": v.quality,
        "mask_regions": np.log1p(len(regions(v.mask))),
        "mask_touches": share(v.mask, v.border.view(np.uint8)),
    }


def light_cues(v: View) -> dict[str, float]:
    """Lightness, L* 0 to 100, and shares, 0 to 1."""
    lightness, levels = v.lightness, v.levels[0]
    inside, outside = v.mask.view(np.uint8), (~v.mask).view(np.uint8)
    inside_median = quantile(levels, 0.5, inside) * 100 / 255
    return {
        "lightness_median": quantile(levels, 0.5) * 100 / 255,
        "lightness_high": quantile(levels, 0.98) * 100 / 255,
        "inside_median": inside_median,
        "inside_extreme": ((inside_median - 50) / 25) ** 2,
        "inside_dark": share(lightness < 20, inside),
        "inside_bright": share(lightness > 94, inside),
        "outside_mean": cv2.mean(lightness, outside)[0] if share(~v.mask) > 0.05 else 50.0,
        "shadow": share(_blurred(lightness, 2) < 22),
        "unevenness": unevenness(lightness, v.mask),
    }


def share(found: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Share of the pixels of (h, w) bool that are set, 0 to 1; of those where `mask`, uint8, is not 0."""
    return np.count_nonzero(found) / found.size if mask is None else cv2.mean(found.view(np.uint8), mask)[0]


def spread(values: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Standard deviation of (h, w), in the values' units; of those where `mask`, uint8, is not 0."""
    return float(cv2.meanStdDev(values, mask=mask)[1][0, 0])


def uniformity(planes: Sequence[np.ndarray], middle: Sequence[float], mask: np.ndarray | None = None) -> float:
    """Share of the pixels of L*, a*, b* (h, w) within `UNIFORM` of their median, 0 to 1; of those in `mask`, uint8."""
    lightness, a, b = (plane - np.float32(level) for plane, level in zip(planes, middle, strict=True))
    return share(lightness * lightness + a * a + b * b < UNIFORM * UNIFORM, mask)


def _medians(levels: Sequence[np.ndarray], mask: np.ndarray | None = None) -> tuple[float, float, float]:
    """Medians of L*, a*, b*, each (h, w) uint8, in Lab units."""
    lightness, a, b = (quantile(plane, 0.5, mask) for plane in levels)
    return lightness * 100 / 255, a - 128, b - 128


def unevenness(lightness: np.ndarray, mask: np.ndarray) -> float:
    """Standard deviation of the specimen's lightness after a wide blur that ignores the rest, L* units."""
    weight = mask.astype(np.float32)
    sigma = 0.1 * max(lightness.shape)
    lit = _blurred(lightness * weight, sigma) / (_blurred(weight, sigma) + 1e-3)
    return spread(lit, mask.view(np.uint8))


def lettering(lightness: np.ndarray) -> float:
    """Share of the frame covered by lines of text-like strokes on calm ground.

    Strokes are thin regions darker or brighter than their surroundings (black-hat and top-hat transforms); strokes of a
    height of 3 to 24 pixels in a row, close together, make a line, if there is nothing like them above and below.

    Args:
        lightness: (h, w) L* of a picture about 256 pixels long.
    """
    found = np.zeros(lightness.shape, bool)
    levels = cv2.convertScaleAbs(lightness, alpha=255 / 100)  # morphology of 8 bits is several times as quick
    for operation in (cv2.MORPH_BLACKHAT, cv2.MORPH_TOPHAT):
        hat = cv2.morphologyEx(levels, operation, _STROKE)
        strokes = (hat > GLYPH_CONTRAST * 255 / 100).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(strokes, connectivity=8, ltype=cv2.CV_16U)
        width, height, area = stats[:, 2], stats[:, 3], stats[:, 4]
        glyph = (height >= 3) & (height <= 24) & (width <= 60) & (area >= 4) & (area <= 0.8 * width * height + 12)
        glyph[0] = False
        glyphs = np.take(glyph.view(np.uint8), np.asarray(labels))
        joined = cv2.morphologyEx(glyphs, cv2.MORPH_CLOSE, _LINE)
        boxes = cv2.connectedComponentsWithStats(joined, connectivity=8, ltype=cv2.CV_16U)[2][1:]
        wide = (boxes[:, 2] >= 14) & (boxes[:, 2] >= 2 * boxes[:, 3]) & (boxes[:, 3] >= 4) & (boxes[:, 3] <= 26)
        for x, y, w, h, _ in boxes[wide].tolist():
            if _is_line(lightness, strokes, glyphs, (x, y, w, h)):
                found[y : y + h, x : x + w] = True
    return float(found.mean())


def _is_line(lightness: np.ndarray, strokes: np.ndarray, glyphs: np.ndarray, box: tuple[int, int, int, int]) -> bool:
    x, y, w, h = box
    ink = glyphs[y : y + h, x : x + w]
    margin = max(2, h // 2)
    above, below = strokes[max(0, y - margin) : y, x : x + w], strokes[y + h : y + h + margin, x : x + w]
    if cv2.countNonZero(above) + cv2.countNonZero(below) >= 0.1 * (above.size + below.size):
        return False
    if not 0.15 < cv2.countNonZero(ink) / ink.size < 0.75:
        return False
    changes = cv2.reduce(cv2.absdiff(ink[:, 1:], ink[:, :-1]), 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
    changes.sort()
    if changes[h // 2 :].sum() / (h - h // 2) / w * h <= 0.5:
        return False
    values = lightness[y : y + h, x : x + w]
    (on, on_spread), (off, off_spread) = (cv2.meanStdDev(values, mask=mask) for mask in (ink, 1 - ink))
    return bool(abs(on - off) / (on_spread + off_spread + 2) > 1.2)


def _spectrum(lightness: np.ndarray) -> dict[str, float]:
    """Shape of the power spectrum (frequencies in cycles a pixel), and correlation with itself 16 pixels away."""
    height, width = lightness.shape
    down, across, octave = _frequencies(height, width)
    spectrum = np.fft.rfft2((lightness - cv2.mean(lightness)[0]) * down[:, None] * across)
    power = spectrum.real**2 + spectrum.imag**2
    levels = np.log(np.bincount(octave, power.ravel(), minlength=8)[1:7] + 1)
    twice = np.full(power.shape[1], 2.0)  # what the half of the spectrum stands for
    twice[0], twice[width // 2 :] = 1, 1 + width % 2
    rows, columns = power @ twice, power.sum(axis=0) * twice
    below = rows @ np.cos(2 * np.pi * 16 / height * np.arange(height))
    beside = columns @ np.cos(2 * np.pi * 16 / width * np.arange(len(columns)))
    return {
        "power_low": levels[1] - levels.mean(),
        "power_middle": levels[3] - levels.mean(),
        "repeats": (below + beside) / (rows.sum() + 1e-9 * power.size),
    }


@lru_cache(256)
def _frequencies(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hann windows (h,) and (w,), and the octave of each place in half a spectrum, flat uint8."""
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    octave = np.digitize(radius, (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.5)).ravel()
    return np.hanning(height), np.hanning(width), octave.astype(np.uint8)


def _blurred(lightness: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur, sigma in pixels; a wide one is done on a picture that is so much smaller."""
    step = min(max(int(sigma // 2), 1), min(lightness.shape) // 4)
    if step == 1:
        return cv2.GaussianBlur(lightness, (0, 0), sigma)
    height, width = lightness.shape
    small = cv2.resize(lightness, (width // step, height // step), interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma / step), (width, height))


def _deviation(lightness: np.ndarray) -> np.ndarray:
    mean = cv2.blur(lightness, (3, 3))
    return np.sqrt(np.maximum(cv2.blur(lightness * lightness, (3, 3)) - mean * mean, 0))


def _hat(lightness: np.ndarray, operation: int, size: int) -> np.ndarray:
    return cv2.morphologyEx(lightness, operation, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
