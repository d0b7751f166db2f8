"""Search, fetch and keep images until each class holds the number asked for; every address tried is a ledger row.

The ledger is the truth: a page of candidates and the cursor after it are one commit, what fetches brought is another. A
run that is killed goes on where it was, and what had arrived is not fetched again. Candidates of a class are settled in
the order they were offered, so the outcome does not depend on which download is quicker. Two processes never work on
one class at a time.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from curate.arrivals import Arrivals
from curate.crew import ODD_PAGES, Crew, Fetch, Search
from curate.errors import CurateError
from curate.ledger import Ledger, Outcome
from curate.licenses import permits
from curate.recipe import Recipe
from curate.sources import Answer, Page
from curate.sources.find import find_sources
from curate.store import remove_leftovers
from curate.web import open_session

ENDLESS = 1_000_000_000
STALE_PAGES = 2  # pages in a row without an unseen address: the search has no more
MAX_ATTEMPTS = 3  # of a download that failed for a passing cause, over all runs
BATCH = 100  # candidates read from the ledger at once
AHEAD = 2  # candidates of a class under way for each thread: one that is slow holds up no more than these
TICK = 0.05  # seconds between two looks at what has come: what came meanwhile is one commit
FEW = 10  # candidates under way, whose end is looked for more often
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
        _fill(runs, crew, ledger, say or _say_nothing)
    collection.counts = {run.label: run.held for run in runs}
    collection.problems = crew.problems
    for run in runs:
        if run.held < run.wanted:
            collection.causes[run.label] = _causes(run, ledger, recipe.license)
            collection.remarks[run.label] = run.remark()
    return collection


def _fill(runs: Sequence["_ClassRun"], crew: Crew, ledger: Ledger, say: Say) -> None:
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
        if active:
            few = sum(len(run.under_way) for run in active) <= FEW
            crew.news.wait(TICK / 5 if few else TICK)
            crew.news.clear()
        elif waiting:
            time.sleep(POLL)


class _ClassRun:
    """The way to one class's number: candidates out of the ledger, then page after page of its searches."""

    def __init__(self, crew: Crew, label: str, wanted: int, root: Path, ledger: Ledger, progress: Progress) -> None:
        self.crew, self.recipe, self.label, self.wanted = crew, crew.recipe, label, wanted
        self.root, self.ledger, self.progress = root, ledger, progress
        self.arrivals = Arrivals(root, label)
        self.lock = FileLock(self.arrivals.folder.with_suffix(".lock"))
        self.held = self.last = 0
        self.offered = deque[dict[str, Any]]()  # candidates whose turn is next, up to the fetch_id `last`
        self.ledger_has_more = True  # candidates beyond `last`
        self.under_way = deque[Fetch]()
        threads, classes = crew.recipe.web.threads, len(crew.recipe.classes)
        self.most = max(AHEAD * threads // classes, threads)  # under way at once
        self.search: Search | None = None
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
        while self.under_way and self.under_way[0].is_over:
            fetch = self.under_way.popleft()
            with _clear_errors(self.root):
                come.append((fetch.row, fetch.result()))
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
        if self.search:
            self._take_pages(self.search)
        most = self.most
        missing = self.wanted - self.held - sum(fetch.may_be_kept for fetch in self.under_way)
        self._look_ahead(min(missing, most))
        for _ in range(min(missing, most - len(self.under_way), len(self.offered))):
            row = self.offered.popleft()
            self.under_way.append(self.crew.start_fetch(row, self.arrivals))
            missing -= 1
        if len(self.offered) < min(missing, most) and not self.search and not self.searched_out:
            self._ask(min(missing, most) - len(self.offered))
        if self.under_way or self.search:
            return True
        self.lock.release()
        return False

    def remark(self) -> str:
        """Why there was nothing more, for a person."""
        said = [f"{name}: {detail}" for name, detail in self.nothing.items()]
        silent = [name for name in self.crew.sources if not self.crew.asked(name)]
        said += [f"no answer from {', '.join(silent)}"] if silent else []
        return "; ".join(said) or "no more were offered"

    def _look_ahead(self, number: int) -> None:
        """See that so many candidates that nobody fetched yet stand ready, if the ledger has them."""
        while len(self.offered) < number and self.ledger_has_more:
            busy = {fetch.row["fetch_id"] for fetch in self.under_way}
            batch = self.ledger.pending(self.label, list(self.crew.sources), self.last, BATCH)
            self.ledger_has_more = len(batch) == BATCH
            for row in batch:
                self.last = row["fetch_id"]
                permitted = permits(row["license"], row["license_basis"], self.recipe.license)
                if permitted and row["fetch_id"] not in busy:
                    self.offered.append(row)

    def _ask(self, enough: int) -> None:
        """Start the first search that may have something new, for so many candidates."""
        for name in self.crew.sources:
            for query in self.recipe.queries(self.label):
                if self.odd[name, query] >= ODD_PAGES or not self.crew.asked(name):
                    continue
                state = self.ledger.cursor(self.label, name, query, self.recipe.license)
                if not state["exhausted"]:
                    search = Search(name, query, self.label, state["cursor"], state["offered"], enough)
                    self.search = self.crew.start_search(search)
                    return
        self.searched_out = True

    def _take_pages(self, search: Search) -> None:
        """Write the pages that have come into the ledger."""
        if search.is_over:  # asked before the pages are taken: none comes after it
            self.search = None
        while search.pages:
            self._take_page(search, search.pages.popleft())
        if search.error:
            raise search.error

    def _take_page(self, search: Search, page: Page) -> None:
        """Write a page of a search into the ledger, with the cursor after it."""
        name, query = search.source, search.query
        if not self.crew.judge(name, page):
            self.odd[name, query] += 1
            return
        if page.answer is Answer.EMPTY and page.detail and not search.offered:
            self.nothing[name] = page.detail
        offers = [
            {"url": c.url, "rank": rank, **{column: getattr(c, column) for column in PROVENANCE}}
            for rank, c in enumerate(page.candidates, search.offered + 1)
        ]
        search.offered += len(page.candidates)
        cursor = page.cursor if page.answer is Answer.OK else None
        stale_limit = ENDLESS if self.crew.sources[name].relist else STALE_PAGES
        self.ledger.add_page(self.label, name, query, offers, cursor, stale_limit, self.recipe.license)
        if self.recipe.license != "any":  # the page may have told the licence of an image that is known
            self.last = 0
            self.offered.clear()
            self._count()
        self.ledger_has_more = True

    def _count(self) -> None:
        stated = self.ledger.held(self.label, "license", "license_basis")
        self.held = sum(permits(license, basis, self.recipe.license) for license, basis in stated)
        self.progress(self.label, self.held, self.wanted)

    def _find_lost_files(self) -> None:
        """What a killed run had not put into the store yet is put there; what was deleted is fetched again."""
        lost = []
        for fetch_id, url, name in self.ledger.held(self.label, "fetch_id", "url", "file_name"):
            if not (self.root / name).is_file() and not self.arrivals.store(url, name):
                lost.append(fetch_id)
        if lost:
            self.ledger.forget(lost)


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
    causes = ledger.causes(run.label)
    known = len(ledger.held(run.label, "fetch_id")) + len(ledger.pending(run.label, list(run.crew.sources)))
    if left := known - run.held if license != "any" else 0:
        causes[f"left out: not known to allow {license}"] = left
    return causes


def _silent(label: str, held: int, wanted: int) -> None:
    """No progress wanted."""


def _say_nothing(line: str) -> None:
    """Nobody listens."""
