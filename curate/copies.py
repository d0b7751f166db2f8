"""Whether two pictures are the same photograph: local features line them up, then their patches must agree.

Points alone are not enough: two photographs under one watermark, or in one frame, share dozens of points.
"""

from typing import NamedTuple

import cv2
import numpy as np

SIDE = 224  # pixels of the longer side at which pictures are compared
FEATURES = 400
CONTRAST = 0.02  # of a feature: half of Lowe's, for smooth pictures
RATIO = 0.8  # Lowe, "Distinctive image features", IJCV 2004, section 7.1
MIN_POINTS = 6  # matched points that one affine map carries onto each other within REACH pixels
REACH = 3.0
MIN_ALIKE = 0.8  # median correlation of the patches: `python -m benchmarks.duplicates --thresholds`
MIN_SHARE = 0.55  # share of the patches that correlate above PATCH_ALIKE
MIN_CENTRE = 0.4  # the same share in the middle of the overlap: a common frame is not a common picture
AROUND_NOTHING = 0.9  # the same share where there is nothing in the middle
PATCH_ALIKE = 0.7
CUT_OUT = {
    "points": 20,
    "share": 0.35,
    "centre": 0.75,
    "middle": 10,
}  # at least, of what stands before another background
MIN_SHOWN = 0.35  # of one of the two pictures: what the other one shows of it, as far as its patches agree
MAX_SCALE = 5.0
MAX_STRETCH = 2.2  # of one axis against the other
GRID = 8
BROAD = 8.0  # pixels, of the Gaussian that makes out light and shade
FLAT = 3.0  # grey levels of standard deviation below which a patch has nothing to compare

_TURNED_BACK = -np.arange(8) % 8  # the directions of a descriptor, seen in a mirror


class Look(NamedTuple):
    """A picture as the comparison sees it.

    Attributes:
        gray: (h, w) uint8, the longer side SIDE pixels.
        points: (n, 2) float32, x and y in pixels of `gray`.
        sizes: (n,) float32, pixels.
        angles: (n,) float32, degrees, from x towards y.
        strengths: (n,) float32, contrast of the feature.
        descriptors: (n, 128) uint8, SIFT: 4 rows x 4 columns x 8 directions.
    """

    gray: np.ndarray
    points: np.ndarray
    sizes: np.ndarray
    angles: np.ndarray
    strengths: np.ndarray
    descriptors: np.ndarray


class Match(NamedTuple):
    """How two pictures agree once lined up.

    Attributes:
        points: distinct matched points.
        patches: patches of the overlap with something to compare.
        alike: median correlation of the patches.
        share: of the patches that correlate above PATCH_ALIKE.
        centre: the same in the middle of the overlap; where there is nothing to compare, 1 if nearly all else agrees.
        middle: patches there that have something to compare, of 16.
        cover_first: share of the first picture that the second one shows.
        cover_second: share of the second picture that the first one shows.
        scale: length in the second picture over length in the first, both SIDE pixels long.
        turn: degrees by which the second is turned against the first, clockwise, -180 to 180.
        flipped: the second is like the mirrored first.
    """

    points: int
    patches: int
    alike: float
    share: float
    centre: float
    middle: int
    cover_first: float
    cover_second: float
    scale: float
    turn: float
    flipped: bool

    def __str__(self) -> str:
        how = f"{self.points} matched points"
        how += ", mirrored" if self.flipped else ""
        how += f", turned by {self.turn:.0f} degrees" if abs(self.turn) >= 1 else ""
        cover = f"the shared part is {100 * self.cover_first:.0f} and {100 * self.cover_second:.0f} % of them"
        return f"{how}, {100 * self.share:.0f} % of {self.patches} patches agree, {cover}"


