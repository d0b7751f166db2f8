"""Artifact measures of one picture from its pixels alone."""

from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from curate.cue_weights import CUES, INTERCEPTS
from curate.cues import (
    View,
    border_cues,
    colour_cues,
    edge_cues,
    lettering,
    light_cues,
    texture_cues,
    view,
)
from curate.foreground import content_box, regions, segment
from curate.images import thumbnail
from curate.lighting import blockiness, clipped, edge_blur, highlight, lies_on_all, light_field, middle, white_point
from curate.overlay import SIDE as OVERLAY_SIDE
from curate.overlay import overlay_cues
from curate.repeats import object_repeats
from curate.tones import tone_cues

CUE = "cue_"  # how the keys of the cues begin
MEASURES_VERSION = 4  # goes up when a measure of the same pixels changes
SIDE = 256  # longer side of the picture that is measured, pixels
HEATMAP_SIDE = 56  # of the mask for the heatmaps, which lie on the picture stretched to a square
_TABLE = np.array(list(CUES.values()))
FILLS = 0.6  # `background_fill` above which there is no background


class Foreground(NamedTuple):
    """What stands before the background.

    Attributes:
        mask: (h, w) bool, all True where the surface fills the frame.
        confidence: how far the mask can be trusted, 0 to 1.
        kind: of the background, as in `curate.manifest.COLUMNS`.
    """

    mask: np.ndarray
    confidence: float
    kind: str


class Reading(NamedTuple):
    """A picture read once: its mask, its cues, and the scores that follow from them (each 0 to 1)."""

    foreground: Foreground
    view: View
    cues: dict[str, float]
    scores: dict[str, float]


def foreground(rgb: np.ndarray) -> Foreground:
    """The specimen's mask and the kind of background.

    Args:
        rgb: (h, w, 3) uint8, longer side about 256.
    """
    return read(rgb).foreground


def measure(rgb: np.ndarray) -> tuple[dict[str, float | str | int], np.ndarray]:
    """The audit columns that come from pixels, and the mask for the heatmaps.

    Args:
        rgb: (h, w, 3) uint8, longer side about 256.

    Returns:
        Column -> value, units as in `curate.manifest.COLUMNS`; and the (56, 56) bool mask in the frame stretched
        to a square.
    """
    return summarise(read(rgb))


def summarise(reading: Reading) -> tuple[dict[str, float | str | int], np.ndarray]:
    """What `measure` returns, of a picture that was read."""
    front, seen, cues, scores = reading
    lightness = seen.lightness[seen.mask]
    cast = lies_on_all(seen.rgb, seen.mask)
    measures: dict[str, float | str | int] = {
        "background_kind": front.kind,
        "background_share": float(1 - front.mask.mean()),
        "background_uniformity": cues["border_uniform"],
        "background_chroma": cues["border_chroma"],
        "background_texture": scores["texture"],
        "background_fill": scores["fill"],
        "foreground_confidence": front.confidence,
        "illumination_highlight": cues["highlight"],
        "illumination_brightness": float(lightness.mean()),
        "illumination_dark_share": float((lightness < 10).mean()),
        "illumination_bright_share": float((lightness > 97).mean()),
        "illumination_clipped": cues["clipped"],
        "illumination_unevenness": cues["unevenness"],
        "illumination_vignetting": cues["vignetting"],
        "illumination_slope": cues["slope"],
        "illumination_cast": shared_tint(seen) if cast else 0.0,
        "illumination_white_point": cues["white_point"] if cast else 0.0,
        "illumination_fault": scores["illumination"],
        "object_count": object_count(scores),
        "object_components": len(regions(front.mask)),
        "object_multiple": scores["multiple"],
        "quality_sharpness": float(np.expm1(cues["sharpness"])),
        "overlay_text_share": cues["lettering"],
    }
    stretched = cv2.resize(front.mask.astype(np.float32), (HEATMAP_SIDE, HEATMAP_SIDE), interpolation=cv2.INTER_AREA)
    return measures, stretched >= 0.5


def measure_image(image: Image.Image) -> tuple[dict[str, float | str | int], np.ndarray]:
    """`measure` and `measure_detail` of a decoded picture, and as `cue_*` what `curate.concepts` asks for."""
    small = np.asarray(thumbnail(image, SIDE))
    reading = read(small)
    measures, mask = summarise(reading)
    cues = {**reading.cues, **overlay_cues(np.asarray(thumbnail(image, OVERLAY_SIDE)))}
    measures |= {"object_repeats": object_repeats(small), **measure_detail(np.asarray(image))}
    return {**measures, **{CUE + name: value for name, value in cues.items()}}, mask


def measure_detail(rgb: np.ndarray) -> dict[str, float | str | int]:
    """The audit columns that need the pixels of the file as they are.

    Args:
        rgb: (h, w, 3) uint8, the whole decoded picture.
    """
    grey = middle(rgb)
    return {
        "quality_short_side": min(rgb.shape[:2]),
        "quality_blur": edge_blur(grey),
        "quality_blockiness": blockiness(grey),
    }


