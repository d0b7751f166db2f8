"""The specimen's mask from pixels alone: candidates from the border's colours, refined by GrabCut, judged by edges."""

from functools import lru_cache

import cv2
import numpy as np

SIDE = 96  # longer side of the picture that is segmented, pixels
CUT_SIDE = 48  # longer side for GrabCut, whose time grows with the number of pixels; 56 and twice as long cut no better
SMALLEST = 0.01  # share of the frame; smaller regions are dust
SURE = 0.6  # a candidate that good needs no GrabCut
HOPELESS = 0.35  # below it a centred ellipse is the better guess
_LIGHTNESS_COUNTS_LESS = np.array([0.7, 1, 1, 0])
_ROUND = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
_SQUARE = np.ones((3, 3), np.uint8)
_ALL = np.ones((1, 3), np.float32)  # for the sum of three channels


def _of_levels() -> tuple[np.ndarray, np.ndarray]:
    """Of 8 bit L*, a*, b* the values in Lab units, and the cells among 8 of 0 to 100 and of -40 to 40: (1, 256, 3)."""
    lightness, chroma = np.arange(256, dtype=np.float32) * np.float32(100 / 255), np.arange(256, dtype=np.float32) - 128
    cells = np.stack([lightness / np.float32(12.5), (chroma + 40) / 10, (chroma + 40) / 10], axis=-1)
    return np.stack([lightness, chroma, chroma], axis=-1)[None], cells.clip(0, 7).astype(np.uint8)[None]


_VALUES, _CELLS = _of_levels()


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 sRGB -> float32 CIE L* (0 to 100), a*, b* (D65), rounded to 8 bits on the way."""
    return lab_of(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB))


def lab_of(levels: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 of OpenCV's Lab -> float32 CIE L* (0 to 100), a*, b*."""
    return cv2.LUT(levels, _VALUES)


def quantile(levels: np.ndarray, share: float, mask: np.ndarray | None = None) -> float:
    """Level of (h, w) uint8 below which `share` of the pixels are, between two levels as `numpy.quantile`.

    Args:
        mask: (h, w) uint8, 0 where a pixel does not count.
    """
    upto = cv2.calcHist([levels], [0], mask, [256], [0, 256]).cumsum()
    last = float(upto[-1]) - 1
    rank = share * last
    low, high = upto.searchsorted((int(rank), min(int(rank) + 1, last)), side="right").tolist()
    return low + (high - low) * (rank - int(rank))


