"""What all classes of a scraping run share: the sources, what was wrong with them, and the threads that work."""

import os
import re
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import requests

from curate.arrivals import Arrivals
from curate.images import ImageError, inspect, path_in_store, phash
from curate.ledger import Outcome
from curate.manifest import COLUMNS
from curate.recipe import Recipe
from curate.robots import UNASKED
from curate.sources import Answer, Candidate, FetchError, Page, Source
from curate.web import PoliteSession

ODD_PAGES = 3  # pages in a row that could not be had or read before a search, or a source, is left for this run
SEARCHES = 4  # searches under way at once, each of another class
BASES = COLUMNS["license_basis"].values


class Crew:
    """The sources and their problems, and the threads that search, fetch and decode; while its `with` block lasts."""

    def __init__(self, recipe: Recipe, sources: dict[str, Source], session: PoliteSession) -> None:
        self.recipe, self.sources, self.session = recipe, sources, session
        self.problems: dict[str, str] = {}
        self.odd_pages: dict[str, int] = {}
        self.fetchers = ThreadPoolExecutor(recipe.web.threads, "fetch")
        self.searchers = ThreadPoolExecutor(SEARCHES, "search")
        self.decoders = ThreadPoolExecutor(os.cpu_count() or 1, "decode")  # more at once would only take memory

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        pools = (self.searchers, self.fetchers, self.decoders)
        for pool in pools[:2]:
            pool.shutdown(wait=False, cancel_futures=True)
        if kind is not None:
            self.session.abort()
        for pool in pools:
            pool.shutdown()

    def asked(self, name: str) -> bool:
        """Whether a source still is asked in this run."""
        return name not in self.problems or self.odd_pages.get(name, ODD_PAGES) < ODD_PAGES

    def judge(self, name: str, page: Page) -> bool:
        """Whether a source gave a page. A blocked one is not asked again; an odd page or two may be an accident."""
        if page.answer in (Answer.OK, Answer.EMPTY):
            self.odd_pages.pop(name, None)
            self.problems.pop(name, None)
            return True
        self.problems[name] = f"{page.answer}: {page.detail}" if page.detail else str(page.answer)
        passing = page.answer in (Answer.CHANGED, Answer.UNREACHABLE)
        self.odd_pages[name] = self.odd_pages.get(name, 0) + 1 if passing else ODD_PAGES
        return False

    def search(self, name: str, query: str, label: str, cursor: str | None) -> Page:
        """A page of a source; what a source raises is no page, and is said with its place in the source's code."""
        try:
            page = self.sources[name].search(query, label, cursor)
            return replace(page, candidates=tuple(map(_checked, page.candidates)))
        except FetchError as error:
            return Page(Answer.UNREACHABLE, detail=f"{name} could not be reached ({error.cause})")
        except Exception as error:  # a source may be anybody's code
            return Page(Answer.CHANGED, detail=f"{name} cannot be read: {_said(error)}")

    def fetch(self, row: dict[str, Any], arrivals: Arrivals) -> Outcome:
        """What became of one candidate: its bytes come from an earlier arrival or its source."""
        if word := excluded_word(Candidate(row["url"], title=row["title"] or ""), self.recipe.exclude):
            return Outcome(row["fetch_id"], "refused", f"excluded word: {word}")
        try:
            data = arrivals.get(row["url"])
            if data is None:
                data = self._bytes(row["source"], row["url"])
                arrivals.keep(row["url"], data)
        except FetchError as error:
            tried = error.cause not in UNASKED
            return Outcome(row["fetch_id"], "failed", error.cause, error.transient, tried=tried)
        return self.decoders.submit(_examine, row["fetch_id"], data, self.recipe.min_side).result()

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


def _examine(fetch_id: int, data: bytes, min_side: int) -> Outcome:
    """Decode and hash what a fetch brought."""
    try:
        picture, image = inspect(data)
    except ImageError as error:
        return Outcome(fetch_id, "failed", f"no image: {error}")
    if min(picture.width, picture.height) < min_side:
        return Outcome(fetch_id, "refused", f"smaller than {min_side} pixels")
    facts = {**picture._asdict(), "bytes": len(data), "phash": phash(image), "file_name": path_in_store(picture)}
    return Outcome(fetch_id, "ok", facts=facts)


def _checked(candidate: Candidate) -> Candidate:
    if candidate.license_basis not in BASES:
        raise ValueError(f"license_basis {candidate.license_basis!r} is none of {', '.join(BASES)}")
    return candidate


def _said(error: Exception) -> str:
    """An error in a source's code, with the place where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"[:300]
