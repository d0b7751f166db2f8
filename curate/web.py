"""The web, politely: one HTTP client over `requests` with mirrors, an address guard, caps, deadlines and retries.

What comes from a search engine is untrusted: an address may lead into the private network, a body may never end. So
every hop, redirects included, connects only to a public address that was checked after it was resolved, and every body
is cut off at a size and at a time. The one exception is a host with a mirror: the user said where its requests go.
"""

import ipaddress
import math
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import partial
from http.client import HTTPException
from http.cookiejar import DefaultCookiePolicy
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import MaxRetryError, NameResolutionError, NewConnectionError, ResponseError
from urllib3.util.connection import create_connection
from urllib3.util.retry import Retry

from curate import __version__
from curate.manifest import CurateError
from curate.recipe import Web
from curate.sources import Answer, FetchError, Page

REDIRECTS = 5
LONGEST_URL = 2000  # characters that the tables keep of a text
LONGEST_WAIT = 15.0  # seconds that a Retry-After is obeyed; a host that asks for more is left for another run
PASSING = {408, 425, 429, 500, 502, 503, 504}  # statuses that may be different in another run
OPT_OUTS = {"noai", "noimageai", "noindex", "noimageindex", "none"}
TAGS_WITH_VALUES = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
CHUNK = 65_536
IMAGES = {"Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}
PAGES = {"Accept": "text/html,*/*;q=0.5"}
_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)  # of this thread's fetch, monotonic
_T = TypeVar("_T")


class Reply(NamedTuple):
    """An engine's answer, complete; `location` is where it sends us, when that was not followed."""

    status: int
    url: str
    content: bytes
    location: str = ""


class RefusedAddress(ValueError):
    """Not a public address: nothing was sent there."""


def open_session(web: Web) -> requests.Session:
    """A session for all threads of a run; close it at the end.

    Raises:
        CurateError: a mirror or the contact is not what the recipe's [web] table asks for.
    """
    if not (web.contact.isascii() and web.contact.isprintable()):
        raise CurateError(f"[web] contact = {web.contact!r}: needs one line of ASCII, an e-mail address or a page.")
    session = PoliteSession(web.per_host)
    purpose = "; ".join(filter(None, ("image data set curation", web.contact)))
    session.headers.update({"User-Agent": f"DeepRock/{__version__} ({purpose})", "Accept-Language": "en"})
    adapter = _MirrorAdapter(web)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def download(session: requests.Session, url: str, web: Web) -> bytes:
    """The bytes at an address, whatever type they claim to be: decoding is the judge of that.

    Raises:
        FetchError: cause "404" and other statuses, "timeout", "too slow", "too large", "empty", "refused address",
            "bad address", "unknown host", "robots" (the site's X-Robots-Tag says no), "redirects", "tls", "encoding",
            "connection".
    """

    def finish(response: requests.Response) -> bytes:
        if response.status_code != requests.codes.ok:
            raise FetchError(str(response.status_code), transient=response.status_code in PASSING)
        if _opted_out(response.raw.headers.getlist("X-Robots-Tag")):
            raise FetchError("robots", transient=False)
        return _body(response, web.max_bytes)

    body = _fetch(session, url, web, IMAGES, finish)
    if not body:
        raise FetchError("empty", transient=False)
    return body


def ask(session: requests.Session, url: str, web: Web, *, follow: bool = True) -> Reply:
    """A search engine's answer with any status.

    Raises:
        FetchError: no complete answer came; causes as in `download`.
    """

    def finish(response: requests.Response) -> Reply:
        location = _location(response) or ""
        body = b"" if location else _body(response, web.max_bytes)
        return Reply(response.status_code, response.url, body, location)

    return _fetch(session, url, web, PAGES, finish, follow=follow)


