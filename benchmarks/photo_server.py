"""A fast loopback server in a process of its own: search pages and as many distinct photos of 70 KB as are asked for.

    with PhotoServer() as server:
        server.play(latency=0.1, faults=0.01, supply=350)

The benchmarks share two cores with it, so an answer costs some 0.1 ms: every photo is put together from bands of a few
pictures that were encoded once (the restart markers of JPEG make a band independent of those above it). It shows a
different picture than any other, as decoders and perceptual hashes see it, and is made from its name alone, so that
20,000 of them need no memory.

Photos are at `/photos/LABEL/NUMBER.jpg`. Bing's result pages speak of `https://hNN.photos.example/LABEL/NUMBER.jpg`
under `/bing`, for those who reach these hosts by a mirror, and of this server's own addresses under `/direct`.
"""

import asyncio
import gc
import hashlib
import io
import json
import re
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import urlopen

import numpy as np
from PIL import Image

from tests.web.pages import BING_PER_PAGE, Result, bing_page

WIDTH, HEIGHT, QUALITY = 640, 480, 85
BASES = 32  # encoded pictures
BAND = 3  # rows of blocks (16 pixels) in a band
HOSTS = 64
DEPTH = 1000  # results of one query
PERMANENT = ("404", "reset", "truncated", "html")
PASSING = ("500", "reset", "truncated", "html")  # at the first request only
STATUS = {200: "OK", 404: "Not Found", 500: "Internal Server Error"}
LOGIN = b"<!DOCTYPE html><html><body>Please log in to see this picture</body></html>"


class PhotoServer:
    """The server while its `with` block lasts."""

    def __enter__(self) -> "PhotoServer":
        root = Path(__file__).resolve().parents[1]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.photo_server"], stdout=subprocess.PIPE, text=True, cwd=root
        )
        assert self._process.stdout
        self.base = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    @property
    def mirrors(self) -> dict[str, str]:
        """For a recipe's [web.mirrors]."""
        return {"https://www.bing.com": f"{self.base}/bing", "https://*.photos.example": f"{self.base}/photos"}

    def play(self, *, latency: float, faults: float, supply: int, seed: int = 0) -> None:
        """Begin anew, with counts of zero and no address asked for.

        Args:
            latency: seconds before each answer.
            faults: share of the photos' addresses with a fault, half of them for good, half at the first request only.
            supply: photos of each class that the search knows.
            seed: of which address has which fault.
        """
        values = {"latency": latency, "faults": faults, "supply": supply, "seed": seed}
        self._control(f"play?{urlencode(values)}")

    def counts(self) -> dict[str, float]:
        """Since `play`: photos `asked` for and `sent` whole, `seconds` between the first one asked for and the last one
        sent, seconds `since` that one, and the `cpu` seconds of the server."""
        return self._control("counts")

    def _control(self, words: str) -> dict[str, float]:
        with urlopen(f"{self.base}/control/{words}", timeout=30) as reply:
            return json.load(reply)


def photo_url(base: str, label: str, number: int) -> str:
    """The address of a photo on this server itself."""
    return f"{base}/photos/{label}/{number:05d}.jpg"


class _Reply(NamedTuple):
    data: bytes
    then: str = ""  # "close", "reset"


