"""Search, fetch and keep images until each class holds the number asked for; every address tried is a ledger row.

The ledger is the truth: a page of candidates and the cursor after it are one commit, each fetch is another. A run that
is killed goes on where it was. Candidates are settled in the order they were offered, so the outcome does not depend on
which download is quicker.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pandas as pd
import requests

from curate.dedup import phash
from curate.images import ImageError, Picture, inspect, remove_leftovers, store
from curate.ledger import Ledger
from curate.manifest import COLUMNS, CurateError
from curate.recipe import Recipe
from curate.sources import Answer, Candidate, FetchError, Source, bing, demo, folder, google
from curate.web import open_session

SOURCES: dict[str, Callable[[Recipe, requests.Session], Source]] = {
    "bing": bing.open_source,
    "google": google.open_source,
    "folder": folder.open_source,
    "demo": demo.open_source,
}
STALE_PAGES = 2  # pages in a row without an unseen address: the search has no more
MAX_ATTEMPTS = 3  # of a download that failed for a passing cause, over all runs
PROVENANCE = ("page_url", "title", "creator", "license", "license_url", "license_basis", "attribution")

Progress = Callable[[str, int, int], None]


@dataclass
class Collection:
    """What a run of `scrape` ended with.

    Attributes:
        counts: images held of each class.
        wanted: images asked for of each class.
        problems: source -> what was wrong with its answers, for a person.
        causes: per class, what became of the candidates that brought no image, with their number.
    """

    counts: dict[str, int]
    wanted: dict[str, int]
    problems: dict[str, str] = field(default_factory=dict)
    causes: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def short(self) -> dict[str, int]:
        """Classes that hold less than was asked for -> how many are missing."""
        return {label: n - self.counts[label] for label, n in self.wanted.items() if self.counts[label] < n}


def scrape(
    recipe: Recipe, wanted: Mapping[str, int], *, root: Path, ledger: Ledger, progress: Progress | None = None
) -> Collection:
    """Fetch until each class of `wanted` holds that many images which decode, are large enough and unique by content.

    Args:
        recipe: says where and what to ask.
        wanted: class -> images that it should hold in all, with those of earlier runs.
        root: the data root; images go to `images/`.
        progress: called with class, images held, images wanted.

    Raises:
        CurateError: an unknown source or class, or a data root that cannot be written.
    """
    if unknown := sorted(set(recipe.sources) - set(SOURCES)):
        raise CurateError(f"no source {', '.join(unknown)}. There are {', '.join(SOURCES)}.")
    if unknown := sorted(set(wanted) - set(recipe.labels)):
        raise CurateError(f"no class {', '.join(unknown)} in recipe {recipe.name}. It has {', '.join(recipe.labels)}.")
    remove_leftovers(root)
    _fetch_lost_files_again(root, ledger, recipe.labels)
    collection = Collection({}, dict(wanted))
    with ExitStack() as stack:
        session = stack.enter_context(open_session(recipe.web))
        pool = stack.enter_context(ThreadPoolExecutor(recipe.web.threads, "fetch"))
        sources = {name: SOURCES[name](recipe, session) for name in recipe.sources}
        for label, number in wanted.items():
            run = _ClassRun(recipe, label, number, root, ledger, sources, collection.problems)
            collection.counts[label] = run.fill(pool, progress or _silent)
    collection.causes = _causes(ledger, collection)
    return collection


def collected(ledger: Ledger, labels: list[str]) -> pd.DataFrame:
    """The manifest of all images held of these classes, class by class in the order they were offered."""
    table = ledger.images(labels)
    table["image_id"] = table["sha256"].str[:16]
    table["status"] = "candidate"
    table["label"] = pd.Categorical(table["label"], labels, ordered=True)
    table = table.sort_values(["label", "fetch_id"], kind="stable").astype({"label": "str"})
    return table[[column for column in COLUMNS if column in table]].reset_index(drop=True)


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


class _ClassRun:
    """The way to one class's number: candidates out of the ledger, then page after page of its searches."""

    def __init__(
        self,
        recipe: Recipe,
        label: str,
        wanted: int,
        root: Path,
        ledger: Ledger,
        sources: dict[str, Source],
        problems: dict[str, str],
    ) -> None:
        self.recipe, self.label, self.wanted = recipe, label, wanted
        self.root, self.ledger, self.sources, self.problems = root, ledger, sources, problems

    def fill(self, pool: ThreadPoolExecutor, progress: Progress) -> int:
        """Images held at the end. Never more downloads under way than images missing: nothing is fetched in vain."""
        held = len(self.ledger.images([self.label]))
        progress(self.label, held, self.wanted)
        under_way: deque[tuple[dict[str, Any], Future[_Fetched]]] = deque()
        candidates = self._candidates()
        window = 4 * self.recipe.web.threads
        while held < self.wanted:
            while len(under_way) < min(window, self.wanted - held) and (row := next(candidates, None)):
                under_way.append((row, pool.submit(self._fetch, row)))
            if not under_way:
                break
            row, future = under_way.popleft()
            held += self._settle(row, future.result())
            progress(self.label, held, self.wanted)
        return held

    def _candidates(self) -> Iterator[dict[str, Any]]:
        """Rows to fetch: those pending from earlier, then new pages, at last once more what failed for now."""
        last = 0
        self.ledger.retry_transient(self.label, MAX_ATTEMPTS)
        names = list(self.sources)
        while True:
            rows = self.ledger.pending(self.label, names, last, 100)
            for row in rows:
                last = row["fetch_id"]
                yield row
            if not rows and not self._next_page():
                return

    def _next_page(self) -> bool:
        """Ask the first search that has something new; False when none has."""
        for name, source in self.sources.items():
            for query in self.recipe.queries(self.label):
                while name not in self.problems:
                    state = self.ledger.cursor(self.label, name, query)
                    if state["exhausted"]:
                        break
                    if self._ask(name, source, query, state):
                        return True
        return False

    def _ask(self, name: str, source: Source, query: str, state: dict[str, Any]) -> int:
        """Keep the next page of one search; how many of its candidates are new."""
        page = source.search(query, self.label, state["cursor"])
        if page.answer not in (Answer.OK, Answer.EMPTY):
            self.problems[name] = f"{page.answer}: {page.detail}" if page.detail else str(page.answer)
            return 0
        offers = [
            {"url": c.url, "rank": rank, **{column: getattr(c, column) for column in PROVENANCE}}
            for rank, c in enumerate(page.candidates, state["offered"] + 1)
        ]
        cursor = page.cursor if page.answer is Answer.OK else None
        return self.ledger.add_page(self.label, name, query, offers, cursor, STALE_PAGES)

    def _fetch(self, row: dict[str, Any]) -> "_Fetched":
        candidate = Candidate(row["url"], title=row["title"] or "")
        if word := excluded_word(candidate, self.recipe.exclude):
            return _Fetched("refused", f"excluded word: {word}")
        try:
            data = self.sources[row["source"]].fetch(row["url"])
            picture, image = inspect(data)
        except FetchError as error:
            return _Fetched("failed", error.cause, error.transient)
        except ImageError as error:
            return _Fetched("failed", f"no image: {error}")
        if min(picture.width, picture.height) < self.recipe.min_side:
            return _Fetched("refused", f"smaller than {self.recipe.min_side} pixels")
        return _Fetched("ok", None, False, data, picture, phash(image))

    def _settle(self, row: dict[str, Any], got: "_Fetched") -> bool:
        """Keep the image and write the row; True when it counts."""
        if got.picture is None:
            self.ledger.settle(row["fetch_id"], got.state, cause=got.cause, transient=got.transient)
            return False
        try:
            name = store(self.root, got.data, got.picture)
        except OSError as error:
            raise CurateError(f"{self.root}: no image can be written: {error}. What was fetched is kept.") from error
        facts = {**got.picture._asdict(), "bytes": len(got.data), "phash": got.phash, "file_name": name, "cause": None}
        return self.ledger.settle(row["fetch_id"], "ok", transient=False, **facts) == "ok"


@dataclass(frozen=True)
class _Fetched:
    state: str
    cause: str | None
    transient: bool = False
    data: bytes = b""
    picture: Picture | None = None
    phash: str | None = None


def _fetch_lost_files_again(root: Path, ledger: Ledger, labels: list[str]) -> None:
    held = ledger.images(labels)
    lost = [row.fetch_id for row in held.itertuples() if not (root / str(row.file_name)).is_file()]
    if lost:
        ledger.forget([int(fetch_id) for fetch_id in lost])


def _causes(ledger: Ledger, collection: Collection) -> dict[str, dict[str, int]]:
    outcomes = ledger.outcomes()
    out = outcomes[outcomes["state"].isin(["failed", "refused", "repeated"])]
    return {label: out[out["label"] == label].groupby("cause")["fetches"].sum().to_dict() for label in collection.short}


def _silent(label: str, held: int, wanted: int) -> None:
    """No progress wanted."""