def refusal(reply: Reply, engine: str) -> Page | None:
    """What an engine's status alone says: a page without candidates, or None where the answer is worth reading."""
    said = f"{engine} answered with status {reply.status}"
    if reply.status in (429, 503):
        return Page(Answer.RATE_LIMITED, detail=f"{said}: too many requests from here. Wait, or use another source.")
    if reply.status in (401, 403, 451):
        return Page(Answer.BLOCKED, detail=f"{said}: it does not serve us from here. Use another source, or wait.")
    if reply.status >= 500:
        return Page(Answer.UNREACHABLE, detail=f"{said}: it is out of order. Try again later.")
    if reply.status != requests.codes.ok:
        return Page(Answer.CHANGED, detail=f"{said} where a result page was: this version of DeepRock cannot read it.")
    return None


def unreachable(error: FetchError, engine: str) -> Page:
    """The page of an engine that gave no complete answer."""
    detail = f"{engine} could not be reached ({error.cause}). Is there a connection, and is [web.mirrors] right?"
    return Page(Answer.UNREACHABLE, detail=detail)


def is_web_address(url: str) -> bool:
    """Whether a candidate's address can be asked for, and be kept whole in the tables."""
    return bool(re.match(r"https?://[^/\s]", url)) and len(url) <= LONGEST_URL


