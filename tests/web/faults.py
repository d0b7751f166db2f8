"""What goes wrong on the loopback web, by name and share; and the bytes, titles and addresses that go wrong."""

import gzip
import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image

_ANY = ("403", "rate_limited", "limited_once", "empty", "changed", "down")
BING = ("ok", "bad_json", "short", "repeated", "blocked", *_ANY)
GOOGLE = ("ok", "enablejs", "sorry", "captcha", "soft_block", *_ANY)
API = ("ok", "blocked", *_ANY)  # of what answers with JSON
MOODS = {"bing": BING, "google": GOOGLE, "openverse": API, "commons": API, "flickr": API, "inaturalist": API}

GOOD = ("animated", "cmyk", "deep", "rotated", "transparent", "mistyped", "formula", "path_trick")  # these must arrive
HUGE = 10_000_000_000  # bytes that an oversize answer claims
BLOWN_UP = 40_000_000  # bytes that a gzip bomb becomes
PRIVATE = (  # where redirects lead that must not be followed
    "http://169.254.169.254/latest/meta-data/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://017700000001/",
    "http://127.1/",
    "http://[::1]/",
    "http://[::ffff:169.254.169.254]/latest/meta-data/",
    "http://[64:ff9b::7f00:1]/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://localhost/",
    "http://10.0.0.1/admin",
    "file:///etc/passwd",
)
TITLES = (  # that are more than text to a spreadsheet, a terminal or a browser
    "=cmd|' /C calc'!A0",
    "+1",
    "-2+3",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    '\t=HYPERLINK("http://169.254.169.254/")',
    "\x1b[31mred\x1b[0m \x1b]0;owned\x07",
    "\u202egnp.exe\u202c \u2066hidden\u2069",
    "<script>alert(1)</script>",
    'one line\r\nand another, "quoted"',
)
TRICKS = (  # paths that lead elsewhere for whoever makes file names of them
    "/../../../../etc/passwd",
    "/a/%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/..%5c..%5cwindows%5csystem.ini",
    "/C:%5CWindows%5Cwin.ini",
    "/C:/Windows/win.ini",
    "/image%00.jpg",
    "/CON.jpg",
    "/.bashrc",
    "/~root/%7e/$(id).jpg",
    "/" + "long" * 400 + ".jpg",
    "//etc//passwd",
)
SCRIPT = b"<script>document.location='http://169.254.169.254/'</script>"
LOGIN = b"<!DOCTYPE html><html><head>" + SCRIPT + b"</head><body>Please log in</body></html>"
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="800" height="600">' + SCRIPT + b"</svg>"


class Photo(NamedTuple):
    """An image of a class: `name` becomes part of its address, `load` gives the bytes."""

    name: str
    load: Callable[[], bytes]
    title: str = ""


