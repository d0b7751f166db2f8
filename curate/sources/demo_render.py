"""What the demo source draws: rocks from their minerals, what they lie on, and pictures that show no specimen.

Images here are float32 (height, width, 3), RGB in 0 to 1; every function draws from the generator it is given.
"""

import colorsys
import hashlib
from typing import NamedTuple

import cv2
import numpy as np

Colour = tuple[float, float, float]


class Lithology(NamedTuple):
    """What a rock is made of.

    Attributes:
        minerals: colour (sRGB, 0 to 255) and share of the area, of the grains that interlock.
        grain: their mean diameter, pixels in a specimen of 220 pixels.
        laths: colour and share of the crystals that lie in the groundmass.
        lath: their length and aspect ratio.
        vesicles: share of the area that is gas bubbles.
        bands: contrast of the flow bands, 0 to 1.
        rough: height of the fracture surface, 1 for a coarse rock.
    """

    minerals: tuple[tuple[Colour, float], ...]
    grain: float
    laths: tuple[tuple[Colour, float], ...] = ()
    lath: tuple[float, float] = (8.0, 2.0)
    vesicles: float = 0.0
    bands: float = 0.0
    rough: float = 1.0


LITHOLOGIES = {
    "granite": Lithology(
        (((204, 156, 140), 0.34), ((228, 219, 208), 0.28), ((150, 148, 150), 0.24), ((52, 47, 46), 0.14)), 4.9
    ),
    "diorite": Lithology((((218, 218, 212), 0.5), ((166, 168, 166), 0.12), ((56, 58, 57), 0.38)), 4.0),
    "gabbro": Lithology((((54, 59, 54), 0.56), ((126, 130, 121), 0.26), ((34, 36, 34), 0.18)), 4.5),
    "peridotite": Lithology(
        (((126, 130, 68), 0.58), ((98, 108, 58), 0.22), ((42, 50, 34), 0.14), ((168, 166, 100), 0.06)), 4.0
    ),
    "rhyolite": Lithology(
        (((204, 172, 158), 0.6), ((188, 162, 152), 0.3), ((216, 196, 184), 0.1)),
        2.2,
        (((236, 228, 218), 0.018), ((128, 120, 118), 0.016)),
        (7.0, 1.5),
        bands=0.06,
        rough=0.7,
    ),
    "andesite": Lithology(
        (((126, 126, 124), 0.6), ((108, 110, 110), 0.4)),
        2.2,
        (((218, 216, 208), 0.08), ((52, 50, 50), 0.03)),
        (6.0, 2.2),
        rough=0.75,
    ),
    "basalt": Lithology(
        (((64, 64, 66), 0.6), ((50, 50, 53), 0.4)),
        2.0,
        (((106, 114, 74), 0.006),),
        (3.6, 1.3),
        vesicles=0.08,
        rough=0.85,
    ),
}


class Layer(NamedTuple):
    """Something to lay over a picture: colour (h, w, 3) and opacity (h, w), float32 in 0 to 1."""

    rgb: np.ndarray
    alpha: np.ndarray