def read(rgb: np.ndarray) -> Reading:
    """Segment a picture ((h, w, 3) uint8, longer side about 256) and compute its cues and scores."""
    if min(rgb.shape[:2]) < 16:
        rgb = cv2.resize(rgb, (max(16, rgb.shape[1]), max(16, rgb.shape[0])))
    lightness = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)[..., 0].astype(np.float32) * np.float32(100 / 255)
    top, bottom, left, right = content_box(lightness)
    inner = np.ascontiguousarray(rgb[top:bottom, left:right])
    found, quality = segment(inner)
    seen = view(inner, found, quality)
    cues = {
        **border_cues(seen),
        **colour_cues(seen),
        **texture_cues(seen),
        **edge_cues(seen),
        **light_cues(seen),
        **detail_cues(cv2.cvtColor(inner, cv2.COLOR_RGB2GRAY)),
        **lamp_cues(inner, seen),
        **tone_cues(rgb),
        "lettering": lettering(lightness),
    }
    cues = {name: float(value) for name, value in cues.items()}
    scores = scores_of(cues)
    kind = background_kind(cues, scores)
    mask = np.zeros(rgb.shape[:2], bool)
    mask[top:bottom, left:right] = True if kind == "none" else found
    confidence = scores["fill"] if kind == "none" else quality
    return Reading(Foreground(mask, confidence, kind), seen, cues, scores)


def shared_tint(seen: View) -> float:
    """Colour cast: the chroma that the specimen and its background have in common, CIE a*b* units.

    The smaller mean chroma of the two, times the cosine of the angle between their hues: a coloured rock on white, or
    a grey one on a coloured cloth, has none. A frame-filling surface is compared with itself.
    """
    inside = seen.mask.astype(np.uint8)
    outside = 1 - inside if inside.mean() < 0.95 else None
    one, other = (np.array(cv2.mean(seen.lab, part)[1:3]) for part in (inside, outside))
    chroma = min(float(np.hypot(*one)), float(np.hypot(*other)))
    product = float(np.hypot(*one) * np.hypot(*other))
    return chroma * max(float(one @ other) / product, 0.0) if product else 0.0


def lamp_cues(rgb: np.ndarray, seen: View) -> dict[str, float]:
    """The light by `curate.lighting`: of (h, w, 3) uint8 without letterbox bars, and its view."""
    vignetting, slope = light_field(seen.rgb)
    return {
        "highlight": highlight(rgb),
        "clipped": clipped(seen.rgb, seen.mask, seen.flat),
        "vignetting": vignetting,
        "slope": slope,
        "white_point": white_point(rgb, seen.rgb, seen.lab),
    }


def detail_cues(grey: np.ndarray) -> dict[str, float]:
    """Sharpness (log(1 + standard deviation of the Laplacian), grey levels) and entropy (bits) of (h, w) uint8."""
    shares = np.bincount(grey.ravel(), minlength=256) / grey.size
    shares = shares[shares > 0]
    return {
        "sharpness": np.log1p(cv2.Laplacian(grey, cv2.CV_32F).std()),
        "entropy": -np.sum(shares * np.log2(shares)),
    }


def scores_of(cues: dict[str, float]) -> dict[str, float]:
    """Probabilities (0 to 1) by logistic regressions on the cues, standardised and clipped to 3 deviations.

    texture: the background is natural or cluttered; clutter: cluttered rather than natural; fill: the surface fills
    the frame; multiple: several objects; many: more than four rather than 2 to 4; illumination: at fault; text: there
    is lettering.
    Fitted on 878 scraped rock photos that an expert labelled: `benchmarks/artifacts.py --fit`.
    """
    values = np.array([cues[cue] for cue in CUES])
    scaled = ((values - _TABLE[:, 0]) / _TABLE[:, 1]).clip(-3, 3)
    logits = scaled @ _TABLE[:, 2:] + list(INTERCEPTS.values())
    return dict(zip(INTERCEPTS, (1 / (1 + np.exp(-logits))).tolist(), strict=True))


def background_kind(cues: dict[str, float], scores: dict[str, float]) -> str:
    """white, black, plain, natural, cluttered, or none where the surface fills the frame."""
    if scores["fill"] > FILLS:
        return "none"
    if scores["texture"] > 0.5 and max(cues["border_white"], cues["border_black"]) < 0.5:
        return "cluttered" if scores["clutter"] > 0.6 else "natural"
    if cues["border_lightness"] > 88 and cues["border_chroma"] < 9:
        return "white"
    return "black" if cues["border_lightness"] < 22 else "plain"


def object_count(scores: dict[str, float]) -> str:
    """1, 2-4, many, or fill where one surface fills the frame; 0 (no specimen at all) is not for pixels to tell."""
    fills = scores["fill"] > FILLS
    if scores["multiple"] > (0.8 if fills else 0.5):  # a coarse surface looks like a heap
        return "many" if scores["many"] > 0.5 else "2-4"
    return "fill" if fills else "1"