def to_gray(gray: np.ndarray) -> np.ndarray:
    """(h, w) uint8 -> the same with the longer side SIDE pixels, antialiased."""
    scale = SIDE / max(gray.shape)
    size = (max(8, round(gray.shape[1] * scale)), max(8, round(gray.shape[0] * scale)))
    return cv2.resize(gray, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def look_at(gray: np.ndarray) -> Look:
    """Find the points of a picture by which it is lined up with another (SIFT)."""
    found, descriptors = cv2.SIFT.create(nfeatures=FEATURES, contrastThreshold=CONTRAST).detectAndCompute(gray, None)
    facts = np.array([(*p.pt, p.size, p.angle, p.response) for p in found], np.float32).reshape(-1, 5)
    if descriptors is None:
        descriptors = np.zeros((0, 128))
    return Look(gray, facts[:, :2], facts[:, 2], facts[:, 3], facts[:, 4], descriptors.astype(np.uint8))


def mirrored(look: Look) -> Look:
    """What `look_at` finds in the picture mirrored left to right; the descriptors need not be computed anew."""
    points = look.points.copy()
    points[:, 0] = look.gray.shape[1] - 1 - points[:, 0]
    cells = look.descriptors.reshape(-1, 4, 4, 8)[:, ::-1][..., _TURNED_BACK]
    gray, angles = np.ascontiguousarray(look.gray[:, ::-1]), (180 - look.angles) % 360
    return look._replace(gray=gray, points=points, angles=angles, descriptors=cells.reshape(-1, 128))


def same_photograph(a: Look, b: Look) -> Match | None:
    """How the two agree if they are the same photograph, upright or mirrored, None if they are not."""
    match = compare(a, b)
    return match if match and is_copy(match) else None


def compare(a: Look, b: Look) -> Match | None:
    """How the two agree, upright or mirrored, whichever matches more points; None where nothing lines them up."""
    if min(len(a.points), len(b.points)) < MIN_POINTS:
        return None
    known = root(b.descriptors)
    looks = (a, mirrored(a))
    matches = [_matches(root(look.descriptors), known) for look in looks]
    flipped = len(matches[1][0]) > len(matches[0][0])
    affine, points = _line_up(looks[flipped].points, b.points, *matches[flipped])
    return None if affine is None else _agreement(looks[flipped].gray, b.gray, affine, points, flipped)


def swapped(match: Match) -> Match:
    """The same with the second picture first."""
    turn = match.turn if match.flipped else -match.turn
    return match._replace(
        cover_first=match.cover_second, cover_second=match.cover_first, scale=1 / match.scale, turn=turn
    )


def is_copy(match: Match, least: float = MIN_ALIKE) -> bool:
    """Whether so much agreement is that of one photograph; `least`: the median correlation of patches.

    Either most of the overlap agrees, or many points hold and all of its middle agrees: a specimen that was cut out.
    """
    whole = match.alike >= least and match.share >= MIN_SHARE and match.centre >= MIN_CENTRE
    cut_out = all(getattr(match, name) >= limit for name, limit in CUT_OUT.items())
    return max(match.cover_first, match.cover_second) * match.share >= MIN_SHOWN and (whole or cut_out)


def _line_up(a: np.ndarray, b: np.ndarray, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray | None, int]:
    """(2, 3) affine map of points a[i] to b[j], and how many distinct ones it carries; None if too few."""
    if len(i) < MIN_POINTS:
        return None, 0
    affine, inlier = cv2.estimateAffine2D(
        a[i], b[j], method=cv2.RANSAC, ransacReprojThreshold=REACH, maxIters=1000, confidence=0.995
    )
    if affine is None or not _is_plausible(affine):
        return None, 0
    held = inlier.ravel().astype(bool)
    points = min(len(np.unique(p[held].round(), axis=0)) for p in (a[i], b[j]))
    return (affine, points) if points >= MIN_POINTS else (None, points)


def _matches(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of (n, 128) RootSIFT descriptors whose nearest in b is clearly nearer than the second nearest."""
    similarity = a @ b.T
    rows, nearest = np.arange(len(a)), similarity.argmax(axis=1)
    first = similarity[rows, nearest]
    similarity[rows, nearest] = -1
    second = similarity.max(axis=1)
    clear = np.flatnonzero(np.maximum(1 - first, 0) < RATIO**2 * (1 - second))  # squared distance is 2 - 2 similarity
    return clear, nearest[clear]


def root(descriptors: np.ndarray) -> np.ndarray:
    """RootSIFT of (n, 128) uint8, float32: Arandjelovic and Zisserman, CVPR 2012, section 2."""
    counts = descriptors.astype(np.float32)
    return np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def _is_plausible(affine: np.ndarray) -> bool:
    if np.linalg.det(affine[:, :2]) <= 0:
        return False
    large, small = np.linalg.svd(affine[:, :2], compute_uv=False)
    return bool(large <= MAX_SCALE and small >= 1 / MAX_SCALE and large <= MAX_STRETCH * small)


def _agreement(a: np.ndarray, b: np.ndarray, affine: np.ndarray, points: int, flipped: bool) -> Match | None:
    """Lay a on b and correlate the patches of the overlap; None where there is nothing to compare."""
    size = (b.shape[1], b.shape[0])
    seen = cv2.warpAffine(np.ones_like(a), affine, size, flags=cv2.INTER_NEAREST)
    inner = cv2.erode(seen, np.ones((5, 5), np.uint8)).astype(bool)
    ys, xs = np.flatnonzero(inner.any(axis=1)), np.flatnonzero(inner.any(axis=0))
    if len(ys) < 4 * GRID or len(xs) < 4 * GRID:
        return None
    box = np.s_[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    area = float(np.linalg.det(affine[:, :2]))  # of b for one of a
    warped = cv2.warpAffine(a, affine, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    correlation = _patch_correlation(_detail(warped)[box], _detail(b)[box], inner[box])
    useful = correlation[~np.isnan(correlation)]
    middle = correlation[GRID // 4 : -GRID // 4, GRID // 4 : -GRID // 4]
    middle = middle[~np.isnan(middle)]
    if len(useful) < 4:
        return None
    share = float((useful > PATCH_ALIKE).mean())
    return Match(
        points,
        len(useful),
        float(np.median(useful)),
        share,
        float((middle > PATCH_ALIKE).mean()) if len(middle) else float(share >= AROUND_NOTHING),
        len(middle),
        min(float(seen.sum() / (area * a.size)), 1.0),
        float(seen.mean()),
        area**0.5,
        float(np.degrees(np.arctan2(affine[1, 0] - affine[0, 1], affine[0, 0] + affine[1, 1]))),
        flipped,
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
