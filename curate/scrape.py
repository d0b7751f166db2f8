"""Search, fetch and keep images until each class holds the number asked for; every address tried is a ledger row.

The ledger is the truth: a page of candidates and the cursor after it are one commit, what fetches brought is another. A
run that is killed goes on where it was, and what had arrived is not fetched again. Candidates of a class are settled in
the order they were offered, so the outcome does not depend on which download is quicker. Two processes never work on
one class at a time.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from curate.arrivals import Arrivals
from curate.crew import ODD_PAGES, Crew
from curate.images import remove_leftovers
from curate.ledger import Ledger, Outcome
from curate.licenses import permits
from curate.manifest import COLUMNS, CurateError
from curate.recipe import Recipe
from curate.sources import Answer, Page
from curate.sources.find import find_sources
from curate.web import open_session

ENDLESS = 1_000_000_000
STALE_PAGES = 2  # pages in a row without an unseen address: the search has no more
MAX_ATTEMPTS = 3  # of a download that failed for a passing cause, over all runs
AHEAD = 2  # candidates of a class under way for each thread: one that is slow holds up no more than these
TICK = 0.05  # seconds between two looks at what has come: what came meanwhile is one commit
POLL = 0.5  # seconds between two looks at a class that another process works on
PROVENANCE = ("page_url", "title", "creator", "license", "license_url", "license_basis", "attribution")

Progress = Callable[[str, int, int], None]
Say = Callable[[str], None]


@dataclass
class Collection:
    """What a run of `scrape` ended with.

    Attributes:
        counts: images held of each class.
        wanted: images asked for of each class.
        problems: source -> what was wrong with its answers, for a person.
        causes: per class, what became of the candidates that brought no image, with their number.
        remarks: per class that is short, what sources said that had nothing at all.
    """

    counts: dict[str, int]
    wanted: dict[str, int]
    problems: dict[str, str] = field(default_factory=dict)
    causes: dict[str, dict[str, int]] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)

    @property
    def short(self) -> dict[str, int]:
        """Classes that hold less than was asked for -> how many are missing."""
        return {label: n - self.counts[label] for label, n in self.wanted.items() if self.counts[label] < n}


def scrape(
    recipe: Recipe,
    wanted: Mapping[str, int],
    *,
    root: Path,
    ledger: Ledger,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Collection:
    """Fetch until each class of `wanted` holds that many images which decode, are large enough and unique by content.

    Time and traffic grow linearly with the images wanted; memory holds no image longer than its decoding takes.

    Args:
        recipe: says where and what to ask, and what the licences must allow.
        wanted: class -> images that it should hold in all, with those of earlier runs.
        root: the data root; images go to `images/`.
        progress: called with class, images held, images wanted.
        say: called with a line for a person, when there is something to say.

    Raises:
        CurateError: an unknown source or class, or a data root that cannot be written.
    """
    if unknown := sorted(set(wanted) - set(recipe.labels)):
        raise CurateError(f"no class {', '.join(unknown)} in recipe {recipe.name}. It has {', '.join(recipe.labels)}.")
    found = find_sources(recipe.sources)
    _make_root(root)
    remove_leftovers(root)
    collection = Collection({}, dict(wanted))
    with ExitStack() as stack:
        session = stack.enter_context(open_session(recipe.web, root / "cache"))
        sources = {name: open_source(recipe, session) for name, open_source in found.items()}
        crew = Crew(recipe, sources, session)
        runs = [_ClassRun(crew, label, n, root, ledger, progress or _silent) for label, n in wanted.items()]
        for run in runs:
            stack.callback(run.lock.release)  # when nothing is under way any more
        stack.enter_context(crew)
        _fill(runs, ledger, say or _say_nothing)
    collection.counts = {run.label: run.held for run in runs}
    collection.problems = crew.problems
    for run in runs:
        if run.held < run.wanted:
            collection.causes[run.label] = _causes(run, ledger, recipe.license)
            collection.remarks[run.label] = run.remark()
    return collection


def collected(ledger: Ledger, labels: list[str], license: str = "any") -> pd.DataFrame:
    """The manifest of all images held of these classes under such a licence, in the order they were offered."""
    table = _permitted(ledger.images(labels), license)
    table["image_id"] = table["sha256"].str[:16]
    table["status"] = "candidate"
    table["label"] = pd.Categorical(table["label"], labels, ordered=True)
    table = table.sort_values(["label", "fetch_id"], kind="stable").astype({"label": "str"})
    return table[[column for column in COLUMNS if column in table]].reset_index(drop=True)


def _fill(runs: Sequence["_ClassRun"], ledger: Ledger, say: Say) -> None:
    """Work on all classes at once until each is full or has no more; classes of another process come after it."""
    waiting, active = list(runs), list[_ClassRun]()
    told = False
    while waiting or active:
        begun = [run for run in waiting if run.begin()]
        waiting = [run for run in waiting if run not in begun]
        active += begun
        if waiting and not told:
            told = True
            names = ", ".join(run.label for run in waiting)
            say(f"{names}: another process is fetching there; this one goes on when it is done")
        settled = [(run, *pair) for run in active for pair in run.arrived()]
        states = ledger.settle([outcome for _, _, outcome in settled])
        for (run, row, outcome), state in zip(settled, states, strict=True):
            run.keep(row, outcome, state)
        active = [run for run in active if run.goes_on()]
        if under_way := [future for run in active for future in run.next_to_come()]:
            wait(under_way, timeout=POLL if waiting else None, return_when=FIRST_COMPLETED)
        time.sleep(POLL if waiting and not active else TICK)


class _ClassRun:
    """The way to one class's number: candidates out of the ledger, then page after page of its searches."""

    def __init__(self, crew: Crew, label: str, wanted: int, root: Path, ledger: Ledger, progress: Progress) -> None:
        self.crew, self.recipe, self.label, self.wanted = crew, crew.recipe, label, wanted
        self.root, self.ledger, self.progress = root, ledger, progress
        self.arrivals = Arrivals(root, label)
        self.lock = FileLock(self.arrivals.folder.with_suffix(".lock"))
        self.held = self.last = 0
        self.under_way: deque[tuple[dict[str, Any], Future[Outcome]]] = deque()
        self.search: tuple[str, str, int, Future[Page]] | None = None
        self.odd: Counter[tuple[str, str]] = Counter()  # searches -> pages of them in this run that were none
        self.nothing: dict[str, str] = {}  # source -> what it said when it had nothing at all
        self.searched_out = False

    def begin(self) -> bool:
        """Take the class, unless another process has it, and see what earlier runs left."""
        with _clear_errors(self.root):
            try:
                self.lock.acquire(blocking=False)
            except Timeout:
                return False
            self._find_lost_files()
            self.ledger.retry_transient(self.label, MAX_ATTEMPTS)
            self.arrivals.open(row["url"] for row in self.ledger.pending(self.label))
        for name, source in self.crew.sources.items():
            if source.relist:
                self.ledger.begin_again(self.label, name)
        self._count()
        return True

    def arrived(self) -> list[tuple[dict[str, Any], Outcome]]:
        """What has come since, as far as everything offered before it has come too."""
        come = []
        while self.under_way and self.under_way[0][1].done():
            row, future = self.under_way.popleft()
            come.append((row, _result(future, self.root)))
        return come

    def keep(self, row: dict[str, Any], outcome: Outcome, state: str) -> None:
        """The ledger knows how it ended: put the bytes where they belong."""
        if state == "ok":
            with _clear_errors(self.root):
                self.arrivals.store(row["url"], outcome.facts["file_name"])
            self.held += 1
            self.progress(self.label, self.held, self.wanted)
        else:
            self.arrivals.discard(row["url"])

    def goes_on(self) -> bool:
        """Start what is needed next; False, and the class is left, when it is full or there is no more."""
        if self.search and self.search[-1].done():
            self._take_page(*self.search)
        room = AHEAD * self.recipe.web.threads - len(self.under_way)
        missing = min(self.wanted - self.held - len(self.under_way), room)
        if missing > 0:
            rows = self._next_rows(missing)
            for row in rows:
                self.under_way.append((row, self.crew.fetchers.submit(self.crew.fetch, row, self.arrivals)))
            if len(rows) < missing and not self.search and not self.searched_out:
                self._ask()
        if self.under_way or self.search:
            return True
        self.lock.release()
        return False

    def next_to_come(self) -> list[Future[Any]]:
        """What the class waits for: the candidate that was offered first, and its search."""
        first = [self.under_way[0][1]] if self.under_way else []
        return [*first, self.search[-1]] if self.search else first

    def remark(self) -> str:
        """Why there was nothing more, for a person."""
        said = [f"{name}: {detail}" for name, detail in self.nothing.items()]
        silent = [name for name in self.crew.sources if not self.crew.asked(name)]
        said += [f"no answer from {', '.join(silent)}"] if silent else []
        return "; ".join(said) or "no more were offered"

    def _next_rows(self, number: int) -> list[dict[str, Any]]:
        """Candidates that nobody fetched yet, at most so many, whose licence is as asked for."""
        rows: list[dict[str, Any]] = []
        names = list(self.crew.sources)
        busy = {row["fetch_id"] for row, _ in self.under_way}
        while len(rows) < number and (batch := self.ledger.pending(self.label, names, self.last, 100)):
            for row in batch[: number - len(rows)]:
                self.last = row["fetch_id"]
                permitted = permits(row["license"] or "", row["license_basis"] or "unknown", self.recipe.license)
                if permitted and row["fetch_id"] not in busy:
                    rows.append(row)
        return rows

    def _ask(self) -> None:
        """Start the first search that may have something new."""
        for name in self.crew.sources:
            for query in self.recipe.queries(self.label):
                if self.odd[name, query] >= ODD_PAGES or not self.crew.asked(name):
                    continue
                state = self.ledger.cursor(self.label, name, query, self.recipe.license)
                if not state["exhausted"]:
                    page = self.crew.searchers.submit(self.crew.search, name, query, self.label, state["cursor"])
                    self.search = name, query, state["offered"], page
                    return
        self.searched_out = True

    def _take_page(self, name: str, query: str, offered: int, future: Future[Page]) -> None:
        """Write the page of a search into the ledger, with the cursor after it."""
        self.search, page = None, future.result()
        if not self.crew.judge(name, page):
            self.odd[name, query] += 1
            return
        if page.answer is Answer.EMPTY and page.detail and not offered:
            self.nothing[name] = page.detail
        offers = [
            {"url": c.url, "rank": rank, **{column: getattr(c, column) for column in PROVENANCE}}
            for rank, c in enumerate(page.candidates, offered + 1)
        ]
        cursor = page.cursor if page.answer is Answer.OK else None
        stale_limit = ENDLESS if self.crew.sources[name].relist else STALE_PAGES
        self.ledger.add_page(self.label, name, query, offers, cursor, stale_limit, self.recipe.license)
        if self.recipe.license != "any":  # the page may have told the licence of an image that is known
            self.last = 0
            self._count()

    def _count(self) -> None:
        self.held = len(_permitted(self.ledger.images([self.label]), self.recipe.license))
        self.progress(self.label, self.held, self.wanted)

    def _find_lost_files(self) -> None:
        """What a killed run had not put into the store yet is put there; what was deleted is fetched again."""
        lost = []
        for row in self.ledger.images([self.label]).itertuples():
            url, name = str(row.url), str(row.file_name)
            if not (self.root / name).is_file() and not self.arrivals.store(url, name):
                lost.append(int(str(row.fetch_id)))
        if lost:
            self.ledger.forget(lost)


