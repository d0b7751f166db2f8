"""The colours of a picture's lights and shadows, from which `curate.concepts` tells what is wrong with the light.

Under a low sun the lights are warm and the shadows, lit by the sky, are blue; under a coloured lamp both lean the same
way; a grey rock in even light has neither.
"""

import cv2
import numpy as np

from curate.foreground import content_box, quantile, ranked, resized

SIDE = 128  # longer side of the picture that is measured, pixels
_LIT, _BURNT = 25, 250  # levels (0 to 255) between which a pixel's hue says something
_LOGARITHMS = np.log(np.arange(256, dtype=np.float32) + 4)  # of the levels; of black, finite


def tone_cues(rgb: np.ndarray) -> dict[str, float]:
    """Cues `tone_*` of (h, w, 3) uint8: CIE a*, b* of the lights and the shadows, and extreme ratios of the channels.

    `tone_light_a`, `_b`: mean of the lightest 3 %; `tone_shadow_a`, `_b`: of the darkest 10 %; `tone_red_low`, `_high`,
    `tone_blue_low`, `_high`: 2nd and 98th percentile of log(red / green) and log(blue / green) where neither dark nor
    burnt out; `tone_highest`, `tone_high`: 99th and 90th percentile of the brightest channel, 0 to 255.
    """
    small = resized(rgb, SIDE)
    levels = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)
    top, bottom, left, right = content_box(levels[..., 0] * np.float32(100 / 255))
    pixels, levels = (np.ascontiguousarray(part[top:bottom, left:right]) for part in (small, levels))
    lightness = np.asarray(cv2.extractChannel(levels, 0))
    lights = cv2.mean(levels, (lightness >= quantile(lightness, 0.97)).view(np.uint8))
    shadows = cv2.mean(levels, (lightness <= quantile(lightness, 0.1)).view(np.uint8))
    red, green, blue = cv2.split(pixels)
    brightest, darkest = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    lit = (brightest > _LIT) & (darkest < _BURNT)
    red, green, blue = cv2.split(cv2.LUT(pixels, _LOGARITHMS))
    told = lit if np.count_nonzero(lit) >= 100 else np.ones_like(lit)
    ratios: dict[str, float] = {}
    for name, channel in (("red", red), ("blue", blue)):
        ratio = (channel - green)[told]
        ratios |= {f"tone_{name}_low": ranked(ratio, 0.02), f"tone_{name}_high": ranked(ratio, 0.98)}
    cues = {
        "tone_light_a": lights[1] - 128,
        "tone_light_b": lights[2] - 128,
        "tone_shadow_a": shadows[1] - 128,
        "tone_shadow_b": shadows[2] - 128,
        **ratios,
        "tone_highest": quantile(brightest, 0.99),
        "tone_high": quantile(brightest, 0.9),
    }
    return {name: float(value) for name, value in cues.items()}