@dataclass(frozen=True)
class Faults:
    """What goes wrong: shares of the image addresses, each address with one fault at most; and the engines' moods.

    Those of `GOOD` are only unusual: the image must arrive. "Once" is: the first time, then fine.

    Attributes:
        missing: answer 404.
        busy: 429 with Retry-After: `retry_after` once.
        html: a web page with a script sent as image/jpeg.
        truncated: the first half of the file.
        bomb: a PNG header of 20,000 x 20,000 pixels.
        drip: a byte now and then, without end.
        oversize: a Content-Length of 10 GB.
        private_redirect: a redirect to an address of the private network, in one of the forms of `PRIVATE`.
        robots: X-Robots-Tag: noai, noimageai.
        server_error: 500 or 503 once.
        server_down: 500 always.
        reset: the connection is reset in the middle of the body.
        header_drip: a header that never ends.
        gzip_bomb: a few kilobytes that become `BLOWN_UP` bytes.
        svg: an SVG with a script, sent as image/jpeg.
        redirects: one redirect after the other, without end.
        private_address: the engines list an address of the private network.
        empty: an answer of no bytes.
        small: the picture, a tenth as wide and high.
        repeat: the bytes of the first photo of the class.
        robots_txt: an address that the host's robots.txt disallows.
        animated: a GIF of three frames. cmyk: a JPEG for print. deep: a PNG of 16 bits. rotated: a JPEG whose EXIF
            says that it lies on its side. transparent: a PNG with an alpha channel.
        mistyped: a good file as text/html, or without any Content-Type.
        formula: a title that is a formula, an escape sequence or markup, one of `TITLES`.
        path_trick: an address with one of `TRICKS`.
        bing, google, openverse, commons, flickr, inaturalist: one of `MOODS` each.
    """

    missing: float = 0.0
    busy: float = 0.0
    html: float = 0.0
    truncated: float = 0.0
    bomb: float = 0.0
    drip: float = 0.0
    oversize: float = 0.0
    private_redirect: float = 0.0
    robots: float = 0.0
    server_error: float = 0.0
    server_down: float = 0.0
    reset: float = 0.0
    header_drip: float = 0.0
    gzip_bomb: float = 0.0
    svg: float = 0.0
    redirects: float = 0.0
    private_address: float = 0.0
    empty: float = 0.0
    small: float = 0.0
    repeat: float = 0.0
    robots_txt: float = 0.0
    animated: float = 0.0
    cmyk: float = 0.0
    deep: float = 0.0
    rotated: float = 0.0
    transparent: float = 0.0
    mistyped: float = 0.0
    formula: float = 0.0
    path_trick: float = 0.0
    retry_after: int = 1
    bing: str = "ok"
    google: str = "ok"
    openverse: str = "ok"
    commons: str = "ok"
    flickr: str = "ok"
    inaturalist: str = "ok"

    def __post_init__(self) -> None:
        if sum(self.shares().values()) > 1 + 1e-9 or min(self.shares().values()) < 0:
            raise ValueError(f"the shares must be at least 0 and at most 1 in all: {self.shares()}")
        for engine, moods in MOODS.items():
            if getattr(self, engine) not in moods:
                raise ValueError(f"{engine} is one of {', '.join(moods)}, not {getattr(self, engine)}")

    def shares(self) -> dict[str, float]:
        """Share of the image addresses by fault."""
        return {name: float(getattr(self, name)) for name in KINDS}


KINDS = tuple(f.name for f in fields(Faults) if f.type in (float, "float"))


def bomb() -> bytes:
    """A PNG of a few dozen bytes that claims 20,000 x 20,000 pixels."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@cache
def gzip_bomb() -> bytes:
    """Kilobytes that become `BLOWN_UP` bytes of nothing."""
    return gzip.compress(b"\0" * BLOWN_UP, 9, mtime=0)


def remade(data: bytes, fault: str) -> bytes:
    """The same picture as the unusual file that the fault asks for; any other fault leaves it as it is."""
    if fault not in REMADE:
        return data
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        REMADE[fault](image.convert("RGB"), buffer)
    return buffer.getvalue()


def _animated(picture: Image.Image, out: io.BytesIO) -> None:
    frames = [picture.rotate(angle).quantize(64) for angle in (0, 90, 180)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=80, loop=0)


def _cmyk(picture: Image.Image, out: io.BytesIO) -> None:
    picture.convert("CMYK").save(out, "JPEG", quality=90)


def _deep(picture: Image.Image, out: io.BytesIO) -> None:
    Image.fromarray(np.asarray(picture.convert("L"), np.uint16) * 257).save(out, "PNG")


def _rotated(picture: Image.Image, out: io.BytesIO) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn it a quarter clockwise to see it upright
    picture.save(out, "JPEG", quality=90, exif=exif)


def _transparent(picture: Image.Image, out: io.BytesIO) -> None:
    alpha = Image.linear_gradient("L").resize(picture.size)
    picture.putalpha(alpha)
    picture.save(out, "PNG")


def _small(picture: Image.Image, out: io.BytesIO) -> None:
    picture.resize((max(picture.width // 10, 1), max(picture.height // 10, 1))).save(out, "PNG")


REMADE: dict[str, Callable[[Image.Image, io.BytesIO], None]] = {
    "animated": _animated,
    "cmyk": _cmyk,
    "deep": _deep,
    "rotated": _rotated,
    "transparent": _transparent,
    "small": _small,
}
