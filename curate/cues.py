"""Statistics of a small picture from which `curate.artifacts` tells background, objects, lighting and lettering."""

from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np

from curate.foreground import chi_square, colour_bins, histogram, regions, resized, ring, to_lab

SIDE = 128  # longer side of the picture, pixels
UNIFORM = 5.0  # CIE76 colour difference from the border's median
GLYPH_CONTRAST = 18.0  # L* units between a stroke and its ground
_LINE = np.ones((1, 9), np.uint8)


class View(NamedTuple):
    """One picture, ready to be measured.

    Attributes:
        lab: (h, w, 3) CIE Lab, longer side `SIDE`.
        flat: (h, w) standard deviation of L* in 3 x 3 pixels.
        border: (h, w) bool, 5 % wide.
        mask: (h, w) bool, the specimen.
        quality: of the mask, 0 to 1.
    """

    lab: np.ndarray
    flat: np.ndarray
    border: np.ndarray
    mask: np.ndarray
    quality: float


def view(rgb: np.ndarray, mask: np.ndarray, quality: float) -> View:
    """The picture ((h, w, 3) uint8) and its mask at `SIDE` pixels."""
    lab = to_lab(resized(rgb, SIDE))
    small = cv2.resize(mask.astype(np.float32), lab.shape[1::-1], interpolation=cv2.INTER_AREA) > 0.5
    return View(lab, _deviation(lab[..., 0]), ring(lab.shape), small if small.any() else ~small, quality)


def border_cues(v: View) -> dict[str, float]:
    """How calm, bright and even the border is; shares, 0 to 1."""
    lab, lightness = v.lab, v.lab[..., 0]
    white = (lightness > 92) & (np.hypot(lab[..., 1], lab[..., 2]) < 6)
    width = max(2, round(0.05 * max(lightness.shape)))
    sides = (lab[:width], lab[-width:], lab[:, :width], lab[:, -width:])
    quarter = len(lightness) // 4
    _, a, b = middle = np.median(lab[v.border], axis=0)
    return {
        "border_lightness": middle[0],
        "border_chroma": np.hypot(a, b),
        "border_uniform": uniformity(lab[v.border]),
        "border_flat": (v.flat[v.border] < 1).mean(),
        "border_white": white[v.border].mean(),
        "border_black": (lightness[v.border] < 15).mean(),
        "worst_side": min(uniformity(side.reshape(-1, 3)) for side in sides),
        "top_flat": (v.flat[:quarter] < 1.5).mean(),
        "white": white.mean(),
        "black": (lightness < 12).mean(),
        "flat": (v.flat < 2).mean(),
    }


