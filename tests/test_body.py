import gzip
import time
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest

from tests.web.raw import RawServer, answer, cause, drip, fetch

CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", ["Content-Length: 10000000000"]),
        (b"x" * 3000, ["Content-Length: 3000"]),
        (b"bb8\r\n" + b"x" * 3000 + b"\r\n0\r\n\r\n", ["Transfer-Encoding: chunked"]),
        (gzip.compress(b"0" * 5_000_000), ["Content-Encoding: gzip"]),
    ],
    ids=["declared", "sent", "chunked", "unpacked"],
)
def test_a_body_over_the_cap_is_too_large(body, headers):
    with RawServer({"/": answer(body, *headers)}) as server:
        assert cause(lambda: fetch(server, "/", max_bytes=2000)) == ("too large", False)


def test_a_body_of_just_the_cap_is_taken_and_packed_ones_are_unpacked():
    packed = answer(gzip.compress(b"y" * 2000), "Content-Encoding: gzip")
    with RawServer({"/": answer(b"x" * 2000), "/packed": packed}) as server:
        assert fetch(server, "/", max_bytes=2000) == b"x" * 2000
        assert fetch(server, "/packed", max_bytes=2000) == b"y" * 2000


@pytest.mark.parametrize(
    "slow",
    [
        drip(answer(b"", "Content-Length: 100000")),
        drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;"),
        drip(b"HTTP/1.1 200 OK\r\n\r\n"),
        drip(answer(b"\x1f\x8b\x08\x08\0\0\0\0\0\0", "Content-Encoding: gzip", "Content-Length: 100000")),
    ],
    ids=["body", "chunk size", "no length", "gzip header"],
)
def test_a_slow_drip_ends_at_the_deadline(slow):
    with RawServer({"/": slow}) as server:
        began = time.monotonic()
        assert cause(lambda: fetch(server, "/", deadline=0.4)) == ("too slow", True)
        assert time.monotonic() - began < 1.5


def test_types_are_not_believed_but_nothing_is_nothing():
    with RawServer({"/a.jpg": answer(b"<html>", "Content-Type: image/jpeg"), "/b": answer(b"")}) as server:
        assert fetch(server, "/a.jpg") == b"<html>"
        assert cause(lambda: fetch(server, "/b")) == ("empty", False)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (answer(b"half", "Content-Length: 8"), ("connection", True)),
        (answer(b"5\r\nab", CHUNKED), ("connection", True)),
        (answer(b"5", CHUNKED), ("connection", True)),
        (answer(b"5\r\nabcde", CHUNKED), ("connection", True)),
        (answer(b"", CHUNKED), ("connection", True)),
        (answer(b"zz\r\nabcde\r\n0\r\n\r\n", CHUNKED), ("bad answer", False)),
        (answer(b"-5\r\nabcde\r\n0\r\n\r\n", CHUNKED), ("bad answer", False)),
        (answer(b"-1\r\n" + b"x" * 100_000, CHUNKED), ("bad answer", False)),
        (answer(b"0x5\r\nabcde\r\n0\r\n\r\n", CHUNKED), ("bad answer", False)),
        (answer(b"5\r\nabcdeXX\r\n0\r\n\r\n", CHUNKED), ("bad answer", False)),
        (answer(b"5" * 100_000, CHUNKED), ("bad answer", False)),
        (answer(b"0\r\n" + b"A: b\r\n" * 1000, CHUNKED), ("bad answer", False)),
        (answer(b"fffffffffffffff\r\n", CHUNKED), ("connection", True)),
        (answer(b"no gzip", "Content-Encoding: gzip"), ("encoding", False)),
        (answer(gzip.compress(b"y" * 2000)[:-12], "Content-Encoding: gzip"), ("encoding", False)),
        (b"", ("connection", True)),
        (b"<html><body>HTTP/0.9</body></html>", ("bad answer", False)),
        (b"\xff\xd8\xff\xe0" * 1000, ("bad answer", False)),
        (b"HTTP/1.1 abc\r\n\r\n", ("bad answer", False)),
        (b"HTTP/1.1 " + b"2" * 100_000, ("bad answer", False)),
        (b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 10_000, ("bad answer", False)),
        (b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 1_000_000, ("bad answer", False)),
        (b"HTTP/1.1 302 Found\r\nLocation: /" + b"b" * 1_000_000 + b"\r\n\r\n", ("bad answer", False)),
        (b"HTTP/1.1 302 Found\r\nLocation: /" + b"b" * 30_000 + b"\r\n\r\n", ("bad address", False)),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[::\r\n\r\n", ("bad address", False)),
    ],
)
def test_what_breaks_off_or_is_no_http_has_its_cause(sent, expected):
    with RawServer({"/": sent}) as server:
        assert cause(lambda: fetch(server, "/", deadline=4.0)) == expected


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (answer(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: z\r\n\r\n", CHUNKED), b"abcde"),
        (answer(b"A\r\n0123456789\r\n000\r\n\r\n", CHUNKED), b"0123456789"),
        (answer(b"abcde", "Content-Length: -5"), b"abcde"),
        (answer(b"abcde", "Content-Length: five"), b"abcde"),
        (b"HTTP/1.0 200 OK\r\n\r\nabcde", b"abcde"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + answer(b"abcde"), b"abcde"),
        (answer(b"abcde", "Content-Encoding: jpeg"), b"abcde"),
        (answer(b"", "Location: /%E2%82%AC", status="302 Found"), b"euro"),
        (answer(b"", "Location: /\xe2\x82\xac", status="302 Found"), b"euro"),
    ],
)
def test_what_is_odd_but_can_be_understood_is_taken(sent, expected):
    with RawServer({"/": sent, "/%E2%82%AC": answer(b"euro")}) as server:
        assert fetch(server, "/") == expected


def test_a_gzip_bomb_of_gigabytes_takes_no_more_memory_than_the_cap():
    """10 kB of each piece unpack to 10 MB; 300 of them are sent."""
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    begin = pack.compress(b"") + pack.flush(zlib.Z_FULL_FLUSH)
    piece = pack.compress(bytes(10_000_000)) + pack.flush(zlib.Z_FULL_FLUSH)

    def send() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + begin
        for _ in range(300):
            yield piece

    with RawServer({"/": send}) as server:
        tracemalloc.start()
        assert cause(lambda: fetch(server, "/", max_bytes=4_000_000)) == ("too large", False)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 20_000_000


def test_a_packed_body_that_never_unpacks_to_anything_ends_at_the_cap():
    def send() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10]
        while True:
            yield b"\0\0\0\xff\xff" * 10_000  # empty stored blocks

    with RawServer({"/": send}) as server:
        assert cause(lambda: fetch(server, "/", max_bytes=1_000_000)) == ("too large", False)


@pytest.mark.parametrize("broken", [answer(b"half", "Content-Length: 8"), b"", answer(b"5\r\nab", CHUNKED)])
def test_what_broke_off_is_asked_for_once_more(broken):
    with RawServer({"/": [broken, answer(b"image")]}) as server:
        assert fetch(server, "/") == b"image"
    with RawServer({"/": [broken, broken, answer(b"image")]}) as server:
        assert cause(lambda: fetch(server, "/")) == ("connection", True)
        assert len(server.times("/")) == 2
