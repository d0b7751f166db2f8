"""One HTTP client for all threads of a run: mirrors, turns per host, redirects, caps, deadlines, retries, robots.txt.

The standard library's connections are driven without `requests` or urllib3's pools in between: a download then costs a
fraction of the processor time, and what becomes of a hostile answer can be read here.
"""

import math
import random
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPException, HTTPResponse, IncompleteRead, InvalidURL, RemoteDisconnected
from pathlib import Path
from socket import gaierror
from typing import NamedTuple, TypeVar
from urllib.parse import urljoin

from urllib3.util import parse_url

from curate import __version__
from curate.body import is_over, pieces
from curate.errors import CurateError
from curate.guard import Connection, FetchError, Idle, Limit, RefusedAddress, Watchdog
from curate.recipe import Web
from curate.robots import LONGEST_FILE, Robots

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

REDIRECTS = 5
LONGEST_LOCATION = 16_384  # characters of an address that are looked at
LONGEST_WAIT = 15.0  # seconds that a Retry-After is obeyed; a host that asks for more is left for another run
RULES_DEADLINE = 20.0  # seconds for a robots.txt
BUSY = {429, 502, 503, 504}  # statuses after which we ask again, after a pause
BROKEN = 0.2  # seconds, at least, after which a connection that broke is tried anew
AGAIN = 2  # times that a busy host is asked again
MOVED = {301, 302, 303, 307, 308}
PORTS = {"http": 80, "https": 443}
RULES = {"Accept": "text/plain,*/*;q=0.5", "Accept-Encoding": "gzip"}
_T = TypeVar("_T")


class Place(NamedTuple):
    """A web address taken apart, once for all who look at it; `target` is path and query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """The host, with its port where that is not the scheme's own."""
        return self.host if self.port == PORTS[self.scheme] else f"{self.host}:{self.port}"

    @property
    def site(self) -> str:
        """Scheme and authority."""
        return f"{self.scheme}://{self.authority}"


class Request(NamedTuple):
    """One GET; `timeout` in seconds for connecting and for the header, `deadline` for all of it, monotonic seconds."""

    place: Place
    headers: dict[str, str]
    timeout: float
    deadline: float


@dataclass
class Opened:
    """An answer whose header has come and whose body may be read once. `whole`: no part of it was lost so far."""

    url: str
    connection: Connection
    response: HTTPResponse
    limit: Limit
    whole: bool = True

    @property
    def location(self) -> str | None:
        """Where a redirect leads, as text (http.client reads headers as Latin-1, servers write UTF-8)."""
        found = self.response.headers.get("Location") if self.response.status in MOVED else None
        return None if found is None else found.encode("latin-1").decode("utf-8", "replace")

    def body(self, most: int, *, leave_rest: bool = False) -> bytes:
        """The body, unpacked.

        Args:
            most: bytes; a longer one is an error, or its rest is not read where `leave_rest`.

        Raises:
            FetchError: "too large", "too slow".
            OSError, HTTPException, zlib.error: it broke off or cannot be unpacked.
        """
        if not leave_rest and (self.response.length or 0) > most:
            raise FetchError("too large", transient=False)
        self.whole, body = False, bytearray()
        try:
            for piece in pieces(self.response, most):
                body += piece
                if len(body) > most:
                    if leave_rest:
                        return bytes(body[:most])
                    raise FetchError("too large", transient=False)
        except (OSError, HTTPException, ValueError, zlib.error) as error:
            if self.limit.late:
                raise FetchError("too slow", transient=True) from error
            raise
        if self.limit.late:  # what was cut off may still look complete
            raise FetchError("too slow", transient=True)
        self.whole = True
        return bytes(body)


class _Busy(Exception):
    """The host asks to come back after `wait` seconds."""

    def __init__(self, wait: float) -> None:
        super().__init__(wait)
        self.wait = wait


