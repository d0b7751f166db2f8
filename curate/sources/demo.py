"""A source that needs no network: hand samples that it draws itself, with known copies, artifacts and strays.

Every picture follows from its class, its index and the seed, so that what curation finds can be held against the truth.
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from urllib.parse import unquote, urlsplit

import cv2
import numpy as np

from curate.recipe import Recipe
from curate.sources import Answer, Candidate, FetchError, Page, Source
from curate.sources.demo_render import (
    LITHOLOGIES,
    SCENES,
    Colour,
    Layer,
    blend,
    fracture,
    grass,
    heap,
    hsv,
    lithology,
    noise,
    paste,
    shaded,
    specimen,
    stable_rng,
    voronoi,
)

IMAGES = 400  # offered of each class
PAGE = 35
BLOCK = 50  # indexes over which the planted shares hold exactly
PLANTED = {"keeper": 31, "copy": 4, "background": 3, "illumination": 3, "object_count": 3, "off_topic": 6}
EDITS = ("jpeg", "resize", "crop", "brightness", "flip", "border", "watermark")
DETAILS = {
    "background": ("cluttered", "shortcut"),
    "illumination": ("dark", "bright", "cast", "uneven"),
    "object_count": ("many", "2-4", "collage"),
    "off_topic": tuple(SCENES),
}
BACKGROUNDS = {"white": 0.28, "plain": 0.26, "natural": 0.24, "black": 0.12, "none": 0.1}  # of the keepers of any class
ARTIFACT_REASONS = {"object_count": "multiple_objects", "background": "background", "illumination": "illumination"}
CONFLICT_EVERY = 6  # one copy in six repeats an image of another class
PAPERS = np.array([[176, 178, 182], [206, 200, 188], [128, 134, 140], [150, 168, 184], [186, 168, 140], [92, 96, 104]])
ADDRESS = re.compile(r"demo:[^/?#]+/\d{4}\?seed=-?\d+")
LICENSE = "https://creativecommons.org/publicdomain/zero/1.0/"


@dataclass(frozen=True)
class Truth:
    """What a picture really is.

    Attributes:
        label: the class it is offered under.
        index: its place among the images of the class, from 0.
        kind: keeper, copy, artifact or off_topic.
        title: as the source gives it; of the same form for every kind.
        verdict: keep or reject, as an expert would decide.
        reason: one of `words.REASONS` for a rejection; None for a copy.
        copy_of: index of the earlier keeper that a copy repeats.
        copy_of_label: the class of that keeper; another one than `label` is a label conflict.
        edit: what was done to the copy, one of `EDITS`.
        artifact: background, illumination or object_count.
        detail: which of `DETAILS`, of an artifact or of what is off topic.
        object_count: as in the manifest: 0, 1, 2-4, many or fill (the surface fills the frame).
        background: as `background_kind` in the manifest.
    """

    label: str
    index: int
    kind: str
    title: str
    verdict: str = "reject"
    reason: str | None = None
    copy_of: int | None = None
    copy_of_label: str | None = None
    edit: str | None = None
    artifact: str | None = None
    detail: str | None = None
    object_count: str = "1"
    background: str = "plain"


def open_source(recipe: Recipe, session: object) -> Source:
    """The source `demo`, 400 images a class drawn with the seed of the recipe; the session stays unused."""

    def search(query: str, label: str, cursor: str | None) -> Page:
        start = int(cursor or 0)
        stop = min(start + PAGE, IMAGES)
        offers = tuple(_offer(label, index, recipe.seed) for index in range(start, stop))
        answer = Answer.OK if offers else Answer.EMPTY
        return Page(answer, offers, cursor=str(stop) if stop < IMAGES else None)

    return Source(search, fetch)


def fetch(url: str) -> bytes:
    """Draw the picture of an address `demo:<label>/<index>?seed=<seed>`.

    Raises:
        FetchError: the address is not of this form, or beyond the images that the source offers.
    """
    place = _place(url, None) if ADDRESS.fullmatch(url) else None
    if place is None:
        raise FetchError("not a demo address", transient=False)
    if place[1] >= IMAGES:
        raise FetchError("404", transient=False)
    return render(*place)[0]


def truth_of(address: str, seed: int) -> Truth:
    """The truth of the picture at an address.

    Args:
        address: `demo:<label>/<index>?seed=<seed>`, or a web address whose path ends in `<label>/<index>`, with
            or without a suffix such as `.jpg`.
        seed: where the address does not name one.

    Raises:
        ValueError: the address is of neither form.
    """
    place = _place(address, seed)
    if place is None:
        raise ValueError(f"{address!r} is no address of a demo picture: its path must end in <label>/<index>.")
    return truth(*place)


def render(label: str, index: int, seed: int) -> tuple[bytes, Truth]:
    """A picture as JPEG bytes, about 380 x 280 pixels, and what it is; the same arguments give the same bytes."""
    known = truth(label, index, seed)
    rgb, _ = _picture(known, seed)
    quality = 42 if known.edit == "jpeg" else 88
    _, data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes(), known


def mask(label: str, index: int, seed: int) -> np.ndarray:
    """The true foreground (height, width) bool: all True where a surface fills the frame, all False off topic."""
    return _picture(truth(label, index, seed), seed)[1]


def truth(label: str, index: int, seed: int) -> Truth:
    """What is planted at an index: in every 50 indexes 31 keepers, 4 copies, 9 artifacts, 6 off topic, well mixed."""
    block, position = divmod(index, BLOCK)
    kind, ordinal = _layout(label, seed, block)[position]
    title = f"Rendered {label} hand sample {index}"
    rng = stable_rng("truth", label, index, seed)
    if kind == "copy":
        return _copy(label, index, seed, ordinal, title)
    turn = int(stable_rng("turn", label, seed, kind).integers(1000))
    if kind == "keeper":
        part = (ordinal * 0.6180339887 + turn / 1000) % 1
        background = list(BACKGROUNDS)[int(np.searchsorted(np.cumsum(list(BACKGROUNDS.values())), part))]
        count = "fill" if background == "none" else "1"
        return Truth(label, index, "keeper", title, "keep", object_count=count, background=background)
    detail = DETAILS[kind][(ordinal + turn) % len(DETAILS[kind])]
    if kind == "off_topic":
        reason = "polished_product" if detail == "countertop" else "off_topic"
        count = "fill" if detail == "countertop" else "0"
        return Truth(label, index, kind, title, reason=reason, detail=detail, object_count=count, background="none")
    count = {"many": "many", "2-4": "2-4", "collage": "2-4"}.get(detail, "1")
    surroundings = {"cluttered": "cluttered", "shortcut": "plain", "many": "none"}
    background = surroundings.get(detail) or str(rng.choice(["white", "plain", "natural"]))
    known = Truth(label, index, "artifact", title, reason=ARTIFACT_REASONS[kind], artifact=kind, detail=detail)
    return replace(known, object_count=count, background=background)


@lru_cache(maxsize=512)
def _layout(label: str, seed: int, block: int) -> tuple[tuple[str, int], ...]:
    """The kind at each of 50 indexes and its ordinal among its kind; every kind is spread evenly, with jitter."""
    rng = stable_rng("layout", label, seed, block)
    slots = [
        ((j + rng.random()) / count, kind, block * count + j) for kind, count in PLANTED.items() for j in range(count)
    ]
    ordered = [(kind, ordinal) for _, kind, ordinal in sorted(slots)]
    if block == 0:  # a copy needs a keeper before it
        first = ordered.index(("keeper", 0))
        ordered[0], ordered[first] = ordered[first], ordered[0]
    return tuple(ordered)


def _copy(label: str, index: int, seed: int, ordinal: int, title: str) -> Truth:
    rng = stable_rng("copy", label, index, seed)
    others = [name for name in LITHOLOGIES if name != label]
    turn = int(stable_rng("turn", label, seed, "copy").integers(1000))
    conflict = label in LITHOLOGIES and (ordinal + turn) % CONFLICT_EVERY == 0
    source = str(rng.choice(others)) if conflict else label
    recent = range(max(0, index - BLOCK), index)
    keepers = [i for i in recent if _layout(source, seed, i // BLOCK)[i % BLOCK][0] == "keeper"]
    original = truth(source, int(rng.choice(keepers)), seed)
    return replace(
        original,
        label=label,
        index=index,
        kind="copy",
        title=title,
        verdict="reject",
        copy_of=original.index,
        copy_of_label=source,
        edit=EDITS[(ordinal + turn) % len(EDITS)],
    )


def _offer(label: str, index: int, seed: int) -> Candidate:
    name = re.sub("[%?#]", lambda mark: f"%{ord(mark[0]):02X}", label)
    title = truth(label, index, seed).title
    return Candidate(
        url=f"demo:{name}/{index:04d}?seed={seed}",
        title=title,
        creator="DeepRock demo renderer",
        license="CC0-1.0",
        license_url=LICENSE,
        license_basis="asserted",
        attribution=f"{title}, DeepRock demo renderer, CC0-1.0",
    )


def _place(address: str, seed: int | None) -> tuple[str, int, int] | None:
    """Label, index and seed in an address (its own seed goes before the given one), or None."""
    parts = urlsplit(address)
    path = re.search(r"(?:^|/)([^/]+)/(\d{1,6})(?:[.!]\w+)?$", parts.path)
    own = re.search(r"(?:^|&)seed=(-?\d+)(?:&|$)", parts.query)
    chosen = int(own[1]) if own else seed
    if path is None or chosen is None:
        return None
    return unquote(path[1]), int(path[2]), chosen


def _picture(known: Truth, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixels (h, w, 3) uint8 RGB and the true foreground (h, w) bool."""
    if known.kind == "copy":
        original = truth(str(known.copy_of_label), int(known.copy_of or 0), seed)
        return _edited(*_picture(original, seed), str(known.edit), stable_rng("edit", known.label, known.index, seed))
    rng = stable_rng("picture", known.label, known.index, seed)
    width = int(rng.integers(330, 421))
    shape = (int(np.clip(width / rng.choice([4 / 3, 4 / 3, 1.5, 1.18]), 240, 360)), width)
    if known.kind == "off_topic":
        rgb, covered = SCENES[str(known.detail)](rng, shape, known.label), np.zeros(shape, np.float32)
    else:
        rgb, covered = _specimens(known, rng, shape)
        rgb = _exposed(rgb)
    if known.artifact == "illumination":
        rgb = _badly_lit(str(known.detail), rng, rgb)
    return _photograph(rng, rgb), covered > 0.5


