"""The ledger: every address ever tried, where each search stands, and every review decision, in one database.

Fetches are updated in place; decisions are only ever appended (an undo is a decision too).
"""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import sqlalchemy as sa

from curate.errors import CurateError
from curate.schema import QUALITY, cursors, decisions, fetches, open_database
from curate.words import PAIR_VERDICTS, REASONS, VERDICTS

FULL = 65_536  # bytes: with less than that free, SQLite cannot write
BUSY = 5  # times that a batch is tried when another process takes the same bytes in the same moment

if TYPE_CHECKING:
    import pandas as pd

_T = TypeVar("_T")
LICENSE = ("license", "license_url", "license_basis", "attribution", "creator")
CANDIDATE = ("fetch_id", "url", "source", "title", "license", "license_basis")  # what a fetch needs to know
FACTS = ("sha256", "file_name", "width", "height", "format", "bytes", "phash", *QUALITY)
_DONE = (
    fetches.update()
    .where(fetches.c.fetch_id == sa.bindparam("key"))
    .values(
        attempts=fetches.c.attempts + sa.bindparam("tried"),
        **{name: sa.bindparam(name) for name in ("state", "cause", "transient", "fetched_at", *FACTS)},
    )
)


class Decision(NamedTuple):
    """One judgement of one image, or of two.

    Attributes:
        verdict: accept, reject, relabel (accept under `label`), skip, undo; same or different, of two images.
        reason: of a rejection, one of `words.REASONS`.
        label: of a relabel, the class it belongs to.
        other: of a judgement of two images, the second one.
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


class Outcome(NamedTuple):
    """How one fetch ended.

    Attributes:
        state: ok, refused (by the recipe), failed; repeated, where it is known beforehand.
        cause: of what is not ok: short, and the same for the same kind of failure.
        transient: whether it is worth trying again in another run.
        facts: of an image, as in `FACTS`.
        tried: whether the address was asked for at all, which counts as an attempt.
    """

    fetch_id: int
    state: str
    cause: str | None = None
    transient: bool = False
    facts: Mapping[str, Any] = MappingProxyType({})
    tried: bool = True


class Ledger:
    """One open ledger; safe to use from several threads and processes."""

    def __init__(self, where: Path | str) -> None:
        """Open or make it: a path is an SQLite file, text with `://` any SQLAlchemy URL.

        Raises:
            CurateError: it cannot be opened, or is no ledger.
        """
        self.where = str(where)
        self._lock = threading.Lock()
        url = self.where if "://" in self.where else f"sqlite:///{where}"
        try:
            if "://" not in self.where:
                Path(where).parent.mkdir(parents=True, exist_ok=True)
            self.engine = open_database(url)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            raise CurateError(
                f"{where}: the ledger cannot be opened: {self._said(error)}. It must be a ledger that may be written "
                "to; --ledger or --data names another."
            ) from error

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    def decide(self, new: Iterable[Decision]) -> int:
        """Append decisions, all or none, on disk when this returns; how many were new.

        Raises:
            CurateError: an unknown verdict or reason, a relabel without a label, an undo of nothing.
        """
        rows = [_checked(decision) for decision in new]
        if not rows:
            return 0
        with self._writing() as connection:
            ids = [row["decision_id"] for row in rows]
            known = _known(connection, decisions.c.decision_id, ids)
            fresh = list({row["decision_id"]: row for row in rows if row["decision_id"] not in known}.values())
            if fresh:
                connection.execute(decisions.insert(), fresh)
        return len(fresh)

    def history(self) -> pd.DataFrame:
        """Every decision ever made, oldest first."""
        return self._table(sa.select(decisions).order_by(decisions.c.position))

    def since(self, position: int) -> list[tuple[int, Decision]]:
        """The decisions beyond a position in the ledger, each with its own, oldest first."""
        query = sa.select(decisions).where(decisions.c.position > position).order_by(decisions.c.position)
        with self.engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return [(row["position"], Decision(**{name: row[name] for name in Decision._fields})) for row in rows]

    def standing(self) -> pd.DataFrame:
        """The decision in force for each image (undone ones and skips do not count), by `image_id`."""
        past = self.history()
        undone = set(past.loc[past["verdict"] == "undo", "undoes"])
        valid = past[past["verdict"].isin(["accept", "reject", "relabel"]) & ~past["decision_id"].isin(undone)]
        return valid.drop_duplicates("image_id", keep="last").set_index("image_id")

    def judged_pairs(self) -> pd.DataFrame:
        """What persons said of two images: `first`, `second`, `verdict` (same, different), `reviewer`, `decision_id`.

        The last word on each pair counts, undone ones do not.
        """
        past = self.history()
        undone = set(past.loc[past["verdict"] == "undo", "undoes"])
        valid = past[past["verdict"].isin(PAIR_VERDICTS) & ~past["decision_id"].isin(undone)]
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
        return self._write(partial(_add_page, search, offers, cursor, stale_limit))

    def cursor(self, label: str, source: str, query: str, license: str = "any") -> dict[str, Any]:
        """Where a search stands; the beginning when it was never asked."""
        key = {"source": source, "label": label, "query": query, "license": license}
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(cursors).where(*_equal(cursors, key))).mappings().first()
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
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def retry_transient(self, label: str, max_attempts: int) -> int:
        """Make failures that may pass pending again, each up to `max_attempts` times; how many."""
        again = (
            fetches.update()
            .where(fetches.c.label == label, fetches.c.state == "failed", fetches.c.transient)
            .where(fetches.c.attempts < max_attempts)
            .values(state="pending")
        )
        with self._writing() as connection:
            return connection.execute(again).rowcount

    def settle(self, outcomes: Sequence[Outcome]) -> list[str]:
        """Write down how fetches ended, all in one step; the state of each: `repeated` where its bytes are held.

        Of outcomes with the same bytes the first one counts.
        """
        return self._write(partial(_settle, outcomes))

    def find(self, *, url: str = "", sha256: str = "") -> dict[str, Any] | None:
        """The fetch of an address, or the one that holds these bytes; None where there is none."""
        where = fetches.c.url == url if url else (fetches.c.sha256 == sha256) & (fetches.c.state == "ok")
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(fetches).where(where)).mappings().first()
        return dict(row) if row else None

    def offer_again(self, label: str, offers: Mapping[int, dict[str, Any]]) -> None:
        """Change class and provenance of fetches that brought no image: fetch_id -> its columns."""
        with self._writing() as connection:
            for fetch_id, offer in offers.items():
                change = fetches.update().where(fetches.c.fetch_id == fetch_id, fetches.c.state != "ok")
                connection.execute(change.values(label=label, **offer))

    def forget(self, fetch_ids: Sequence[int]) -> None:
        """Make fetches pending again, because their files are gone."""
        again = fetches.update().where(fetches.c.fetch_id == sa.bindparam("key")).values(state="pending")
        if fetch_ids:
            with self._writing() as connection:
                connection.execute(again, [{"key": fetch_id} for fetch_id in fetch_ids])

    def begin_again(self, label: str, source: str) -> None:
        """Let every search of a class in one source start from its beginning."""
        with self._writing() as connection:
            connection.execute(cursors.delete().where(cursors.c.label == label, cursors.c.source == source))

    def images(self, labels: Sequence[str] | None = None) -> pd.DataFrame:
        """The fetches that brought an image, oldest offer first; of these classes only, when given."""
        query = sa.select(fetches).where(fetches.c.state == "ok").order_by(fetches.c.fetch_id)
        return self._table(query.where(fetches.c.label.in_(labels)) if labels is not None else query)

    def each_image(self, label: str) -> Iterator[dict[str, Any]]:
        """The rows of `fetches` that brought an image of a class, oldest offer first, a few of them in memory."""
        query = sa.select(fetches).where(fetches.c.state == "ok", fetches.c.label == label).order_by(fetches.c.fetch_id)
        with self.engine.connect() as connection:
            for row in connection.execution_options(yield_per=500).execute(query).mappings():
                yield dict(row)

    def held(self, label: str, *columns: str) -> list[sa.Row]:
        """These columns of `fetches`, of each image held of a class."""
        query = sa.select(*(fetches.c[name] for name in columns)).where(fetches.c.state == "ok")
        with self.engine.connect() as connection:
            return list(connection.execute(query.where(fetches.c.label == label)))

    def outcomes(self) -> pd.DataFrame:
        """Number of fetches by `label`, `source`, `state` and `cause`."""
        keys = (fetches.c.label, fetches.c.source, fetches.c.state, fetches.c.cause)
        return self._table(sa.select(*keys, sa.func.count().label("fetches")).group_by(*keys))

    def causes(self, label: str) -> dict[str, int]:
        """Why fetches of a class brought no image of it -> how many did not."""
        out = (fetches.c.label == label, fetches.c.state.in_(("failed", "refused", "repeated")))
        query = sa.select(fetches.c.cause, sa.func.count().label("number")).where(*out).group_by(fetches.c.cause)
        with self.engine.connect() as connection:
            return {str(row.cause): int(row.number) for row in connection.execute(query)}

    def failures(self) -> pd.DataFrame:
        """The fetches that brought no image: `label`, `source`, `url`, `state`, `cause`, `transient`, `attempts`."""
        columns = ("label", "source", "url", "state", "cause", "transient", "attempts")
        query = sa.select(*(fetches.c[name] for name in columns)).where(fetches.c.state.in_(("failed", "refused")))
        return self._table(query.order_by(fetches.c.fetch_id))

    def _write(self, step: Callable[[sa.Connection], _T]) -> _T:
        """Do a step in one transaction, and anew where another process wrote the same address or bytes meanwhile."""
        for _ in range(BUSY):
            with suppress(sa.exc.IntegrityError), self._writing() as connection:
                return step(connection)
        raise CurateError(f"{self.where}: too many processes write the same images at once. Run it again.")

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """One transaction; of this process's threads one at a time, which is quicker than to meet in the database."""
        try:
            with self._lock, self.engine.begin() as connection:
                yield connection
        except sa.exc.OperationalError as error:
            raise CurateError(
                f"{self.where}: the ledger cannot be written: {self._said(error)}. What it holds is safe; make room or "
                "allow writing there, then run the same command again."
            ) from error

    def _said(self, error: Exception) -> str:
        """One line on what the database complains of; SQLite calls a full disk by several names."""
        folder = Path(self.where).parent
        if "://" not in self.where and folder.is_dir() and shutil.disk_usage(folder).free < FULL:
            return "the disk is full"
        return str(getattr(error, "orig", None) or error).splitlines()[0]

    def _table(self, query: sa.Select) -> pd.DataFrame:
        import pandas as pd  # a fifth of a second, which a search need not wait for

        with self.engine.connect() as connection:
            result = connection.execute(query)
            return pd.DataFrame(list(map(tuple, result)), columns=list(result.keys()))


