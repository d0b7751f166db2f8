"""A real HTTP server on 127.0.0.1 that plays Bing, Google and the hosts of the images, with faults to order."""

import hashlib
import struct
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

from curate.sources import demo
from tests.web import pages

BING = ("ok", "bad_json", "short", "repeated", "blocked", "403", "rate_limited", "empty", "changed", "down")
GOOGLE = ("ok", "enablejs", "sorry", "403", "captcha", "soft_block", "rate_limited", "empty", "changed", "down")
SHORT = 20  # results in all where the engine's list is short
HOSTS = 8  # image hosts
SUFFIXES = ("", ".jpg", ".png", ".JPG", ".webp", "!large")
QUERIES = ("", "", "?w=1200&h=800", "?itok=Äx1&v=2")
PRIVATE = "http://169.254.169.254/latest/meta-data/"
HUGE = 10_000_000_000  # bytes that an oversize answer claims


class Photo(NamedTuple):
    """An image of a class: `name` becomes part of its address, `load` gives the bytes."""

    name: str
    load: Callable[[], bytes]
    title: str = ""


@dataclass(frozen=True)
class Faults:
    """What goes wrong: shares of the image addresses, each address with one fault at most; and the engines' moods.

    Attributes:
        missing: answer 404.
        busy: 429 with Retry-After: `retry_after` the first time, then fine.
        html: a web page sent as image/jpeg.
        truncated: the first half of the file.
        bomb: a PNG header of 20,000 x 20,000 pixels.
        drip: a byte now and then, without end.
        oversize: a Content-Length of 10 GB.
        private_redirect: a redirect to an address of the private network.
        robots: X-Robots-Tag: noai, noimageai.
        bing: one of `BING`. google: one of `GOOGLE`.
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
    retry_after: int = 1
    bing: str = "ok"
    google: str = "ok"

    def __post_init__(self) -> None:
        if sum(self.shares().values()) > 1 + 1e-9 or min(self.shares().values()) < 0:
            raise ValueError(f"the shares must be at least 0 and at most 1 in all: {self.shares()}")
        if self.bing not in BING or self.google not in GOOGLE:
            raise ValueError(f"bing is one of {', '.join(BING)}; google one of {', '.join(GOOGLE)}")

    def shares(self) -> dict[str, float]:
        """Share of the image addresses by fault."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, float)}


NO_FAULTS = Faults()


class LoopbackWeb:
    """The loopback web while its `with` block lasts; put `mirrors` into `Web(mirrors=...)` to scrape it.

    The class of a query is the longest class name within it; all queries of a class have the same ordered results.
    """

    def __init__(
        self,
        classes: dict[str, Sequence[Photo]],
        *,
        faults: Faults = NO_FAULTS,
        seed: int = 0,
        latency: float = 0.0,
        mime: str = "image/jpeg",
        port: int = 0,
    ) -> None:
        """Open the port; nothing answers before `__enter__`.

        Args:
            seed: of the choice of hosts, of addresses' forms, and of which image has which fault.
            latency: seconds before every answer.
            mime: Content-Type of the images, which need not be true.
            port: 0 = any free one.
        """
        self.faults, self.seed, self.latency, self.mime = faults, seed, latency, mime
        self.classes = {label: tuple(photos) for label, photos in classes.items()}
        self._photos = {_route(self.address(p)): p for photos in self.classes.values() for p in photos}
        self._lock = threading.Lock()
        self._log: list[str] = []
        self._asked: Counter[str] = Counter()
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", port), partial(_Handler, self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> "LoopbackWeb":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def base(self) -> str:
        """Where the server listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def mirrors(self) -> dict[str, str]:
        """For `Web(mirrors=...)`: every host that the pages speak of."""
        return {
            "https://www.bing.com": f"{self.base}/bing",
            "https://www.google.com": f"{self.base}/google",
            "https://*.photos.example": f"{self.base}/photos",
        }

    @property
    def requests(self) -> list[str]:
        """The paths asked for so far, with queries, in order."""
        with self._lock:
            return list(self._log)

    @property
    def photo_requests(self) -> list[str]:
        """Those for images."""
        return [path for path in self.requests if path.startswith("/photos/")]

    def address(self, photo: Photo) -> str:
        """The public address of a photo: its name, mostly with a suffix that need not be true."""
        number = _number(f"{self.seed}/form/{photo.name}")
        suffix = "" if PurePosixPath(photo.name).suffix else SUFFIXES[number % len(SUFFIXES)]
        query = QUERIES[number // 64 % len(QUERIES)]
        return f"https://img{number // 4096 % HOSTS}.photos.example/{quote(photo.name)}{suffix}{query}"

    def fault_of(self, name: str) -> str | None:
        """The fault of the photo of that name, a field of `Faults`."""
        left = _number(f"{self.seed}/fault/{name}") / 2**64
        for fault, share in self.faults.shares().items():
            if left < share:
                return fault
            left -= share
        return None

    def note(self, path: str) -> int:
        """Log a request; how often this path was asked for before."""
        with self._lock:
            self._log.append(path)
            self._asked[path] += 1
            return self._asked[path] - 1

    def photo_at(self, path: str) -> Photo | None:
        """The photo behind a request's path and query."""
        return self._photos.get(unquote(path))

    def results(self, query: str) -> list[pages.Result]:
        """All that an engine knows for a query."""
        lowered = query.lower()
        label = max((c for c in self.classes if c.lower() in lowered), key=len, default=None)
        if label is None:
            return []
        found = []
        for photo in self.classes[label]:
            page = f"https://www.photos.example/pages/{quote(photo.name)}.html"
            found.append(pages.Result(self.address(photo), page, photo.title or f"{label} specimen"))
        return found