def _permitted(images: pd.DataFrame, license: str) -> pd.DataFrame:
    pairs = zip(images["license"].fillna(""), images["license_basis"].fillna("unknown"), strict=True)
    permitted = [permits(given, basis, license) for given, basis in pairs]
    return images[pd.Series(permitted, index=images.index, dtype=bool)].copy()


def _result(future: Future[Outcome], root: Path) -> Outcome:
    with _clear_errors(root):
        return future.result()


def _make_root(root: Path) -> None:
    with _clear_errors(root):
        root.mkdir(parents=True, exist_ok=True)


@contextmanager
def _clear_errors(root: Path) -> Iterator[None]:
    """What the disk refuses is said so that the user can put it right."""
    try:
        yield
    except OSError as error:
        raise CurateError(
            f"{root}: nothing can be written there: {error.strerror or error}. What was fetched is kept; make room or "
            "allow writing, then run the same command again."
        ) from error


def _causes(run: "_ClassRun", ledger: Ledger, license: str) -> dict[str, int]:
    """What became of a class's candidates that brought no image, or none that may be used."""
    outcomes = ledger.outcomes()
    out = outcomes[outcomes["state"].isin(["failed", "refused", "repeated"]) & (outcomes["label"] == run.label)]
    causes: dict[str, int] = out.groupby("cause")["fetches"].sum().to_dict()
    known = len(ledger.images([run.label])) + len(ledger.pending(run.label, list(run.crew.sources)))
    if left := known - run.held if license != "any" else 0:
        causes[f"left out: not known to allow {license}"] = left
    return causes


def _silent(label: str, held: int, wanted: int) -> None:
    """No progress wanted."""


def _say_nothing(line: str) -> None:
    """Nobody listens."""