def colour_cues(v: View) -> dict[str, float]:
    """What differs in colour between the parts of the picture (chi-square 0 to 1, or Lab units), and what colours."""
    lab, (height, width) = v.lab, v.lab.shape[:2]
    y, x = height // 4, width // 4
    centre, border = lab[y : height - y, x : width - x].reshape(-1, 3), lab[v.border]
    cells = colour_bins(lab)
    thirds = (cells[: height // 3], cells[-(height // 3) :], cells[:, : width // 3], cells[:, -(width // 3) :])
    top, bottom, left, right = (histogram(part) for part in thirds)
    flat_centre = np.median(v.flat[y : height - y, x : width - x])
    means = lab.reshape(-1, 3).mean(axis=0)
    return {
        "centre_border": chi_square(histogram(cells[y : height - y, x : width - x]), histogram(cells[v.border])),
        "centre_border_distance": np.linalg.norm(centre.mean(axis=0) - border.mean(axis=0)),
        "centre_border_texture": abs(np.log((flat_centre + 0.5) / (np.median(v.flat[v.border]) + 0.5))),
        "top_bottom": chi_square(top, bottom),
        "left_right": chi_square(left, right),
        "green": ((lab[..., 1] < -6) & (lab[..., 2] > 4)).mean(),
        "blue": (lab[..., 2] < -8).mean(),
        "cast": np.hypot(*means[1:]),
        "tint": np.hypot(*means[1:]) / (np.hypot(lab[..., 1].std(), lab[..., 2].std()) + 2),
    }


def texture_cues(v: View) -> dict[str, float]:
    """At which scale, and how evenly over the frame, the lightness varies; logarithms of L* units, or ratios."""
    lightness = v.lab[..., 0]
    blurred = [lightness, *(cv2.GaussianBlur(lightness, (0, 0), sigma) for sigma in (1, 2, 4, 8, 16))]
    bands = [fine - coarse for fine, coarse in pairwise(blurred)]
    energy = cv2.resize(cv2.blur(bands[2] ** 2, (15, 15)), (5, 5), interpolation=cv2.INTER_AREA)
    inner = cv2.erode(v.mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    inner = inner if inner.sum() > 50 else v.mask
    gaps = _hat(lightness, cv2.MORPH_BLACKHAT, 7)
    return {
        "band_1": np.log(bands[0].std() + 0.5),
        "band_4": np.log(bands[2].std() + 0.5),
        "band_16": np.log(bands[4].std() + 0.5),
        "band_4_patchy": energy.std() / (energy.mean() + 1),
        "band_2_skew": np.mean(bands[1] ** 3) / (bands[1].std() ** 3 + 1),
        "inner_band_4": np.log((lightness - blurred[3])[inner].std() + 0.5),
        "gaps": gaps.mean(),
        "inner_gaps": (gaps[inner] > 15).mean(),
        "bumps": _hat(lightness, cv2.MORPH_TOPHAT, 31).mean(),
        **_spectrum(lightness),
    }


def edge_cues(v: View) -> dict[str, float]:
    """Straight horizontal and vertical edges (frames, tables, buildings), and what the mask is like."""
    lightness = v.lab[..., 0]
    dx, dy = (np.abs(cv2.Sobel(lightness, cv2.CV_32F, *order)) / 8 for order in ((1, 0), (0, 1)))
    strong = dx * dx + dy * dy > 25
    straight = np.minimum(dx, dy) < 0.15 * np.maximum(dx, dy)
    return {
        "straight": straight[strong].mean() if strong.any() else 0.0,
        "row_edge": ((dy > 4) & (dy > 3 * dx)).mean(axis=1).max(),
        "column_edge": ((dx > 4) & (dx > 3 * dy)).mean(axis=0).max(),
        "mask_quality": v.quality,
        "mask_regions": np.log1p(len(regions(v.mask))),
        "mask_touches": v.mask[v.border].mean(),
    }


def light_cues(v: View) -> dict[str, float]:
    """Lightness, L* 0 to 100, and shares, 0 to 1."""
    lightness, inside = v.lab[..., 0], v.lab[..., 0][v.mask]
    outside = lightness[~v.mask]
    return {
        "lightness_median": np.median(lightness),
        "lightness_high": np.percentile(lightness, 98),
        "inside_median": np.median(inside),
        "inside_extreme": ((np.median(inside) - 50) / 25) ** 2,
        "inside_dark": (inside < 20).mean(),
        "inside_bright": (inside > 94).mean(),
        "outside_mean": outside.mean() if outside.size > 0.05 * lightness.size else 50.0,
        "shadow": (cv2.GaussianBlur(lightness, (0, 0), 2) < 22).mean(),
        "unevenness": unevenness(lightness, v.mask),
    }


def uniformity(lab: np.ndarray) -> float:
    """Share of the (n, 3) Lab pixels within `UNIFORM` of their median, 0 to 1."""
    return float((np.linalg.norm(lab - np.median(lab, axis=0), axis=1) < UNIFORM).mean())


def unevenness(lightness: np.ndarray, mask: np.ndarray) -> float:
    """Standard deviation of the specimen's lightness after a wide blur that ignores the rest, L* units."""
    weight = mask.astype(np.float32)
    sigma = 0.1 * max(lightness.shape)
    lit = cv2.GaussianBlur(lightness * weight, (0, 0), sigma) / (cv2.GaussianBlur(weight, (0, 0), sigma) + 1e-3)
    return float(lit[mask].std())


def lettering(lightness: np.ndarray) -> float:
    """Share of the frame covered by lines of text-like strokes on calm ground.

    Strokes are thin regions darker or brighter than their surroundings (black-hat and top-hat transforms); strokes of a
    height of 3 to 24 pixels in a row, close together, make a line, if there is nothing like them above and below.

    Args:
        lightness: (h, w) L* of a picture about 256 pixels long.
    """
    found = np.zeros(lightness.shape, bool)
    for operation in (cv2.MORPH_BLACKHAT, cv2.MORPH_TOPHAT):
        kernel = np.ones((9, 9), np.uint8)
        strokes = (cv2.morphologyEx(lightness, operation, kernel) > GLYPH_CONTRAST).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(strokes, connectivity=8)
        width, height, area = stats[:, 2], stats[:, 3], stats[:, 4]
        glyph = (height >= 3) & (height <= 24) & (width <= 60) & (area >= 4) & (area <= 0.8 * width * height + 12)
        glyph[0] = False
        glyphs = glyph[labels].astype(np.uint8)
        joined = cv2.morphologyEx(glyphs, cv2.MORPH_CLOSE, _LINE)
        boxes = cv2.connectedComponentsWithStats(joined, connectivity=8)[2][1:]
        wide = (boxes[:, 2] >= 14) & (boxes[:, 2] >= 2 * boxes[:, 3]) & (boxes[:, 3] >= 4) & (boxes[:, 3] <= 26)
        for x, y, w, h, _ in boxes[wide]:
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
    changes = np.sort((ink[:, 1:] != ink[:, :-1]).sum(axis=1))[h // 2 :].mean()
    if changes / w * h <= 0.5:
        return False
    values = lightness[y : y + h, x : x + w]
    on, off = values[ink > 0], values[ink == 0]
    return bool(abs(on.mean() - off.mean()) / (on.std() + off.std() + 2) > 1.2)


def _spectrum(lightness: np.ndarray) -> dict[str, float]:
    """Shape of the power spectrum (frequencies in cycles a pixel), and correlation with itself 16 pixels away."""
    height, width = lightness.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    power = np.abs(np.fft.rfft2((lightness - lightness.mean()) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    octave = np.digitize(radius, (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.5)).ravel()
    levels = np.log(np.bincount(octave, power.ravel(), minlength=8)[1:7] + 1)
    total = np.fft.irfft2(power, s=(height, width))
    down, right = total[16 % height, 0], total[0, 16 % width]
    return {
        "power_low": levels[1] - levels.mean(),
        "power_middle": levels[3] - levels.mean(),
        "repeats": (down + right) / (total[0, 0] + 1e-9),
    }


def _deviation(lightness: np.ndarray) -> np.ndarray:
    mean = cv2.blur(lightness, (3, 3))
    return np.sqrt(np.maximum(cv2.blur(lightness * lightness, (3, 3)) - mean * mean, 0))


def _hat(lightness: np.ndarray, operation: int, size: int) -> np.ndarray:
    return cv2.morphologyEx(lightness, operation, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