def folder_photos(root: Path) -> dict[str, list[Photo]]:
    """The files of a tree of class folders, in sorted order, whatever their suffix."""
    folders = [folder for folder in sorted(root.iterdir()) if folder.is_dir()]
    return {
        folder.name: [
            Photo(path.relative_to(root).as_posix(), path.read_bytes)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        for folder in folders
    }


def demo_photos(labels: Iterable[str], per_class: int, seed: int) -> dict[str, list[Photo]]:
    """Photos that the source `demo` renders when they are asked for; named `label/0000` and so on."""
    return {label: [_rendered(label, index, seed) for index in range(per_class)] for label in labels}


def _rendered(label: str, index: int, seed: int) -> Photo:
    title = demo.truth(label, index, seed).title
    return Photo(f"{label}/{index:04d}", lambda: demo.render(label, index, seed)[0], title)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def _route(url: str) -> str:
    parts = urlsplit(url)
    return unquote(parts.path + ("?" + parts.query if parts.query else ""))


def bomb() -> bytes:
    """A PNG of a few dozen bytes that claims 20,000 x 20,000 pixels."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that hangs up is no error of ours
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, web: LoopbackWeb, *args: Any) -> None:
        self.web = web
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `LoopbackWeb.requests` is the log."""

    def do_GET(self) -> None:
        asked_before = self.web.note(self.path)
        time.sleep(self.web.latency)
        service, _, rest = self.path.removeprefix("/").partition("/")
        if service == "photos":
            self._photo("/" + rest, asked_before)
        elif service == "bing" and rest.startswith("images/async?"):
            self._bing()
        elif service == "google" and rest.startswith("search?"):
            self._google()
        elif service == "google" and rest.startswith("sorry/"):
            self._page(429, pages.CAPTCHA)
        else:
            self._page(404, "<html><body>not here</body></html>")

    def _bing(self) -> None:
        fields = parse_qs(urlsplit(self.path).query)
        query, first = fields["q"][0], int(fields.get("first", ["1"])[0])
        count = min(int(fields.get("count", ["35"])[0]), pages.BING_PER_PAGE)
        match self.web.faults.bing:
            case "blocked":
                return self._page(200, pages.BING_CAPTCHA)
            case "403":
                return self._page(403, "<html><body>Forbidden</body></html>")
            case "rate_limited":
                return self._page(429, "<html><body>Too many requests</body></html>", ("Retry-After", "3600"))
            case "changed":
                return self._page(200, pages.REDESIGNED)
            case "down":
                return self._page(500, "")
            case mood:
                known = [] if mood == "empty" else self.web.results(query)
                known = known[:SHORT] if mood == "short" else known
                start = 0 if mood == "repeated" else first - 1
        shown = known[start : start + count]
        blank = known and not shown  # past the end Bing sends nothing at all
        broken = 5 if mood == "bad_json" else 0
        return self._page(200, "" if blank else pages.bing_page(shown, query, broken_every=broken))

    def _google(self) -> None:
        fields = parse_qs(urlsplit(self.path).query)
        query, start = fields["q"][0], int(fields.get("start", ["0"])[0])
        fixed = {"enablejs": pages.ENABLE_JS, "captcha": pages.CAPTCHA, "soft_block": pages.SOFT_BLOCK}
        match self.web.faults.google:
            case "enablejs" | "captcha" | "soft_block" as mood:
                self._page(200, fixed[mood])
            case "sorry":
                self._page(302, "", ("Location", "https://www.google.com/sorry/index?continue=x"))
            case "403":
                self._page(403, "<html><body>Forbidden</body></html>")
            case "rate_limited":
                self._page(429, "<html><body>Too many requests</body></html>", ("Retry-After", "3600"))
            case "changed":
                self._page(200, pages.REDESIGNED)
            case "down":
                self._page(500, "")
            case mood:
                known = [] if mood == "empty" else self.web.results(query)
                self._page(200, pages.google_page(known[start : start + pages.GOOGLE_PER_PAGE], query))

    def _photo(self, path: str, asked_before: int) -> None:
        photo = self.web.photo_at(path)
        if photo is None:
            return self._page(404, "<html><body>not here</body></html>")
        match self.web.fault_of(photo.name):
            case "missing":
                self._page(404, "<html><body>gone</body></html>")
            case "busy" if not asked_before:
                self._page(429, "", ("Retry-After", str(self.web.faults.retry_after)))
            case "html":
                self._image(b"<!DOCTYPE html><html><body>Please log in</body></html>", "image/jpeg")
            case "truncated":
                data = photo.load()
                self._image(data[: len(data) // 2])
            case "bomb":
                self._image(bomb(), "image/png")
            case "drip":
                self._drip()
            case "oversize":
                self._send(200, b"\xff\xd8", ("Content-Type", self.web.mime), ("Content-Length", str(HUGE)))
                self.close_connection = True
            case "private_redirect":
                self._page(302, "", ("Location", PRIVATE))
            case "robots":
                self._image(photo.load(), None, ("X-Robots-Tag", "noai, noimageai"))
            case _:
                self._image(photo.load())
        return None

    def _drip(self) -> None:
        self._send(200, b"", ("Content-Type", self.web.mime), ("Content-Length", "1000000"))
        self.close_connection = True
        while not self.web.closing.wait(0.05):
            self.wfile.write(b"\xff")

    def _page(self, status: int, html: str, *headers: tuple[str, str]) -> None:
        body = html.encode()
        self._send(
            status, body, ("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(body))), *headers
        )

    def _image(self, data: bytes, mime: str | None = None, *headers: tuple[str, str]) -> None:
        length = ("Content-Length", str(len(data)))
        self._send(200, data, ("Content-Type", mime or self.web.mime), length, *headers)

    def _send(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
