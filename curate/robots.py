"""robots.txt of the hosts of images (RFC 9309), by protego; and the X-Robots-Tag of an answer.

Each host's file is asked for once, however many threads want it, and kept for a day. It is untrusted text: only the
groups that speak to us or to everybody are kept, and no more of them all than `HELD` bytes.
"""

import hashlib
import json
import math
import random
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from protego import Protego

from curate.files import is_leftover, replacing
from curate.guard import FetchError

TOKEN = "deeprock"
LONGEST_FILE = 512 * 1024  # bytes of a robots.txt that are read; RFC 9309 2.5 asks for 500 KiB at least
HELD = 8_000_000  # bytes of rules kept in memory, `ENTRY` added for each host
ENTRY = 2000
DAY = 86_400.0  # seconds that an answer holds (RFC 9309 2.4)
AGAIN = 300.0  # seconds after which a file that could not be had is asked for again
TRIES, PATIENCE = 3, 5.0  # times that it is asked for at once, if they fail within so many seconds
UNREACHABLE = ("robots.txt unreachable", True)
UNASKED = {"robots.txt unreachable", "crawl-delay"}  # causes of a failure before the image itself was asked for
LONGEST_WAIT = 15.0  # seconds that one download waits for its turn by Crawl-delay
OF_THE_HOST = {"unknown host", "refused address", "bad address", "tls", "connection"}  # nothing of it can be had
AGENT = re.compile(r"user(?:-|\s*)agent(?:\s*:\s*|\s+)(\*(?=\s|$)|[a-z_-]*)", re.IGNORECASE)
RULE = re.compile(r"allow|di\w+|crawl.delay", re.IGNORECASE)  # protego knows the ways to misspell "disallow"
OPT_OUTS = {"noai", "noimageai", "noindex", "noimageindex", "none"}
TAGS_WITH_VALUES = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}


class Rules(NamedTuple):
    """What a host's robots.txt says to us.

    Attributes:
        parsed: None where all is allowed, or where it could not be had.
        until: seconds since 1970 that it holds.
        size: bytes of memory, roughly.
        failure: cause and transience of the failure to have it, else None.
    """

    parsed: Protego | None
    until: float
    size: int = ENTRY
    failure: tuple[str, bool] | None = None


