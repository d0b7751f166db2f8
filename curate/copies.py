"""Whether two pictures are the same photograph: hashes of their views to find candidates, local features to verify.

Verification lines the two pictures up by matched points and then asks whether they also look alike, patch by patch.
Points alone are not enough: two photographs under one watermark, or in one frame, share dozens of points.
"""

from typing import NamedTuple

import cv2
import numpy as np

from curate.images import LOW_BAND

SIDE = 224  # pixels of the longer side at which pictures are compared
FEATURES = 400
RATIO = 0.8  # Lowe, "Distinctive image features", IJCV 2004, section 7.1
MIN_POINTS = 8  # matched points that one affine map carries onto each other within REACH pixels
REACH = 3.0
MIN_ALIKE = 0.8  # median correlation of the patches
MIN_SHARE = 0.55  # share of the patches that correlate above PATCH_ALIKE
MIN_CENTRE = 0.4  # the same share in the middle of the overlap: a common frame is not a common picture
PATCH_ALIKE = 0.7
MIN_OVERLAP = 0.35  # of either picture
MAX_SCALE = 4.0
MAX_STRETCH = 2.2  # of one axis against the other
GRID = 8
BROAD = 8.0  # pixels, of the Gaussian that makes out light and shade
FLAT = 3.0  # grey levels of standard deviation below which a patch has nothing to compare

_ODD = np.where(np.arange(8) % 2, -1.0, 1.0)[None]  # mirroring a picture turns the sign of the odd columns
Box = tuple[float, float, float, float]
VIEWS_VERSION = 1  # goes up when the hash of a view of the same pixels changes
VIEWS: tuple[Box, ...] = (  # left, top, right, bottom, in shares: what a crop or a border leaves of a picture
    (0.0, 0.0, 1.0, 1.0),
    *((x, y, x + 0.9, y + 0.9) for x in (0.0, 0.05, 0.1) for y in (0.0, 0.05, 0.1)),
    *((x, y, x + 0.8, y + 0.8) for x in (0.0, 0.1, 0.2) for y in (0.0, 0.1, 0.2)),
    *((x, y, x + 0.72, y + 0.72) for x in (0.0, 0.14, 0.28) for y in (0.0, 0.14, 0.28)),
    *((0.0, y, 1.0, y + 0.8) for y in (0.0, 0.1, 0.2)),
    *((x, 0.0, x + 0.8, 1.0) for x in (0.0, 0.1, 0.2)),
)


class Look(NamedTuple):
    """A picture as the comparison sees it.

    Attributes:
        gray: (h, w) uint8, the longer side SIDE pixels.
        points: (n, 2) float32, x and y in pixels of `gray`.
        descriptors: (n, 128) uint8, SIFT.
    """

    gray: np.ndarray
    points: np.ndarray
    descriptors: np.ndarray


class Match(NamedTuple):
    """How two pictures agree once lined up.

    Attributes:
        points: distinct matched points; 0 where the pictures were only laid on each other.
        patches: patches of the overlap with something to compare.
        alike: median correlation of the patches.
        share: of the patches that correlate above PATCH_ALIKE.
        centre: the same in the middle of the overlap; 1 where there is nothing to compare.
        overlap: the smaller of the shares of the two pictures that the other one shows.
    """

    points: int
    patches: int
    alike: float
    share: float
    centre: float
    overlap: float

    def __str__(self) -> str:
        how = f"{self.points} matched points" if self.points else "laid on each other"
        return f"{how}, {100 * self.share:.0f} % of {self.patches} patches agree, overlap {100 * self.overlap:.0f} %"


