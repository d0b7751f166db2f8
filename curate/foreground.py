"""The specimen's mask from pixels alone: candidates from the border's colours, refined by GrabCut, judged by edges."""

import cv2
import numpy as np

SIDE = 96  # longer side of the picture that is segmented, pixels
CUT_SIDE = 56  # longer side for GrabCut, whose time grows with the number of pixels
SMALLEST = 0.01  # share of the frame; smaller regions are dust
SURE = 0.6  # a candidate that good needs no GrabCut
HOPELESS = 0.35  # below it a centred ellipse is the better guess
_CELL_START, _CELL_SIZE = np.array([0, -40, -40], np.float32), np.array([12.5, 10, 10], np.float32)
_LIGHTNESS_COUNTS_LESS = np.array([0.7, 1, 1], np.float32)
_ROUND = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
_SQUARE = np.ones((3, 3), np.uint8)


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 sRGB -> float32 CIE L* (0 to 100), a*, b* (D65), rounded to 8 bits on the way."""
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(np.float32)
    lab[..., 0] *= 100 / 255
    lab[..., 1:] -= 128
    return lab


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
    columns = lightness[top:bottom].T
    return top, bottom, _bar(columns), len(columns) - _bar(columns[::-1])


def ring(shape: tuple[int, ...], share: float = 0.05) -> np.ndarray:
    """(h, w) bool: the border, `share` of the longer side wide."""
    width = max(1, round(share * max(shape[:2])))
    border = np.ones(shape[:2], bool)
    border[width:-width, width:-width] = False
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
    lab = to_lab(cv2.medianBlur(small, 3))
    slope = gradient(lab)
    masks = _candidates(lab, slope)
    colours = colour_bins(lab)
    qualities = [mask_quality(mask, colours, slope) for mask in masks]
    best = int(np.argmax(qualities))
    mask, quality = masks[best], qualities[best]
    if quality < SURE:
        start = mask if quality > HOPELESS / 2 else _radius(lab.shape) < 0.75
        cut = _grab_cut(small, start)
        if (cut_quality := mask_quality(cut, colours, slope)) > quality:
            mask, quality = cut, cut_quality
    if quality < HOPELESS:
        mask = _radius(lab.shape) < 0.9
    size = (rgb.shape[1], rgb.shape[0])
    return cv2.resize(mask.astype(np.float32), size) > 0.5, float(quality)


def gradient(lab: np.ndarray) -> np.ndarray:
    """(h, w) length of the colour gradient (Sobel), CIE Lab units a pixel."""
    dx, dy = cv2.Sobel(lab, cv2.CV_32F, 1, 0), cv2.Sobel(lab, cv2.CV_32F, 0, 1)
    return np.sqrt((dx * dx + dy * dy).sum(axis=2)) / 8


def mask_quality(mask: np.ndarray, colours: np.ndarray, slope: np.ndarray) -> float:
    """How much a mask looks like a specimen's, 0 to 1.

    A product: its outline lies on edges, its regions are near convex, its colours differ from the rest (chi-square
    distance of Lab histograms), it leaves the border alone, and it is no speck.

    Args:
        mask: (h, w) bool. colours: (h, w), of `colour_bins`. slope: (h, w), of `gradient`.
    """
    share = mask.mean()
    if not 0.02 <= share <= 0.97:
        return 0.0
    solid = mask.astype(np.uint8)
    outline = mask & (cv2.erode(solid, _SQUARE) == 0)
    outline[[0, -1]] = outline[:, [0, -1]] = False
    if outline.sum() < 10:
        return 0.0
    edge = np.minimum(cv2.dilate(slope, _SQUARE)[outline] / 5, 1).mean()
    contours, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    hulls = sum(cv2.contourArea(cv2.convexHull(contour)) for contour in contours)
    convex = min(1.0, sum(cv2.contourArea(contour) for contour in contours) / (hulls + 1))
    inside, outside = histogram(colours[mask]), histogram(colours[~mask])
    free = 1 - mask[ring(mask.shape)].mean()
    small = min(1.0, share / 0.25)
    return float(edge**0.5 * convex**2 * free**0.5 * chi_square(inside, outside) * small**0.5)


def regions(mask: np.ndarray) -> np.ndarray:
    """Areas of the connected regions of at least 1 % of the frame, as shares of it, largest first."""
    areas = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)[2][1:, cv2.CC_STAT_AREA] / mask.size
    return np.sort(areas[areas >= SMALLEST])[::-1]


def colour_bins(lab: np.ndarray) -> np.ndarray:
    """(..., 3) Lab -> (...) int, the cell among 8 x 8 x 8 of L* 0 to 100 and a*, b* -40 to 40."""
    cells = ((lab - _CELL_START) / _CELL_SIZE).clip(0, 7).astype(np.int64)
    return cells[..., 0] * 64 + cells[..., 1] * 8 + cells[..., 2]


def histogram(colours: np.ndarray) -> np.ndarray:
    """Cells of `colour_bins` -> (512,) shares."""
    return np.bincount(colours.ravel(), minlength=512) / max(1, colours.size)


def chi_square(one: np.ndarray, other: np.ndarray) -> float:
    """Symmetric chi-square distance of two histograms, 0 (equal) to 1 (disjoint)."""
    return float(0.5 * np.sum((one - other) ** 2 / (one + other + 1e-9)))


def _bar(lightness: np.ndarray) -> int:
    reach = len(lightness) // 4
    step = (np.abs(lightness[2 : reach + 2] - lightness[:reach]) > 10).mean(axis=1)
    for row in np.flatnonzero(step >= 0.92)[::-1]:
        strip = lightness[: max(1, row)]
        if (np.abs(strip - np.median(strip)) < 8).mean() >= 0.6:
            return int(row) + 2
    return 0


def _candidates(lab: np.ndarray, slope: np.ndarray) -> list[np.ndarray]:
    distance = _border_distance(cv2.blur(lab, (3, 3)))
    calm = [distance < limit for limit in (5, 9, 15, 24)] + [slope < limit for limit in (1, 2, 3.5)]
    calm.append((distance < 5) | ((distance < 12) & (slope < 2)))
    return [_cleaned(~_reached(c)) for c in calm]


def _border_distance(lab: np.ndarray) -> np.ndarray:
    """(h, w) colour distance to the nearest of the border's main colours; L* counts 0.7, since shadows change it."""
    weighted = lab * _LIGHTNESS_COUNTS_LESS
    border = weighted[ring(lab.shape)]
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 10, 1.0)
    nearest = np.zeros((len(border), 1), np.int32)
    _, nearest, centres = cv2.kmeans(border, 3, nearest, stop, 1, cv2.KMEANS_PP_CENTERS)  # type: ignore[assignment]
    shares = np.bincount(nearest.ravel(), minlength=3) / len(border)
    return np.min([np.linalg.norm(weighted - c, axis=2) for c in centres[shares >= 0.15]], axis=0)


def _reached(calm: np.ndarray) -> np.ndarray:
    """The part of `calm` that is connected with the border."""
    count, labels = cv2.connectedComponents(calm.astype(np.uint8), connectivity=4)
    reached = np.zeros(count, bool)
    reached[labels[ring(calm.shape)]] = True
    reached[0] = False
    return reached[labels]


def _cleaned(mask: np.ndarray) -> np.ndarray:
    """Without thin bridges and dust; holes that do not reach the border, or are small, are filled."""
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, _ROUND)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= SMALLEST * mask.size
    large[0] = False
    kept = large[labels]
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~kept).astype(np.uint8), connectivity=4)
    hole = np.ones(count, bool)
    hole[labels[ring(mask.shape)]] = False
    hole |= stats[:, cv2.CC_STAT_AREA] < 2 * SMALLEST * mask.size
    hole[0] = False
    return kept | hole[labels]


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
    state[ring(small.shape, 0.03) & ~inside] = cv2.GC_BGD
    cv2.setRNGSeed(0)
    cv2.grabCut(small, state, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 2, cv2.GC_INIT_WITH_MASK)
    cut = np.isin(state, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    return _cleaned(cv2.resize(cut, (rgb.shape[1], rgb.shape[0])) > 0.5)