class Robots:
    """Says of each address whether it may be asked for, and when; safe to use from many threads."""

    def __init__(self, fetch: Callable[[str], tuple[int, bytes]], cache: Path | None = None) -> None:
        """Ask for nothing yet.

        Args:
            fetch: address -> status and the first `LONGEST_FILE` bytes, redirects followed; raises FetchError.
            cache: folder in which `robots/` keeps the answers for other runs.
        """
        self._fetch = fetch
        self._folder = cache / "robots" if cache else None
        for path in self._folder.glob(".*.tmp") if self._folder else ():
            if is_leftover(path):
                path.unlink(missing_ok=True)
        self._lock = threading.Lock()
        self._held: OrderedDict[str, Future[Rules]] = OrderedDict()
        self._size = 0
        self._turns: dict[str, float] = {}

    def admit(self, site: str, target: str) -> None:
        """Come back when an address may be asked for.

        A Crawl-delay is kept in full. A download that would wait for it more than `LONGEST_WAIT` is left for another
        run, so that one slow host does not hold all threads.

        Args:
            site: scheme and authority, "https://host:port".
            target: path and query.

        Raises:
            FetchError: "robots.txt": it is disallowed. "robots.txt unreachable": no answer, status 5xx or 429: not now.
                "crawl-delay": not now. Or why the host cannot be reached at all, as in `web.download`.
        """
        rules = self._rules(site)
        if rules.failure:
            cause, transient = rules.failure
            raise FetchError(cause, transient=transient)
        if rules.parsed is None:
            return
        if not rules.parsed.can_fetch(site + target, TOKEN):
            raise FetchError("robots.txt", transient=False)
        delay = rules.parsed.crawl_delay(TOKEN) or 0.0
        if 0 < delay < math.inf:
            self._wait(site, delay)

    def _wait(self, site: str, delay: float) -> None:
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._turns.get(site, now))
            if turn - now > LONGEST_WAIT:
                raise FetchError("crawl-delay", transient=True)
            self._turns = {host: next_turn for host, next_turn in self._turns.items() if next_turn > now}
            self._turns[site] = turn + delay
        time.sleep(turn - now)

    def _rules(self, site: str) -> Rules:
        with self._lock:
            future = self._held.get(site)
            known = future is not None and not (future.done() and future.result().until < time.time())
            if future is None or not known:
                future = Future()
                self._put(site, future)
            self._held.move_to_end(site)
        if not known:
            rules = Rules(None, 0.0, failure=UNREACHABLE)
            try:
                rules = self._kept(site) or self._asked(site)
            finally:
                future.set_result(rules)
            self._make_room(rules.size)
        return future.result()

    def _put(self, site: str, future: "Future[Rules]") -> None:
        before = self._held.get(site)
        self._size -= before.result().size if before else 0
        self._held[site] = future

    def _make_room(self, size: int) -> None:
        """Forget the hosts that were not asked for the longest time."""
        with self._lock:
            self._size += size
            done = [site for site, future in self._held.items() if future.done()] if self._size > HELD else []
            for site in done[:-1]:
                if self._size <= HELD:
                    break
                self._size -= self._held.pop(site).result().size

    def _asked(self, site: str) -> Rules:
        """The rules of a host; a failure that may pass is tried again, as all images of the host hang on it."""
        began = time.monotonic()
        rules = self._asked_once(site)
        for attempt in range(TRIES - 1):
            if rules.failure != UNREACHABLE or time.monotonic() - began > PATIENCE:
                break
            time.sleep(0.5 * 2**attempt + 0.5 * random.random())
            rules = self._asked_once(site)
        return rules

    def _asked_once(self, site: str) -> Rules:
        now = time.time()
        try:
            status, body = self._fetch(f"{site}/robots.txt")
        except FetchError as error:
            if error.cause == "redirects":  # RFC 9309 2.3.1.2: too many of them count as "no such file"
                return Rules(None, now + DAY)
            failure = (error.cause, error.transient) if error.cause in OF_THE_HOST else UNREACHABLE
            return Rules(None, now + AGAIN, failure=failure)
        if status >= 500 or status == 429:
            return Rules(None, now + AGAIN, failure=UNREACHABLE)
        text = for_us(body.decode("utf-8-sig", "replace")) if status == 200 else ""
        self._keep(site, now, text)
        return _parsed(text, now + DAY)

    def _kept(self, site: str) -> Rules | None:
        """What an earlier run has kept, if it is not too old and what we wrote."""
        if self._folder is None:
            return None
        path, now = self._file(site), time.time()
        try:
            if path.stat().st_size > 2 * LONGEST_FILE:
                return None
            kept = json.loads(path.read_bytes())
            if kept["site"] == site and now - DAY < kept["asked_at"] <= now:
                return _parsed(for_us(kept["rules"]), kept["asked_at"] + DAY)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None  # not there, or not what we wrote: it is asked for anew
        return None

    def _keep(self, site: str, asked_at: float, text: str) -> None:
        if self._folder is None:
            return
        with suppress(OSError):  # a disk that is full or read-only costs a question more in the next run
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._file(site)) as temporary:
                temporary.write_text(json.dumps({"site": site, "asked_at": asked_at, "rules": text}), "utf-8")

    def _file(self, site: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{hashlib.sha256(site.encode()).hexdigest()[:32]}.json"


def for_us(text: str) -> str:
    """The groups of a robots.txt that name `TOKEN` or everybody, each agent once and nothing but agents and rules.

    As in RFC 9309 2.2.1 agents are compared by their product token, and other lines do not end a group. A file that
    names thousands of agents before thousands of rules cannot make thousands times thousands of them.
    """
    kept: list[str] = []
    agents: set[str] = set()
    naming = False
    for line in text.splitlines():
        rule = line.partition("#")[0].strip()
        if match := AGENT.match(rule):
            if not naming:
                agents.clear()
            naming, agent = True, match[1].lower()
            if agent in (TOKEN, "*") and agent not in agents:
                kept.append(f"User-agent: {agent}")
                agents.add(agent)
        elif RULE.match(rule):
            naming = False
            if agents:
                kept.append(rule)
    return "\n".join(kept)


def opted_out(headers: list[str]) -> bool:
    """Whether an X-Robots-Tag forbids indexing, or use for training, to everyone or to us."""
    for header in headers:
        agent, colon, rest = (part.strip() for part in header.lower().partition(":"))
        addressed = colon and "," not in agent and agent not in TAGS_WITH_VALUES
        if addressed and agent not in (TOKEN, "*"):
            continue
        values = rest if addressed else header.lower()
        if OPT_OUTS & {value.strip() for value in values.split(",")}:
            return True
    return False


def _parsed(text: str, until: float) -> Rules:
    return Rules(Protego.parse(text) if text else None, until, ENTRY + len(text))
