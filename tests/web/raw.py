"""A server that sends exactly the bytes a test wrote down, for what no decent HTTP server would send."""

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial

import pytest

from curate.recipe import Web
from curate.sources import FetchError
from curate.web import download, open_session

SITE = "https://site.example"
Answer = bytes | Callable[[], Iterable[bytes]]


def answer(body: bytes = b"", *headers: str, status: str = "200 OK") -> bytes:
    """A plain answer; a Content-Length is added unless the headers say how the body ends."""
    if not any(h.lower().startswith(("content-length", "transfer-encoding")) for h in headers):
        headers = (*headers, f"Content-Length: {len(body)}")
    return "\r\n".join([f"HTTP/1.1 {status}", "Connection: close", *headers, "", ""]).encode("latin-1") + body


def drip(first: bytes, pause: float = 0.05, pieces: int = 60, piece: bytes = b"x") -> Callable[[], Iterable[bytes]]:
    """An answer that begins and then comes a byte at a time."""

    def send() -> Iterator[bytes]:
        yield first
        for _ in range(pieces):
            time.sleep(pause)
            yield piece

    return send


def fetch(server: "RawServer", path: str, **options) -> bytes:
    """Download a path of `SITE`, which the server mirrors."""
    web = Web(mirrors={SITE: server.base}, **{"timeout": 2.0, "deadline": 5.0, **options})
    with open_session(web) as session:
        return download(session, SITE + path, web)


def cause(act: Callable[[], object]) -> tuple[str, bool]:
    """Cause and transience of the FetchError that it raises."""
    with pytest.raises(FetchError) as failure:
        act()
    return failure.value.cause, failure.value.transient


def fake_dns(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Answers of the name service: names of this table get its addresses, all others the real ones."""
    table: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def look_up(host, port, *args, **kwargs):
        if host not in table:
            return real(host, port, *args, **kwargs)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in table[host]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return table


def note_connections(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The addresses that are connected to; only loopback ones are really."""
    tried: list[tuple[str, int]] = []
    real = socket.socket.connect

    def connect(self, address):
        tried.append(address[:2])
        if not address[0].startswith("127."):
            raise OSError("no such network here")
        return real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    return tried


class RawServer:
    """Answers by path while its `with` block lasts; a list is answered one by one, its last item for ever.

    A /robots.txt that is not among the answers is not there, and is no request that counts.
    """

    def __init__(self, answers: dict[str, Answer | Sequence[Answer]]) -> None:
        self.answers = answers
        self.requests: list[tuple[float, str, dict[str, str]]] = []  # time, path, headers
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), partial(_Handler, self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> "RawServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def times(self, path: str) -> list[float]:
        """When a path was asked for, in seconds."""
        return [when for when, asked, _ in self.requests if asked == path]

    def arrive(self, path: str, headers: dict[str, str]) -> Answer:
        with self._lock:
            self.requests.append((time.monotonic(), path, headers))
            answers = self.answers.get(path, answer(status="404 Not Found"))
            if isinstance(answers, list | tuple):
                return answers[min(len(self.times(path)), len(answers)) - 1]
            return answers


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64


class _Handler(socketserver.StreamRequestHandler):
    def __init__(self, web: RawServer, *args: object) -> None:
        self.web = web
        super().__init__(*args)

    def handle(self) -> None:
        lines = []
        while line := self.rfile.readline().strip():
            lines.append(line.decode("latin-1"))
        if not lines:
            return
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        path = lines[0].split()[1]
        if path.endswith("/robots.txt") and path not in self.web.answers:
            self.wfile.write(answer(status="404 Not Found"))
            return
        found = self.web.arrive(path, headers)
        with suppress(ConnectionError):  # the client hangs up, which is what many tests are about
            for piece in [found] if isinstance(found, bytes) else found():
                self.wfile.write(piece)