def to_gray(rgb: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 -> grey levels with the longer side SIDE pixels, antialiased."""
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    scale = SIDE / max(gray.shape)
    size = (max(8, round(gray.shape[1] * scale)), max(8, round(gray.shape[0] * scale)))
    return cv2.resize(gray, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def view_hashes(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """64-bit perceptual hashes of the views of a picture, and of the mirrored picture.

    The bits are those of imagehash.phash (DCT of 32 x 32, 8 x 8 lowest frequencies, above the median), in its order.

    Returns:
        (views + 1, 2) uint64, VIEWS in order and then the picture without its plain border; upright, mirrored.
        (views + 1,) bool: the view shows enough to be hashed.
    """
    h, w = gray.shape
    boxes = [(round(y0 * h), round(y1 * h), round(x0 * w), round(x1 * w)) for x0, y0, x1, y1 in VIEWS]
    views = [gray[top:bottom, left:right] for top, bottom, left, right in [*boxes, without_border(gray)]]
    small = np.stack([cv2.resize(v, (32, 32), interpolation=cv2.INTER_AREA) for v in views]).astype(np.float64)
    low = LOW_BAND @ small @ LOW_BAND.T
    return np.stack([_bits(low), _bits(low * _ODD)], axis=1), small.std(axis=(1, 2)) >= 2


def without_border(gray: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of what remains without the plain lines of each side; all of it if too little does."""
    h, w = gray.shape
    top, bottom = (_plain_lines(g) for g in (gray, gray[::-1]))
    left, right = (_plain_lines(g) for g in (gray.T, gray.T[::-1]))
    if (h - top - bottom) < 0.3 * h or (w - left - right) < 0.3 * w:
        return 0, h, 0, w
    return top, h - bottom, left, w - right


def look_at(gray: np.ndarray) -> Look:
    """Find the points of a picture by which it is lined up with another (SIFT)."""
    found, descriptors = cv2.SIFT.create(nfeatures=FEATURES, contrastThreshold=0.02).detectAndCompute(gray, None)
    if descriptors is None:
        return Look(gray, np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8))
    points = np.array([point.pt for point in found], np.float32).reshape(-1, 2)
    return Look(gray, points, descriptors.astype(np.uint8))


def same_photograph(a: Look, b: Look, *, lay: bool = False) -> Match | None:
    """How the two agree if they are the same photograph, None if they are not.

    Args:
        a: one picture (for a mirrored copy: look_at the mirrored pixels).
        b: the other.
        lay: where too few points match, compare the pictures as they lie, whole on whole, by a stricter rule: for
            smooth pictures whose hashes are equal or nearly so.
    """
    lined_up = _line_up(a, b)
    if lined_up:
        match = _agreement(a.gray, b.gray, *lined_up)
        if match and _is_copy(match):
            return match
    if not lay:
        return None
    (ha, wa), (hb, wb) = a.gray.shape, b.gray.shape
    whole = _agreement(a.gray, b.gray, np.array([[wb / wa, 0, 0], [0, hb / ha, 0]]), 0)
    return whole if whole and whole.patches >= 8 and min(whole.share, whole.centre) >= 0.95 else None


def _is_copy(match: Match) -> bool:
    return (
        match.overlap >= MIN_OVERLAP
        and match.alike >= MIN_ALIKE
        and match.share >= MIN_SHARE
        and match.centre >= MIN_CENTRE
    )


def _line_up(a: Look, b: Look) -> tuple[np.ndarray, int] | None:
    """(2, 3) affine map from a to b and its number of distinct points; None if none is carried by MIN_POINTS."""
    if min(len(a.points), len(b.points)) < MIN_POINTS:
        return None
    i, j = _matches(a.descriptors, b.descriptors)
    if len(i) < MIN_POINTS:
        return None
    affine, inlier = cv2.estimateAffine2D(
        a.points[i], b.points[j], method=cv2.RANSAC, ransacReprojThreshold=REACH, maxIters=1000, confidence=0.995
    )
    if affine is None or not _is_plausible(affine):
        return None
    held = inlier.ravel().astype(bool)
    points = min(len(np.unique(p[held].round(), axis=0)) for p in (a.points[i], b.points[j]))
    return (affine, points) if points >= MIN_POINTS else None