def is_public(address: str) -> bool:
    """Whether an IP address, as a resolver gives it, lies in the public internet; IPv4 inside IPv6 is looked at."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        nat64 = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in ipaddress.ip_network("64:ff9b::/96") else None
        if inner := ip.ipv4_mapped or ip.sixtofour or nat64:
            return is_public(str(inner))
        return ip.is_global and ip in ipaddress.ip_network("2000::/3")
    return ip.is_global and not ip.is_multicast


class PoliteSession(requests.Session):
    """Takes nothing from the environment, keeps no cookies, follows no redirect itself, counts turns per host."""

    def __init__(self, per_host: int) -> None:
        super().__init__()
        self.trust_env = False
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._per_host = per_host
        self._lock = threading.Lock()
        self._turns: dict[str, threading.BoundedSemaphore] = {}

    def turn(self, host: str) -> threading.BoundedSemaphore:
        """Hold it while a request to the host is under way."""
        with self._lock:
            return self._turns.setdefault(host.lower(), threading.BoundedSemaphore(max(self._per_host, 1)))

    def resolve_redirects(self, *_: Any, **__: Any) -> Iterator[requests.Response]:
        """None: requests would read the whole body of a redirect, however long, even where it does not follow."""
        return iter(())


def _fetch(
    session: requests.Session,
    url: str,
    web: Web,
    headers: dict[str, str],
    finish: Callable[[requests.Response], _T],
    *,
    follow: bool = True,
) -> _T:
    deadline = math.inf
    with _causes():
        for _ in range(REDIRECTS + 1):
            with _turn(session, urlsplit(url).hostname or ""):
                deadline = min(deadline, time.monotonic() + web.deadline)  # waiting for the first turn does not count
                _deadline.set(deadline)
                timeout = min(web.timeout, _remaining())
                options: dict[str, Any] = {"stream": True, "allow_redirects": False, "timeout": (timeout, timeout)}
                with closing(session.get(url, headers=headers, **options)) as response:
                    location = _location(response) if follow else None
                    if location is None:
                        return finish(response)
            url = urljoin(url, location)
    raise FetchError("redirects", transient=False)


def _turn(session: requests.Session, host: str) -> AbstractContextManager[object]:
    return session.turn(host) if isinstance(session, PoliteSession) else nullcontext()


def _remaining() -> float:
    left = _deadline.get() - time.monotonic()
    if left <= 0:
        raise FetchError("too slow", transient=True)
    return left


def _location(response: requests.Response) -> str | None:
    """Where a redirect leads, as text (http.client reads headers as Latin-1, servers write UTF-8)."""
    return response.headers["Location"].encode("latin-1").decode("utf-8", "replace") if response.is_redirect else None


def _body(response: requests.Response, max_bytes: int) -> bytes:
    """The decoded body, at most `max_bytes` of it and none after the deadline."""
    declared = response.headers.get("Content-Length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise FetchError("too large", transient=False)
    body = bytearray()
    with _cut_off(_remaining(), response.raw.shutdown) as late:
        try:
            for chunk in response.raw.stream(CHUNK, decode_content=True):
                body += chunk
                if len(body) > max_bytes:
                    raise FetchError("too large", transient=False)
        except (urllib3.exceptions.HTTPError, OSError, ValueError):  # ValueError: TLS was shut down under it
            if not late.is_set():
                raise
    if late.is_set():
        raise FetchError("too slow", transient=True)
    return bytes(body)


def _opted_out(headers: list[str]) -> bool:
    """Whether an X-Robots-Tag forbids indexing, or use for training, to everyone or to us."""
    for header in headers:
        agent, colon, rest = (part.strip() for part in header.lower().partition(":"))
        addressed = colon and "," not in agent and agent not in TAGS_WITH_VALUES
        if addressed and agent not in ("deeprock", "*"):
            continue
        values = rest if addressed else header.lower()
        if OPT_OUTS & {value.strip() for value in values.split(",")}:
            return True
    return False


@contextmanager
def _causes() -> Iterator[None]:
    """Turn whatever a transfer raises into a `FetchError`."""
    try:
        yield
    except (RefusedAddress, requests.exceptions.InvalidSchema) as error:
        raise FetchError("refused address", transient=False) from error
    except requests.exceptions.SSLError as error:
        raise FetchError("tls", transient=False) from error
    except (requests.exceptions.ContentDecodingError, urllib3.exceptions.DecodeError) as error:
        raise FetchError("encoding", transient=False) from error
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise FetchError("timeout", transient=True) from error
    except (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
        raise FetchError(_connection_cause(error), transient=True) from error
    except ValueError as error:  # InvalidURL, MissingSchema, UnicodeError and urlsplit's own: the address is no address
        raise FetchError("bad address", transient=False) from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise FetchError("connection", transient=True) from error


def _connection_cause(error: requests.exceptions.RequestException) -> str:
    reason = getattr(error.args[0], "reason", None) if error.args else None
    match reason:
        case NameResolutionError():
            return "unknown host"
        case NewConnectionError():  # in urllib3 a kind of timeout too
            return "connection"
        case urllib3.exceptions.TimeoutError():
            return "timeout"
        case _:
            return "connection"


@contextmanager
def _cut_off(seconds: float, shutdown: Callable[[], object]) -> Iterator[threading.Event]:
    """Shut a connection down if the block takes longer; the event then is set. Socket timeouts alone cannot: each byte
    of a slow drip starts them anew."""
    late = threading.Event()

    def cut() -> None:
        late.set()
        with suppress(OSError, ValueError, RuntimeError):  # it ended in this very moment
            shutdown()

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


class _Patience(Retry):
    """Waits as long as a host asks, within `LONGEST_WAIT` and the fetch's deadline; else gives up at once."""

    def parse_retry_after(self, retry_after: str) -> float:
        try:
            return super().parse_retry_after(retry_after)
        except urllib3.exceptions.InvalidHeader:
            return 0.0

    def get_backoff_time(self) -> float:
        doubled = self.backoff_factor * 2 ** max(len(self.history) - 1, 0)
        return min(self.backoff_max, doubled) + random.random() * self.backoff_jitter

    def increment(self, *args: Any, **kwargs: Any) -> "_Patience":
        later = super().increment(*args, **kwargs)
        response = kwargs.get("response")
        asked = self.get_retry_after(response) if response is not None else None
        wait = asked or later.get_backoff_time()
        if wait > LONGEST_WAIT or time.monotonic() + wait > _deadline.get():
            reason = kwargs.get("error") or ResponseError(f"to wait {wait:.0f} s is too long")
            raise MaxRetryError(kwargs["_pool"], args[1], reason)
        return later


