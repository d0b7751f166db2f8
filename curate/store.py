"""The image store: files by content (images/<ab>/<sha256>.<ext>), and the one way from a manifest to them."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from curate.errors import CurateError
from curate.files import is_inside, is_leftover, replacing

FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "MPO": "jpg"}


class ImageError(Exception):
    """The bytes are no image that we take; the message is the cause, fit for a table."""


class Picture(NamedTuple):
    """What decoding found out about an image, as `columns.COLUMNS` says of each."""

    sha256: str
    width: int
    height: int
    format: str
    bytes: int
    phash: str
    sharpness: float
    brightness: float
    contrast: float
    entropy: float


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
    try:
        path = (root / file_name).resolve()
        there = path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, with a NUL, a loop of links
        raise CurateError(f"{file_name[:80]!r}: no name of a file under {root}: {error}") from error
    if not is_inside(file_name) or not path.is_relative_to(root.resolve()):
        raise CurateError(f"{file_name}: outside the data root {root}; it is not opened.")
    if not there:
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
