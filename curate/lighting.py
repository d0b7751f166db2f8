"""Exposure, evenness and colour of the light, sharpness and compression: each a plain function of the pixels.

Light is measured on a thumbnail without letterbox bars; sharpness and compression on the pixels of the file itself.
"""

import cv2
import numpy as np

from curate.foreground import ranked, resized

CLIPPED = 250  # level of 255; JPEG moves what was clipped by a few
NEUTRAL = 5.0  # CIE chroma below which a pixel is grey
NEUTRAL_SHARE = 0.2
LEAST_LEAN = 0.15  # stops that specimen and surroundings lean to the colour of a cast
YELLOW = (-0.36, 0.18)  # red over green for each stop that blue lacks: yellow of rock and moss, which no lamp gives
_STOPS = np.log2(np.arange(256, dtype=np.float32) + 4)  # of the levels; of black, finite
FIELD_SIDE = 48  # longer side of the picture to which the field of light is fitted, pixels
FIELD_LEVELS = (14, 250)  # outside them a pixel is black or clipped, and says nothing of the light
OUTER_SHARE = 0.15  # of the outer part that must tell of the light: what lies before black has its own shading
DETAIL_SIDE = 320  # of the middle of the file that sharpness and compression are measured in, pixels
REBLUR = 1.0  # standard deviation of the second blur, pixels
MOST_BLUR = 9.0  # pixels; what has no edges at all counts as blurred that much
BLOCK = 8  # pixels a side of a JPEG block


def highlight(rgb: np.ndarray) -> float:
    """95th percentile of the largest of R, G and B, 0 to 255: a well exposed picture has something light in it.

    Args:
        rgb: (h, w, 3) uint8.
    """
    return _quantile(_lightest(rgb), 0.95)


def clipped(rgb: np.ndarray, mask: np.ndarray, deviation: np.ndarray) -> float:
    """Share of pixels with a clipped channel: of the specimen (counted once) and of what has texture (counted twice).

    A white studio background is clipped and rightly so; it is neither.

    Args:
        rgb: (h, w, 3) uint8.
        mask: (h, w) bool, the specimen.
        deviation: (h, w) standard deviation of L* in 3 x 3 pixels.
    """
    over = _lightest(rgb) >= CLIPPED
    textured = deviation >= 0.5
    inside = np.count_nonzero(over & mask) / np.count_nonzero(mask)
    of_texture = np.count_nonzero(over & textured) / max(int(np.count_nonzero(textured)), 50)
    return (inside + 2 * of_texture) / 3


def white_point(rgb: np.ndarray, small: np.ndarray, lab: np.ndarray) -> float:
    """How far the lightest red, green and blue are from a common white, stops.

    Length of (log2 R/G, log2 B/G) of the 99.9th percentiles: the white-patch estimate of the illuminant (Land & McCann,
    "Lightness and retinex theory", 1971) made robust. Coloured rock under white light still has white glints; where it
    has none, 0 if more than `NEUTRAL_SHARE` of what is neither black nor clipped is grey, which a cast leaves nowhere.

    Args:
        rgb: (h, w, 3) uint8.
        small: the same smaller, and `lab`, the same as CIE Lab.
    """
    levels = _lightest(small)
    told = (levels > FIELD_LEVELS[0]) & (levels < FIELD_LEVELS[1])
    grey = cv2.magnitude(lab[..., 1], lab[..., 2]) < NEUTRAL
    if np.count_nonzero(grey & told) > NEUTRAL_SHARE * np.count_nonzero(told):
        return 0.0
    red, green, blue = (1 + _quantile(rgb, 0.999, channel) for channel in range(3))
    return float(np.hypot(np.log2(red / green), np.log2(blue / green)))


