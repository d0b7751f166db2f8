"""Safe decoding of untrusted bytes: what they are, their pixels, their perceptual hash."""

import hashlib
import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from curate.store import ImageError, Picture, locate

OPENED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # MPO is a JPEG with more behind it
MAX_PIXELS = 100_000_000
NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")  # left out of a cause, so that the same kind of damage has the same name
DAMAGED = (  # all that 70,000 damaged files raised
    *(OSError, ValueError, SyntaxError, EOFError, TypeError, AttributeError, LookupError, ArithmeticError),
    *(struct.error, zlib.error, RecursionError, Image.DecompressionBombError, Image.DecompressionBombWarning),
)
LOW_BAND = np.cos(np.pi * (2 * np.arange(32)[None] + 1) * np.arange(8)[:, None] / 64)  # DCT-II, the 8 lowest of 32
HASHED_SIDE = 192  # pixels of the shorter side that are enough for a perceptual hash
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
SIDEWAYS = {UPRIGHT[orientation] for orientation in (5, 6, 7, 8)}


def inspect(data: bytes) -> Picture:
    """Decode the bytes completely: what they are.

    Of a JPEG every coefficient is read, but pixels are made at a half, a quarter or an eighth of its size, as long as
    HASHED_SIDE of them are left. `phash` then lies within 2 bits of the full picture's, on all of 1,249 photos
    (`python -m benchmarks.phash`); further only where there is hardly more than noise or a fine, regular pattern.

    Raises:
        ImageError: no allowed format, too many pixels, or damaged.
    """
    with _opened(data) as image:
        kind, size = image.format or "?", image.size
        image.draft("L", (HASHED_SIDE, HASHED_SIDE))
        image.load()
        turn = _turn(image)
        gray = _to_gray(_turned(image, turn))
    width, height = reversed(size) if turn in SIDEWAYS else size
    return Picture(hashlib.sha256(data).hexdigest(), width, height, kind, len(data), phash(gray))


def decode(data: bytes) -> Image.Image:
    """RGB image, upright; the first frame of an animation, transparency on white, 16 bit scaled to 8.

    Raises:
        ImageError: as `inspect`.
    """
    with _opened(data) as image:
        image.load()
        return _to_rgb(_turned(image, _turn(image)))


def phash(image: Image.Image) -> str:
    """The 64-bit perceptual hash of imagehash.phash as 16 hex digits (DCT of 32 x 32, 8 x 8 lowest frequencies).

    The same bits, without all of scipy, which imagehash loads at its first hash.
    """
    pixels = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), np.float64)
    low = np.round(LOW_BAND @ pixels @ LOW_BAND.T, 6)  # what is nothing but rounding errors is 0, in flat pictures
    return str(imagehash.ImageHash(low > np.median(low)))


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


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The image with its header read and its first frame to come; what is wrong with it is an `ImageError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning)  # damaged EXIF: the pixels count
            with Image.open(io.BytesIO(data), formats=OPENED) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(f"more than {MAX_PIXELS:,} pixels")
                image.seek(0)
                yield image
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"none of {', '.join(OPENED)}") from error
    except DAMAGED as error:
        raise ImageError(NUMBERS.sub("N", f"{type(error).__name__}: {error}")[:200]) from error


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How a decoded image is to be turned by its EXIF; a damaged EXIF says nothing."""
    try:
        return UPRIGHT.get(int(image.getexif().get(ORIENTATION) or 1))
    except DAMAGED:
        return None


def _turned(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    """Not by exif_transpose, which writes the EXIF anew."""
    return image if turn is None else image.transpose(turn)


def _to_gray(image: Image.Image) -> Image.Image:
    return image if image.mode == "L" and "transparency" not in image.info else _to_rgb(image).convert("L")


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