def _matches(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of descriptors whose nearest in b is clearly nearer than the second nearest (RootSIFT distance)."""
    similarity = _root(a) @ _root(b).T
    rows, nearest = np.arange(len(a)), similarity.argmax(axis=1)
    first = similarity[rows, nearest]
    similarity[rows, nearest] = -1
    second = similarity.max(axis=1)
    clear = np.flatnonzero(np.maximum(1 - first, 0) < RATIO**2 * (1 - second))  # squared distance is 2 - 2 similarity
    return clear, nearest[clear]


def _root(descriptors: np.ndarray) -> np.ndarray:
    # Arandjelovic and Zisserman, "Three things everyone should know to improve object retrieval", CVPR 2012
    counts = descriptors.astype(np.float32)
    return np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def _is_plausible(affine: np.ndarray) -> bool:
    if np.linalg.det(affine[:, :2]) <= 0:
        return False
    large, small = np.linalg.svd(affine[:, :2], compute_uv=False)
    return bool(large <= MAX_SCALE and small >= 1 / MAX_SCALE and large <= MAX_STRETCH * small)


def _agreement(a: np.ndarray, b: np.ndarray, affine: np.ndarray, points: int) -> Match | None:
    """Lay a on b and correlate the patches of the overlap; None where there is nothing to compare."""
    size = (b.shape[1], b.shape[0])
    seen = cv2.warpAffine(np.ones_like(a), affine, size, flags=cv2.INTER_NEAREST)
    seen = cv2.erode(seen, np.ones((5, 5), np.uint8)).astype(bool)
    ys, xs = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if len(ys) < 4 * GRID or len(xs) < 4 * GRID:
        return None
    box = np.s_[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    seen_of_a = seen.sum() / (np.linalg.det(affine[:, :2]) * a.size)
    warped = cv2.warpAffine(a, affine, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    correlation = _patch_correlation(_detail(warped)[box], _detail(b)[box], seen[box])
    useful = correlation[~np.isnan(correlation)]
    middle = correlation[GRID // 4 : -GRID // 4, GRID // 4 : -GRID // 4]
    middle = middle[~np.isnan(middle)]
    if len(useful) < 4:
        return None
    return Match(
        points,
        len(useful),
        float(np.median(useful)),
        float((useful > PATCH_ALIKE).mean()),
        float((middle > PATCH_ALIKE).mean()) if len(middle) else 1.0,
        min(float(seen_of_a), float(seen.mean()), 1.0),
    )


def _detail(gray: np.ndarray) -> np.ndarray:
    """Without noise and without broad light and shade, which unlike pictures of one arrangement share."""
    levels = gray.astype(np.float32)
    return cv2.GaussianBlur(levels, (0, 0), 1.5) - cv2.GaussianBlur(levels, (0, 0), BROAD)


def _patch_correlation(x: np.ndarray, y: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(GRID, GRID) correlation of the patches; NaN where half is unseen or both are flat."""
    out = np.full((GRID, GRID), np.nan)
    rows, columns = (np.linspace(0, n, GRID + 1).astype(int) for n in seen.shape)
    for i, j in np.ndindex(GRID, GRID):
        patch = np.s_[rows[i] : rows[i + 1], columns[j] : columns[j + 1]]
        inside = seen[patch]
        if inside.mean() < 0.5:
            continue
        u, v = x[patch][inside], y[patch][inside]
        spread = u.std(), v.std()
        if max(spread) >= FLAT:
            out[i, j] = ((u - u.mean()) * (v - v.mean())).mean() / (max(spread[0], 0.5) * max(spread[1], 0.5))
    return out


def _bits(low: np.ndarray) -> np.ndarray:
    """(n, 8, 8) frequencies -> (n,) uint64."""
    flat = low.reshape(len(low), 64)
    above = flat > np.median(flat, axis=1, keepdims=True)
    return np.packbits(above, axis=1).view(">u8").ravel().astype(np.uint64)


def _plain_lines(gray: np.ndarray) -> int:
    """Rows from the top that are as plain as the first one: 98 % of the pixels within 10 grey levels of its median."""
    near = np.abs(gray.astype(np.int16) - int(np.median(gray[0]))) <= 10
    plain = near.mean(axis=1) >= 0.98
    return int(len(plain) if plain.all() else plain.argmin())
