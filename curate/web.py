"""The web, politely: what sources ask of it, through the one client of the session.

What comes from a search engine is untrusted: an address may lead into the private network, a body may never end. So
every hop, redirects included, connects only to a public address that was checked after it was resolved, and every body
is cut off at a size and at a time. The one exception is a host with a mirror: the user said where its requests go.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import requests
from requests.adapters import BaseAdapter

from curate.client import Client, Opened
from curate.errors import CurateError
from curate.guard import FetchError, RefusedAddress, is_public
from curate.recipe import Web
from curate.robots import opted_out

__all__ = [
    "FetchError",
    "PoliteSession",
    "RefusedAddress",
    "Reply",
    "ask",
    "download",
    "is_public",
    "is_web_address",
    "open_session",
]

LONGEST_URL = 2000  # characters that the tables keep of a text
PASSING = {408, 425, 429, 500, 502, 503, 504}  # statuses that may be different in another run
IMAGES = {"Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}
PAGES = {"Accept": "text/html,*/*;q=0.5", "Accept-Encoding": "gzip"}


class Reply(NamedTuple):
    """An engine's answer, complete; `location` is where it sends us, when that was not followed.

    `retry_after`: seconds after which it wants to be asked again, where it says so.
    """

    status: int
    url: str
    content: bytes
    location: str = ""
    retry_after: int = 0


def open_session(web: Web, cache: Path | None = None) -> "PoliteSession":
    """A session for all threads of a run; close it at the end.

    Args:
        cache: folder where what other runs can use is kept: `robots/`.

    Raises:
        CurateError: a mirror or the contact is not what the recipe's [web] table asks for.
    """
    if not (web.contact.isascii() and web.contact.isprintable()):
        raise CurateError(f"[web] contact = {web.contact!r}: needs one line of ASCII, an e-mail address or a page.")
    return PoliteSession(web, cache)


def download(session: requests.Session, url: str, web: Web) -> bytes:
    """The bytes at an address, whatever type they claim to be: decoding is the judge of that.

    The robots.txt of its host is obeyed, and that of each host which a redirect leads to.

    Raises:
        FetchError: cause "404" and other statuses, "timeout", "too slow", "too large", "empty", "refused address",
            "bad address", "unknown host", "robots.txt" (it says no), "robots.txt unreachable" and "crawl-delay" (not
            now), "x-robots-tag" (the answer says no), "redirects", "tls", "encoding", "connection", "bad answer" (what
            came is no HTTP).
    """

    def use(opened: Opened) -> bytes:
        status = opened.response.status
        if status != requests.codes.ok:
            raise FetchError(str(status), transient=status in PASSING)
        if opted_out(opened.response.headers.get_all("X-Robots-Tag", [])):
            raise FetchError("x-robots-tag", transient=False)
        return opened.body(web.max_bytes)

    body = _client(session).fetch(url, web, IMAGES, use, by_robots=True)
    if not body:
        raise FetchError("empty", transient=False)
    return body


def ask(session: requests.Session, url: str, web: Web, *, follow: bool = True) -> Reply:
    """A search engine's answer with any status.

    No robots.txt is asked for: it speaks to crawlers, and here the user puts one question to a service through us.

    Raises:
        FetchError: no complete answer came; causes as in `download`.
    """

    def use(opened: Opened) -> Reply:
        location = opened.location or ""
        body = b"" if location else opened.body(web.max_bytes)
        asked = opened.response.headers.get("Retry-After", "").strip()
        wait = int(asked) if asked.isdecimal() and len(asked) < 9 else 0
        return Reply(opened.response.status, opened.url, body, location, wait)

    return _client(session).fetch(url, web, PAGES, use, follow=follow)


def is_web_address(url: str) -> bool:
    """Whether a candidate's address can be asked for, and be kept whole in the tables."""
    return bool(re.match(r"https?://[^/\s]", url)) and len(url) <= LONGEST_URL


class PoliteSession(requests.Session):
    """The client of a run in the form that sources know; takes nothing from the environment and keeps no cookies.

    What a source asks by `session.get` goes the same guarded way; of redirects it sees the answer.
    """

    def __init__(self, web: Web, cache: Path | None = None) -> None:
        super().__init__()
        self.trust_env = False
        self.client = Client(web, cache)
        self.adapters.clear()
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(self.client, web))
        self.headers.update({**self.client.headers, "Accept-Encoding": "gzip"})

    def resolve_redirects(self, *_: Any, **__: Any) -> Iterator[requests.Response]:
        """None."""
        return iter(())

    def abort(self) -> None:
        """End what is under way: it fails, in every thread."""
        self.client.abort()

    def close(self) -> None:
        """Close the connections and end what runs beside them."""
        super().close()
        self.client.close()


class _Adapter(BaseAdapter):
    def __init__(self, client: Client, web: Web) -> None:
        super().__init__()
        self.client, self.web = client, web

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        """A GET through the client; nothing else is sent."""
        if request.method != "GET":
            raise requests.exceptions.InvalidSchema(f"{request.method}: this session can only get.")

        def use(opened: Opened) -> requests.Response:
            result = requests.Response()
            result.status_code, result.reason = opened.response.status, opened.response.reason
            result.headers.update(dict(opened.response.headers.items()))
            result.raw = io.BytesIO(b"" if opened.location else opened.body(self.web.max_bytes))
            result.url, result.request = opened.url, request
            return result

        return self.client.fetch(str(request.url), self.web, dict(request.headers), use, follow=False)

    def close(self) -> None:
        """Nothing: the client is closed with the session."""


def _client(session: requests.Session) -> Client:
    if not isinstance(session, PoliteSession):
        raise TypeError(f"needs a session of `open_session`, got {type(session).__name__}")
    return session.client