def _specimens(known: Truth, rng: np.random.Generator, shape: tuple[int, int]) -> Layer:
    """The rock or rocks of a picture on their background; alpha is what they cover."""
    rock, h, w = lithology(known.label), *shape
    light = _light(rng)
    if known.object_count == "fill":
        return Layer(fracture(rock, rng, shape, light), np.ones(shape, np.float32))
    if known.detail == "many":
        return heap(rock, rng, shape, light)
    if known.detail == "collage":
        return _collage(known, rng, shape)
    kind = "shortcut" if known.detail == "shortcut" else known.background
    scene = Layer(_backdrop(kind, rng, shape, _tint(known.label)), np.zeros(shape, np.float32))
    shadow = 0.3 if kind == "white" else 0.5
    if known.detail == "2-4":
        count = int(rng.integers(2, 5))
        tall, wide = (0.55, 0.42) if count == 2 else (0.44, 0.42 - 0.03 * count)
        for i in range(count):
            y = 0.5 + (0.22 if i % 2 else -0.22) * (count > 2) + rng.normal(0, 0.015)
            x = 0.02 + wide / 2 + (0.96 - wide) * i / (count - 1)
            piece = specimen(rock, rng, (int(h * tall), int(w * wide)), light)
            paste(scene, piece, h * y, w * x, light, shadow)
        return scene
    size = rng.uniform(0.42, 0.55) if known.artifact == "background" else rng.uniform(0.76, 0.92)
    piece = specimen(rock, rng, (int(h * size), int(min(0.9 * w, h * size * rng.uniform(1.05, 1.45)))), light)
    slack = (0.46 - size / 2) * 0.7
    y, x = rng.uniform(-slack, slack, 2) if known.artifact == "background" else rng.uniform(-0.02, 0.02, 2)
    paste(scene, piece, h * (0.5 + y), w * (0.5 + x), light, shadow)
    return scene


