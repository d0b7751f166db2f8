"""A real HTTP server on 127.0.0.1 that plays search engines and the hosts of the images, with faults to order."""

import hashlib
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from curate.sources import demo
from tests.web import faults as wrong
from tests.web.engines import ENGINES, LICENSES, asked
from tests.web.faults import BING, GOOGLE, Faults, Photo
from tests.web.pages import Result

__all__ = ["BING", "GOOGLE", "Faults", "LoopbackWeb", "Photo", "demo_photos", "folder_photos"]

HOSTS = 8  # image hosts
SUFFIXES = ("", ".jpg", ".png", ".JPG", ".webp", "!large")
QUERIES = ("", "", "?w=1200&h=800", "?itok=Äx1&v=2")
PEOPLE = ("Ann Sample", "Åsa Ölund", "岩 石", "O'Hara & Sons", "J. <i>Doe</i>", "=SUM(1)")
STATIC = "https://static.inaturalist.org"
ROBOTS_TXT = b"User-agent: *\nDisallow: /private/\n"
NO_FAULTS = Faults()


class LoopbackWeb:
    """The loopback web while its `with` block lasts; put `mirrors` into `Web(mirrors=...)` to scrape it.

    The class of a query is the longest class name within it; all queries of a class have the same ordered results.

    Attributes:
        on_request: called with the path of every request for a page or an image before it is answered.
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
            seed: of the choice of hosts, of addresses' forms, of licences, and of which image has which fault.
            latency: seconds before every answer.
            mime: Content-Type of the images, which need not be true.
            port: 0 = any free one.
        """
        self.faults, self.seed, self.latency, self.mime = faults, seed, latency, mime
        self.classes = {label: tuple(photos) for label, photos in classes.items()}
        self._shares = [(fault, share) for fault, share in faults.shares().items() if share]
        every = [photo for photos in self.classes.values() for photo in photos]
        self._photos = {_route(self.address(photo)): photo for photo in every}
        self._by_number = {_number(photo.name) % 10**9: photo for photo in every}
        self._remade: dict[str, bytes] = {}
        if faults.gzip_bomb:
            wrong.gzip_bomb()  # made now, so that it does not take its time later
        self._lock = threading.Lock()
        self._log: list[str] = []
        self._robots: list[str] = []
        self._sent: list[str] = []
        self._asked: Counter[str] = Counter()
        self._last: dict[int, str] = {}
        self.on_request: Callable[[str], None] = lambda path: None
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
        engines = {engine.host: f"{self.base}/{service}" for service, engine in ENGINES.items()}
        return {**engines, "https://*.photos.example": f"{self.base}/photos", STATIC: f"{self.base}/static"}

    @property
    def requests(self) -> list[str]:
        """The paths of pages and images asked for so far, with queries, in order."""
        with self._lock:
            return list(self._log)

    @property
    def photo_requests(self) -> list[str]:
        """Those for images."""
        return [path for path in self.requests if path.startswith(("/photos/", "/static/"))]

    @property
    def robots_requests(self) -> list[str]:
        """The paths of robots.txt asked for; they stand in no other list."""
        with self._lock:
            return list(self._robots)

    @property
    def photos_sent(self) -> list[str]:
        """The paths of images whose answer, a complete 200, has been sent to its end."""
        with self._lock:
            return list(self._sent)

    @property
    def last_asked(self) -> set[str]:
        """The path asked for last on each connection that is open: all before it were read to their end."""
        with self._lock:
            return set(self._last.values())

    def address(self, photo: Photo) -> str:
        """The public address of a photo: its name, mostly with a suffix that need not be true."""
        number = _number(f"{self.seed}/form/{photo.name}")
        host = f"https://img{number // 4096 % HOSTS}.photos.example"
        match self.fault_of(photo.name):
            case "private_address":
                return f"{wrong.PRIVATE[number % (len(wrong.PRIVATE) - 1)].rstrip('/')}/{quote(photo.name)}.jpg"
            case "path_trick":
                trick = wrong.TRICKS[number % len(wrong.TRICKS)]
                return f"{host}{trick}?n={_number(photo.name) % 10**9}"
            case fault:
                folder = "private/" if fault == "robots_txt" else ""
        suffix = "" if PurePosixPath(photo.name).suffix else SUFFIXES[number % len(SUFFIXES)]
        query = QUERIES[number // 64 % len(QUERIES)]
        return f"{host}/{folder}{quote(photo.name)}{suffix}{query}"

    def fault_of(self, name: str) -> str | None:
        """The fault of the photo of that name, a field of `Faults`."""
        if not self._shares:
            return None
        left = _number(f"{self.seed}/fault/{name}") / 2**64
        for fault, share in self._shares:
            if left < share:
                return fault
            left -= share
        return None

    def content(self, photo: Photo) -> bytes:
        """The bytes that the photo's address gives to whoever asks well."""
        fault = self.fault_of(photo.name)
        if fault == "repeat":
            label = next(label for label, photos in self.classes.items() if photo in photos)
            return self.classes[label][0].load()
        if fault in wrong.REMADE and photo.name not in self._remade:
            self._remade[photo.name] = wrong.remade(photo.load(), fault)
        return self._remade.get(photo.name) or photo.load()

    def license_of(self, photo: Photo, engine: str) -> tuple[str, str] | None:
        """The licence under which an engine lists a photo; None = all rights reserved, or not known."""
        return LICENSES[engine][_number(f"{self.seed}/license/{photo.name}") % len(LICENSES[engine])]

    def photos(self, query: str) -> Sequence[Photo]:
        """All photos that an engine has for a query."""
        lowered = query.lower()
        label = max((c for c in self.classes if c.lower() in lowered), key=len, default=None)
        return self.classes[label] if label is not None else ()

    def result(self, photo: Photo, engine: str) -> Result:
        """A photo as that engine lists it."""
        number = _number(photo.name)
        title = photo.title or f"{photo.name.split('/')[0]} specimen"
        if self.fault_of(photo.name) == "formula":
            title = wrong.TITLES[number % len(wrong.TITLES)]
        url = self.address(photo)
        if engine == "inaturalist":
            url = f"{STATIC}/photos/{number % 10**9}/square.jpeg?{number % 10**7}"
        creator = PEOPLE[number // 64 % len(PEOPLE)]
        page = f"https://www.photos.example/pages/{quote(photo.name)}.html"
        return Result(url, page, title, creator, number % 10**9, self.license_of(photo, engine))

    def results(self, query: str) -> list[Result]:
        """All that Bing and Google know for a query."""
        return [self.result(photo, "bing") for photo in self.photos(query)]

    def photo_at(self, path: str) -> Photo | None:
        """The photo behind the path and query of a request to an image host."""
        if tricky := re.search(r"\?n=(\d+)$", path):
            return self._by_number.get(int(tricky[1]))
        return self._photos.get(unquote(path))

    def large(self, path: str) -> Photo | None:
        """The photo behind an address of iNaturalist, in the sizes that are worth having."""
        found = re.match(r"/photos/(\d+)/(?:original|large)\.\w+", path)
        return self._by_number.get(int(found[1])) if found else None

    def note(self, path: str, connection: int) -> int:
        """Log a request; how often this path (of an engine: any of its paths) was asked for before."""
        service = path.split("/", 2)[1]
        key = service if service in ENGINES else path
        with self._lock:
            self._log.append(path)
            self._last[connection] = path
            self._asked[key] += 1
            return self._asked[key] - 1

    def note_robots(self, path: str) -> None:
        """Log a request for a robots.txt."""
        with self._lock:
            self._robots.append(path)

    def note_sent(self, path: str) -> None:
        """Log that an image was sent to its end."""
        with self._lock:
            self._sent.append(path)

    def hang_up(self, connection: int) -> None:
        """Log that a connection is no more."""
        with self._lock:
            self._last.pop(connection, None)


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

    def finish(self) -> None:
        self.web.hang_up(id(self))
        super().finish()

    def do_GET(self) -> None:
        service, _, rest = self.path.removeprefix("/").partition("/")
        if rest == "robots.txt":
            return self._robots(service)
        before = self.web.note(self.path, id(self))
        self.web.on_request(self.path)
        time.sleep(self.web.latency)
        if service in ENGINES:
            reply = ENGINES[service].answer(self.web, asked(rest, before))
            return self._send(reply.status, reply.body.encode(), *reply.headers, mime=reply.mime)
        if service in ("photos", "static"):
            return self._photo(service, "/" + rest, before)
        return self._page(404, "<html><body>not here</body></html>")

    def _robots(self, service: str) -> None:
        self.web.note_robots(self.path)
        if service == "photos" and self.web.faults.robots_txt:
            return self._send(200, ROBOTS_TXT, mime="text/plain")
        return self._page(404, "<html><body>not here</body></html>")

    def _photo(self, service: str, path: str, before: int) -> None:
        if hop := re.match(r"/loop/(\d+)/(\d+)$", path):
            return self._go(f"https://img0.photos.example/loop/{hop[1]}/{int(hop[2]) + 1}")
        photo = self.web.photo_at(path) if service == "photos" else self.web.large(path)
        if photo is None:
            return self._page(404, "<html><body>not here</body></html>")
        fault = self.web.fault_of(photo.name)
        if fault in _DEEDS:
            return _DEEDS[fault](self, photo, before)
        return self._image(self.web.content(photo), sent=True)

    def _image(self, data: bytes, *headers: tuple[str, str], sent: bool = False) -> None:
        self._send(200, data, *headers, mime=self.web.mime)
        if sent:
            self.web.note_sent(self.path)

    def _page(self, status: int, html: str, *headers: tuple[str, str]) -> None:
        self._send(status, html.encode(), *headers, mime="text/html; charset=utf-8")

    def _go(self, where: str) -> None:
        self._page(302, "", ("Location", where))

    def _send(self, status: int, body: bytes, *headers: tuple[str, str], mime: str, length: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in (("Content-Type", mime), ("Content-Length", str(length or len(body))), *headers):
            if value:
                self.send_header(name, value)
        self._headers_buffer += [b"\r\n", body]
        self.flush_headers()

    def busy(self, photo: Photo, before: int) -> None:
        """429 once."""
        if before:
            return self._image(self.web.content(photo), sent=True)
        return self._page(429, "", ("Retry-After", str(self.web.faults.retry_after)))

    def server_error(self, photo: Photo, before: int) -> None:
        """500 or 503 once."""
        if before:
            return self._image(self.web.content(photo), sent=True)
        return self._page(500 if _number(photo.name) % 2 else 503, "<html><body>sorry</body></html>")

    def drip(self, photo: Photo, before: int) -> None:
        """A byte now and then."""
        self._send(200, b"", mime=self.web.mime, length=1_000_000)
        self._drip(b"\xff")

    def header_drip(self, photo: Photo, before: int) -> None:
        """A header that goes on and on."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Wait: ")
        self._drip(b"a")

    def _drip(self, byte: bytes) -> None:
        self.close_connection = True
        while not self.web.closing.wait(0.05):
            self.wfile.write(byte)

    def oversize(self, photo: Photo, before: int) -> None:
        """A length that nobody wants."""
        self._send(200, b"\xff\xd8", mime=self.web.mime, length=wrong.HUGE)
        self.close_connection = True

    def reset(self, photo: Photo, before: int) -> None:
        """Half of the file, then a reset instead of an end."""
        data = photo.load()
        self._send(200, data[: len(data) // 2], mime=self.web.mime, length=len(data))
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        with suppress(OSError):
            self.connection.close()

    def mistyped(self, photo: Photo, before: int) -> None:
        """A good file with a wrong Content-Type, or with none."""
        self._send(200, self.web.content(photo), mime="text/html" if _number(photo.name) % 2 else "")
        self.web.note_sent(self.path)

    def private_redirect(self, photo: Photo, before: int) -> None:
        """Into the private network."""
        self._go(wrong.PRIVATE[_number(photo.name) % len(wrong.PRIVATE)])

    def redirects(self, photo: Photo, before: int) -> None:
        """From one address to the next."""
        self._go(f"https://img0.photos.example/loop/{_number(photo.name) % 10**9}/1")


_DEEDS: dict[str, Callable[[_Handler, Photo, int], None]] = {
    "missing": lambda handler, photo, before: handler._page(404, "<html><body>gone</body></html>"),
    "server_down": lambda handler, photo, before: handler._page(500, "<html><body>sorry</body></html>"),
    "html": lambda handler, photo, before: handler._image(wrong.LOGIN),
    "svg": lambda handler, photo, before: handler._image(wrong.SVG),
    "bomb": lambda handler, photo, before: handler._image(wrong.bomb()),
    "empty": lambda handler, photo, before: handler._image(b""),
    "gzip_bomb": lambda handler, photo, before: handler._image(wrong.gzip_bomb(), ("Content-Encoding", "gzip")),
    "truncated": lambda handler, photo, before: handler._image(photo.load()[: len(photo.load()) // 2]),
    "robots": lambda handler, photo, before: handler._image(photo.load(), ("X-Robots-Tag", "noai, noimageai")),
    "busy": _Handler.busy,
    "server_error": _Handler.server_error,
    "drip": _Handler.drip,
    "header_drip": _Handler.header_drip,
    "oversize": _Handler.oversize,
    "reset": _Handler.reset,
    "mistyped": _Handler.mistyped,
    "private_redirect": _Handler.private_redirect,
    "redirects": _Handler.redirects,
}
