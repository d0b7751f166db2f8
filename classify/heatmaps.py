"""Heatmaps as pictures: kept by image and by what made them; over the image, on sheets and on a page, worst first."""

import hashlib
import html
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin

from classify.cam import OF_NO_CLASS, SIDE
from classify.report import inline, jpeg, no_math, save_figure, write_page, write_png
from classify.trunk import Backbone
from curate.errors import CurateError
from curate.files import replacing

PICTURE_SIDE = 160  # pixels of a picture
GAP = 4  # pixels between pictures
ON_A_SHEET = 96  # pictures
ON_A_FIGURE = 8  # images, a line each
ON_A_PAGE = 500  # images, the first of the order
INCH = 110  # pixels, as `save_figure` has it
LONGEST_NAME = 36  # characters, beside a line of a figure
SHEETS = re.compile(r"(contact|pair)(-\d+)?\.png")


class Part(NamedTuple):
    """What a run makes of k images.

    Attributes:
        rows: positions in the manifest.
        pixels: (k, side, side, 3) uint8, as the model sees them.
        probabilities: (k, classes) float32, softmax.
        shown: (k, m) indices of the classes whose evidence is shown.
        maps: (k, m, 56, 56) float32 in [0, 1].
    """

    rows: list[int]
    pixels: np.ndarray
    probabilities: np.ndarray
    shown: np.ndarray
    maps: np.ndarray


class Card(NamedTuple):
    """A picture, what is said of it in one line and in several, and where it comes in the order."""

    picture: Path
    caption: str
    lines: str
    order: tuple[bool, float]


def write_folder(
    parts: Iterable[Part],
    manifest: pd.DataFrame,
    classes: tuple[str, ...],
    out: Path,
    *,
    title: str,
    method: str,
    compared: tuple[str, ...] = (),
    by_error: bool = True,
) -> int:
    """Write a picture an image, <image_id>.jpg, sheets of them, and index.html, a page that opens offline.

    Args:
        parts: of the images of the manifest.
        manifest: with `image_id`, `file_name`, and `label` (missing where it is not known).
        classes: of the run.
        out: the folder; sheets and page of an earlier time are replaced.
        title: of the page.
        method: that made the heatmaps.
        compared: the classes whose heatmaps stand beside the image, each of `Part.maps`: pair.png, pair-2.png, ...
            Without, one heatmap lies over it: contact.png, contact-2.png, ...
        by_error: the surest wrong first, then by the probability of the label, the least first; else as they come.

    Returns:
        The number of images; nothing is written where it is 0.
    """
    cards = [
        _write_card(out, manifest.iloc[row], part, i, classes) for part in parts for i, row in enumerate(part.rows)
    ]
    if not cards:
        return 0
    if by_error:
        cards.sort(key=lambda card: card.order)
    for old in out.iterdir():
        if SHEETS.fullmatch(old.name):
            old.unlink()
    size, name = (ON_A_FIGURE, "pair") if compared else (ON_A_SHEET, "contact")
    for start in range(0, len(cards), size):
        path = out / f"{name}{f'-{start // size + 1}' if start else ''}.png"
        pictures = [_read_picture(card.picture) for card in cards[start : start + size]]
        if compared:
            lines = [card.lines for card in cards[start : start + size]]
            write_figure(pictures, ["image", *compared], lines, path)
        else:
            write_png(contact_sheet(pictures), path)
    _write_page(title, cards, method, bool(compared), out / "index.html")
    return len(cards)


def heatmap_path(out: Path, image_id: str) -> Path:
    """Where the heatmap of an image is kept; CurateError for an `image_id` that is no plain file name."""
    if not re.fullmatch(r"\w[\w.-]*", image_id):
        raise CurateError(f"image_id {image_id!r} is no plain name of letters, digits, '_', '-' and '.'.")
    return out / f"{image_id}.png"


def maker(backbone: Backbone, weight: np.ndarray) -> str:
    """Names what a heatmap was made with: trunk and weights (a bias moves no heatmap)."""
    return f"grad-cam {backbone.key} {hashlib.sha256(weight.tobytes()).hexdigest()[:16]}"


def read_pair(out: Path, image_id: str, targets: np.ndarray, makers: list[str]) -> np.ndarray:
    """(2, 56, 56) float32, NaN where no file is or others made it. A second file where one serves both is deleted."""
    label, predicted = targets
    first, other = _read_heatmap(heatmap_path(out, image_id), makers[label]), heatmap_path(out, f"{image_id}-predicted")
    if label == predicted:
        other.unlink(missing_ok=True)
        return np.stack([first, first])
    return np.stack([first, _read_heatmap(other, makers[predicted])])


def write_pair(out: Path, image_id: str, pair: np.ndarray, targets: np.ndarray, makers: list[str]) -> np.ndarray:
    """Write them, and return them as reading would."""
    label, predicted = targets
    first = _write_heatmap(heatmap_path(out, image_id), pair[0], makers[label])
    if label == predicted:
        return np.stack([first, first])
    return np.stack([first, _write_heatmap(heatmap_path(out, f"{image_id}-predicted"), pair[1], makers[predicted])])


