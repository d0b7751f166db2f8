"""Connections that lead to public addresses only, and that end in time whatever the other side does.

The address connected to is the very one that was checked: a name cannot mean another one a moment later.
"""

import functools
import ipaddress
import math
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.util.wait import wait_for_read

NAT64 = ipaddress.ip_network("64:ff9b::/96")
UNICAST = ipaddress.ip_network("2000::/3")  # all of IPv6 that is given out
INNER = tuple(  # not public, though some versions of Python's tables say so
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # Azure: each machine's own host answers there
            "192.0.0.0/24",  # special purposes (RFC 6890); Oracle's cloud has its metadata there
            "3fff::/20",  # documentation (RFC 9637)
        ),
    )
)


class FetchError(Exception):
    """The bytes could not be had.

    Attributes:
        cause: short and the same for the same kind of failure ("404", "timeout", "too large").
        transient: whether it is worth trying again in another run.
    """

    def __init__(self, cause: str, *, transient: bool) -> None:
        super().__init__(cause)
        self.cause = cause
        self.transient = transient


class RefusedAddress(ValueError):
    """Not a public address: nothing was sent there."""


def is_public(address: str) -> bool:
    """Whether an IP address, as a resolver gives it, lies in the public internet; IPv4 inside IPv6 is looked at."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        nat64 = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None
        if inner := ip.ipv4_mapped or ip.sixtofour or nat64:
            return is_public(str(inner))
        return ip.is_global and ip in UNICAST and not any(ip in network for network in INNER)
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in INNER)


class Limit:
    """When a transfer must be over, monotonic seconds, to be moved on but not back; `late` once it was cut off."""

    __slots__ = ("_sock", "late", "until")

    def __init__(self, until: float) -> None:
        self.until, self.late = until, False
        self._sock: socket.socket | None = None

    def watch(self, sock: socket.socket) -> None:
        """The socket to cut off; TimeoutError when it is too late already."""
        self._sock = sock
        if self.late:
            raise TimeoutError("cut off before it began")

    def cut(self) -> None:
        """End the transfer: whoever reads or writes sees the end of the connection."""
        self.late = True
        if self._sock is not None:
            with suppress(OSError):  # it ended in this very moment
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # TLS's own would take its state from the reader


class Watchdog:
    """Cuts off the transfers that outlast their limits: one thread for all, asleep until the earliest of them.

    Socket timeouts alone cannot: each byte of a slow drip starts them anew.
    """

    def __init__(self) -> None:
        self._limits: set[Limit] = set()
        self._changed = threading.Condition()
        self._wakes = -math.inf  # when the thread looks next; until it runs nobody need wake it
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextmanager
    def limit(self, until: float) -> Iterator[Limit]:
        """A limit that is watched as long as the block lasts."""
        limit = Limit(until)
        with self._changed:
            if self._closed:
                raise RuntimeError("the session is closed")
            self._limits.add(limit)
            if self._thread is None:
                thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
                thread.start()
                self._thread = thread
            elif until < self._wakes:
                self._changed.notify()
        try:
            yield limit
        finally:
            with self._changed:
                self._limits.discard(limit)

    def cut_all(self) -> None:
        """Cut off whatever is under way."""
        with self._changed:
            for limit in self._limits:
                limit.cut()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                for limit in [limit for limit in self._limits if limit.until <= now]:
                    self._limits.remove(limit)
                    limit.cut()
                self._wakes = min((limit.until for limit in self._limits), default=math.inf)
                self._changed.wait(min(self._wakes - now, threading.TIMEOUT_MAX))


class Connection(HTTPConnection):
    """A connection to one host, kept open between requests."""

    def __init__(self, scheme: str, host: str, port: int, trusted: bool) -> None:
        """Open nothing yet.

        Args:
            trusted: the user said that requests go there, so the address may be private.
        """
        super().__init__(host.strip("[]"), port)
        self.where = (scheme, host, port, trusted)
        self.trusted = trusted
        self.is_tls = scheme == "https"
        self.default_port = 443 if self.is_tls else 80
        self._limit = Limit(math.inf)

    @property
    def is_idle(self) -> bool:
        """Open, and the other side has neither closed it nor said anything unasked."""
        return self.sock is not None and not wait_for_read(self.sock, timeout=0.0)

    def get(
        self, target: str, headers: Mapping[str, str], limit: Limit, timeout: float, deadline: float
    ) -> HTTPResponse:
        """The answer to a GET, its header complete and its body yet to be read, which `limit` ends at the deadline.

        Args:
            target: path and query.
            timeout: seconds for connecting, and again for the whole header, however it drips.
            deadline: of the whole transfer, monotonic seconds.

        Raises:
            RefusedAddress: the host is not public.
            TimeoutError: no connection or no complete header in time.
            OSError, HTTPException: it broke, or what came is no HTTP.
        """
        self._limit = limit
        try:
            if self.sock is None:
                limit.until = min(time.monotonic() + timeout, deadline)
                self.connect()
            else:
                limit.watch(self.sock)
            limit.until = min(time.monotonic() + timeout, deadline)
            self.sock.settimeout(timeout)
            self.request("GET", target, headers=dict(headers))
            response = self.getresponse()
        except (OSError, HTTPException, ValueError) as error:
            self.close()
            if limit.late:
                raise TimeoutError("no complete header in time") from error
            raise
        if limit.late:  # what was cut off may still read like a header
            response.close()
            self.close()
            raise TimeoutError("no complete header in time")
        limit.until = deadline
        return response

    def connect(self) -> None:
        """Connect to the first address that answers, each with its share of the time."""
        addresses = _addresses(self.host, self.port, self.trusted)
        failure: OSError | None = None
        for tried, (family, kind, protocol, address) in enumerate(addresses):
            sock = socket.socket(family, kind, protocol)
            try:
                self._limit.watch(sock)
                sock.settimeout(max(self._limit.until - time.monotonic(), 0.01) / (len(addresses) - tried))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.connect(address)
                if self.is_tls:  # its timeout bounds the handshake as a whole, each byte of which may drip
                    sock = _tls().wrap_socket(sock, server_hostname=self.host)
                    self._limit.watch(sock)
                self.sock = sock
                return
            except OSError as error:
                sock.close()
                failure = error
                if self._limit.late or isinstance(error, ssl.SSLError):
                    break
        raise failure or OSError(f"{self.host} has no address")


class Idle:
    """Connections kept open for another request; when there are too many the longest unused place loses its oldest."""

    def __init__(self, most: int) -> None:
        self._most, self._count, self._closed = most, 0, False
        self._places: dict[tuple, list[Connection]] = {}  # `Connection.where` -> connections, the last used last
        self._lock = threading.Lock()

    def take(self, where: tuple) -> Connection | None:
        """One that leads there and is still open."""
        while True:
            with self._lock:
                if where not in self._places:
                    return None
                connection = self._pop(where, -1)
            if connection.is_idle:
                return connection
            connection.close()

    def give(self, connection: Connection) -> None:
        """Keep a connection whose last answer was read to its end."""
        surplus = None
        with self._lock:
            if self._closed:
                surplus = connection
            else:
                self._places[connection.where] = [*self._places.pop(connection.where, []), connection]
                self._count += 1
                if self._count > self._most:
                    surplus = self._pop(next(iter(self._places)), 0)
        if surplus:
            surplus.close()

    def close(self) -> None:
        """Close them all, and from now on each that is given."""
        with self._lock:
            self._closed = True
            left = [self._pop(where, -1) for where, found in list(self._places.items()) for _ in list(found)]
        for connection in left:
            connection.close()

    def _pop(self, where: tuple, index: int) -> Connection:
        connection = self._places[where].pop(index)
        self._count -= 1
        if not self._places[where]:
            del self._places[where]
        return connection


def _addresses(host: str, port: int, trusted: bool) -> list[tuple[int, int, int, tuple]]:
    """Family, kind, protocol and address of each of a host's places; all of them public unless it is trusted."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise RefusedAddress(f"{host!r} is no host name") from error
    private = [str(entry[4][0]) for entry in found if not (trusted or is_public(str(entry[4][0])))]
    if private:
        raise RefusedAddress(f"{host} is at {', '.join(private)}, which is not public")
    return [(family, kind, protocol, address) for family, kind, protocol, _, address in found]


@functools.cache
def _tls() -> ssl.SSLContext:
    """Certificates are checked against those that `requests` brings."""
    context = ssl.create_default_context(cafile=DEFAULT_CA_BUNDLE_PATH)
    context.set_alpn_protocols(["http/1.1"])
    return context