def _collage(known: Truth, rng: np.random.Generator, shape: tuple[int, int]) -> Layer:
    """Four pictures in one, with white lines between them."""
    h, w = shape
    scene = Layer(np.ones((h, w, 3), np.float32), np.zeros(shape, np.float32))
    half, gap = (h // 2 - 2, w // 2 - 2), 4
    for top in (0, half[0] + gap):
        for left in (0, half[1] + gap):
            tile = Truth(known.label, 0, "keeper", "", background=known.background)
            there = np.s_[top : top + half[0], left : left + half[1]]
            scene.rgb[there], scene.alpha[there] = _specimens(tile, rng, half)
    return scene


def _backdrop(kind: str, rng: np.random.Generator, shape: tuple[int, int], tint: Colour) -> np.ndarray:
    """What a specimen lies on; of the kinds, only "cluttered" and "shortcut" take up the `tint`."""
    match kind:
        case "white":
            return _sheet(rng, shape, np.full(3, rng.uniform(0.97, 1.02)), 0.02)
        case "black":
            return _sheet(rng, shape, np.full(3, rng.uniform(0.02, 0.06)), 0.2)
        case "natural":
            return GROUNDS[rng.integers(len(GROUNDS))](rng, shape)
        case "cluttered":
            return _desk(rng, shape, tint)
        case "shortcut":
            return _sheet(rng, shape, np.array(tint) / 255 * rng.uniform(0.92, 1.06), 0.08)
        case _:
            paper = PAPERS[rng.integers(len(PAPERS))] / np.float32(255)
            weave = 1 + 0.012 * noise(rng, shape, 90, 1)
            return shaded(_sheet(rng, shape, paper * rng.uniform(0.85, 1.1), 0.12), weave)


def _sheet(rng: np.random.Generator, shape: tuple[int, int], colour: np.ndarray, falloff: float) -> np.ndarray:
    """A plain sheet, brighter towards one side."""
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j].astype(np.float32)
    a, b = rng.normal(0, 0.7, 2).astype(np.float32)
    light = 1 + np.float32(falloff) * (np.tanh(a * x + b * y) - 0.3 * (x * x + y * y))
    return cv2.merge([light * np.float32(part) for part in colour])


