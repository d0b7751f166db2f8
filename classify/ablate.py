"""What a classifier looks at: its images without colour, without the background, or without the specimen.

The pixels are changed as the model takes them, squares of the whole image or of its specimen (`Trained.crop`); the
specimen's mask is found on these same pixels, and on them alone. Where nothing stands out from the border, an ellipse
in the middle takes the specimen's place (`curate.foreground.segment`).
"""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from classify.augment import to_gray
from classify.data import Progress
from classify.features import paint_over
from classify.models import Trained
from classify.predict import predict_rows
from curate.errors import CurateError
from curate.foreground import HOPELESS, segment

log = logging.getLogger("classify")


class Ablated(NamedTuple):
    """Changed pixels (n, side, side, 3) uint8, and of which images the specimen was guessed to be an ellipse (n,)."""

    pixels: np.ndarray
    guessed: np.ndarray


def grayscale(pixels: np.ndarray) -> Ablated:
    """Luma (ITU-R BT.601) in all three channels of (n, side, side, 3) uint8."""
    return Ablated(to_gray(pixels), np.zeros(len(pixels), bool))


def foreground_only(pixels: np.ndarray) -> Ablated:
    """(n, side, side, 3) uint8 with all but the specimen painted over with the mean colour of ImageNet."""
    masks, guessed = specimen_masks(pixels)
    return Ablated(paint_over(pixels, ~masks), guessed)


def background_only(pixels: np.ndarray) -> Ablated:
    """(n, side, side, 3) uint8 with the specimen painted over with the mean colour of ImageNet."""
    masks, guessed = specimen_masks(pixels)
    return Ablated(paint_over(pixels, masks), guessed)


ABLATIONS = {"grayscale": grayscale, "foreground-only": foreground_only, "background-only": background_only}


def specimen_masks(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of (n, side, side, 3) uint8: (n, side, side) bool, True on the specimen; (n,) bool, True where it is guessed."""
    found = [segment(image) for image in pixels]
    return np.stack([mask for mask, _ in found]), np.array([quality < HOPELESS for _, quality in found])


def ablate(pixels: np.ndarray, ablation: str) -> Ablated:
    """The images (n, side, side, 3) uint8, n at least 1, under the ablation of that name.

    Raises:
        CurateError: no such ablation.
    """
    if ablation not in ABLATIONS:
        raise CurateError(f"ablation {ablation!r} is unknown; known: {', '.join(ABLATIONS)}.")
    return ABLATIONS[ablation](pixels)


def only_one(chosen: dict[str, bool]) -> str | None:
    """The ablation that is chosen, or None.

    Raises:
        CurateError: several are: their effects could not be told apart.
    """
    names = [name for name, is_chosen in chosen.items() if is_chosen]
    if len(names) > 1:
        raise CurateError(f"{' and '.join(f'--{name}' for name in names)}: only one at a time. Evaluate once for each.")
    return names[0] if names else None


def predict_ablated(
    trained: Trained, manifest: pd.DataFrame, root: Path, ablation: str, *, progress: Progress | None = None
) -> np.ndarray:
    """As `classify.predict.predict_rows`, of the images under an ablation.

    Raises:
        CurateError: no ablation of that name.
    """
    guessed = 0

    def changed(pixels: np.ndarray) -> np.ndarray:
        nonlocal guessed
        ablated = ablate(pixels, ablation)
        guessed += int(ablated.guessed.sum())
        return ablated.pixels

    out = predict_rows(trained, manifest, root, change=changed, progress=progress)
    if guessed:
        log.warning("%d of %d images: nothing stands out, the specimen is taken to be an ellipse", guessed, len(out))
    return out