def stable_rng(*key: object) -> np.random.Generator:
    """A generator that the same key starts in the same state on every run and machine."""
    digest = hashlib.blake2b("\0".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def lithology(label: str) -> Lithology:
    """The rock of that name; for any other name one made up from it, always the same."""
    if known := LITHOLOGIES.get(label.strip().casefold()):
        return known
    rng = stable_rng("lithology", label.strip().casefold())
    hue, lightness = rng.uniform(0, 360), rng.uniform(70, 190)
    coarse, saturation = rng.random() < 0.5, rng.uniform(0.08, 0.22)
    hues = (hue + np.array([0.0, 30.0, 150.0])) % 360
    values = np.clip(lightness * np.array([1.0, 1.35, 0.45]), 25, 240)
    shares = (0.6, 0.25, 0.15)
    minerals = tuple((hsv(h, saturation, v), s) for h, v, s in zip(hues, values, shares, strict=True))
    laths = ((hsv(hue + 180, 0.25, 255 - lightness * 0.6), rng.uniform(0.03, 0.09)),)
    if coarse:
        return Lithology(minerals, rng.uniform(4.5, 7.5))
    vesicles, bands = float(rng.choice([0.0, 0.07])), float(rng.choice([0.0, 0.07]))
    return Lithology(minerals[:2], 2.2, laths, (8.0, rng.uniform(1.2, 3.0)), vesicles, bands, 0.75)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Hue in degrees, saturation 0 to 1, value 0 to 255 -> sRGB, 0 to 255."""
    r, g, b = colorsys.hsv_to_rgb(float(hue) % 360 / 360, saturation, float(value))
    return r, g, b


def shaded(rgb: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Every pixel of (h, w, 3) times its factor (h, w)."""
    return cv2.multiply(rgb, cv2.merge([factor.astype(np.float32)] * 3))


def noise(rng: np.random.Generator, shape: tuple[int, int], cells: float, octaves: int = 3) -> np.ndarray:
    """Smooth noise (h, w), about -1 to 1: `cells` bumps across the longer side, each octave twice as many."""
    h, w = shape
    total = np.zeros((1, 1), np.float32)
    for octave in range(octaves):
        step = max(h, w) / (cells * 2**octave)
        grid = rng.standard_normal((int(h / step) + 3, int(w / step) + 3), np.float32) * np.float32(0.55 * 0.5**octave)
        total = grid + cv2.resize(total, grid.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return cv2.resize(total, (w, h), interpolation=cv2.INTER_CUBIC)


def voronoi(rng: np.random.Generator, shape: tuple[int, int], size: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Cells of mean diameter `size`: the cell of each pixel (h, w) int32, distance to its seed, number of labels."""
    h, w = shape
    n = max(4, int(h * w / size**2))
    seeds = np.ones(shape, np.uint8)
    seeds[rng.integers(0, h, n), rng.integers(0, w, n)] = 0
    distance, cells = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    return cells, distance, n + 1


def texture(rock: Lithology, rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Layer:
    """The minerals of one specimen, unlit: colour, and in place of the opacity the relief (h, w), in pixels.

    Args:
        rock: its minerals; colour, shares and grain size vary from specimen to specimen.
        rng: of the specimen.
        shape: height and width.
        scale: 1 for a specimen of 220 pixels.
    """
    colours = np.array([c for c, _ in rock.minerals], np.float32) / 255
    shares = rng.dirichlet([share * 28 for _, share in rock.minerals])
    colours = colours * rng.uniform(0.82, 1.2) * (1 + rng.normal(0, 0.02, 3)) + rng.normal(0, 0.008, colours.shape)
    h, w = shape
    grain = max(1.6, rock.grain * scale * np.exp(rng.normal(0, 0.18)))
    cells, _, n = voronoi(rng, shape, grain)
    table = colours[rng.choice(len(shares), n, p=shares)]
    glint = 1 + 0.13 * rng.standard_normal((n, 1)) + 0.25 * (rng.random((n, 1)) < 0.04)
    rgb = np.take((table * glint).astype(np.float32), cells, axis=0)
    relief = rng.standard_normal(n, np.float32)[cells] * np.float32(min(0.25, 0.03 * grain))
    if grain > 3:
        rgb, relief = _crumpled(rng, rgb, relief, grain)
    rgb = _with_laths(rock, rng, rgb, scale)
    speckle = cv2.resize(rng.standard_normal((h // 2, w // 2), np.float32), (w, h), interpolation=cv2.INTER_LINEAR)
    tone = 1 + 0.07 * noise(rng, shape, 5, 4) + 0.06 * speckle
    if rock.bands:
        tone *= 1 + rng.uniform(0.3, 1.5) * rock.bands * _flow_bands(rng, shape, scale)
    if rock.vesicles and rng.random() < 0.75:
        holes = _vesicles(rng, shape, rock.vesicles * rng.uniform(0.4, 1.8), scale)
        tone *= 1 - 0.62 * holes
        relief -= 3.0 * scale * holes
    stain = np.clip(noise(rng, shape, 3) - rng.uniform(0.3, 1.1), 0, 1)
    rust = [tone * (1 - strength * stain) for strength in (0.08, 0.2, 0.34)]
    return Layer(cv2.multiply(rgb, cv2.merge(rust)), relief)


def specimen(
    rock: Lithology, rng: np.random.Generator, shape: tuple[int, int], light: np.ndarray, scale: float | None = None
) -> Layer:
    """One broken piece of rock that just fits into (h, w): a polyhedron with rough facets, lit from `light`."""
    h, w = shape
    scale = scale or min(shape) / 190
    surface = texture(rock, rng, shape, scale)
    x, y = np.meshgrid(np.linspace(-1, 1, w, dtype=np.float32), np.linspace(-1, 1, h, dtype=np.float32))
    x += 0.035 * noise(rng, shape, 3, 4)
    y += 0.035 * noise(rng, shape, 3, 4)
    height = _polyhedron(rng, x, y)
    height += rock.rough * 0.04 * noise(rng, shape, 7, 4) * np.clip(0.35 + 2 * height, 0.35, 1)
    radius = min(h, w) / 2
    alpha = np.clip(cv2.GaussianBlur(height, (0, 0), 0.8) * radius * 0.55, 0, 1)
    alpha[[0, -1]] = alpha[:, [0, -1]] = 0
    solid = np.clip(cv2.GaussianBlur(height, (0, 0), 1.2), 0, None) * radius * 0.75
    wear = solid - cv2.GaussianBlur(solid, (0, 0), 2.5)
    shade = _lit(solid + surface.alpha, light) * (0.8 + 0.2 * np.clip(height * 6, 0, 1))
    rgb = shaded(surface.rgb, shade * (1 + np.clip(wear * 0.09, 0, 0.16)))
    return Layer(rgb, alpha.astype(np.float32))


def fracture(rock: Lithology, rng: np.random.Generator, shape: tuple[int, int], light: np.ndarray) -> np.ndarray:
    """A close-up: the broken surface of the rock fills the frame."""
    scale = rng.uniform(1.0, 1.4)
    surface = texture(rock, rng, shape, scale)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    slopes = rng.normal(0, 0.22, (5, 2, 1, 1)).astype(np.float32)
    start = (rng.uniform(0, 1, (5, 2, 1, 1)) * np.array(shape)[:, None, None]).astype(np.float32)
    facets = (slopes[:, 0] * (y - start[:, 0]) + slopes[:, 1] * (x - start[:, 1])).min(axis=0)
    relief = facets + rock.rough * 7 * noise(rng, shape, 5, 5)
    return shaded(surface.rgb, _lit(cv2.GaussianBlur(relief.astype(np.float32), (0, 0), 1) + surface.alpha, light))


def heap(rock: Lithology, rng: np.random.Generator, shape: tuple[int, int], light: np.ndarray) -> Layer:
    """Many pieces of the rock in a pile that fills the frame; opaque where there is a stone, not a gap."""
    h, w = shape
    size = int(rng.uniform(66, 94))
    sprites = [specimen(rock, rng, (size, int(size * rng.uniform(0.9, 1.4))), light, 0.55) for _ in range(5)]
    pile = Layer(np.full((h, w, 3), 0.13, np.float32), np.zeros(shape, np.float32))
    steps = np.array([0.5, 0.74]) * size
    rows, columns = (int(side / step) + 2 for side, step in zip(shape, steps, strict=True))
    for place in rng.permutation(rows * columns):
        y, x = (np.array([place // columns, place % columns]) + rng.normal(0, 0.3, 2)) * steps
        stone, zoom = sprites[rng.integers(len(sprites))], rng.uniform(0.8, 1.3)
        small = Layer(*(cv2.resize(part, None, fx=zoom, fy=zoom) for part in stone))
        paste(pile, small, y, x, light, 0.7)
    return pile


def paste(onto: Layer, piece: Layer, y: float, x: float, light: np.ndarray, shadow: float) -> None:
    """Lay a piece with its shadow over a picture, centred at (y, x), in place; `onto.alpha` gains what it covers."""
    h, w = piece.alpha.shape
    pad = max(h, w) // 4
    rgb, alpha = (cv2.copyMakeBorder(part, pad, pad, pad, pad, cv2.BORDER_CONSTANT) for part in piece)
    quarter = cv2.resize(alpha, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    dx, dy = -light[:2] * pad * 0.1
    cast = cv2.warpAffine(quarter, np.array([[1, 0, dx], [0, 1, dy]], np.float32), quarter.shape[::-1])
    cast = 0.65 * cv2.GaussianBlur(cast, (0, 0), 0.3 + pad / 22) + 0.35 * cv2.GaussianBlur(quarter, (0, 0), 0.9)
    shade = 1 - shadow * cv2.resize(cast, alpha.shape[::-1], interpolation=cv2.INTER_LINEAR)
    top, left = int(y) - alpha.shape[0] // 2, int(x) - alpha.shape[1] // 2
    height, width = onto.alpha.shape
    there = np.s_[max(top, 0) : max(top + alpha.shape[0], 0), max(left, 0) : max(left + alpha.shape[1], 0)]
    here = np.s_[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
    cover = alpha[here]
    if cover.size == 0:
        return
    onto.rgb[there] = shaded(onto.rgb[there], shade[here] * (1 - cover)) + shaded(rgb[here], cover)
    onto.alpha[there] = np.maximum(onto.alpha[there], cover)


def _lit(relief: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Brightness (h, w) of a surface given by its height in pixels: ambient light and Lambert's cosine."""
    dx = cv2.Sobel(relief, cv2.CV_32F, 1, 0, ksize=3, scale=0.125)
    dy = cv2.Sobel(relief, cv2.CV_32F, 0, 1, ksize=3, scale=0.125)
    cosine = (light[2] - light[0] * dx - light[1] * dy) / np.sqrt(1 + dx * dx + dy * dy)
    return 0.38 + 0.7 * np.clip(cosine, 0, 1)


def _crumpled(
    rng: np.random.Generator, rgb: np.ndarray, relief: np.ndarray, grain: float
) -> tuple[np.ndarray, np.ndarray]:
    """Grain boundaries bent out of the straight lines of Voronoi cells."""
    h, w = relief.shape
    y, x = np.mgrid[:h, :w].astype(np.float32)
    cells = max(h, w) / grain
    x += 0.24 * grain * noise(rng, (h, w), cells, 2)
    y += 0.24 * grain * noise(rng, (h, w), cells, 2)
    bent = cv2.remap(rgb, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return bent, cv2.remap(relief, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _flow_bands(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    angle, period = rng.uniform(-0.6, 0.6), rng.uniform(9, 20) * scale
    along = (y * float(np.cos(angle)) + x * float(np.sin(angle))) / period + 0.9 * noise(rng, shape, 2.5)
    return np.sin(2 * np.pi * along) + 0.6 * np.sin(2 * np.pi * 2.3 * along)


def _with_laths(rock: Lithology, rng: np.random.Generator, rgb: np.ndarray, scale: float) -> np.ndarray:
    """Crystals drawn as rough hexagons, some whole, most small."""
    h, w = rgb.shape[:2]
    length, aspect = rock.lath[0] * scale, rock.lath[1]
    corners = np.array([[-0.5, -0.2], [-0.35, -0.5], [0.4, -0.5], [0.5, 0.1], [0.3, 0.5], [-0.4, 0.45]])
    for colour, share in rock.laths:
        n = min(260, int(share * rng.uniform(0.6, 1.5) * h * w * aspect / (0.6 * length**2)))
        size = length * np.exp(rng.normal(-0.15, 0.45, (n, 1, 1)))
        body = corners * size * np.array([1, 1 / aspect]) * rng.uniform(0.75, 1.25, (n, 6, 1))
        turn = rng.uniform(0, np.pi, n)
        spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]).transpose(2, 0, 1)
        centres = rng.uniform(0, 1, (n, 1, 2)) * np.array([w, h])
        points = np.round((body @ spin.transpose(0, 2, 1) + centres) * 16).astype(np.int32)
        tones = np.array(colour) / 255 * (1 + 0.1 * rng.standard_normal((n, 1)))
        for outline, tone in zip(points, tones, strict=True):
            cv2.fillConvexPoly(rgb, outline, tone.tolist(), cv2.LINE_8, 4)
    return cv2.GaussianBlur(rgb, (0, 0), 0.65)


def _vesicles(rng: np.random.Generator, shape: tuple[int, int], share: float, scale: float) -> np.ndarray:
    """Gas bubbles: depth (h, w), 0 to 1."""
    h, w = shape
    depth = np.zeros(shape, np.float32)
    mean = rng.uniform(2.0, 3.6) * scale
    radii = np.clip(mean * np.exp(rng.normal(0, 0.55, min(320, int(share * h * w / (4.5 * mean**2))))), 0.8, 16 * scale)
    for radius, x, y, stretch, turn in zip(radii, *rng.random((4, len(radii))), strict=True):
        axes = (int(radius * 16), int(radius * 16 * (0.55 + 0.45 * stretch)))
        outline = cv2.ellipse2Poly((0, 0), axes, int(turn * 180), 0, 360, 30) + np.array([x * w, y * h]) * 16
        cv2.fillPoly(depth, [outline.astype(np.int32)], 1.0, cv2.LINE_8, 4)
    return cv2.GaussianBlur(depth, (0, 0), 0.8)


def _polyhedron(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Height over (x, y) in -1..1 of a convex block: steep sides around it, a few gentle faces on top; < 0 outside."""
    n = int(rng.integers(6, 10))
    around = (np.arange(n) + rng.uniform(-0.3, 0.3, n)) * 2 * np.pi / n + rng.uniform(0, 6.3)
    reach, steep = rng.uniform(0.7, 0.9, n), np.exp(rng.uniform(-0.3, 1.2, n))
    height = np.minimum(3 * (0.93 - np.abs(x)), 3 * (0.93 - np.abs(y)))
    for angle, r, s in zip(around, reach, steep, strict=True):
        side = np.float32(s * r) - x * np.float32(s * np.cos(angle)) - y * np.float32(s * np.sin(angle))
        np.minimum(height, side, out=height)
    for top in rng.uniform(0.3, 0.7, int(rng.integers(2, 5))):
        a, b = rng.normal(0, 0.42, 2).astype(np.float32)
        np.minimum(height, np.float32(top) + a * x + b * y, out=height)
    return height


def blend(amount: np.ndarray, *colours: Colour) -> np.ndarray:
    """Colours (0 to 255) along a ramp of amounts in 0 to 1: (h, w) -> (h, w, 3)."""
    stops = np.linspace(0, 1, len(colours))
    table = np.stack([np.interp(np.linspace(0, 1, 256), stops, c) for c in np.array(colours).T], -1) / 255
    return table.astype(np.float32)[np.clip(amount * 255, 0, 255).astype(np.uint8)]


def grass(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A lawn from above."""
    blades = np.zeros(shape, np.float32)
    for lean in (-5, 0, 5):
        kernel = cv2.line(np.zeros((19, 19), np.float32), (9 - lean, 0), (9 + lean, 18), 1.0) / 19
        blades = np.maximum(blades, cv2.filter2D(rng.standard_normal(shape, np.float32), -1, kernel) * 3.4)
    return blend(0.1 + 0.24 * blades + 0.1 * noise(rng, shape, 4), (28, 44, 16), (76, 104, 38), (142, 164, 78))


def _scenery(rng: np.random.Generator, shape: tuple[int, int], label: str) -> np.ndarray:
    """Mountains behind a meadow."""
    h, w = (side // 2 for side in shape)  # the distance is a little soft
    y = np.linspace(0, 1, h, dtype=np.float32)[:, None] * np.ones((1, w), np.float32)
    clouds = np.clip(noise(rng, (h * 3, w), 5, 5)[:h] + rng.uniform(-0.4, 0.2), 0, 0.8)[..., None]
    view: np.ndarray = blend(y * 1.8, (74, 124, 190), (170, 200, 226), (232, 232, 224)) * (1 - clouds) + clouds * 0.98
    for far, peaks in ((1.0, 3.0), (0.55, 4.0), (0.15, 5.0)):
        skyline = 0.62 - 0.22 * far + (0.05 + 0.1 * far) * noise(rng, (3, w), peaks, 6)[0]
        slope = blend(0.5 + 0.45 * noise(rng, (h, w), 9, 5), (44, 52, 50), (96, 98, 88), (140, 132, 116))
        snow = (y < skyline + 0.1 * far + 0.05 * noise(rng, (h, w), 14, 3))[..., None] & (far > 0.9)
        slope = np.where(snow, 0.9, slope) * (1 - 0.45 * far) + 0.45 * far * np.array([0.62, 0.72, 0.84], np.float32)
        view = np.where((y > skyline)[..., None], slope, view)
    view = cv2.resize(view.astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)
    meadow = int(shape[0] * rng.uniform(0.64, 0.74)) + (9 * noise(rng, (3, shape[1]), 2)[0]).astype(int)
    front = np.arange(shape[0])[:, None] > meadow
    view[front] = grass(rng, shape)[front] * 1.15
    return view


def _countertop(rng: np.random.Generator, shape: tuple[int, int], label: str) -> np.ndarray:
    """The polished stone of a shop: tiles with joints, or one slab; the window is mirrored in it."""
    h, w = shape
    polished = texture(lithology(label), rng, shape, rng.uniform(0.6, 1.1)).rgb
    y, x = np.mgrid[:h, :w].astype(np.float32)
    if rng.random() < 0.6:
        side = rng.integers(70, 130)
        tone = (1 + 0.07 * rng.standard_normal((h // side + 2, w // side + 2))).astype(np.float32)
        polished *= tone[(y // side).astype(int), (x // side).astype(int)][..., None]
        polished[(y % side < 3) | (x % side < 3)] = rng.uniform(0.3, 0.8)
    else:
        edge = h * rng.uniform(0.2, 0.35)
        polished[y < edge] = np.array([0.86, 0.84, 0.8], np.float32) * (0.9 + 0.1 * rng.random())
        polished[np.abs(y - edge) < 2] = 0.25
    across = (x * np.cos(0.5) + y * np.sin(0.5)) / w
    gloss = np.exp(-(((across - rng.uniform(0.3, 0.8)) / 0.09) ** 2)) + 0.6 * np.exp(-(((across - 0.2) / 0.04) ** 2))
    return (polished * 0.95 + 0.3 * gloss[..., None]).astype(np.float32)


def _write(page: np.ndarray, text: str, x: float, y: float, size: float = 0.4, ink: Colour = (40, 40, 44)) -> None:
    cv2.putText(page, text, (int(x), int(y)), cv2.FONT_HERSHEY_SIMPLEX, size, ink, 1, cv2.LINE_AA)


def _diagram(rng: np.random.Generator, shape: tuple[int, int], label: str) -> np.ndarray:
    """A section through a volcano."""
    h, w = shape
    page = np.full((h, w, 3), 252, np.uint8)
    _write(page, "PLUTONIC AND VOLCANIC ROCKS", 8, 16)
    for i, colour in enumerate(((206, 182, 140), (180, 146, 104), (150, 112, 84), (120, 84, 70))):
        cv2.rectangle(page, (0, int(h * (0.52 + 0.12 * i))), (w, h), colour, -1)
    mid, top = int(w * rng.uniform(0.4, 0.5)), int(h * 0.2)
    cone = np.array([[mid - 12, top], [mid + 12, top], [mid + w // 4, h * 0.52], [mid - w // 4, h * 0.52]], np.int32)
    cv2.fillConvexPoly(page, cone, (122, 112, 106), cv2.LINE_AA)
    cv2.rectangle(page, (mid - 5, top), (mid + 5, int(h * 0.8)), (226, 84, 40), -1)
    cv2.ellipse(page, (mid, int(h * 0.84)), (w // 5, h // 10), 0, 0, 360, (226, 84, 40), -1, cv2.LINE_AA)
    parts = (("lava flow", 0.4, 0.25), ("dike", 0.66, 0.05), ("magma chamber", 0.85, 0.2), (label, 0.72, -0.3))
    for name, y, x in parts:
        cv2.line(page, (mid, int(h * y)), (int(mid + x * w), int(h * y) - 4), (20, 20, 20), 1, cv2.LINE_AA)
        _write(page, name, mid + x * w - 20 * (x < 0), h * y - 8)
    return page.astype(np.float32) / 255


def _map(rng: np.random.Generator, shape: tuple[int, int], label: str) -> np.ndarray:
    """A geological map: formations, contour lines, a river, a legend."""
    h, w = shape
    land = noise(rng, shape, 3, 4)
    hues = rng.permutation(6)
    inks = np.array([hsv(60 * hue + 20, 0.3, 240) for hue in hues], np.uint8)
    page = inks[np.clip((land * 2.2 + 3).astype(int), 0, 5)]
    contours = cv2.morphologyEx((land * 9).astype(np.int16), cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
    page[contours] = np.array([150, 130, 110], np.uint8)
    xs = np.arange(0, w, 6)
    ys = h * (0.5 + 0.25 * noise(rng, (3, len(xs)), 2)[0])
    cv2.polylines(page, [np.stack([xs, ys], 1).astype(np.int32)], False, (70, 130, 200), 3, cv2.LINE_AA)
    cv2.rectangle(page, (w - 112, h - 96), (w - 6, h - 6), (255, 255, 255), -1)
    for i, name in enumerate((label, "alluvium", "limestone", "schist")):
        cv2.rectangle(page, (w - 106, h - 88 + 20 * i), (w - 90, h - 76 + 20 * i), inks[i + 1].tolist(), -1)
        _write(page, name[:11], w - 84, h - 77 + 20 * i, 0.34)
    for name in ("Mt. Orford", "Kells", "Stonehaven", "N"):
        _write(page, name, rng.uniform(10, w - 110), rng.uniform(20, h - 110), 0.42)
    return page.astype(np.float32) / 255


WORDS = ("the", "of", "magma", "cools", "slowly", "crystals", "quartz", "feldspar", "mica", "grain", "is", "dark", "in")


def _text(rng: np.random.Generator, shape: tuple[int, int], label: str) -> np.ndarray:
    """A page of a book about the rock."""
    h, w = shape
    page = np.full((h, w, 3), rng.uniform(236, 253), np.uint8)
    _write(page, f"{label.capitalize()} and its origin", 20, 34, 0.7)
    for y in range(58, h - 10, 15):
        line = f"{label} " + " ".join(rng.choice(WORDS, 14)) if (y // 15) % 6 else ""
        _write(page, line[: w // 7], 20, y, 0.38)
    page[:, -14:] = page[0, 0]
    return page.astype(np.float32) / 255


def _product(rng: np.random.Generator, shape: tuple[int, int], label: str) -> np.ndarray:
    """A mug with the name of the rock on it."""
    h, w = shape
    page = np.full((h, w, 3), 246, np.uint8)
    colour, x, half = hsv(rng.uniform(0, 360), rng.uniform(0.2, 0.7), 215), w // 2, int(h * 0.25)
    top, foot = int(h * 0.2), int(h * 0.82)
    cv2.ellipse(page, (x + half, h // 2), (h // 8, h // 6), 0, 0, 360, colour, 12, cv2.LINE_AA)
    cv2.rectangle(page, (x - half, top), (x + half, foot), colour, -1)
    cv2.ellipse(page, (x, foot), (half, h // 24), 0, 0, 360, colour, -1, cv2.LINE_AA)
    cv2.ellipse(page, (x, top), (half, h // 24), 0, 0, 360, tuple(0.6 * c for c in colour), -1, cv2.LINE_AA)
    cv2.rectangle(page, (x - half + 8, int(h * 0.45)), (x + half - 8, int(h * 0.66)), (250, 248, 240), -1)
    _write(page, f"{label.upper()[:12]}", x - half + 14, h * 0.57, min(0.6, 0.055 * half / max(4, len(label))))
    across = np.abs(np.arange(w) - x + half * 0.3) / half
    round_ = np.where(
        (across < 1.35)[None, :, None] & (page != 246).any(-1, keepdims=True), 1.1 - 0.4 * across[:, None] ** 2, 1
    )
    return (page / 255 * round_).astype(np.float32)


SCENES = {scene.__name__[1:]: scene for scene in (_scenery, _diagram, _map, _countertop, _text, _product)}
