"""Contributed images: a file, a folder or a zip goes through the checks of scraped images and into the ledger.

Each file is a ledger row whose address is its content, so that a file given twice is known the second time, whatever
its name. A run that is killed goes on where it was.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pandas as pd
from filelock import FileLock

from curate import licenses
from curate.archive import File, one_line, opened
from curate.attribution import deed
from curate.errors import CurateError
from curate.images import inspect
from curate.ledger import Ledger, Outcome
from curate.recipe import Recipe
from curate.sources import Candidate
from curate.store import ImageError, remove_leftovers, store

SOURCE = "contributed"
BATCH = 50  # files whose rows are written in one step

Progress = Callable[[str, int, int], None]


def add(
    path: Path,
    recipe: Recipe,
    *,
    label: str,
    contributor: str,
    license: str,
    root: Path,
    ledger: Ledger,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Take contributed images into the ledger and the image store.

    Memory does not grow with the size of the images; hidden files and what systems leave behind are passed over.

    Args:
        path: an image, a folder (with the folders in it), or a zip.
        label: the class that all of them belong to.
        contributor: the name to credit.
        license: under which they are given; any name of a licence that is recognised becomes its SPDX id.
        root: the data root.
        progress: called with the label, files done, files in all.

    Returns:
        One row a file, in their order: `file`, `state` (taken, repeated: its bytes are known, refused: too small or
        of no use, failed: no image that can be read), `cause` (empty where it is taken).

    Raises:
        CurateError: no such path or class, no name or licence, a zip that is damaged or hostile (nothing is taken
            then), a data root that cannot be written (what was taken is kept).
    """
    taking = _Taking(recipe, label, contributor, license, one_line(path.name), root, ledger)
    remove_leftovers(root)
    rows: list[tuple[str, str, str]] = []
    with opened(path, recipe.web.max_bytes) as (total, files):
        checked = (taking.check(file) for file in files)
        while batch := list(islice(checked, BATCH)):
            rows += taking.settle(batch)
            if progress:
                progress(label, len(rows), total)
    return pd.DataFrame(rows, columns=["file", "state", "cause"])


class _Checked(NamedTuple):
    """What one file is: the row it should become."""

    name: str
    url: str
    state: str
    cause: str | None
    facts: dict[str, Any]
    fetch_id: int | None = None
    settled: bool = False  # the ledger says so already


