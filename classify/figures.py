"""The page of an evaluation: figures, calibration, what is taken for what with its images, groups, top losses."""

import html
import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from classify.ablate import ablate
from classify.data import batches, decode_rows
from classify.features import readable
from classify.models import Trained
from classify.predict import BATCH
from classify.report import inline, jpeg, table_html, write_page

MOST_PAIRS = 12
MOST_PICTURES = 8  # of a pair
SIDE = 128  # pixels of a picture
GUESS = " (an ellipse in the middle was taken for the specimen where nothing stands out)"
SEEN = {
    "grayscale": "The model saw the images without colour.",
    "foreground-only": f"The model saw the specimens alone: what surrounds them was painted over{GUESS}.",
    "background-only": f"The model saw what surrounds the specimens: they were painted over{GUESS}.",
}


def shown_images(result: dict[str, Any]) -> list[str]:
    """`image_id`s that the page shows: the surest wrong ones of the most frequent confusions."""
    return [image for pair in result["confusions"][:MOST_PAIRS] for image in pair["image_ids"][:MOST_PICTURES]]


def thumbnails(
    trained: Trained, rows: pd.DataFrame, root: Path, images: list[str], ablation: str | None
) -> dict[str, np.ndarray]:
    """`image_id` -> what the model saw of it, at most 128 pixels: (h, w, 3) uint8.

    Args:
        rows: of a manifest, with these images.
        images: `image_id`s.
        ablation: see `classify.ablate.ablate`; None for the images as they are.
    """
    positions = np.flatnonzero(rows["image_id"].isin(images))
    side, found = min(SIDE, trained.side), {}
    for part in batches(positions, BATCH):
        there, pixels = readable(decode_rows(rows, root, part, trained.side, crop=trained.crop), {})
        if there:
            pixels = trained.seen(ablate(pixels, ablation).pixels if ablation else pixels)
        for row, image in zip(there, pixels, strict=True):
            found[str(rows["image_id"].iloc[row])] = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return found


def evaluation_page(path: Path, result: dict[str, Any], pictures: dict[str, np.ndarray]) -> None:
    """Write `path`.html beside the confusion matrix `path`.png and `path`-reliability.png, which it holds.

    Args:
        path: without a suffix; its folder is the run's.
        result: of `classify.evaluate.evaluate_run`.
        pictures: of `thumbnails`.
    """
    body = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in _sentences(result))
    body += f"<h2>By class</h2>{table_html(pd.DataFrame(result['per_class']))}"
    body += _picture("Confusion matrix", path.with_suffix(".png"))
    body += _picture("Calibration: accuracy by probability", path.with_name(f"{path.name}-reliability.png"))
    body += f"<h2>What is taken for what</h2>{_pairs(result['confusions'], pictures)}"
    if result["groups"]:
        body += f"<h2>By source and by flag</h2><p>{html.escape(_worst(result['worst_group']))}</p>"
        body += table_html(pd.DataFrame(result["groups"]))
    body += "<h2>The labels that the model believes least</h2>"
    body += table_html(pd.DataFrame(result["top_losses"]).drop(columns="file_name"))
    write_page(f"Run {path.parent.name}: {result['images_are']}", body, path.with_suffix(".html"))


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _sentences(result: dict[str, Any]) -> list[str]:
    low, high = result["interval_95"]["accuracy"]
    low_f1, high_f1 = result["interval_95"]["macro_f1"]
    found = result["calibration"]
    sentences = [
        f"{result['images']} images: {result['images_are']}. {SEEN.get(result['ablation'], '')}",
        f"Accuracy {result['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}), macro-F1 {result['macro_f1']:.2%} "
        f"({low_f1:.2%} to {high_f1:.2%}), macro recall {result['macro_recall']:.2%}, macro precision "
        f"{result['macro_precision']:.2%}. Chance: accuracy {result['chance_accuracy']:.2%}, loss "
        f"{result['chance_loss']:.3f}; always the largest class {result['largest_class_accuracy']:.2%}.",
        f"Loss {result['loss']:.3f}, expected calibration error {found['error']:.3f} (15 bins; a calibrated model has "
        f"{found['error_by_chance']:.3f} on so many images).",
    ]
    if found["temperature"]:
        sentences[-1] += (
            f" With the logits divided by the temperature {found['temperature']:.3f}, fitted on {found['fitted_on']}: "
            f"loss {found['loss_scaled']:.3f}, error {found['error_scaled']:.3f}."
        )
    else:
        sentences[-1] += f" Temperature: {found['fitted_on']}."
    if result["unreadable"]:
        sentences.append(f"Left out because they do not open: {', '.join(result['unreadable'])}.")
    return sentences


def _picture(title: str, path: Path) -> str:
    return f"<h2>{title}</h2><img alt='{title}' src='{inline(path.read_bytes(), 'png')}'>"


def _pairs(pairs: list[dict[str, Any]], pictures: dict[str, np.ndarray]) -> str:
    if not pairs:
        return "<p>Every image is predicted right.</p>"
    text = ""
    for pair in pairs[:MOST_PAIRS]:
        number = f"{pair['images']} image{'s' if pair['images'] > 1 else ''}"
        text += f"<h3>{html.escape(pair['label'])} taken for {html.escape(pair['predicted'])}: {number}</h3>"
        cards = [_card(image, pictures[image]) for image in pair["image_ids"][:MOST_PICTURES] if image in pictures]
        text += f"<div class='grid'>{''.join(cards)}</div>"
    more = len(pairs) - MOST_PAIRS
    return text + (f"<p>And {more} pairs more, of fewer images: see the table of the matrix.</p>" if more > 0 else "")


def _card(image_id: str, picture: np.ndarray) -> str:
    safe = html.escape(image_id, quote=True)
    source = inline(jpeg(picture), "jpeg")
    return f"<figure><img alt='{safe}' src='{source}'><figcaption>{safe}</figcaption></figure>"


def _worst(group: dict[str, Any] | None) -> str:
    if group is None:
        return "No group of at least 5 images is smaller than the whole: none can be called the worst."
    return (
        f"The worst group of at least 5 images: {group['by']} {group['group']}, accuracy {group['accuracy']:.2%} (95 % "
        f"interval {group['low']:.2%} to {group['high']:.2%}) of {group['images']} images."
    )
