"""What all classes of a scraping run share: the sources, what was wrong with them, and who does the work.

Threads search and fetch, processes decode.
"""

import re
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import unquote, urlsplit

import requests

from curate.arrivals import Arrivals
from curate.client import descriptors
from curate.decoders import DecoderDied, Decoders, Found
from curate.ledger import Outcome
from curate.recipe import Recipe
from curate.robots import UNASKED
from curate.sources import Answer, Candidate, FetchError, Page, Source
from curate.store import ImageError, path_in_store
from curate.web import PoliteSession
from curate.words import LICENSE_BASES

ODD_PAGES = 3  # pages in a row that could not be had or read before a search, or a source, is left for this run
SEARCHES = 4  # searches under way at once, each of another class


@dataclass(slots=True)
class Fetch:
    """A candidate under way; `outcome` is None until it is known, or an error that is not the candidate's fault."""

    row: dict[str, Any]
    outcome: Outcome | BaseException | None = None

    @property
    def is_over(self) -> bool:
        """Whether the outcome is known."""
        return self.outcome is not None

    @property
    def may_be_kept(self) -> bool:
        """Whether it may bring an image still, or has brought one."""
        return not isinstance(self.outcome, Outcome) or self.outcome.state == "ok"

    def result(self) -> Outcome:
        """The outcome, which must be known; an error is raised."""
        if isinstance(self.outcome, Outcome):
            return self.outcome
        raise self.outcome or RuntimeError("the outcome is not known yet")


@dataclass(slots=True)
class Search:
    """The pages of one query, asked for one after the other until `enough` addresses have come.

    Attributes:
        cursor: where it begins.
        offered: candidates of the query before the next one of `pages`.
        pages: what has come, until it is taken away.
        is_over: no more pages come.
        error: what a source raised that is more than a bad answer, as SystemExit.
    """

    source: str
    query: str
    label: str
    cursor: str | None
    offered: int
    enough: int
    pages: deque[Page] = field(default_factory=deque)
    is_over: bool = False
    error: BaseException | None = None