class _Site:
    """What is answered to which path."""

    def __init__(self) -> None:
        self.head, self.bands, self.base = *_bands(), ""
        self.play({})

    def play(self, fields: Mapping[str, list[str]]) -> None:
        def value(name: str) -> float:
            return float(fields.get(name, ["0"])[0])

        self.latency, self.faults = value("latency"), value("faults")
        self.supply, self.seed = int(value("supply")), int(value("seed"))
        self.counts: Counter[str] = Counter()
        self.failed_before: set[bytes] = set()
        self.first, self.last, self.cpu = 0.0, 0.0, time.process_time()

    def reply(self, target: bytes) -> _Reply:
        if target.startswith(b"/photos/") and target.endswith(b".jpg"):
            return self._photo(target)
        parts = urlsplit(target.decode())
        fields = parse_qs(parts.query)
        if parts.path.endswith("/images/async"):
            return _page(self._results(fields, direct=parts.path.startswith("/direct/")))
        if parts.path == "/control/play":
            self.play(fields)
            return _page("{}")
        if parts.path == "/control/counts":
            taken = {"seconds": self.last - self.first, "since": time.monotonic() - self.last}
            taken["cpu"] = time.process_time() - self.cpu
            return _page(json.dumps({"asked": self.counts["asked"], "sent": self.counts["sent"], **taken}))
        return _page("<html><body>not here</body></html>", 404)

    def _results(self, fields: Mapping[str, list[str]], direct: bool) -> str:
        """A page of the query `LABEL N`: the N-th thousand of the class's photos; `LABEL` alone is the first."""
        query = fields["q"][0]
        label, _, part = query.partition(" ")
        start = int(part or 0) * DEPTH
        first = max(int(fields["first"][0]), 1) - 1
        numbers = range(start, min(self.supply, start + DEPTH))[first : first + BING_PER_PAGE]
        found = [self._result(label, number, direct) for number in numbers]
        return bing_page(found, query).replace("&quot;: ", "&quot;:") if found else ""  # icrawler's parser minds spaces

    def _result(self, label: str, number: int, direct: bool) -> Result:
        host = f"https://h{number % HOSTS:02d}.photos.example"
        url = photo_url(self.base, label, number) if direct else f"{host}/{label}/{number:05d}.jpg"
        return Result(url, f"{host}/pages/{label}-{number}.html", f"{label} specimen {number}")

    def _photo(self, target: bytes) -> _Reply:
        now = time.monotonic()
        self.first, self.last = self.first or now, now
        self.counts["asked"] += 1
        match self._fault(target):
            case "404" | "500" as status:
                return _page("<html><body>out of order</body></html>", int(status))
            case "reset":
                return _Reply(b"", "reset")
            case "html":
                return _Reply(_response(LOGIN, "image/jpeg"))
            case "truncated":
                whole = self._whole(target)
                return _Reply(whole[: len(whole) // 2], "close")
            case _:
                self.counts["sent"] += 1
                return _Reply(self._whole(target))

    def _fault(self, target: bytes) -> str | None:
        if not self.faults:
            return None
        digest = hashlib.sha256(b"%d/%s" % (self.seed, target)).digest()
        if int.from_bytes(digest[:8]) >= self.faults * 2**64:
            return None
        if digest[8] % 2:
            return PERMANENT[digest[9] % len(PERMANENT)]
        if target in self.failed_before:
            return None
        self.failed_before.add(target)
        return PASSING[digest[9] % len(PASSING)]

    def _whole(self, target: bytes) -> bytes:
        chosen = hashlib.sha256(target).digest()
        bands = (band[number % BASES] for number, band in zip(chosen, self.bands, strict=False))
        return _response(self.head + b"".join(bands), "image/jpeg")


class _Connection(asyncio.Protocol):
    def __init__(self, site: _Site) -> None:
        self.site, self.received = site, b""
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        while b"\r\n\r\n" in self.received:
            head, self.received = self.received.split(b"\r\n\r\n", 1)
            target = head.split(b" ", 2)[1]
            last = b"\r\nconnection: close" in head.lower()
            wait = 0 if target.startswith(b"/control/") else self.site.latency
            if wait:
                self.loop.call_later(wait, self.answer, target, last)
            else:
                self.answer(target, last)

    def answer(self, target: bytes, last: bool) -> None:
        if self.transport.is_closing():  # whoever asked is gone
            return
        reply = self.site.reply(target)
        if reply.then == "reset":
            linger = struct.pack("ii", 1, 0)  # closing now sends RST instead of FIN
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()
            return
        self.transport.write(reply.data)
        if last or reply.then == "close":
            self.transport.close()


def _page(text: str, status: int = 200) -> _Reply:
    return _Reply(_response(text.encode(), "text/html; charset=utf-8", status))


def _response(body: bytes, mime: str, status: int = 200) -> bytes:
    head = f"HTTP/1.1 {status} {STATUS[status]}\r\nContent-Type: {mime}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _bands() -> tuple[bytes, list[list[bytes]]]:
    """The head that all the JPEGs share, and their bands: bands[position][picture]."""
    rng = np.random.default_rng(0)
    head, pictures = b"", []
    for _ in range(BASES):
        buffer = io.BytesIO()
        _picture(rng).save(buffer, "JPEG", quality=QUALITY, restart_marker_rows=1)
        head, coded = _after_scan_header(buffer.getvalue())
        rows = re.findall(rb"(?s).*?\xff[\xd0-\xd7\xd9]", coded)
        pictures.append([b"".join(rows[n : n + BAND]) for n in range(0, len(rows), BAND)])
    return head, [list(band) for band in zip(*pictures, strict=True)]


def _picture(rng: np.random.Generator) -> Image.Image:
    """Noise of many scales, the coarse ones strongest, as in photos of nature."""
    total = np.full((HEIGHT, WIDTH, 3), 128.0)
    for cells, strength in ((4, 45), (8, 35), (16, 25), (64, 14), (160, 9)):
        coarse = rng.integers(0, 256, (cells * 3 // 4, cells, 3), dtype=np.uint8)
        fine = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        total += (np.asarray(fine, float) - 128) * strength / 64
    total += rng.normal(0, 4.4, (HEIGHT, WIDTH, 1))
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def _after_scan_header(jpeg: bytes) -> tuple[bytes, bytes]:
    scan = jpeg.index(b"\xff\xda")
    end = scan + 2 + int.from_bytes(jpeg[scan + 2 : scan + 4])
    return jpeg[:end], jpeg[end:]


async def _serve() -> None:
    site = _Site()
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(site), "127.0.0.1", 0, backlog=1024)
    port = server.sockets[0].getsockname()[1]
    site.base = f"http://127.0.0.1:{port}"
    gc.freeze()
    print(port, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