def ledger_url(ledger: str, root: Path) -> str:
    """Where the ledger is: as given, or below the data root."""
    return ledger or str(root / "ledger.db")


def now() -> str:
    """UTC to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


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
    return {**row, "decision_id": row["decision_id"] or str(uuid.uuid4()), "decided_at": row["decided_at"] or now()}


def _settle(outcomes: Sequence[Outcome], connection: sa.Connection) -> list[str]:
    hashes = [outcome.facts["sha256"] for outcome in outcomes if outcome.state == "ok"]
    ids = [outcome.fetch_id for outcome in outcomes]
    labels = dict(_rows(connection, (fetches.c.fetch_id, fetches.c.label), fetches.c.fetch_id, ids))
    kept = _rows(connection, (fetches,), fetches.c.sha256, hashes, fetches.c.state == "ok")
    holder = {row.sha256: row.label for row in kept if row.fetch_id not in labels}
    rows = []
    for outcome in outcomes:
        state, cause, sha256 = outcome.state, outcome.cause, outcome.facts.get("sha256")
        if state == "ok" and sha256 in holder:
            state, cause = "repeated", f"the same bytes as an image of {holder[sha256]}"
        elif state == "ok":
            holder[sha256] = labels[outcome.fetch_id]
        written = {"key": outcome.fetch_id, "state": state, "cause": cause, "transient": outcome.transient}
        written["tried"] = int(outcome.tried)
        rows.append({**dict.fromkeys(FACTS), **outcome.facts, **written, "fetched_at": now()})
    if rows:
        connection.execute(_DONE, rows)
    return [row["state"] for row in rows]


def _equal(table: sa.Table, key: dict[str, str]) -> list[sa.ColumnElement[bool]]:
    return [table.c[column] == value for column, value in key.items()]


def _known(connection: sa.Connection, column: sa.Column, values: Sequence[str]) -> set[str]:
    return {row[0] for row in _rows(connection, (column,), column, values)}


def _rows(
    connection: sa.Connection,
    columns: Sequence[sa.Column | sa.Table],
    key: sa.Column,
    values: Sequence[Any],
    *also: sa.ColumnElement[bool],
) -> Iterator[Any]:
    """The rows whose key is one of many values, asked for in parts: a database takes so many at a time."""
    for start in range(0, len(values), 500):
        part = sa.select(*columns).where(key.in_(values[start : start + 500]), *also)
        yield from connection.execute(part)


def _add_page(
    search: dict[str, str], offers: Sequence[dict], cursor: str | None, stale_limit: int, connection: sa.Connection
) -> int:
    known = _known(connection, fetches.c.url, [offer["url"] for offer in offers])
    fresh = list({o["url"]: o for o in offers if o["url"] not in known}.values())
    learned = _learn_licenses(connection, [offer for offer in offers if offer["url"] in known])
    if fresh:
        found_by = {name: search[name] for name in ("source", "label", "query")}
        rows = [{**offer, **found_by, "state": "pending", "attempts": 0} for offer in fresh]
        connection.execute(fetches.insert(), rows)
    before = connection.execute(sa.select(cursors).where(*_equal(cursors, search))).mappings().first()
    stale = 0 if fresh or learned else (before["stale_pages"] if before else 0) + 1
    offered = (before["offered"] if before else 0) + len(offers)
    after = {"cursor": cursor, "offered": offered, "stale_pages": stale}
    connection.execute(cursors.delete().where(*_equal(cursors, search)))
    exhausted = cursor is None or stale >= stale_limit
    connection.execute(cursors.insert().values(**search, **after, exhausted=exhausted))
    return len(fresh)


def _learn_licenses(connection: sa.Connection, offers: Sequence[dict]) -> int:
    """What another search says of the licence of addresses that are known; of how many it is news.

    An asserted licence counts for more than a search filter that let the image through, and any filter for more than
    nothing; the names of several filters stand side by side.
    """
    told = {o["url"]: o for o in offers if o.get("license_basis", "unknown") != "unknown"}
    known = _rows(connection, (fetches,), fetches.c.url, list(told), fetches.c.license_basis.in_(("unknown", "filter")))
    change = fetches.update().where(fetches.c.fetch_id == sa.bindparam("key"))
    change = change.values({name: sa.bindparam(f"told_{name}") for name in LICENSE})
    rows = []
    for row in known:
        offer = told[row.url]
        values = {f"told_{name}": offer.get(name) for name in LICENSE}
        if offer["license_basis"] == "filter" and row.license_basis == "filter":
            filters = dict.fromkeys([*(row.license or "").split(), *(offer.get("license") or "").split()])
            if list(filters) == (row.license or "").split():
                continue
            values["told_license"] = " ".join(filters)
        rows.append({"key": row.fetch_id, **values})
    if rows:
        connection.execute(change, rows)
    return len(rows)
