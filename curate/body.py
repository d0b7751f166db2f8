"""The body of an answer piece by piece, unpacked, whatever the other side sends: no step takes more than a piece."""

import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from http.client import HTTPException, HTTPResponse, IncompleteRead

from curate.guard import FetchError

PIECE = 262_144
DRAIN = 16_384  # bytes of an unwanted body that are read so that its connection can be kept
LONGEST_LINE = 8192
TRAILERS = 100
SIZE = re.compile(rb"[ \t]*([0-9a-fA-F]{1,15})[ \t]*(;[^\n]*)?\r?\n")


def pieces(response: HTTPResponse, most: int) -> Iterator[bytes]:
    """The body in pieces of at most `PIECE` bytes; of a packed one no more than `most` bytes are read.

    Raises:
        FetchError: "too large".
        OSError, HTTPException, zlib.error: it broke off, it is no HTTP, it cannot be unpacked.
    """
    sent = _chunks(response) if response.chunked else iter(partial(response.read, PIECE), b"")
    if response.headers.get("Content-Encoding", "").strip().lower() in ("gzip", "x-gzip", "deflate"):
        yield from _unpacked(sent, most)
    else:
        yield from sent
    if response.length:
        raise IncompleteRead(b"", response.length)


def is_over(response: HTTPResponse) -> bool:
    """Whether nothing of the answer is left on the connection; a short rest is read, a long one is not."""
    if not response.isclosed() and response.length is not None and response.length <= DRAIN:
        with suppress(OSError, HTTPException):
            response.read()
            return True
        return False
    return response.isclosed()


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """RFC 9112 section 7.1; http.client's own reading takes a chunk of -1 bytes for all that ever comes."""
    while size := _chunk_size(response.fp.readline(LONGEST_LINE)):
        while size:
            piece = response.fp.read(min(size, PIECE))
            if not piece:
                raise IncompleteRead(b"", size)
            size -= len(piece)
            yield piece
        if (end := response.fp.readline(LONGEST_LINE)) not in (b"\r\n", b"\n"):
            raise HTTPException(f"a chunk goes on with {end[:20]!r}") if end else IncompleteRead(b"")
    for _ in range(TRAILERS):
        if response.fp.readline(LONGEST_LINE) in (b"\r\n", b"\n", b""):
            response.close()  # read to the end: the connection can be kept
            return
    raise HTTPException("too many trailers")


def _chunk_size(line: bytes) -> int:
    if match := SIZE.fullmatch(line):
        return int(match[1], 16)
    if len(line) < LONGEST_LINE and not line.endswith(b"\n"):
        raise IncompleteRead(line)
    raise HTTPException(f"no chunk begins with {line[:20]!r}")


def _unpacked(sent: Iterable[bytes], most: int) -> Iterator[bytes]:
    inflate, read = zlib.decompressobj(zlib.MAX_WBITS | 32), 0
    for piece in sent:
        read += len(piece)
        if read > most:  # it may unpack to nothing for ever
            raise FetchError("too large", transient=False)
        left = piece
        while left:
            yield inflate.decompress(left, PIECE)
            left = inflate.unconsumed_tail
    if not inflate.eof:
        raise zlib.error("the packed data ends too early")