class _MirrorAdapter(HTTPAdapter):
    """Sends a request to its host's mirror where there is one, else to a public address only."""

    def __init__(self, web: Web) -> None:
        retries = _Patience(
            total=2,
            read=1,
            status_forcelist=(429, 502, 503, 504),
            backoff_factor=0.5,
            backoff_max=8,
            backoff_jitter=0.5,
            raise_on_status=False,
        )
        pools, size = max(64, 4 * web.threads), max(web.per_host, 1)
        self._mirrors = dict(_mirror(address, base) for address, base in web.mirrors.items())
        self._trusting = HTTPAdapter(pools, max(size, web.threads), retries)
        self._trusting.poolmanager.pool_classes_by_scheme = _pools(_PromptConnection)
        super().__init__(pools, size, retries)
        self.poolmanager.pool_classes_by_scheme = _pools(_PublicConnection)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        base = self._base(str(request.url))
        if base is None:
            return super().send(request, *args, **kwargs)
        mirrored = request.copy()
        mirrored.url = base + request.path_url
        response = self._trusting.send(mirrored, *args, **kwargs)
        response.url, response.request = str(request.url), request
        return response

    def close(self) -> None:
        self._trusting.close()
        super().close()

    def _base(self, url: str) -> str | None:
        parts = urlsplit(url.lower())
        labels = parts.netloc.split(".")
        wildcards = (".".join(["*", *labels[n:]]) for n in range(1, len(labels)))
        known = ((parts.scheme, host) for host in (parts.netloc, *wildcards))
        return next((self._mirrors[key] for key in known if key in self._mirrors), None)


def _mirror(address: str, base: str) -> tuple[tuple[str, str], str]:
    host, to = urlsplit(address.lower()), urlsplit(base)
    for url, parts in ((address, host), (base, to)):
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise CurateError(f'[web.mirrors] {url!r}: needs "https://host" = "http://other:port/path".')
    if host.path not in ("", "/"):
        raise CurateError(f"[web.mirrors] {address!r}: a mirror stands for a whole host; leave out {host.path!r}.")
    return (host.scheme, host.netloc), base.rstrip("/")


class _PromptConnection(HTTPConnection):
    """Gives the server the read timeout for its whole header, not for each byte of it."""

    def getresponse(self) -> Any:
        limit = self.timeout if isinstance(self.timeout, int | float) else math.inf
        shutdown = partial(socket.socket.shutdown, self.sock, socket.SHUT_RDWR)
        with _cut_off(min(limit, threading.TIMEOUT_MAX), shutdown) as late:
            try:
                response = super().getresponse()
            except (OSError, HTTPException) as error:
                if late.is_set():
                    raise TimeoutError("no complete header in time") from error
                raise
        if late.is_set():  # what was cut off may still read like a header
            response.close()
            raise TimeoutError("no complete header in time")
        return response


class _PublicConnection(_PromptConnection):
    """Connects to the very address it has checked, so that a name cannot mean another one a moment later."""

    def _new_conn(self) -> socket.socket:
        failure: OSError | None = None
        for address in _public_addresses(self):
            try:
                where = (address, self.port or self.default_port)
                return create_connection(where, self.timeout, self.source_address, self.socket_options)
            except TimeoutError as error:
                raise urllib3.exceptions.ConnectTimeoutError(self, f"{address} did not answer") from error
            except OSError as error:
                failure = error
        raise NewConnectionError(self, f"{self.host}: {failure}") from failure


def _public_addresses(connection: HTTPConnection) -> list[str]:
    host = connection.host.strip("[]")
    try:
        found = socket.getaddrinfo(host, connection.port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise RefusedAddress(f"{host!r} is no host name") from error
    except socket.gaierror as error:
        raise NameResolutionError(host, connection, error) from error
    addresses = [str(entry[4][0]) for entry in found]
    if private := [address for address in addresses if not is_public(address)]:
        raise RefusedAddress(f"{host} is at {', '.join(private)}, which is not public")
    return list(dict.fromkeys(addresses))


def _pools(kind: type[HTTPConnection]) -> dict[str, Any]:
    """urllib3's pools with connections of this kind, by scheme."""
    plain = type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": kind})
    secure_kind = type("SecureConnection", (kind, HTTPSConnection), {})
    secure = type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": secure_kind})
    return {"http": plain, "https": secure}