def overlay(image: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """(side, side, 3) uint8 RGB with the heatmap (h, w) in [0, 1] laid over it in colour; NaN leaves it as it is."""
    if np.isnan(heatmap).any():
        return image
    side = image.shape[0]
    heat = cv2.resize(heatmap, (side, side), interpolation=cv2.INTER_LINEAR)
    colour = cv2.cvtColor(cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    return (image * 0.5 + colour * 0.5).astype(np.uint8)


def contact_sheet(images: list[np.ndarray], *, columns: int = 8, gap: int = GAP) -> np.ndarray:
    """Pictures of one size (h, w, 3) uint8 laid out in rows on white."""
    height, width = images[0].shape[:2]
    lines = -(-len(images) // columns)
    sheet = np.full((lines * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        sheet[y : y + height, x : x + width] = image
    return sheet


def write_figure(pictures: list[np.ndarray], titles: list[str], lines: list[str], path: Path) -> None:
    """Write pictures (h, w, 3) uint8 below each other, a text beside each, as columns of equal width under titles."""
    sheet = contact_sheet(pictures, columns=1, gap=0)
    height, width = sheet.shape[0] / len(pictures), sheet.shape[1] / len(titles)
    figure = Figure(figsize=(sheet.shape[1] / INCH + 3, sheet.shape[0] / INCH + 0.5), layout="constrained")
    axis = figure.subplots()
    axis.imshow(sheet)
    axis.set_xticks(width * (np.arange(len(titles)) + 0.5), [no_math(title) for title in titles])
    axis.set_yticks(height * (np.arange(len(lines)) + 0.5), [no_math(line) for line in lines])
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    save_figure(figure, path)


def _write_card(out: Path, row: pd.Series, part: Part, i: int, classes: tuple[str, ...]) -> Card:
    """Write the picture of one image: under its heatmap, or beside those of several classes."""
    out.mkdir(parents=True, exist_ok=True)
    image = cv2.resize(part.pixels[i], (PICTURE_SIDE, PICTURE_SIDE), interpolation=cv2.INTER_AREA)
    under = [overlay(image, heatmap) for heatmap in part.maps[i]]
    picture = under[0] if len(under) == 1 else contact_sheet([image, *under], columns=1 + len(under))
    path = heatmap_path(out, str(row["image_id"])).with_suffix(".jpg")
    with replacing(path) as temporary:
        temporary.write_bytes(jpeg(picture))
    probability, shown = part.probabilities[i], part.shown[i].tolist()
    best = int(probability.argmax())
    known = not pd.isna(row["label"])
    wrong = known and row["label"] != classes[best]
    name, label = (row["image_id"], f"{row['label']}, ") if known else (row["file_name"], "")
    evidence = ", ".join(f"{classes[k]} {probability[k]:.0%}" for k in shown)
    caption = f"{name}: {label}predicted {classes[best]} {probability[best]:.0%}{' (wrong)' if wrong else ''}"
    if shown != [best]:
        caption += f"; evidence for {evidence}"
    lines = f"{name[-LONGEST_NAME:]}\n{row['label'] if known else ''}\n{evidence}"
    return Card(path, caption, lines, (not wrong, float(-probability[best] if wrong else probability[best])))


def _write_page(title: str, cards: list[Card], method: str, compared: bool, path: Path) -> None:
    figures = []
    for card in cards[:ON_A_PAGE]:
        caption = html.escape(card.caption)  # quotes too
        picture = f"<img alt='{caption}' src='{inline(card.picture.read_bytes(), 'jpeg')}'>"
        figures.append(f"<figure>{picture}<figcaption>{caption}</figcaption></figure>")
    what = "what is strongest in the map" if method in OF_NO_CLASS else "the evidence for the class"
    text = f"Yellow: where {what} lies (method: {method}). A model that looks at the background is misled."
    if compared:
        text += " Each heatmap is scaled to its own peak: compare where they lie, not how bright they are."
    if len(cards) > ON_A_PAGE:
        text += f" The first {ON_A_PAGE} of {len(cards)} images; the sheets beside this page show all."
    wide = " style='grid-template-columns: repeat(auto-fill, minmax(30rem, 1fr))'" if compared else ""
    write_page(title, f"<p>{text}</p><div class='grid'{wide}>{''.join(figures)}</div>", path)


def _read_picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def _read_heatmap(path: Path, maker: str) -> np.ndarray:
    """(56, 56) float32 in [0, 1]; NaN where it is damaged, was made by others or is not there: it is made again."""
    nothing = np.full((SIDE, SIDE), np.nan, np.float32)
    try:
        with Image.open(path, formats=["PNG"]) as image:
            ours = image.info.get("maker") == maker and image.size == (SIDE, SIDE) and image.mode == "L"
            return np.asarray(image, np.float32) / 255 if ours else nothing
    except (OSError, ValueError, SyntaxError):
        return nothing


def _write_heatmap(path: Path, heatmap: np.ndarray, maker: str) -> np.ndarray:
    """Write it, and return it as reading it would.

    Whole or not at all, but not synced: a power failure may leave a damaged file, which is made again.
    """
    grey = np.round(heatmap * 255).astype(np.uint8)
    text = PngImagePlugin.PngInfo()
    text.add_text("maker", maker)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}~{os.getpid()}.tmp")
    Image.fromarray(grey).save(temporary, format="PNG", pnginfo=text, compress_level=1)
    temporary.replace(path)
    return grey.astype(np.float32) / 255