class Crew:
    """The sources and their problems, who searches, who fetches and who decodes; while its `with` block lasts."""

    def __init__(self, recipe: Recipe, sources: dict[str, Source], session: PoliteSession) -> None:
        self.recipe, self.sources, self.session = recipe, sources, session
        self.problems: dict[str, str] = {}
        self.odd_pages: dict[str, int] = {}
        self.news = threading.Event()  # a page has come, or a candidate brought nothing: start another
        self.closed = False
        self.searchers = ThreadPoolExecutor(SEARCHES, "search")
        self.decoders = Decoders()
        self._to_fetch = SimpleQueue[Callable[[], None] | None]()
        places = range(min(recipe.web.threads, max(descriptors() // 4, 1)))  # each may hold a connection and a file
        self._fetchers = [threading.Thread(target=self._fetch, args=(place,), daemon=True) for place in places]

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.closed = True
        for _fetcher in self._fetchers:
            self._to_fetch.put(None)
        self.searchers.shutdown(wait=False, cancel_futures=True)
        if kind is not None:
            self.session.abort()
        self.searchers.shutdown()
        for fetcher in self._fetchers:  # each has started the next before it ends
            if fetcher.ident is not None:
                fetcher.join()
        self.decoders.close(at_once=kind is not None)  # what is not decoded yet the next run finds where it arrived

    def asked(self, name: str) -> bool:
        """Whether a source still is asked in this run."""
        return name not in self.problems or self.odd_pages.get(name, ODD_PAGES) < ODD_PAGES

    def judge(self, name: str, page: Page) -> bool:
        """Whether a source gave a page. A blocked one is not asked again; an odd page or two may be an accident."""
        if page.answer in (Answer.OK, Answer.EMPTY):
            if self.asked(name):
                self.odd_pages.pop(name, None)
                self.problems.pop(name, None)
            return True
        self.problems[name] = f"{page.answer}: {page.detail}" if page.detail else str(page.answer)
        passing = page.answer in (Answer.CHANGED, Answer.UNREACHABLE)
        self.odd_pages[name] = self.odd_pages.get(name, 0) + 1 if passing else ODD_PAGES
        return False

    def start_search(self, search: Search) -> Search:
        """Put a search under way: page after page, each when the one before it has come; `news` is set with each."""
        self.searchers.submit(self._search, search)
        self._start_fetchers()  # while the first page is awaited
        return search

    def start_fetch(self, row: dict[str, Any], arrivals: Arrivals) -> Fetch:
        """Put one candidate under way: a thread fetches it, then a process decodes it.

        Who fetches never waits for who decodes, and what waits to be decoded lies on disk, not in memory.
        """
        fetch = Fetch(row)

        def bring() -> None:
            try:
                fetch.outcome = self._bring(row, arrivals)
            except BaseException as error:
                fetch.outcome = error
            if fetch.outcome is None:
                self.decoders.submit(arrivals.path(row["url"]), examine)
            else:
                self.news.set()

        def examine(found: Found) -> None:
            fetch.outcome = _examined(row, found, self.recipe.min_side)
            if not fetch.may_be_kept:
                self.news.set()

        self._start_fetchers()
        self._to_fetch.put(bring)
        return fetch

    def _start_fetchers(self) -> None:
        """Start who fetches and who decodes, once; of the many threads each starts the next one."""
        if self._fetchers[0].ident is None:
            self.decoders.start()
            self._fetchers[0].start()

    def _fetch(self, place: int) -> None:
        if place + 1 < len(self._fetchers) and not self.closed:
            with suppress(RuntimeError):  # the system gives no more threads: those that are there do the work
                self._fetchers[place + 1].start()
        while (task := self._to_fetch.get()) is not None:
            if not self.closed:
                task()

    def _search(self, search: Search) -> None:
        try:
            for page in self._pages(search):
                search.pages.append(page)
                self.news.set()
        except BaseException as error:
            search.error = error
        search.is_over = True
        self.news.set()

    def _pages(self, search: Search) -> Iterator[Page]:
        """Page after page while there are more, enough has not come, and the source is to be asked."""
        cursor, seen, stale = search.cursor, set[str](), False
        while len(seen) < search.enough and not stale and not self.closed and self.asked(search.source):
            page = self._page(search.source, search.query, search.label, cursor)
            cursor, before = page.cursor, len(seen)
            seen.update(candidate.url for candidate in page.candidates)
            stale = len(seen) == before  # the same page again, or none: whether to go on is for the ledger to say
            yield page
            if page.answer is not Answer.OK or cursor is None:
                return

    def _page(self, name: str, query: str, label: str, cursor: str | None) -> Page:
        """A page of a source; what a source raises is no page, and is said with its place in the source's code."""
        try:
            page = self.sources[name].search(query, label, cursor)
            return replace(page, candidates=tuple(map(_checked, page.candidates)))
        except FetchError as error:
            return Page(Answer.UNREACHABLE, detail=f"{name} could not be reached ({error.cause})")
        except Exception as error:  # a source may be anybody's code
            return Page(Answer.CHANGED, detail=f"{name} cannot be read: {_said(error)}")

    def _bring(self, row: dict[str, Any], arrivals: Arrivals) -> Outcome | None:
        """See that a candidate's bytes have arrived, from its source or in an earlier run; or why they cannot."""
        if word := excluded_word(Candidate(row["url"], title=row["title"] or ""), self.recipe.exclude):
            return Outcome(row["fetch_id"], "refused", f"excluded word: {word}")
        if arrivals.came_before(row["url"]):
            return None
        try:
            arrivals.keep(row["url"], self._bytes(row["source"], row["url"]))
        except FetchError as error:
            tried = error.cause not in UNASKED
            return Outcome(row["fetch_id"], "failed", error.cause, error.transient, tried=tried)
        return None

    def _bytes(self, name: str, url: str) -> bytes:
        try:
            return self.sources[name].fetch(url)
        except FetchError:
            raise
        except (requests.RequestException, OSError) as error:
            raise FetchError("connection", transient=True) from error
        except Exception as error:  # a source may be anybody's code
            raise FetchError(f"the source failed: {_said(error)}", transient=True) from error


def excluded_word(candidate: Candidate, words: tuple[str, ...]) -> str | None:
    """The first word or phrase of `words` that stands, as whole words, in the title or the web address; else None."""
    address = urlsplit(candidate.url)
    path = unquote(address.path) if address.scheme in ("http", "https") else ""
    text = _spaced(f"{candidate.title} {path}")
    return next((word for word in words if _spaced(word) in text), None)


def _spaced(text: str) -> str:
    """The words of a text between single spaces, with one at each end."""
    words = re.findall(r"[^\W_]+", text.casefold())
    return f" {' '.join(words)} "


def _examined(row: dict[str, Any], found: Found, min_side: int) -> Outcome | Exception:
    """What decoding says of a candidate; an error that is not its fault."""
    fetch_id = row["fetch_id"]
    if isinstance(found, ImageError | DecoderDied):
        return Outcome(fetch_id, "failed", f"no image: {found}", transient=isinstance(found, DecoderDied))
    if isinstance(found, Exception):
        return found
    if min(found.width, found.height) < min_side:
        return Outcome(fetch_id, "refused", f"smaller than {min_side} pixels")
    return Outcome(fetch_id, "ok", facts={**found._asdict(), "file_name": path_in_store(found)})


def _checked(candidate: Candidate) -> Candidate:
    if candidate.license_basis not in LICENSE_BASES:
        raise ValueError(f"license_basis {candidate.license_basis!r} is none of {', '.join(LICENSE_BASES)}")
    return candidate


def _said(error: Exception) -> str:
    """An error in a source's code, with the place where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"[:300]