def lies_on_all(rgb: np.ndarray, mask: np.ndarray) -> bool:
    """Whether the colour of a picture may be that of its light: else a cast is not claimed, whatever is measured of it.

    Light colours everything alike: the specimen and its surroundings both lean the way that the picture does, by their
    medians of log2 R/G and log2 B/G, or it is one of the two that is coloured. And it is no yellow: where blue alone
    lacks in the lightest fifth, and red is about as strong as green, olivine, sulphur or moss took it. Lamps that lack
    blue have less green than red (CIE 15, the Planckian locus).

    Args:
        rgb: (h, w, 3) uint8, some 128 pixels long: every second row and column is looked at.
        mask: (h, w) bool, the specimen.
    """
    pixels, inside = np.ascontiguousarray(rgb[::2, ::2]), mask[::2, ::2]
    levels = _lightest(pixels)
    told = (levels > 20) & (levels < CLIPPED)
    if np.count_nonzero(told) < 20:
        return True
    red, green, blue = cv2.split(cv2.LUT(pixels, _STOPS))
    ratios, inside, levels = np.stack([red - green, blue - green])[:, told], inside[told], levels[told]
    red, blue = np.median(ratios[:, levels >= np.quantile(levels, 0.8)], axis=1)
    if blue < 0 and YELLOW[0] < red / -blue < YELLOW[1]:
        return False
    whole = np.median(ratios, axis=1)
    parts = (ratios[:, part] for part in (inside, ~inside) if np.count_nonzero(part) >= 12)
    leans = [np.median(part, axis=1) @ whole for part in parts]
    return bool(min(leans) > LEAST_LEAN * np.hypot(*whole))


def light_field(rgb: np.ndarray) -> tuple[float, float]:
    """How the light falls off over the picture: to the corners, and to one side.

    Fits log2 of the light as a plane plus -k log2(1 + r^2) (r = 1 in the corners; k = 2 is the cos^4 law at 45 degrees)
    to the gradients of log2 of the lightness, by least absolute deviations: the edges and the texture of things point
    everywhere, and the many small gradients follow the light. Gradients instead of levels, and their symmetry about
    the centre, as in Zheng et al., "Single-image vignetting correction using radial gradient symmetry", CVPR 2008; the
    model as in Kang & Weiss, "Can we calibrate a camera using an image of a flat, textureless Lambertian surface?",
    ECCV 2000.

    Args:
        rgb: (h, w, 3) uint8.

    Returns:
        k, in stops from the middle to a corner, negative where the corners are lighter; and the slope of the plane, in
        stops over half a diagonal. 0 where almost all towards the corners is black or clipped.
    """
    lightest = _lightest(resized(rgb, FIELD_SIDE)).astype(np.float32)
    height, width = lightest.shape
    told = ((lightest > FIELD_LEVELS[0]) & (lightest < FIELD_LEVELS[1])).astype(np.uint8)
    told[[0, -1]] = told[:, [0, -1]] = 0
    usable = cv2.erode(told, np.ones((3, 3))) > 0
    corner = np.hypot(height - 1, width - 1) / 2
    y, x = (np.arange(height) - (height - 1) / 2) / corner, (np.arange(width) - (width - 1) / 2) / corner
    outer = (y * y)[:, None] + x * x > 0.6 * 0.6
    if usable.mean() < 0.05 or np.count_nonzero(usable & outer) < OUTER_SHARE * np.count_nonzero(outer):
        return 0.0, 0.0
    levels = np.log2(lightest + 2)
    slopes = [cv2.Sobel(levels, cv2.CV_32F, *order, scale=corner / 8)[usable] for order in ((1, 0), (0, 1))]
    rows, columns = np.nonzero(usable)
    x, y = x[columns], y[rows]
    falloff = -2 / np.log(2) / (1 + x * x + y * y)
    outwards = np.array([falloff * x, falloff * y])
    right, down, k = _least_deviations(outwards, np.array(slopes, np.float64), smallest=0.003 * corner)
    return k, float(np.hypot(right, down))


