"""The pictures that the pages show, served by image_id only: the image, its thumbnail, its heatmap as an overlay."""

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from curate.errors import CurateError
from curate.files import replacing
from curate.images import open_rgb, thumbnail
from curate.store import ImageError, locate

SHOWN_AS_THEY_ARE = {
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
}
THUMBNAIL_SIDE = 160  # pixels
OVERLAY_SIDE = 224  # pixels
HEADERS = {
    "Cache-Control": "private, max-age=31536000, immutable",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HEAT = np.array([[72, 16, 110], [168, 24, 104], [230, 60, 56], [252, 140, 28], [255, 222, 90]], np.float64)  # RGB


def picture_routes(root: Path, file_names: Mapping[str, str]) -> list[Route]:
    """Routes `/img/{id}`, `/thumb/{id}`, `/heat/{id}` for the images of a manifest; 404 for every other id.

    Args:
        root: the data root; no file outside it is opened. Thumbnails, overlays and JPEGs of formats that browsers do
            not show are kept below its `cache/`.
        file_names: `file_name` by `image_id`.
    """

    def route(path: str, answer: Callable[[Path, str, str], Response]) -> Route:
        def endpoint(request: Request) -> Response:
            image_id = request.path_params["image_id"]
            if not _ID.fullmatch(image_id) or image_id not in file_names:
                return _missing("no such image")
            try:
                return answer(root, image_id, file_names[image_id])
            except (CurateError, ImageError, OSError):
                return _missing("the file is missing, damaged or not in the data root")

        return Route(path, endpoint, methods=["GET"])

    return [
        route("/img/{image_id}", image_response),
        route("/thumb/{image_id}", thumbnail_response),
        route("/heat/{image_id}", heatmap_response),
    ]


def image_response(root: Path, image_id: str, file_name: str) -> Response:
    """The image as it came, or as a JPEG where browsers do not show its format."""
    path = locate(root, file_name)
    if kind := SHOWN_AS_THEY_ARE.get(path.suffix.lower()):
        return FileResponse(path, media_type=kind, headers=HEADERS)
    return _cached(root, f"cache/views/{image_id}.jpg", lambda: _jpeg(open_rgb(root, file_name)))


def thumbnail_response(root: Path, image_id: str, file_name: str) -> Response:
    """A JPEG that fits into 160 x 160, made at the first call."""
    locate(root, file_name)
    small = f"cache/thumbs/{image_id}.jpg"
    return _cached(root, small, lambda: _jpeg(thumbnail(open_rgb(root, file_name), THUMBNAIL_SIDE)))


def heatmap_response(root: Path, image_id: str, file_name: str) -> Response:
    """The heatmap as an RGBA PNG to lay over the image, stretched to its box."""
    with Image.open(locate(root, heatmap_name(image_id)), formats=["PNG"]) as image:
        overlay = heat_overlay(image.convert("L"))
    buffer = io.BytesIO()
    overlay.save(buffer, "PNG", compress_level=1)
    return Response(buffer.getvalue(), media_type="image/png", headers=HEADERS)


def heatmap_name(image_id: str) -> str:
    """Where the audit keeps the heatmap of an image, relative to the data root."""
    return f"cache/heatmaps/{image_id}.png"


def heat_overlay(heat: Image.Image) -> Image.Image:
    """Grayscale heatmap (255 = the peak) -> RGBA, 224 x 224: from clear over violet and orange to yellow."""
    values = np.asarray(heat.resize((OVERLAY_SIDE, OVERLAY_SIDE), Image.Resampling.BICUBIC), np.float64) / 255
    stops = np.linspace(0, 1, len(_HEAT))
    channels = [np.interp(values, stops, _HEAT[:, channel]) for channel in range(3)]
    alpha = 255 * np.clip(values * 1.25 - 0.1, 0, 1)
    return Image.fromarray(np.stack([*channels, alpha], axis=-1).round().astype(np.uint8), "RGBA")


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


def _cached(root: Path, name: str, make: Callable[[], bytes]) -> Response:
    path = root / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(make())
    return FileResponse(locate(root, name), media_type="image/jpeg", headers=HEADERS)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _missing(why: str) -> Response:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return PlainTextResponse(why, status_code=404, headers=headers)
