"""Safe decoding of untrusted bytes: what they are, their pixels, their perceptual hash and their quality."""

import hashlib
import io
import math
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
MEASURED_SIDE = 120  # of the shorter side, pixels, of the picture whose quality is measured
LONGEST_MEASURED = 4096  # of the longer side of that picture, pixels: a strip is measured smaller
GREYS = np.arange(256.0)
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
    (`python -m benchmarks.decode`); further only where there is hardly more than noise or a fine, regular pattern.
    Of the 245 photos among them that are made smaller, the sharpness is within 10 % of the full picture's, brightness
    and contrast within a grey level, the entropy within 0.5 bits.

    Raises:
        ImageError: no allowed format, too many pixels, or damaged.
    """
    with opened(data) as image:
        kind, size = image.format or "?", image.size
        image.draft("L", (HASHED_SIDE, HASHED_SIDE))
        image.load()
        turn = orientation(image)
        gray = _to_gray(turned(image, turn))
    width, height = reversed(size) if turn in SIDEWAYS else size
    return Picture(hashlib.sha256(data).hexdigest(), width, height, kind, len(data), phash(gray), **quality(gray))


def decode(data: bytes) -> Image.Image:
    """RGB image, upright; the first frame of an animation, transparency on white, 16 bit scaled to 8.

    Raises:
        ImageError: as `inspect`.
    """
    with opened(data) as image:
        image.load()
        return to_rgb(turned(image, orientation(image)))


def phash(image: Image.Image) -> str:
    """The 64-bit perceptual hash of imagehash.phash as 16 hex digits (DCT of 32 x 32, 8 x 8 lowest frequencies).

    The same bits in the same order, without all of scipy, which imagehash loads at its first hash.
    """
    pixels = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), np.float64)
    low = np.round(LOW_BAND @ pixels @ LOW_BAND.T, 6)  # what is nothing but rounding errors is 0, in flat pictures
    median = np.sort(low, axis=None)[31:33].mean()
    return str(imagehash.ImageHash(low > median))


def quality(gray: Image.Image) -> dict[str, float]:
    """`sharpness`, `brightness`, `contrast` and `entropy` of a grey picture, as `columns.COLUMNS` says, to four digits.

    All at one size, MEASURED_SIDE, so that they hardly depend on the size of the file, and not on that of its decoding;
    what is smaller is measured as it is.

    Args:
        gray: of mode L.
    """
    small = _at_measured_size(gray)
    share = np.array(small.histogram()) / (small.width * small.height)
    brightness = share @ GREYS
    occurring = share[share > 0]
    measures = {
        "sharpness": laplacian_deviation(np.asarray(small)),
        "brightness": brightness,
        "contrast": math.sqrt(share @ (GREYS - brightness) ** 2),
        "entropy": occurring @ np.log2(1 / occurring),
    }
    return {name: float(f"{value:.4g}") for name, value in measures.items()}


def laplacian_deviation(pixels: np.ndarray) -> float:
    """Standard deviation of the Laplacian of (h, w) uint8, grey levels; beyond its edge a picture goes on as it ends.

    The variance of the Laplacian measures focus: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy",
    ICPR 2000. Such a Laplacian is 0 in the mean: what a pixel differs by from its neighbour, that differs by from it.
    """
    levels = pixels.astype(np.int16)
    laplacian = np.zeros_like(levels)
    across, down = levels[:, 1:] - levels[:, :-1], levels[1:] - levels[:-1]
    laplacian[:, :-1] += across
    laplacian[:, 1:] -= across
    laplacian[:-1] += down
    laplacian[1:] -= down
    return math.sqrt(np.square(laplacian, dtype=np.float32).mean())


def open_rgb(root: Path, file_name: str) -> Image.Image:
    """The image of a manifest row, decoded as `decode` does.

    Raises:
        CurateError: as `locate`. ImageError: damaged.
    """
    return decode(_read(root, file_name))


def open_gray(root: Path, file_name: str, side: int) -> np.ndarray:
    """(h, w) uint8, upright; of a large JPEG made at a half, a quarter or an eighth of its size, at least `side` long.

    Raises:
        CurateError: as `locate`. ImageError: damaged.
    """
    with opened(_read(root, file_name)) as image:
        shorter = max(1, side * min(image.size) // max(image.size))
        image.draft("L", (side, shorter) if image.width >= image.height else (shorter, side))
        image.load()
        return np.asarray(_to_gray(turned(image, orientation(image))))


def _read(root: Path, file_name: str) -> bytes:
    try:
        return locate(root, file_name).read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error


def square(image: Image.Image, side: int) -> np.ndarray:
    """The whole image stretched to (side, side, 3) uint8, antialiased (the study feeds 224 x 224)."""
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0))


def thumbnail(image: Image.Image, side: int) -> Image.Image:
    """A copy that fits into side x side, aspect ratio kept."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return small


@contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
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


def orientation(image: Image.Image) -> Image.Transpose | None:
    """How a decoded image is to be turned by its EXIF; a damaged EXIF says nothing."""
    try:
        return UPRIGHT.get(int(image.getexif().get(ORIENTATION) or 1))
    except DAMAGED:
        return None


def turned(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    """Not by exif_transpose, which writes the EXIF anew."""
    return image if turn is None else image.transpose(turn)


def _to_gray(image: Image.Image) -> Image.Image:
    return image if image.mode == "L" and "transparency" not in image.info else to_rgb(image).convert("L")


def _at_measured_size(gray: Image.Image) -> Image.Image:
    """Each pixel the mean of those that it stands for; never enlarged."""
    width, height = gray.size
    scale = min(MEASURED_SIDE / min(gray.size), LONGEST_MEASURED / max(gray.size))
    if scale >= 1:
        return gray
    columns, rows = max(1, round(scale * width)), max(1, round(scale * height))
    if width % columns == 0 and height % rows == 0:
        return gray.reduce((width // columns, height // rows))  # the same, four times as quick
    return gray.resize((columns, rows), Image.Resampling.BOX, reducing_gap=2.0)


def to_rgb(image: Image.Image) -> Image.Image:
    """8 bits a channel; transparent parts become white, 16 bits are scaled down."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float32)
        top = 65535 if values.max(initial=0) > 255 else 255
        return Image.fromarray((np.clip(values / top, 0, 1) * 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