def resized(rgb: np.ndarray, side: int) -> np.ndarray:
    """A copy whose longer side is `side` pixels, no side below 8."""
    scale = side / max(rgb.shape[:2])
    size = (max(8, round(rgb.shape[1] * scale)), max(8, round(rgb.shape[0] * scale)))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def content_box(lightness: np.ndarray) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the picture inside letterbox bars and a picture agency's caption strip.

    A bar ends in a step of more than 10 L* along at least 92 % of a row or column and is of one colour for at least
    60 %; at most a quarter of the frame is taken off each side.

    Args:
        lightness: (h, w) L*.
    """
    top, bottom = _bar(lightness), len(lightness) - _bar(lightness[::-1])
    columns = cv2.transpose(lightness[top:bottom])
    return top, bottom, _bar(columns), len(columns) - _bar(columns[::-1])


def ranked(values: np.ndarray, share: float) -> float:
    """As `numpy.quantile` in half the time, of an array of any shape."""
    rank = share * (values.size - 1)
    low = int(rank)
    high = min(low + 1, values.size - 1)
    parted = np.partition(values, (low, high), axis=None)
    return float(parted[low]) + (float(parted[high]) - float(parted[low])) * (rank - low)


@lru_cache(256)
def ring(height: int, width: int, share: float = 0.05) -> np.ndarray:
    """(h, w) bool, read-only: the border, `share` of the longer side wide."""
    wide = max(1, round(share * max(height, width)))
    border = np.ones((height, width), bool)
    border[wide:-wide, wide:-wide] = False
    border.flags.writeable = False
    return border


def segment(rgb: np.ndarray) -> tuple[np.ndarray, float]:
    """The mask of what stands out from the border, and how far to trust it.

    Candidates: all that colour distance from the border's main colours, or a gradient, separates from the frame's
    edge. The best of them by `mask_quality` starts GrabCut (Rother et al., "GrabCut", SIGGRAPH 2004) where it is not
    good enough by itself; where all fail, an ellipse in the middle stands in.

    Args:
        rgb: (h, w, 3) uint8.

    Returns:
        (h, w) bool, and the mask's quality, 0 to 1; below `HOPELESS` it is that ellipse.
    """
    small = resized(rgb, SIDE)
    levels = cv2.cvtColor(cv2.medianBlur(small, 3), cv2.COLOR_RGB2LAB)
    lab = lab_of(levels)
    slope = gradient(lab)
    masks = _candidates(lab, slope)
    colours = colour_bins(levels)
    edges = np.minimum(cv2.dilate(slope, _SQUARE) / 5, 1)
    mask, quality = masks[0], 0.0
    for candidate in masks:
        if (better := mask_quality(candidate, colours, edges, quality)) > quality:
            mask, quality = candidate, better
    if quality < SURE:
        start = mask if quality > HOPELESS / 2 else _radius(lab.shape) < 0.75
        cut = _grab_cut(small, start)
        if (cut_quality := mask_quality(cut, colours, edges, quality)) > quality:
            mask, quality = cut, cut_quality
    if quality < HOPELESS:
        mask = _radius(lab.shape) < 0.9
    size = (rgb.shape[1], rgb.shape[0])
    return cv2.resize(mask.astype(np.float32), size) > 0.5, float(quality)


def gradient(lab: np.ndarray) -> np.ndarray:
    """(h, w) length of the colour gradient (Sobel), CIE Lab units a pixel."""
    dx, dy = cv2.Sobel(lab, cv2.CV_32F, 1, 0), cv2.Sobel(lab, cv2.CV_32F, 0, 1)
    return np.sqrt(cv2.transform(dx * dx + dy * dy, _ALL)) / 8


def mask_quality(mask: np.ndarray, colours: np.ndarray, edges: np.ndarray, least: float = 0.0) -> float:
    """How much a mask looks like a specimen's, 0 to 1.

    A product: its outline lies on edges, its regions are near convex, its colours differ from the rest (chi-square
    distance of Lab histograms), it leaves the border alone, and it is no speck.

    Args:
        mask: (h, w) bool. colours: (h, w), of `colour_bins`. edges: (h, w), how much of an edge is near, 0 to 1.
        least: a mask that is not better is not looked at to the end, and 0.
    """
    share = cv2.countNonZero(solid := mask.view(np.uint8)) / mask.size
    if not 0.02 <= share <= 0.97:
        return 0.0
    outline = (solid - cv2.erode(solid, _SQUARE))[1:-1, 1:-1]
    if cv2.countNonZero(outline) < 10:
        return 0.0
    edge = cv2.mean(edges[1:-1, 1:-1], outline)[0]
    free = 1 - cv2.mean(solid, ring(*mask.shape).view(np.uint8))[0]
    small = min(1.0, share / 0.25)
    quality = (edge * free * small) ** 0.5
    if quality <= least:
        return 0.0
    contours, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    hulls = sum(cv2.contourArea(cv2.convexHull(contour)) for contour in contours)
    quality *= min(1.0, sum(cv2.contourArea(contour) for contour in contours) / (hulls + 1)) ** 2
    if quality <= least:
        return 0.0
    counts = np.bincount(colours[mask], minlength=512)
    others = np.bincount(colours.ravel(), minlength=512) - counts
    return quality * chi_square(counts / counts.sum(), others / others.sum())


def regions(mask: np.ndarray) -> np.ndarray:
    """Areas of the connected regions of at least 1 % of the frame, as shares of it, largest first."""
    areas = labelled(mask, 8)[1][1:] / mask.size
    return np.sort(areas[areas >= SMALLEST])[::-1]


def labelled(mask: np.ndarray, connectivity: int) -> tuple[np.ndarray, np.ndarray]:
    """Of (h, w) bool the connected regions: (h, w) uint16, 0 outside them; and the pixels under each of the numbers."""
    count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=connectivity, ltype=cv2.CV_16U)
    return labels, np.bincount(labels.ravel(), minlength=count)


def colour_bins(levels: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 of OpenCV's Lab -> (h, w) int64, the cell among 8 x 8 x 8 of L* 0 to 100, a* and b* -40 to 40."""
    lightness, a, b = cv2.split(cv2.LUT(levels, _CELLS))
    return lightness.astype(np.int64) * 64 + (a * np.uint8(8) + b)


def histogram(colours: np.ndarray) -> np.ndarray:
    """Cells of `colour_bins` -> (512,) shares."""
    return np.bincount(colours.ravel(), minlength=512) / max(1, colours.size)


