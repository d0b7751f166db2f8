"""Small pictures inside an HTML page: an image, and the same image under its heatmap, as JPEG data URIs."""

import base64
import html
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from curate.errors import CurateError
from curate.images import DAMAGED, open_rgb, thumbnail
from curate.page_pieces import safe
from curate.store import ImageError, locate
from curate.threads import map_on_threads

SIDE = 160  # pixels of the longer side of a picture
QUALITY = 80  # of its JPEG
MOST_BYTES = 4_500_000  # of all pictures of a page, as text
THREADS = 2  # that decode
HEATMAP_SIDES = (1, 512)  # pixels of a heatmap that is taken for one
NAME = re.compile(r"\w[\w.-]*")


class Small(NamedTuple):
    """A small JPEG, or why there is none."""

    data: bytes = b""
    width: int = 0
    height: int = 0
    cause: str = ""


class Pictures(NamedTuple):
    """Of one image: the picture, the heatmap of its label over it, and that of the predicted class."""

    plain: Small
    label: Small
    predicted: Small


class Album:
    """The pictures of a page, each image decoded once, and no more of them shown than MOST_BYTES."""

    def __init__(self, images: Iterable[tuple[str, str]], root: Path) -> None:
        """Decode the images: (image_id, file_name) of each, below the data root."""
        unique = list(dict(images).items())
        made = map_on_threads(lambda image: pictures(image[0], image[1], root), unique, "pictures", THREADS, None)
        self._pictures = {image_id: found for (image_id, _), found in zip(unique, made, strict=True)}
        self._left = MOST_BYTES

    def __getitem__(self, image_id: str) -> Pictures:
        """All pictures of an image."""
        return self._pictures[image_id]

    def tag(self, small: Small, alt: str) -> str:
        """The picture as an <img>, or the cause why there is none as text."""
        if small.cause:
            return f"<p>{safe(small.cause)}</p>"
        data = base64.b64encode(small.data).decode()
        if len(data) > self._left:
            return f"<p>Not shown: this page holds {MOST_BYTES / 1e6:.1f} MB of pictures already.</p>"
        self._left -= len(data)
        return (
            f'<img alt="{html.escape(alt, quote=True)}" width="{small.width}" height="{small.height}" loading="lazy" '
            f'src="data:image/jpeg;base64,{data}">'
        )


def pictures(image_id: str, file_name: str, root: Path) -> Pictures:
    """The small pictures of one image; what is missing, damaged or outside the data root says so."""
    try:
        image = thumbnail(open_rgb(root, file_name), SIDE)
    except (CurateError, ImageError, OSError) as error:
        cause = Small(cause=f"Cannot be shown: {error}")
        return Pictures(cause, cause, cause)
    return Pictures(_jpeg(image), _over(image, image_id, root), _over(image, f"{image_id}-predicted", root))


def overlay(image: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 RGB with a heatmap, (side, side) uint8 stretched over it, half and half in viridis colours."""
    height, width = image.shape[:2]
    heat = cv2.resize(heatmap, (width, height), interpolation=cv2.INTER_CUBIC)
    colour = cv2.cvtColor(cv2.applyColorMap(heat, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    return cv2.addWeighted(image, 0.5, colour, 0.5, 0)


def _over(image: Image.Image, name: str, root: Path) -> Small:
    try:
        heatmap = _heatmap(name, root)
    except (CurateError, *DAMAGED):
        return Small(cause="No heatmap.")
    return _jpeg(Image.fromarray(overlay(np.asarray(image), heatmap)))


def _heatmap(name: str, root: Path) -> np.ndarray:
    if not NAME.fullmatch(name):
        raise CurateError(f"{name!r} is no plain name.")
    with Image.open(locate(root, f"cache/heatmaps/{name}.png"), formats=["PNG"]) as image:
        if not all(HEATMAP_SIDES[0] <= side <= HEATMAP_SIDES[1] for side in image.size):
            raise CurateError(f"{name}: {image.size} is no size of a heatmap.")
        return np.asarray(image.convert("L"))


def _jpeg(image: Image.Image) -> Small:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return Small(buffer.getvalue(), image.width, image.height)