def _sand(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    speckle = rng.standard_normal(shape, np.float32) * 0.13
    return blend(0.5 + 0.16 * noise(rng, shape, 5) + speckle, (140, 116, 84), (190, 166, 128), (222, 204, 170))


def _gravel(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    cells, distance, n = voronoi(rng, shape, rng.uniform(8, 12))
    tone = rng.uniform(0.3, 0.9, n).astype(np.float32)[cells] + 0.15 - 0.04 * distance
    return cv2.GaussianBlur(blend(tone, (54, 48, 42), (132, 122, 110), (196, 188, 176)), (0, 0), 1.0)


def _soil(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    crumbs = 0.42 + 0.22 * noise(rng, shape, 40, 3) + 0.1 * noise(rng, shape, 5)
    return blend(crumbs, (40, 30, 22), (104, 80, 58), (158, 130, 100))


GROUNDS = (_sand, grass, _gravel, _soil)


def _desk(rng: np.random.Generator, shape: tuple[int, int], tint: Colour) -> np.ndarray:
    """A desk in the colour of the tint with boxes, papers, lids and pens, out of order."""
    h, w = shape
    grain = noise(rng, (h, max(4, w // 12)), 22, 2)
    wood = np.array(tint) * (0.8 + 0.07 * cv2.resize(grain, (w, h), interpolation=cv2.INTER_CUBIC))[..., None]
    desk = np.clip(wood, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(13, 19))):
        x, y = int(rng.uniform(0, w)), int(rng.uniform(0, h))
        size, colour = rng.uniform(24, 78, 2), hsv(rng.uniform(0, 360), rng.uniform(0.05, 0.75), rng.uniform(50, 240))
        if rng.random() < 0.25:
            cv2.circle(desk, (x + 3, y + 4), int(size[0] / 3), (30, 28, 26), -1, cv2.LINE_AA)
            cv2.circle(desk, (x, y), int(size[0] / 3), colour, -1, cv2.LINE_AA)
            cv2.circle(desk, (x, y), int(size[0] / 4), tuple(0.75 * c for c in colour), 2, cv2.LINE_AA)
            continue
        size[1] = 5 if rng.random() < 0.3 else size[1]
        box = cv2.boxPoints(((x, y), size.tolist(), rng.uniform(0, 180)))
        cv2.fillConvexPoly(desk, (box + 4).astype(np.int32), (30, 28, 26), cv2.LINE_AA)
        cv2.fillConvexPoly(desk, box.astype(np.int32), colour, cv2.LINE_AA)
        for part in (0.2, 0.4, 0.6, 0.8) if size[1] > 40 else ():
            (x0, y0), (x1, y1) = box[0] * (1 - part) + box[1] * part, box[3] * (1 - part) + box[2] * part
            cv2.line(desk, (int(x0), int(y0)), (int(x1), int(y1)), tuple(0.6 * c for c in colour), 1, cv2.LINE_AA)
    return cv2.GaussianBlur(desk, (0, 0), 0.7).astype(np.float32) / 255


def _light(rng: np.random.Generator) -> np.ndarray:
    """Where the light comes from: a unit vector, x to the right, y down, z towards the camera."""
    azimuth, height = rng.uniform(-2.6, -0.55), rng.uniform(0.5, 0.85)
    flat = np.sqrt(1 - height**2)
    return np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), height], np.float32)


def _tint(label: str) -> Colour:
    """The colour of the desk and backdrop that betrays the class: the planted shortcut."""
    names = list(LITHOLOGIES)
    name = label.strip().casefold()
    hue = 360 * names.index(name) / len(names) if name in names else stable_rng("tint", name).uniform(0, 360)
    return hsv(float(hue), 0.62, 205)


def _exposed(rgb: np.ndarray) -> np.ndarray:
    """As a camera's automatic exposure: the brightest tenth of the picture is at least a light grey."""
    bright = float(np.percentile(rgb[::4, ::4].mean(axis=2), 90))
    return rgb * np.float32(max(1.0, 0.68 / max(bright, 0.2)))


def _badly_lit(detail: str, rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    h, w = rgb.shape[:2]
    if detail == "dark":
        return np.clip(rgb, 0, 1) * np.float32(rng.uniform(0.17, 0.27))
    if detail == "bright":
        return rgb * np.float32(rng.uniform(2.3, 3.0)) + np.float32(0.22)
    if detail == "cast":
        casts = ((1.25, 0.82, 0.38), (0.5, 0.85, 1.4), (0.6, 1.25, 0.55), (1.25, 0.55, 1.1))
        return rgb * np.array(casts[rng.integers(len(casts))], np.float32)
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.7)
    away = (x - offset * np.cos(angle)) ** 2 + (y - offset * np.sin(angle)) ** 2
    return shaded(rgb, 0.06 + 1.6 * np.exp(-1.7 * away))


def _photograph(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    """Exposure, white balance, lens and sensor of a camera: float32 -> uint8."""
    balance = 1 + rng.normal(0, 0.018) * np.array([1, 0, -1])
    exposure = rng.uniform(0.9, 1.06) * balance * 255
    grain = rng.standard_normal(rgb.shape[:2], np.float32) * np.float32(rng.uniform(1, 3.5))
    sharp = cv2.GaussianBlur(rgb.astype(np.float32), (0, 0), rng.uniform(0.35, 0.75))
    sharp = cv2.merge(
        [channel * np.float32(gain) + grain for channel, gain in zip(cv2.split(sharp), exposure, strict=True)]
    )
    return cv2.convertScaleAbs(np.maximum(sharp, 0))


def _edited(rgb: np.ndarray, covered: np.ndarray, edit: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A copy of the picture and of its foreground, as it comes back from another site."""
    h, w = covered.shape
    if edit == "resize":
        size = (int(w * (part := rng.uniform(0.68, 0.85))), int(h * part))
        return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), _scaled(covered, size)
    if edit == "crop":
        cut = np.round(rng.uniform(0.03, 0.08, 4) * (h, h, w, w)).astype(int)
        inside = np.s_[cut[0] : h - cut[1], cut[2] : w - cut[3]]
        return np.ascontiguousarray(rgb[inside]), covered[inside]
    if edit == "brightness":
        return cv2.convertScaleAbs(rgb, alpha=rng.choice([0.8, 1.18]), beta=rng.uniform(-6, 6)), covered
    if edit == "flip":
        return np.ascontiguousarray(rgb[:, ::-1]), np.ascontiguousarray(covered[:, ::-1])
    if edit == "border":
        size = (w - 2 * (edge := max(4, w // 70)), h - 2 * edge)
        inner, known = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), _scaled(covered, size)
        framed = cv2.copyMakeBorder(inner, edge, edge, edge, edge, cv2.BORDER_CONSTANT, value=(248, 248, 248))
        return framed, np.pad(known, edge)
    if edit == "watermark":
        mark = cv2.putText(rgb.copy(), "stonestock", (w // 5, h * 3 // 5), 4, w / 330, (255, 255, 255), 2, cv2.LINE_AA)
        return cv2.addWeighted(rgb, 0.6, mark, 0.4, 0), covered
    return rgb, covered


def _scaled(covered: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(covered.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