def chi_square(one: np.ndarray, other: np.ndarray) -> float:
    """Symmetric chi-square distance of two histograms, 0 (equal) to 1 (disjoint)."""
    return float(0.5 * np.sum((one - other) ** 2 / (one + other + 1e-9)))


def _bar(lightness: np.ndarray) -> int:
    reach = len(lightness) // 4
    steps = np.abs(lightness[2 : reach + 2] - lightness[:reach]) > 10
    share = cv2.reduce(steps.view(np.uint8), 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() / steps.shape[1]
    for row in np.flatnonzero(share >= 0.92)[::-1]:
        strip = lightness[: max(1, row)]
        if (np.abs(strip - np.median(strip)) < 8).mean() >= 0.6:
            return int(row) + 2
    return 0


def _candidates(lab: np.ndarray, slope: np.ndarray) -> list[np.ndarray]:
    distance = _border_distance(cv2.blur(lab, (3, 3)))
    calm = [distance < limit for limit in (5, 9, 15, 24)] + [slope < limit for limit in (1, 2, 3.5)]
    calm.append((distance < 5) | ((distance < 12) & (slope < 2)))
    found = {part.tobytes(): part for part in (_apart(c) for c in calm)}  # several limits often give the same
    return [_cleaned(part) for part in found.values()]


def _border_distance(lab: np.ndarray) -> np.ndarray:
    """(h, w) colour distance to the nearest of the border's main colours; L* counts 0.7, since shadows change it."""
    weighted = cv2.multiply(lab, _LIGHTNESS_COUNTS_LESS)
    border = weighted.reshape(-1, 3).take(np.flatnonzero(ring(*lab.shape[:2])), axis=0)
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 10, 1.0)
    nearest = np.zeros((len(border), 1), np.int32)
    _, nearest, centres = cv2.kmeans(border, 3, nearest, stop, 1, cv2.KMEANS_PP_CENTERS)  # type: ignore[assignment]
    shares = np.bincount(nearest.ravel(), minlength=3) / len(border)
    apart = [cv2.subtract(weighted, np.append(centre, 0)) for centre in centres[shares >= 0.15]]
    return np.sqrt(np.minimum.reduce([cv2.transform(difference * difference, _ALL) for difference in apart]))


def _apart(calm: np.ndarray) -> np.ndarray:
    """(h, w) uint8, 1 where no path of `calm` pixels leads to the edge of the frame."""
    canvas = cv2.copyMakeBorder(calm.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    cv2.floodFill(canvas, None, (0, 0), 2)
    return (canvas[1:-1, 1:-1] != 2).view(np.uint8)


def _cleaned(mask: np.ndarray) -> np.ndarray:
    """(h, w) uint8 -> bool, without thin bridges and dust; holes inside, and small ones at the border, are filled."""
    opened = cv2.morphologyEx(mask, cv2.MORPH_OPEN, _ROUND)
    if not opened.any():
        return opened > 0
    labels, areas = labelled(opened, 8)
    large = areas >= SMALLEST * mask.size
    large[0] = False
    kept = opened > 0 if large[1:].all() else np.take(large, labels)
    labels, areas = labelled(~kept, 4)
    hole = np.ones(len(areas), bool)
    hole[labels[ring(*mask.shape)]] = False
    hole |= areas < 2 * SMALLEST * mask.size
    hole[0] = False
    return kept | np.take(hole, labels) if hole.any() else kept


def _radius(shape: tuple[int, ...]) -> np.ndarray:
    """(h, w) distance from the centre, 1 at the middle of each side."""
    height, width = shape[:2]
    y, x = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    return np.hypot(y[:, None], x[None, :])


def _grab_cut(rgb: np.ndarray, start: np.ndarray) -> np.ndarray:
    small = np.ascontiguousarray(resized(rgb, CUT_SIDE))
    inside = cv2.resize(start.astype(np.float32), small.shape[1::-1], interpolation=cv2.INTER_AREA) > 0.5
    if inside.all() or not inside.any():
        return start
    state = np.where(inside, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    state[ring(*small.shape[:2], 0.03) & ~inside] = cv2.GC_BGD
    cv2.setRNGSeed(0)
    cv2.grabCut(small, state, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 1, cv2.GC_INIT_WITH_MASK)
    cut = (state & 1).astype(np.float32)  # GC_FGD and GC_PR_FGD are the odd ones
    return _cleaned((cv2.resize(cut, (rgb.shape[1], rgb.shape[0])) > 0.5).astype(np.uint8))
