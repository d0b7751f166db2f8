"""The pictures that the pages show, served by image_id only: the image, its thumbnail, its heatmaps as overlays."""

import io
import os
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from curate.errors import CurateError
from curate.files import replacing
from curate.images import opened, orientation, to_rgb, turned
from curate.store import ImageError, locate

SHOWN_AS_THEY_ARE = {  # by the format of the bytes, whatever the file is called
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
}
LARGEST_FILE = 300_000_000  # bytes: as many as an uncompressed image has that is just small enough to be decoded
LONGEST_SHOWN = 4096  # of the longer side, pixels; a larger image is shown reduced
THUMBNAIL_SIDE = 256  # pixels: sharp in a tile of 240, and still 10 kB
OVERLAY_SIDE = 224  # pixels
HEADERS = {
    "Cache-Control": "private, max-age=31536000, immutable",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HEAT = np.array([[72, 16, 110], [168, 24, 104], [230, 60, 56], [252, 140, 28], [255, 222, 90]], np.float64)  # RGB
_AVERAGED = ("L", "RGB", "RGBA", "CMYK")  # modes that can be reduced before they are made RGB
_LARGE = 25_000_000  # pixels to decode; of such images one at a time, so that memory stays bounded
_one_large = threading.Lock()


def picture_routes(root: Path, file_names: Mapping[str, str]) -> list[Route]:
    """Routes `/img/{id}`, `/thumb/{id}`, `/heat/{id}` and `/heat-predicted/{id}` of a manifest; all else there is 404.

    Args:
        root: the data root; no file outside it is opened. Thumbnails, overlays and the JPEGs of what browsers do not
            show are kept below its `cache/`.
        file_names: `file_name` by `image_id`.
    """

    def route(folder: str, answer: Callable[[Path, str, str], Response]) -> Route:
        def endpoint(request: Request) -> Response:
            image_id = request.scope["path"].removeprefix(f"/{folder}/")
            if not _ID.fullmatch(image_id) or image_id not in file_names:
                return _missing("no such image")
            try:
                return answer(root, image_id, file_names[image_id])
            except (CurateError, OSError):
                return _missing("the file is missing or not in the data root")
            except ImageError as error:
                return _missing(f"the file is no image that can be shown: {error}")

        return Route(f"/{folder}/{{rest:path}}", endpoint, methods=["GET"])  # a slash in it is no other route's matter

    return [
        route("img", image_response),
        route("thumb", thumbnail_response),
        route("heat", heatmap_response),
        route("heat-predicted", predicted_heatmap_response),
    ]


def image_response(root: Path, image_id: str, file_name: str) -> Response:
    """The image as it came; as a JPEG of at most 4096 pixels a side where it is larger or browsers do not show it."""
    data = _bytes(root, file_name)
    with opened(data) as image:
        kind, longest = image.format or "", max(image.size)
    if kind in SHOWN_AS_THEY_ARE and longest <= LONGEST_SHOWN:
        return Response(data, media_type=SHOWN_AS_THEY_ARE[kind], headers=HEADERS)
    view = kept(root, f"cache/views-{LONGEST_SHOWN}/{image_id}.jpg", lambda: _jpeg(reduced(data, LONGEST_SHOWN)))
    return Response(view, media_type="image/jpeg", headers=HEADERS)


def thumbnail_response(root: Path, image_id: str, file_name: str) -> Response:
    """A JPEG that fits into 256 x 256, made at the first call."""
    return Response(make_thumbnail(root, image_id, file_name), media_type="image/jpeg", headers=HEADERS)


def heatmap_response(root: Path, image_id: str, _: str) -> Response:
    """The heatmap of the label as a PNG, clear where nothing is, to lay over the image, stretched to its box."""
    return Response(make_overlay(root, heatmap_name(image_id)), media_type="image/png", headers=HEADERS)


def predicted_heatmap_response(root: Path, image_id: str, _: str) -> Response:
    """The heatmap of the predicted class; there is none where that is the label."""
    return Response(make_overlay(root, predicted_heatmap_name(image_id)), media_type="image/png", headers=HEADERS)


def heatmap_name(image_id: str) -> str:
    """Where the audit keeps the heatmap of an image, relative to the data root."""
    return f"cache/heatmaps/{image_id}.png"


def predicted_heatmap_name(image_id: str) -> str:
    """Where it keeps that of the predicted class, if that is another one than the label."""
    return f"cache/heatmaps/{image_id}-predicted.png"


def thumbnail_name(image_id: str) -> str:
    """Where the thumbnail is kept; the size is in the name, so that another size never shows the old files."""
    return f"cache/thumbs-{THUMBNAIL_SIDE}/{image_id}.jpg"


def make_thumbnail(root: Path, image_id: str, file_name: str) -> bytes:
    """The JPEG of `thumbnail_response`, kept below `cache/`.

    Raises:
        CurateError: the image is missing or outside the root. ImageError: it is damaged.
    """
    locate(root, file_name)
    return kept(root, thumbnail_name(image_id), lambda: _jpeg(reduced(_bytes(root, file_name), THUMBNAIL_SIDE)))


def make_overlay(root: Path, heatmap: str) -> bytes:
    """The PNG that lies over the image, kept beside the heatmaps and made anew when the heatmap has changed.

    Args:
        root: the data root.
        heatmap: its file, as `heatmap_name` says.

    Raises:
        CurateError: there is no such heatmap. ImageError: it is damaged.
    """
    path = locate(root, heatmap)

    def make() -> bytes:
        with opened(path.read_bytes()) as image:
            image.load()
            return _png(heat_overlay(image.convert("L")))

    return kept(root, overlay_name(heatmap), make, made_of=path)


def overlay_name(heatmap: str) -> str:
    """Where the overlay of a heatmap is kept."""
    return f"cache/overlays/{Path(heatmap).name}"


def heat_overlay(heat: Image.Image) -> Image.Image:
    """Grayscale heatmap (255 = the peak) -> palette image, 224 x 224: from clear over violet and orange to yellow."""
    overlay = heat.resize((OVERLAY_SIDE, OVERLAY_SIDE), Image.Resampling.BICUBIC)
    values = np.arange(256) / 255
    stops = np.linspace(0, 1, len(_HEAT))
    colours = np.stack([np.interp(values, stops, _HEAT[:, channel]) for channel in range(3)], axis=-1)
    overlay.putpalette(colours.round().astype(np.uint8).tobytes())
    alpha = 255 * np.clip(values * 1.25 - 0.1, 0, 1)
    overlay.info["transparency"] = alpha.round().astype(np.uint8).tobytes()
    return overlay


def reduced(data: bytes, side: int) -> Image.Image:
    """The image in RGB, upright, fitted into side x side, never enlarged; of a JPEG only as much is decoded.

    Raises:
        ImageError: as `curate.images.decode`.
    """
    with opened(data) as image:
        shorter = max(1, side * min(image.size) // max(image.size))
        image.draft("RGB", (side, shorter) if image.width >= image.height else (shorter, side))
        if image.width * image.height <= _LARGE:
            return _fitted(image, side)
        with _one_large:
            return _fitted(image, side)


def kept(root: Path, name: str, make: Callable[[], bytes], made_of: Path | None = None) -> bytes:
    """The bytes of a file below the data root, made first where there is none, or where `made_of` has changed since.

    On a full or read-only disk they are made each time.

    Raises:
        CurateError: the file or its folder leads out of the root.
    """
    path, stamp = root / name, made_of and made_of.stat().st_mtime_ns
    if path.exists() and stamp in (None, path.stat().st_mtime_ns):
        return locate(root, name).read_bytes()
    data = make()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.parent.resolve().is_relative_to(root.resolve()):
            raise CurateError(f"{path.parent}: leads out of the data root {root}; nothing is written there.")
        with replacing(path) as temporary:
            temporary.write_bytes(data)
            if stamp:
                os.utime(temporary, ns=(stamp, stamp))
    return data


class SecurityHeaders:
    """ASGI middleware: no page of the app is framed by another site, and no answer is guessed to be what it is not."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and add the headers to the answer."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", "frame-ancestors 'none'")
                headers.setdefault("Referrer-Policy", "same-origin")
                headers.setdefault("X-Content-Type-Options", "nosniff")
            await send(message)

        await self.app(scope, receive, send_with_headers)


def _bytes(root: Path, file_name: str) -> bytes:
    path = locate(root, file_name)
    if path.stat().st_size > LARGEST_FILE:
        raise ImageError(f"more than {LARGEST_FILE:,} bytes")
    return path.read_bytes()


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """Reduced before it is made RGB where that gives the same: of a large image it takes a fraction of the memory."""
    image.load()
    turn = orientation(image)
    small = image if image.mode in _AVERAGED and "transparency" not in image.info else to_rgb(image)
    small.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return to_rgb(turned(small, turn))


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _missing(why: str) -> Response:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return PlainTextResponse(why, status_code=404, headers=headers)
