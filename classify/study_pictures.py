"""The heatmaps of a study: where evidence misses the specimen (its Fig. 5), and two classes side by side (Fig. 7)."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from classify.ablate import specimen_masks
from classify.explain import explain_run
from classify.heatmaps import overlay
from classify.models import Trained
from curate.audit import energy_outside
from curate.images import open_rgb, square

SIDE = 160  # pixels of a picture
MOST = 8  # pictures of a figure, or of a class


class Card(NamedTuple):
    """A picture (SIDE, SIDE, 3) uint8 and its caption."""

    picture: np.ndarray
    caption: str


def misled(trained: Trained, rows: pd.DataFrame, root: Path) -> list[Card]:
    """The images whose evidence for the predicted class lies most outside the specimen.

    Images in which no specimen stands out come last.

    Args:
        trained: see `classify.models.load_run`.
        rows: of a manifest; what an audit says of them (`flags`) is quoted.
        root: the data root.
    """
    table, maps = explain_run(trained, rows, root, target="predicted")
    shown = np.flatnonzero(~np.isnan(maps).any(axis=(1, 2)))
    if not len(shown):
        return []
    rows, table, maps = rows.iloc[shown], table.iloc[shown], maps[shown]
    pixels = _pixels(rows, root)
    masks, guessed = specimen_masks(pixels)
    outside = energy_outside(maps, np.stack([_resized(mask, maps.shape[1]) for mask in masks]))
    outside[guessed] = np.nan
    flags = rows["flags"].fillna("").tolist() if "flags" in rows else [""] * len(rows)
    order = np.argsort(-np.nan_to_num(outside, nan=-1.0), kind="stable")[:MOST]
    cards = []
    for i in order:
        where = "no specimen stands out" if np.isnan(outside[i]) else f"{outside[i]:.0%} of the evidence beside it"
        said = f"{rows['label'].iloc[i]}, predicted {table['predicted'].iloc[i]}: {where}"
        cards.append(Card(overlay(pixels[i], maps[i]), f"{said} ({flags[i]})" if flags[i] else said))
    return cards


def side_by_side(trained: Trained, rows: pd.DataFrame, root: Path, labels: tuple[str, str]) -> dict[str, list[Card]]:
    """Images of two classes, with the evidence for the class that each is of.

    Args:
        trained: see `classify.models.load_run`.
        rows: of a manifest.
        root: the data root.
        labels: the two.
    """
    figure = {}
    for label in labels:
        mine = rows[rows["label"] == label][:MOST]
        table, maps = explain_run(trained, mine, root, target="label")
        shown = np.flatnonzero(~np.isnan(maps).any(axis=(1, 2)))
        pixels = _pixels(mine.iloc[shown], root)
        figure[label] = [
            Card(overlay(picture, maps[row]), _predicted(table.iloc[row]))
            for picture, row in zip(pixels, shown, strict=True)
        ]
    return figure


def confused(matrix: np.ndarray, classes: tuple[str, ...]) -> tuple[str, str]:
    """The two classes that are most often taken for each other; the first two where none are.

    Args:
        matrix: (k, k) counts, rows the true class.
        classes: k names, two at least.
    """
    both = np.triu(matrix + matrix.T, k=1)
    first, second = np.unravel_index(both.argmax(), both.shape) if both.any() else (0, 1)
    return classes[first], classes[second]


def _predicted(said: pd.Series) -> str:
    return f"predicted {said['predicted']} {said['probability']:.0%}"


def _pixels(rows: pd.DataFrame, root: Path) -> np.ndarray:
    pictures = [square(open_rgb(root, name), SIDE) for name in rows["file_name"]]
    return np.array(pictures, np.uint8).reshape(-1, SIDE, SIDE, 3)


def _resized(mask: np.ndarray, side: int) -> np.ndarray:
    return cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA) > 0.5
