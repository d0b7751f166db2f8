"""The image store: files by content (images/<ab>/<sha256>.<ext>), and safe decoding of untrusted bytes."""

import hashlib
import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import imagehash
import numpy as np
from PIL import Image

from curate.manifest import CurateError, is_inside, is_leftover, replacing

FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "MPO": "jpg"}
OPENED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # MPO is a JPEG with more behind it
MAX_PIXELS = 100_000_000
NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")  # left out of a cause, so that the same kind of damage has the same name
DAMAGED = (  # all that 70,000 damaged files raised
    *(OSError, ValueError, SyntaxError, EOFError, TypeError, AttributeError, LookupError, ArithmeticError),
    *(struct.error, zlib.error, RecursionError, Image.DecompressionBombError, Image.DecompressionBombWarning),
)
ORIENTATION = 0x0112  # EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(Exception):
    """The bytes are no image that we take; the message is the cause, fit for a table."""


class Picture(NamedTuple):
    """What decoding found out about an image."""

    sha256: str
    width: int
    height: int
    format: str


def inspect(data: bytes) -> tuple[Picture, Image.Image]:
    """Decode the bytes completely: what they are, and the RGB image as `decode` gives it.

    Raises:
        ImageError: no allowed format, too many pixels, or damaged.
    """
    rgb, kind = _decode(data)
    return Picture(hashlib.sha256(data).hexdigest(), rgb.width, rgb.height, kind), rgb


def decode(data: bytes) -> Image.Image:
    """RGB image, upright; the first frame of an animation, transparency on white, 16 bit scaled to 8.

    Raises:
        ImageError: as `inspect`.
    """
    return _decode(data)[0]


def phash(image: Image.Image) -> str:
    """The 64-bit perceptual hash of imagehash.phash as 16 hex digits (DCT of 32 x 32, 8 x 8 lowest frequencies)."""
    return str(imagehash.phash(image))


def store(root: Path, data: bytes, picture: Picture) -> str:
    """Keep the bytes under the data root as they came, in one atomic step; returns `file_name`."""
    name = path_in_store(picture)
    path = root / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    return name


def path_in_store(picture: Picture) -> str:
    """`file_name` of an image: its place under the data root, by content."""
    return f"images/{picture.sha256[:2]}/{picture.sha256}.{FORMATS[picture.format]}"


def remove_leftovers(root: Path) -> None:
    """Delete what processes that were killed had half written."""
    for path in (root / "images").glob("*/.*.tmp"):
        if is_leftover(path):
            path.unlink(missing_ok=True)


def locate(root: Path, file_name: str) -> Path:
    """The path of an image of a manifest.

    Raises:
        CurateError: outside the data root (also by a symbolic link), or no such file.
    """
    path = (root / file_name).resolve()
    if not is_inside(file_name) or not path.is_relative_to(root.resolve()):
        raise CurateError(f"{file_name}: outside the data root {root}; it is not opened.")
    if not path.is_file():
        raise CurateError(
            f"{file_name}: no such image under {root}. Was it deleted, or is --data wrong? "
            "`curate scrape` fetches what is missing again."
        )
    return path


def require_images(root: Path, file_names: Iterable[str]) -> None:
    """Raise a `CurateError` that names the first image of a manifest that is missing or outside the data root."""
    problems = []
    for name in file_names:
        try:
            locate(root, name)
        except CurateError as error:
            problems.append(str(error))
    if problems:
        more = f" ({len(problems) - 1} more images like it)" if len(problems) > 1 else ""
        raise CurateError(problems[0] + more)


def open_rgb(root: Path, file_name: str) -> Image.Image:
    """The image of a manifest row, decoded as `decode` does.

    Raises:
        CurateError: as `locate`. ImageError: damaged.
    """
    return decode(locate(root, file_name).read_bytes())


def square(image: Image.Image, side: int) -> np.ndarray:
    """The whole image stretched to (side, side, 3) uint8, antialiased (the study feeds 224 x 224)."""
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0))


def thumbnail(image: Image.Image, side: int) -> Image.Image:
    """A copy that fits into side x side, aspect ratio kept."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return small


def _decode(data: bytes) -> tuple[Image.Image, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning)  # damaged EXIF: the pixels count
            with Image.open(io.BytesIO(data), formats=OPENED) as image:
                kind = image.format or "?"
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(f"more than {MAX_PIXELS:,} pixels")
                image.seek(0)
                image.load()
                return _to_rgb(_upright(image)), kind
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"none of {', '.join(OPENED)}") from error
    except DAMAGED as error:
        raise ImageError(NUMBERS.sub("N", f"{type(error).__name__}: {error}")[:200]) from error


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says; a damaged EXIF says nothing. Not by exif_transpose, which writes the EXIF anew."""
    try:
        orientation = image.getexif().get(ORIENTATION)
        turn = UPRIGHT.get(int(orientation or 1))
    except DAMAGED:
        return image
    return image.transpose(turn) if turn is not None else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float32)
        top = 65535 if values.max(initial=0) > 255 else 255
        return Image.fromarray((np.clip(values / top, 0, 1) * 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