class _Moved(Exception):
    """The answer is a redirect."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.location = location


class Client:
    """All that the threads share: connections, turns, robots.txt, the watchdog. Close it at the end."""

    def __init__(self, web: Web, cache: Path | None = None) -> None:
        """Connect to nothing yet.

        Args:
            cache: folder where robots.txt files are kept for other runs.

        Raises:
            CurateError: a mirror is not what the recipe's [web] table asks for.
        """
        purpose = "; ".join(filter(None, ("image data set curation", web.contact)))
        self.headers = {"User-Agent": f"DeepRock/{__version__} ({purpose})", "Accept-Language": "en"}
        self._mirrors = dict(_mirror(address, base) for address, base in web.mirrors.items())
        self._rules_web = replace(web, deadline=min(web.deadline, RULES_DEADLINE))
        self._robots = Robots(self._rules, cache)
        self._turns: dict[str, tuple[threading.Semaphore, int]] = {}  # host -> its turns, and how many want one
        self._per_host = max(web.per_host, 1)
        self._lock = threading.Lock()
        self._idle = Idle(min(max(64, 4 * web.threads), descriptors() // 4))
        self._watchdog = Watchdog()
        self._aborted = threading.Event()

    def abort(self) -> None:
        """End all transfers, now and from now on, with the cause "aborted"."""
        self._aborted.set()
        self._watchdog.cut_all()

    def close(self) -> None:
        """Close the connections and end the watchdog."""
        self._watchdog.close()
        self._idle.close()

    def fetch(
        self,
        url: str,
        web: Web,
        headers: dict[str, str],
        use: Callable[[Opened], _T],
        *,
        follow: bool = True,
        by_robots: bool = False,
    ) -> _T:
        """What `use` makes of the answer at the end of the redirects.

        Args:
            by_robots: whether the robots.txt of each host on the way is obeyed.

        Raises:
            FetchError: causes as in `web.download`.
        """
        headers, deadline = {**self.headers, **headers}, math.inf
        with _causes():
            for _ in range(REDIRECTS + 1):
                place = _place(url)
                if by_robots:
                    self._robots.admit(place.site, place.target)
                with self._turn(place.host):
                    deadline = min(deadline, time.monotonic() + web.deadline)  # waiting for the first turn is free
                    request = Request(place, headers, web.timeout, deadline)
                    try:
                        return self._hop(request, partial(_use_or_move, use) if follow else use)
                    except _Moved as moved:
                        url = urljoin(place.site + place.target, moved.location)
        raise FetchError("redirects", transient=False)

    def _hop(self, request: Request, use: Callable[[Opened], _T]) -> _T:
        """One address, asked again where that may help: of a busy host, and once where the connection broke."""
        attempt = 0
        while True:
            try:
                return self._exchange(request, partial(_use_or_wait, use, attempt, request.deadline))
            except _Busy as busy:
                wait = busy.wait
            except (ConnectionError, IncompleteRead):
                wait = BROKEN * (1 + random.random())
                if attempt or time.monotonic() + wait > request.deadline:
                    raise
            self._aborted.wait(wait)
            attempt += 1

    def _exchange(self, request: Request, use: Callable[[Opened], _T]) -> _T:
        if self._aborted.is_set():
            raise FetchError("aborted", transient=True)
        with self._watchdog.limit(min(time.monotonic() + request.timeout, request.deadline)) as limit:
            opened = self._send(request, limit)
            try:
                return use(opened)
            finally:
                if opened.whole and opened.connection.sock is not None and is_over(opened.response):
                    self._idle.give(opened.connection)
                else:
                    opened.response.close()
                    opened.connection.close()

    def _send(self, request: Request, limit: Limit) -> Opened:
        place = request.place
        mirror = self._mirror_of(place)
        to = mirror._replace(target=mirror.target + place.target) if mirror else place
        where = (to.scheme, to.host, to.port, mirror is not None)

        def opened(connection: Connection) -> Opened:
            response = connection.get(to.target, request.headers, limit, request.timeout, request.deadline)
            return Opened(place.site + place.target, connection, response, limit)

        if kept := self._idle.take(where):
            with suppress(ConnectionError, ssl.SSLEOFError):  # the host closed it meanwhile, which is no failure
                return opened(kept)
        return opened(Connection(*where))

    def _mirror_of(self, place: Place) -> Place | None:
        if not self._mirrors:
            return None
        labels = place.authority.split(".")
        known = [place.authority, *(".".join(["*", *labels[n:]]) for n in range(1, len(labels)))]
        return next(
            (self._mirrors[place.scheme, host] for host in known if (place.scheme, host) in self._mirrors), None
        )

    @contextmanager
    def _turn(self, host: str) -> Iterator[None]:
        """Hold it while a request to the host is under way."""
        with self._lock:
            turns, users = self._turns.get(host) or (threading.Semaphore(self._per_host), 0)
            self._turns[host] = turns, users + 1
        try:
            with turns:
                yield
        finally:
            with self._lock:
                turns, users = self._turns.pop(host)
                if users > 1:
                    self._turns[host] = turns, users - 1

    def _rules(self, url: str) -> tuple[int, bytes]:
        """Status and text of a robots.txt."""

        def read(opened: Opened) -> tuple[int, bytes]:
            status = opened.response.status
            return status, opened.body(LONGEST_FILE, leave_rest=True) if status == 200 else b""

        return self.fetch(url, self._rules_web, RULES, read)


def descriptors() -> int:
    """How many files and connections this process may have open; few on some systems."""
    if resource is None:
        return 512  # what C libraries of Windows allow
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 65_536 if soft == resource.RLIM_INFINITY else int(soft)


def _place(url: str) -> Place:
    if len(url) > LONGEST_LOCATION:
        raise ValueError(f"an address of {len(url)} characters")
    parts = parse_url(url.strip())
    if parts.scheme not in PORTS:
        raise RefusedAddress(f"{parts.scheme}: is no way into the web")
    host = (parts.host or "").rstrip(".")
    if not host:
        raise ValueError("no host")
    return Place(parts.scheme, host, parts.port or PORTS[parts.scheme], parts.request_uri)


def _mirror(address: str, base: str) -> tuple[tuple[str, str], Place]:
    """Scheme and authority that a mirror stands for; where it is, with the path that goes before each target."""
    try:
        host, to = _place(address), _place(base)
    except ValueError as error:
        wanted = '"https://host" = "http://other:port/path"'
        raise CurateError(f"[web.mirrors] {address!r} = {base!r}: {error}. It needs {wanted}.") from error
    if host.target != "/":
        raise CurateError(f"[web.mirrors] {address!r}: a mirror stands for a whole host; leave out {host.target!r}.")
    return (host.scheme, host.authority), to._replace(target=to.target.rstrip("/"))


def _use_or_move(use: Callable[[Opened], _T], opened: Opened) -> _T:
    if (location := opened.location) is not None:
        raise _Moved(location)
    return use(opened)


def _use_or_wait(use: Callable[[Opened], _T], attempt: int, deadline: float, opened: Opened) -> _T:
    if opened.response.status in BUSY and attempt < AGAIN:
        wait = pause(attempt, opened.response.headers.get("Retry-After", ""))
        if wait <= LONGEST_WAIT and time.monotonic() + wait < deadline:
            raise _Busy(wait)
    return use(opened)


def pause(attempt: int, retry_after: str = "") -> float:
    """Seconds to wait: what the host asks for; else half a second, twice that the next time, and a bit by chance."""
    asked, wait = retry_after.strip(), 0.0
    if asked.isdecimal():
        wait = float(asked)
    elif asked:
        with suppress(ValueError, TypeError, OverflowError):  # no date: as if nothing were asked
            wait = parsedate_to_datetime(asked).timestamp() - time.time()
    return wait if wait > 0 else 0.5 * 2**attempt + 0.5 * random.random()


@contextmanager
def _causes() -> Iterator[None]:
    """Turn whatever a transfer raises into a `FetchError`."""
    try:
        yield
    except RefusedAddress as error:
        raise FetchError("refused address", transient=False) from error
    except TimeoutError as error:
        raise FetchError("timeout", transient=True) from error
    except gaierror as error:
        raise FetchError("unknown host", transient=True) from error
    except ssl.SSLEOFError as error:
        raise FetchError("connection", transient=True) from error
    except ssl.SSLError as error:
        raise FetchError("tls", transient=False) from error
    except zlib.error as error:
        raise FetchError("encoding", transient=False) from error
    except (OSError, IncompleteRead, RemoteDisconnected) as error:
        raise FetchError("connection", transient=True) from error
    except (InvalidURL, ValueError) as error:  # UnicodeError, LocationParseError and urljoin's own: it is no address
        raise FetchError("bad address", transient=False) from error
    except HTTPException as error:
        raise FetchError("bad answer", transient=False) from error