def middle(rgb: np.ndarray) -> np.ndarray:
    """The middle of a picture ((h, w, 3) uint8) in grey, no side above `DETAIL_SIDE`."""
    height, width = rgb.shape[:2]
    top, left = max(0, (height - DETAIL_SIDE) // 2), max(0, (width - DETAIL_SIDE) // 2)
    part = np.ascontiguousarray(rgb[top : top + DETAIL_SIDE, left : left + DETAIL_SIDE])
    return cv2.cvtColor(part, cv2.COLOR_RGB2GRAY)


def edge_blur(grey: np.ndarray) -> float:
    """Standard deviation of the blur of the sharper edges, pixels: their 25th percentile.

    An edge blurred once more grows flatter by a factor that tells how blurred it was: Zhuo & Sim, "Defocus map
    estimation from a single image", Pattern Recognition 2011. Edges are the steepest tenth of all pixels. A perfect
    step gives 0.8, since pixels and the gradient's kernel blur it too; fine grain gives less.

    Args:
        grey: (h, w) uint8, pixels of the file as it is, not of a smaller copy.
    """
    levels = grey.astype(np.float32)
    steep, flatter = _slope(levels), _slope(cv2.GaussianBlur(levels, (0, 0), REBLUR))
    if not steep.size:
        return MOST_BLUR
    least = max(ranked(steep[::3, ::3], 0.9), 4.0) - 1e-3  # many are as steep, but for rounding
    edges = np.flatnonzero(steep >= least)
    if len(edges) < 20:
        return MOST_BLUR
    ratio = np.maximum(steep.take(edges) / np.maximum(flatter.take(edges), 1e-3), 1.0001)
    return min(ranked(REBLUR / np.sqrt(ratio * ratio - 1), 0.25), MOST_BLUR)


def blockiness(grey: np.ndarray) -> float:
    """Mean step between neighbours across the borders of JPEG's blocks, as a multiple of that inside them; about 1.

    After Wang, Sheikh & Bovik, "No-reference perceptual quality assessment of JPEG compressed images", ICIP 2002. The
    borders are looked for at each of the eight places where they can be, since pictures are cropped.

    Args:
        grey: (h, w) uint8, pixels of the file as it is.
    """
    ratios = []
    if min(grey.shape) <= 4 * BLOCK:
        return 1.0
    for axis, apart in enumerate((cv2.absdiff(grey[:, 1:], grey[:, :-1]), cv2.absdiff(grey[1:], grey[:-1]))):
        steps = cv2.reduce(apart, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() / apart.shape[axis]
        places = np.array([steps[place::BLOCK].mean() for place in range(BLOCK)])
        inside = np.median(places)
        ratios.append((places.max() + 0.2) / (inside + 0.2))
    return float(min(ratios))  # a border of the picture's own has one direction


def _lightest(rgb: np.ndarray) -> np.ndarray:
    """(h, w) the largest of R, G and B."""
    red, green, blue = cv2.split(rgb)
    return cv2.max(cv2.max(red, green), blue)


def _quantile(levels: np.ndarray, share: float, channel: int = 0) -> float:
    """The level of a channel of (h, w) or (h, w, c) uint8 that `share` of the pixels do not exceed."""
    upto = cv2.calcHist([levels], [channel], None, [256], [0, 256]).cumsum()
    return float(upto.searchsorted(share * levels.shape[0] * levels.shape[1]))


def _least_deviations(outwards: np.ndarray, observed: np.ndarray, smallest: float) -> tuple[float, float, float]:
    """The vector (x, y) and the factor k that bring it plus k `outwards` nearest to `observed`, both (2, n).

    By iteratively reweighted squares; deviations below `smallest` weigh no more than it.
    """
    (out_x, out_y), (seen_x, seen_y) = outwards, observed
    squares, products = out_x * out_x + out_y * out_y, out_x * seen_x + out_y * seen_y
    terms = np.stack([np.ones_like(out_x), out_x, out_y, squares, seen_x, seen_y, products])
    x = y = k = 0.0
    for _ in range(5):
        apart_x, apart_y = seen_x - (x + k * out_x), seen_y - (y + k * out_y)
        weight = 1 / (np.sqrt(apart_x * apart_x + apart_y * apart_y) + smallest)
        one, along_x, along_y, both, *target = (terms @ weight).tolist()
        ridge = 1e-6 * (2 * one + both)
        normal = [[one + ridge, 0, along_x], [0, one + ridge, along_y], [along_x, along_y, both + ridge]]
        x, y, k = np.linalg.solve(normal, target).tolist()
    return x, y, k


def _slope(levels: np.ndarray) -> np.ndarray:
    """Length of the gradient (Sobel) of (h, w) float32, levels a pixel; without the outermost two rows and columns."""
    dx, dy = (cv2.Sobel(levels, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    return np.ascontiguousarray(cv2.magnitude(dx, dy)[2:-2, 2:-2])
