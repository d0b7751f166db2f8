"""Augmentation of images for training: each image has its own chances, drawn from (seed, epoch, image).

Flips, rotation and crop are one affine map, and colours one 3 x 4 matrix, so that an image is read once for each: by
OpenCV 2.3 times as fast as torchvision's v2 image by image (which, on a batch, draws one angle for all).
"""

from dataclasses import dataclass

import cv2
import numpy as np

from curate.errors import CurateError

ROTATION = 45.0  # degrees to either side
THOUSANDTHS = np.array([299, 587, 114])  # ITU-R BT.601, as torchvision's grayscale; whole: exact in any order
LUMA = THOUSANDTHS / 1000
VERSION = "2"  # of what is below: cached views of another version are not used


@dataclass(frozen=True)
class Augmentation:
    """What is done beside the study's flips and rotation of up to 45 degrees.

    Attributes:
        grayscale: probability that an image loses its colours; 1: all do.
        colour_jitter: brightness, contrast and saturation are each multiplied by a factor from 1 - this to 1 + this, as
            torchvision's ColorJitter, in this order; values are cut to 0 and 255 once, in the end.
        smallest_crop: a window of this share of the area up to all of it, of an aspect ratio from 3/4 to 4/3, is
            stretched to the square, as torchvision's RandomResizedCrop; 1: no crop.
    """

    grayscale: float = 0.0
    colour_jitter: float = 0.0
    smallest_crop: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.grayscale <= 1 and 0 <= self.colour_jitter < 1 and 0 < self.smallest_crop <= 1):
            raise CurateError(
                f"grayscale={self.grayscale}, colour_jitter={self.colour_jitter}, smallest_crop={self.smallest_crop}: "
                "must be 0 to 1, 0 to below 1, above 0 to 1."
            )

    @property
    def all_gray(self) -> bool:
        """Whether no image keeps its colours; then a run validates, and its model sees, grey ones too."""
        return self.grayscale == 1

    @property
    def key(self) -> str:
        """Names what it does, for caches."""
        return f"{VERSION}-{self.grayscale:g}-{self.colour_jitter:g}-{self.smallest_crop:g}"


PLAIN = Augmentation()


def augment(
    pixels: np.ndarray, numbers: list[int], *, seed: int, epoch: int, chosen: Augmentation = PLAIN
) -> np.ndarray:
    """The study's augmentation: horizontal and vertical flip, each by a coin, and a rotation of up to 45 degrees.

    Every image has its own coins and its own angle, drawn from (seed, epoch, its number): the result does not depend
    on the batch, the order, or the number of workers. Corners that come into view are black.

    Args:
        pixels: (n, side, side, 3) uint8; not changed.
        numbers: one an image, non-negative; see `classify.data.sample_number`.
        seed: of the run.
        epoch: of the run, or the number of the view.
        chosen: what is done beside.

    Returns:
        (n, side, side, 3) uint8.
    """
    out = np.empty_like(pixels)
    for i, (image, number) in enumerate(zip(pixels, numbers, strict=True)):
        rng = np.random.default_rng((seed, epoch, number))
        turned = image
        for axis, drawn in enumerate(rng.random(2)):
            if drawn < 0.5:
                turned = cv2.flip(turned, 1 - axis)  # 40 times as fast as a copy of a view
        matrix = rotation(image.shape[0], rng.uniform(-ROTATION, ROTATION))
        if chosen.smallest_crop < 1:
            matrix = _window(image.shape[0], chosen.smallest_crop, rng) @ np.vstack([matrix, [0, 0, 1]])
        out[i] = warp(turned, matrix)
        if chosen.colour_jitter or chosen.grayscale:
            out[i] = _coloured(out[i], chosen, rng)
    return out


def rotation(side: int, degrees: float) -> np.ndarray:
    """(2, 3): turns a square of so many pixels counter-clockwise about its centre."""
    centre = ((side - 1) / 2, (side - 1) / 2)
    return cv2.getRotationMatrix2D(centre, degrees, 1.0)


def warp(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(side, side, 3) uint8 under an affine map (2, 3), bilinear; what comes into view is black."""
    side = image.shape[0]
    return cv2.warpAffine(np.ascontiguousarray(image), matrix, (side, side), flags=cv2.INTER_LINEAR)


def to_gray(pixels: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 with each pixel's luma in all three channels."""
    gray = ((pixels @ THOUSANDTHS.astype(np.float32) + 500) / 1000).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=-1)


def _window(side: int, smallest: float, rng: np.random.Generator) -> np.ndarray:
    """(2, 3): stretches a window drawn at random to the whole square."""
    area = rng.uniform(smallest, 1)
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    width, height = (min(1.0, float(np.sqrt(area * r))) for r in (ratio, 1 / ratio))
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    shift = [(0.5 - start * side) / size - 0.5 for start, size in ((left, width), (top, height))]  # of pixel centres
    return np.array([[1 / width, 0, shift[0]], [0, 1 / height, shift[1]]])


def _coloured(image: np.ndarray, chosen: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """One matrix (3, 4) for the colours: brightness, then contrast about the mean grey, then saturation."""
    brightness, contrast, saturation = rng.uniform(1 - chosen.colour_jitter, 1 + chosen.colour_jitter, 3)
    if rng.random() < chosen.grayscale:
        saturation = 0.0
    mean = float(np.array(cv2.mean(image)[:3]) @ LUMA) * brightness
    scale = np.eye(3) * saturation + np.tile((1 - saturation) * LUMA, (3, 1))
    shift = np.full((3, 1), (1 - contrast) * mean)  # a grey: saturation leaves it
    return cv2.transform(image, np.hstack([scale * brightness * contrast, shift]))
