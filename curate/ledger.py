"""The ledger: every address ever tried, where each search stands, and every review decision, in one database.

Fetches are updated in place; decisions are only ever appended (an undo is a decision too).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from curate import leases
from curate.database import Database, known
from curate.errors import CurateError
from curate.schema import cursors, decisions, fetches, opinions, wait_for_turn
from curate.settle import Outcome, add_page, now, same, settle
from curate.words import PAIR_VERDICTS, REASONS, VERDICTS

if TYPE_CHECKING:
    import pandas as pd

CANDIDATE = ("fetch_id", "url", "source", "title", "license", "license_basis")  # what a fetch needs to know
JUDGEMENTS = ("accept", "reject", "relabel")


class Decision(NamedTuple):
    """One judgement of one image, or of two.

    Attributes:
        verdict: accept, reject, relabel (accept under `label`), skip, undo; same or different, of two images.
        reason: of a rejection, one of `words.REASONS`.
        label: of a relabel, the class it belongs to.
        other: of a judgement of two images, the second one; of a second opinion, the decision_id that it answers.
        undoes: of an undo, the decision_id taken back.
        batch: the same for decisions made in one step, so that one undo takes them all back.
        decision_id: made by whoever decides (a browser too): the same id twice is stored once.
    """

    image_id: str
    verdict: str
    reason: str | None = None
    label: str | None = None
    other: str | None = None
    undoes: str | None = None
    batch: str | None = None
    reviewer: str = "local"
    decided_at: str = ""
    decision_id: str = ""


class Ledger:
    """One open ledger; safe to use from several threads and processes."""

    def __init__(self, where: Path | str) -> None:
        """Open or make it: a path is an SQLite file, text with `://` the URL of an SQLite or PostgreSQL database.

        Raises:
            CurateError: it cannot be opened, or is no ledger.
        """
        self._database = Database(where)
        self.where = self._database.where  # a URL without its password
        self.engine = self._database.engine

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._database.close()

    def decide(self, new: Iterable[Decision]) -> int:
        """Append decisions, all or none, on disk when this returns; how many were new.

        Raises:
            CurateError: an unknown verdict or reason, a relabel without a label, an undo of nothing.
        """
        return self._append(decisions, new)

    def opine(self, new: Iterable[Decision]) -> int:
        """Append opinions of a second, blind review, as `decide` does; they never touch what is decided."""
        return self._append(opinions, new)

    def history(self) -> pd.DataFrame:
        """Every decision ever made, oldest first."""
        return self._database.table(sa.select(decisions).order_by(decisions.c.position))

    def since(self, position: int) -> list[tuple[int, Decision]]:
        """The decisions beyond a position in the ledger, each with its own, oldest first.

        They come to be seen in the order of their positions: none appears later below a position that was read.
        """
        query = sa.select(decisions).where(decisions.c.position > position).order_by(decisions.c.position)
        with self._database.reading() as connection:
            rows = connection.execute(query).mappings().all()
        return [(row["position"], Decision(**{name: row[name] for name in Decision._fields})) for row in rows]

    def standing(self) -> pd.DataFrame:
        """The decision in force for each image (undone ones and skips do not count), by `image_id`."""
        valid = _valid(self.history(), JUDGEMENTS)
        return valid.drop_duplicates("image_id", keep="last").set_index("image_id")

    def opinions(self) -> pd.DataFrame:
        """Every opinion ever given, oldest first; the columns of `history`."""
        return self._database.table(sa.select(opinions).order_by(opinions.c.position))

    def standing_opinions(self) -> pd.DataFrame:
        """The last opinion of each reviewer on each image (undone ones and skips do not count), oldest first."""
        return _valid(self.opinions(), JUDGEMENTS).drop_duplicates(["image_id", "reviewer"], keep="last")

    def claim(self, image_ids: Iterable[str], reviewer: str, *, seconds: float) -> set[str]:
        """Lease images to a reviewer, as many of them as nobody else holds; those that the reviewer holds now.

        To claim again renews. Each is the reviewer's for `seconds`, or for at least half of that where a renewal was
        not due: then nothing is written, so that it can be asked for often. All claims of one name are one reviewer's.

        A lease says who looks at an image, not whether it is judged: read the decisions (`since`) after claiming,
        and leave out what another reviewer judged before his lease ended. Leases do not wait for the disk: when the
        machine of the database loses its power, those of the last second may be free again.

        Args:
            image_ids: any; an image need not be in a manifest.
            reviewer: who wants them.
            seconds: by the clock of the database, so that those of the reviewers' machines need not agree.

        Raises:
            CurateError: `reviewer` is empty, `seconds` is not above 0, or the ledger cannot be written.
        """
        if not reviewer or not 0 < seconds < float("inf"):
            raise CurateError(f"a lease needs a reviewer and seconds above 0; found {reviewer!r}, {seconds}.")
        wanted = sorted(set(image_ids))
        with self._database.reading() as connection:
            held = leases.held_for_long(wanted, reviewer, seconds / 2, connection)
        due = [image_id for image_id in wanted if image_id not in held]
        take = partial(leases.take, due, reviewer, seconds)
        return held | (self._database.write(take, durable=False) if due else set())

    def release(self, image_ids: Iterable[str], reviewer: str) -> None:
        """End the leases that a reviewer has on images; those of others stay."""
        ended = sorted(set(image_ids))
        if ended:
            self._database.write(partial(leases.release, ended, reviewer), durable=False)

    def leased_by_others(self, reviewer: str) -> dict[str, str]:
        """Image -> reviewer, of the leases in force that somebody else has."""
        with self._database.reading() as connection:
            return leases.held_by_others(reviewer, connection)

    def judged_pairs(self) -> pd.DataFrame:
        """What persons said of two images: `first`, `second`, `verdict` (same, different), `reviewer`, `decision_id`.

        The last word on each pair counts, undone ones do not.
        """
        valid = _valid(self.history(), PAIR_VERDICTS)
        pair = [frozenset(images) for images in valid[["image_id", "other"]].itertuples(index=False)]
        last = valid.assign(pair=pair).drop_duplicates("pair", keep="last")
        names = {"image_id": "first", "other": "second"}
        return last.rename(columns=names)[["first", "second", "verdict", "reviewer", "decision_id"]]

    def add_page(
        self,
        label: str,
        source: str,
        query: str,
        offers: Sequence[dict],
        cursor: str | None,
        stale_limit: int,
        license: str = "any",
    ) -> int:
        """Keep a page of candidates as pending fetches, with the cursor after it, in one step; how many are new.

        The search is exhausted when there is no cursor, or after `stale_limit` pages in a row with nothing new.
        """
        search = {"source": source, "label": label, "query": query, "license": license}
        return self._database.write(partial(add_page, search, offers, cursor, stale_limit))

    def cursor(self, label: str, source: str, query: str, license: str = "any") -> dict[str, Any]:
        """Where a search stands; the beginning when it was never asked."""
        key = {"source": source, "label": label, "query": query, "license": license}
        with self._database.reading() as connection:
            row = connection.execute(sa.select(cursors).where(*same(cursors, key))).mappings().first()
        return dict(row) if row else {"cursor": None, "offered": 0, "stale_pages": 0, "exhausted": False}

    def pending(
        self, label: str, sources: Sequence[str] | None = None, after: int = 0, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """The candidates of a class that are not fetched yet, in the order of `fetch_id`: the next ones after `after`.

        With `sources`, of these alone. Each with the columns that `CANDIDATE` names.
        """
        query = (
            sa.select(*(fetches.c[name] for name in CANDIDATE))
            .where(fetches.c.label == label, fetches.c.state == "pending", fetches.c.fetch_id > after)
            .order_by(fetches.c.fetch_id)
            .limit(limit)
        )
        if sources is not None:
            query = query.where(fetches.c.source.in_(sources))
        with self._database.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def retry_transient(self, label: str, max_attempts: int) -> int:
        """Make failures that may pass pending again, each up to `max_attempts` times; how many."""
        again = (
            fetches.update()
            .where(fetches.c.label == label, fetches.c.state == "failed", fetches.c.transient)
            .where(fetches.c.attempts < max_attempts)
            .values(state="pending")
        )
        return self._database.write(lambda connection: connection.execute(again).rowcount)

    def settle(self, outcomes: Sequence[Outcome]) -> list[str]:
        """Write down how fetches ended, all in one step; the state of each: `repeated` where its bytes are held.

        Of outcomes with the same bytes the first one counts.
        """
        return self._database.write(partial(settle, outcomes))

    def find(self, *, url: str = "", sha256: str = "") -> dict[str, Any] | None:
        """The fetch of an address, or the one that holds these bytes; None where there is none."""
        where = fetches.c.url == url if url else (fetches.c.sha256 == sha256) & (fetches.c.state == "ok")
        with self._database.reading() as connection:
            row = connection.execute(sa.select(fetches).where(where)).mappings().first()
        return dict(row) if row else None

    def offer_again(self, label: str, offers: Mapping[int, dict[str, Any]]) -> None:
        """Change class and provenance of fetches that brought no image: fetch_id -> its columns."""

        def change(connection: sa.Connection) -> None:
            for fetch_id, offer in sorted(offers.items()):
                row = fetches.update().where(fetches.c.fetch_id == fetch_id, fetches.c.state != "ok")
                connection.execute(row.values(label=label, **offer))

        self._database.write(change)

    def forget(self, fetch_ids: Sequence[int]) -> None:
        """Make fetches pending again, because their files are gone."""
        again = fetches.update().where(fetches.c.fetch_id == sa.bindparam("key")).values(state="pending")
        rows = [{"key": fetch_id} for fetch_id in sorted(fetch_ids)]
        if rows:
            self._database.write(lambda connection: connection.execute(again, rows))

    def begin_again(self, label: str, source: str) -> None:
        """Let every search of a class in one source start from its beginning."""
        searches = cursors.delete().where(cursors.c.label == label, cursors.c.source == source)
        self._database.write(lambda connection: connection.execute(searches))

    def images(self, labels: Sequence[str] | None = None) -> pd.DataFrame:
        """The fetches that brought an image, oldest offer first; of these classes only, when given."""
        query = sa.select(fetches).where(fetches.c.state == "ok").order_by(fetches.c.fetch_id)
        return self._database.table(query.where(fetches.c.label.in_(labels)) if labels is not None else query)

    def each_image(self, label: str) -> Iterator[dict[str, Any]]:
        """The rows of `fetches` that brought an image of a class, oldest offer first, a few of them in memory."""
        query = sa.select(fetches).where(fetches.c.state == "ok", fetches.c.label == label).order_by(fetches.c.fetch_id)
        with self._database.reading() as connection:
            for row in connection.execution_options(yield_per=500).execute(query).mappings():
                yield dict(row)

    def held(self, label: str, *columns: str) -> list[sa.Row]:
        """These columns of `fetches`, of each image held of a class."""
        query = sa.select(*(fetches.c[name] for name in columns)).where(fetches.c.state == "ok")
        with self._database.reading() as connection:
            return list(connection.execute(query.where(fetches.c.label == label)))

    def outcomes(self) -> pd.DataFrame:
        """Number of fetches by `label`, `source`, `state` and `cause`."""
        keys = (fetches.c.label, fetches.c.source, fetches.c.state, fetches.c.cause)
        return self._database.table(sa.select(*keys, sa.func.count().label("fetches")).group_by(*keys))

    def causes(self, label: str) -> dict[str, int]:
        """Why fetches of a class brought no image of it -> how many did not."""
        out = (fetches.c.label == label, fetches.c.state.in_(("failed", "refused", "repeated")))
        query = sa.select(fetches.c.cause, sa.func.count().label("number")).where(*out).group_by(fetches.c.cause)
        with self._database.reading() as connection:
            return {str(row.cause): int(row.number) for row in connection.execute(query)}

    def failures(self) -> pd.DataFrame:
        """The fetches that brought no image: `label`, `source`, `url`, `state`, `cause`, `transient`, `attempts`."""
        columns = ("label", "source", "url", "state", "cause", "transient", "attempts")
        query = sa.select(*(fetches.c[name] for name in columns)).where(fetches.c.state.in_(("failed", "refused")))
        return self._database.table(query.order_by(fetches.c.fetch_id))

    def _append(self, table: sa.Table, new: Iterable[Decision]) -> int:
        rows = list({row["decision_id"]: row for row in map(_checked, new)}.values())
        return self._database.write(partial(append, table, rows)) if rows else 0


def ledger_url(ledger: str, root: Path) -> str:
    """Where the ledger is: as given, or below the data root."""
    return ledger or str(root / "ledger.db")


def _checked(decision: Decision) -> dict[str, Any]:
    if decision.verdict not in VERDICTS:
        raise CurateError(f"verdict {decision.verdict!r} is none of {', '.join(VERDICTS)}.")
    if decision.verdict == "reject" and decision.reason not in REASONS:
        raise CurateError(f"reason {decision.reason!r} of a rejection is none of {', '.join(REASONS)}.")
    if decision.verdict == "relabel" and not decision.label:
        raise CurateError("a relabel needs the label of the class that the image belongs to.")
    if decision.verdict in PAIR_VERDICTS and decision.other in (None, "", decision.image_id):
        raise CurateError(f"{decision.verdict} is said of two images: the other one is missing.")
    if decision.verdict == "undo" and not decision.undoes:
        raise CurateError("an undo needs the decision_id that it takes back.")
    row = decision._asdict()
    if names := [name for name, value in row.items() if isinstance(value, str) and "\0" in value]:
        raise CurateError(f"{', '.join(names)} of a decision with a NUL character, which no ledger can hold.")
    return {**row, "decision_id": row["decision_id"] or str(uuid.uuid4()), "decided_at": row["decided_at"] or now()}


def append(table: sa.Table, rows: list[dict[str, Any]], connection: sa.Connection) -> int:
    """Append rows whose `decision_id` is not there; how many. Whoever appends meanwhile waits, and sees these."""
    wait_for_turn(connection, table.name)
    there = known(connection, table.c.decision_id, [row["decision_id"] for row in rows])
    fresh = [row for row in rows if row["decision_id"] not in there]
    if fresh:
        connection.execute(table.insert(), fresh)
    return len(fresh)


def _valid(past: pd.DataFrame, verdicts: Sequence[str]) -> pd.DataFrame:
    """The rows with one of these verdicts that no undo took back."""
    undone = set(past.loc[past["verdict"] == "undo", "undoes"])
    return past[past["verdict"].isin(verdicts) & ~past["decision_id"].isin(undone)]