class _Taking:
    """The way of files into one class, all of one contributor."""

    def __init__(
        self, recipe: Recipe, label: str, contributor: str, license: str, given: str, root: Path, ledger: Ledger
    ) -> None:
        if label not in recipe.labels:
            raise CurateError(f"no class {label!r} in recipe {recipe.name}. It has {', '.join(recipe.labels)}.")
        self.recipe, self.label, self.root, self.ledger = recipe, label, root, ledger
        self.creator, named = one_line(contributor), one_line(license)
        if not self.creator:
            raise CurateError("who contributes is not said: --contributor needs a name to credit.")
        if not named:
            raise CurateError("the licence is not said: --license needs one that the contributor gave, as CC-BY-4.0.")
        self.license = licenses.identify(named) or named
        self.given = given
        self.verdicts = ledger.standing()

    def check(self, file: File) -> _Checked:
        """Look a file up, else decode and store it; its bytes are not held any longer."""
        if file.data is None:
            url = "contribution:unread:" + _digest(f"{self.given}/{file.name}".encode("utf-8", "surrogatepass"))
            return _Checked(file.name, url, file.state, file.cause, {})
        sha256 = _digest(file.data)
        url = f"contribution:{sha256}"
        held = self.ledger.find(sha256=sha256)
        if held and (self.root / held["file_name"]).is_file():
            return _Checked(file.name, url, "repeated", self._known(held, url), {"sha256": sha256})
        state, cause, facts = self._decoded(file.data)
        if held and state == "ok":
            state, cause = "repeated", f"{self._known(held, url)}; its file was lost and is back"
        return _Checked(file.name, url, state, cause, facts)

    def settle(self, batch: list[_Checked]) -> list[tuple[str, str, str]]:
        """Write a batch's rows; (file, state, cause) of each."""
        first: dict[str, _Checked] = {}
        with _alone(self.root):
            for checked in batch:
                if checked.url not in first:
                    first[checked.url] = self._compared(checked)
            written = self._write(list(first.values()))
        said: list[tuple[str, str, str]] = []
        told: set[str] = set()
        for checked in batch:
            kept = first[checked.url]
            said.append(_again(checked, kept) if checked.url in told else _said(kept, written))
            told.add(checked.url)
        return said

    def _write(self, batch: list[_Checked]) -> dict[str, str]:
        """The rows of files that differ from one another; url -> the state that was written, where one was."""
        offers = [self._offer(checked) for checked in batch if checked.fetch_id is None]
        if offers:
            rank = self.ledger.cursor(self.label, SOURCE, self.given)["offered"]
            offers = [{**offer, "rank": rank + i} for i, offer in enumerate(offers, 1)]
            self.ledger.add_page(self.label, SOURCE, self.given, offers, None, 1)
        rows = [self.ledger.find(url=offer["url"]) for offer in offers]
        ids = {row["url"]: row["fetch_id"] for row in rows if row}
        due = [checked for checked in batch if not checked.settled]
        self.ledger.offer_again(self.label, {c.fetch_id: self._offer(c) for c in due if c.fetch_id is not None})
        outcomes = [Outcome(c.fetch_id or ids[c.url], c.state, c.cause, facts=c.facts) for c in due]
        return dict(zip([c.url for c in due], self.ledger.settle(outcomes), strict=True)) if due else {}

    def _decoded(self, data: bytes) -> tuple[str, str | None, dict[str, Any]]:
        """State, cause and facts of new bytes; an image that is taken lies in the store then."""
        try:
            picture = inspect(data)
        except ImageError as error:
            return "failed", f"no image: {error}", {}
        if min(picture.width, picture.height) < self.recipe.min_side:
            return "refused", f"smaller than {self.recipe.min_side} pixels", {}
        try:
            name = store(self.root, data, picture)
        except OSError as error:
            raise CurateError(f"{self.root}: no image can be written: {error}. What was taken is kept.") from error
        return "ok", None, {**picture._asdict(), "file_name": name}

    def _known(self, held: dict[str, Any], url: str) -> str:
        """Whose bytes they are, and what a reviewer decided on them."""
        same = held["url"] == url and held["label"] == self.label
        cause = "added before" if same else f"the same bytes as an image of {held['label']}"
        if same and (held["creator"], held["license"]) != (self.creator, self.license):
            cause = f"added before, by {held['creator']} under {held['license']}: that stays"
        image_id = held["sha256"][:16]
        if image_id in self.verdicts.index and self.verdicts.at[image_id, "verdict"] == "reject":
            return f"{cause}, rejected: {self.verdicts.at[image_id, 'reason']}"
        return cause

    def _compared(self, checked: _Checked) -> _Checked:
        """With the row of an earlier time; what is held under this very address is not written again."""
        row = self.ledger.find(url=checked.url)
        if row is None:
            return checked
        if row["state"] == checked.state == "ok":  # another process took it since it was looked up
            return checked._replace(state="repeated", cause=self._known(row, checked.url), fetch_id=-1, settled=True)
        same = (row["state"], row["cause"]) == (checked.state, checked.cause)
        held = checked.state == "repeated" and row["state"] in ("ok", "repeated")
        return checked._replace(fetch_id=row["fetch_id"], settled=same or held)

    def _offer(self, checked: _Checked) -> dict[str, Any]:
        title = one_line(PurePosixPath(checked.name).name) or "untitled"
        candidate = Candidate(
            checked.url,
            title=title,
            creator=self.creator,
            license=self.license,
            license_url=deed(self.license),
            license_basis="asserted",
            attribution=licenses.credit_line(title, self.creator, self.license, ""),
        )
        texts = ("page_url", "title", "creator", "license", "license_url", "license_basis", "attribution")
        return {"url": candidate.url, **{name: getattr(candidate, name) or None for name in texts}}


def _said(checked: _Checked, written: dict[str, str]) -> tuple[str, str, str]:
    state = written.get(checked.url, checked.state)
    cause = "the same bytes as another image" if state == "repeated" and not checked.cause else checked.cause
    return one_line(checked.name), "taken" if state == "ok" else state, cause or ""


def _again(checked: _Checked, first: _Checked) -> tuple[str, str, str]:
    """What is said of a file whose bytes came a moment ago under another name."""
    name = one_line(checked.name)
    if first.state in ("ok", "repeated"):
        return name, "repeated", f"the same bytes as {one_line(first.name)}"
    return name, first.state, first.cause or ""


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """While this lasts no other process compares a contribution with the ledger, or writes one into it."""
    try:
        lock = FileLock(root / "contributions.lock")
        lock.acquire()
    except OSError as error:
        raise CurateError(f"{root}: cannot be written: {error}. What was taken is kept.") from error
    try:
        yield
    finally:
        lock.release()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
