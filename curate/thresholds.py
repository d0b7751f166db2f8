"""When an artifact measure is a flag, and how far beyond its limit an image is."""

from typing import NamedTuple

import numpy as np
import pandas as pd


class Threshold(NamedTuple):
    """When a measure is a flag.

    Attributes:
        column: the measure.
        above: whether values above the limit are flagged, or below it.
        limit: in the measure's units.
        extreme: where the artifact score reaches 1.
        artifact: off_topic, background, illumination, object_count, overlay or quality.
    """

    column: str
    above: bool
    limit: float
    extreme: float
    artifact: str


# What each line ends with is the share of photos beyond the limit that are not at fault. For illumination and quality:
# of 393 scraped photos in good light, the half that the limits were not set on (`python -m benchmarks.planted`, which
# has it for the keepers among them too). For the others: of 336 clear keepers, by weights fitted on other classes.
THRESHOLDS = {
    "off topic": Threshold("off_topic", True, 0.35, 1.0, "off_topic"),  # 2 %
    "polished": Threshold("polished_product", True, 0.12, 0.6, "off_topic"),  # 2 %
    "surroundings": Threshold("background_texture", True, 0.9, 1.0, "background"),  # 4 %; from pixels alone 5 %
    "several objects": Threshold("object_multiple", True, 0.8, 1.0, "object_count"),  # 4 %; from pixels alone 5 %
    "regions": Threshold("object_components", True, 2, 6, "object_count"),  # 2 %
    "colour behind": Threshold("background_chroma", True, 31, 50, "background"),  # 2 %
    "small specimen": Threshold("background_share", True, 0.8, 0.95, "background"),  # 2 %
    "dark": Threshold("illumination_highlight", False, 150, 60, "illumination"),  # 1.0 %
    "bright": Threshold("illumination_brightness", True, 92, 98, "illumination"),  # 1.3 %
    "blown out": Threshold("illumination_clipped", True, 0.22, 0.7, "illumination"),  # 0.8 %
    "uneven": Threshold("illumination_unevenness", True, 17, 25, "illumination"),  # 1.5 %
    "lit from one side": Threshold("illumination_slope", True, 1.85, 3.5, "illumination"),  # 0.5 %
    "vignetting": Threshold("illumination_vignetting", True, 1.05, 2.5, "illumination"),  # 0.5 %
    "cast": Threshold("illumination_white_point", True, 0.28, 0.8, "illumination"),  # 0.8 %
    "tinted": Threshold("illumination_cast", True, 27, 45, "illumination"),  # 0.5 %
    "lettering": Threshold("overlay_text", True, 0.17, 0.8, "overlay"),  # 2 % of those without an overlay
    "watermark": Threshold("overlay_watermark", True, 0.57, 1.0, "overlay"),  # 2 % of those without an overlay
    "blurred": Threshold("quality_blur", True, 1.2, 3, "quality"),  # 0.0 %
    "compressed": Threshold("quality_blockiness", True, 1.8, 4, "quality"),  # 1.8 %
    "tiny": Threshold("quality_short_side", False, 100, 50, "quality"),  # 0.3 %
    "odd size": Threshold("aspect_ratio", True, 2, 3.5, "quality"),  # 2.5 %
}


def flags(measures: pd.DataFrame) -> pd.Series:
    """Every measure beyond its threshold as "measure=value (> limit)", joined by "; "; empty where there is none.

    Args:
        measures: the columns of `THRESHOLDS`, and `audit_error`, which is a flag by itself; missing values and columns
            raise none.
    """
    texts = ("unreadable: " + _errors(measures)).fillna("").astype("str")
    for threshold, values, beyond in _compared(measures):
        sign = ">" if threshold.above else "<"
        text = threshold.column + "=" + values.map("{:.3g}".format) + f" ({sign} {threshold.limit:g})"
        texts = texts.where(~beyond, texts.where(texts == "", texts + "; ") + text)
    return texts


def artifact_score(measures: pd.DataFrame) -> pd.Series:
    """The largest exceedance of a threshold, 0 (none) to 1 (at the extreme or beyond, or not to be opened)."""
    score = _errors(measures).notna().astype("float64")
    for threshold, values, beyond in _compared(measures):
        exceedance = (values - threshold.limit) / (threshold.extreme - threshold.limit)
        score = score.where(~beyond, np.maximum(score, exceedance.clip(0, 1)))
    return score


def _errors(measures: pd.DataFrame) -> pd.Series:
    if "audit_error" in measures:
        return measures["audit_error"].astype("str")
    return pd.Series(np.nan, index=measures.index, dtype="str")


def _compared(measures: pd.DataFrame) -> list[tuple[Threshold, pd.Series, pd.Series]]:
    compared = []
    for threshold in THRESHOLDS.values():
        if threshold.column in measures:
            values = pd.to_numeric(measures[threshold.column], errors="coerce").astype("float64")
            beyond = values > threshold.limit if threshold.above else values < threshold.limit
            compared.append((threshold, values, beyond))
    return compared
