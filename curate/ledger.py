"""The ledger: every address ever tried, where each search stands, and every review decision, in one database.

Fetches are updated in place; decisions are only ever appended (an undo is a decision too).
"""

import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import sqlalchemy as sa

from curate.manifest import REASONS, CurateError

VERDICTS = ("accept", "reject", "relabel", "skip", "undo")

_schema = sa.MetaData()
fetches = sa.Table(
    "fetches",
    _schema,
    sa.Column("fetch_id", sa.Integer, primary_key=True),
    sa.Column("url", sa.Text, nullable=False, unique=True),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("query", sa.Text, nullable=False),
    sa.Column("rank", sa.Integer, nullable=False),
    sa.Column("page_url", sa.Text),
    sa.Column("title", sa.Text),
    sa.Column("creator", sa.Text),
    sa.Column("license", sa.Text),
    sa.Column("license_url", sa.Text),
    sa.Column("license_basis", sa.Text),
    sa.Column("attribution", sa.Text),
    sa.Column("state", sa.Text, nullable=False),  # pending, ok, repeated (same bytes as another), refused, failed
    sa.Column("cause", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("transient", sa.Boolean),
    sa.Column("sha256", sa.Text),
    sa.Column("file_name", sa.Text),
    sa.Column("width", sa.Integer),
    sa.Column("height", sa.Integer),
    sa.Column("format", sa.Text),
    sa.Column("bytes", sa.Integer),
    sa.Column("phash", sa.Text),
    sa.Column("fetched_at", sa.Text),
    sa.Index("fetches_by_state", "label", "state"),
)
# Whatever two processes do at once, no bytes are counted twice.
sa.Index(
    "one_fetch_holds_the_bytes",
    fetches.c.sha256,
    unique=True,
    sqlite_where=fetches.c.state == "ok",
    postgresql_where=fetches.c.state == "ok",
)
cursors = sa.Table(
    "cursors",
    _schema,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("label", sa.Text, primary_key=True),
    sa.Column("query", sa.Text, primary_key=True),
    sa.Column("cursor", sa.Text),
    sa.Column("offered", sa.Integer, nullable=False),  # candidates so far: the rank of the next one is one more
    sa.Column("stale_pages", sa.Integer, nullable=False),  # pages in a row without an address unseen
    sa.Column("exhausted", sa.Boolean, nullable=False),
)
decisions = sa.Table(
    "decisions",
    _schema,
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("decision_id", sa.Text, nullable=False, unique=True),
    sa.Column("image_id", sa.Text, nullable=False, index=True),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("label", sa.Text),
    sa.Column("undoes", sa.Text),
    sa.Column("batch", sa.Text),
    sa.Column("reviewer", sa.Text, nullable=False),
    sa.Column("decided_at", sa.Text, nullable=False),
)


class Decision(NamedTuple):
    """One judgement of one image.

    Attributes:
        verdict: accept, reject, relabel (accept under `label`), skip, undo.
        reason: of a rejection, one of `manifest.REASONS`.
        label: of a relabel, the class it belongs to.
        undoes: of an undo, the decision_id taken back.
        batch: the same for decisions made in one step, so that one undo takes them all back.
        decision_id: made by whoever decides (a browser too): the same id twice is stored once.
    """

    image_id: str
    verdict: str
    reason: str | None = None
    label: str | None = None
    undoes: str | None = None
    batch: str | None = None
    reviewer: str = "local"
    decided_at: str = ""
    decision_id: str = ""


class Ledger:
    """One open ledger; safe to use from several threads and processes."""

    def __init__(self, where: Path | str) -> None:
        """Open or make it: a path is an SQLite file, text with `://` any SQLAlchemy URL.

        Raises:
            CurateError: it cannot be opened, or is no ledger.
        """
        self.where = str(where)
        if "://" not in self.where:
            Path(where).parent.mkdir(parents=True, exist_ok=True)
        url = self.where if "://" in self.where else f"sqlite:///{where}"
        try:
            self.engine = sa.create_engine(url)
            if self.engine.dialect.name == "sqlite":
                sa.event.listen(self.engine, "connect", _sqlite_settings)
            _schema.create_all(self.engine)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            raise CurateError(f"{where}: the ledger cannot be opened: {error}") from error

    def __enter__(self) -> "Ledger":
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
        with self.engine.begin() as connection:
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

    def add_page(
        self, label: str, source: str, query: str, offers: Sequence[dict], cursor: str | None, stale_limit: int
    ) -> int:
        """Keep a page of candidates as pending fetches, with the cursor after it, in one step; how many are new.

        The search is exhausted when there is no cursor, or after `stale_limit` pages in a row with nothing new.
        """
        key = {"source": source, "label": label, "query": query}
        with self.engine.begin() as connection:
            known = _known(connection, fetches.c.url, [offer["url"] for offer in offers])
            fresh = list({o["url"]: o for o in offers if o["url"] not in known}.values())
            if fresh:
                connection.execute(fetches.insert(), [{**o, **key, "state": "pending", "attempts": 0} for o in fresh])
            before = connection.execute(sa.select(cursors).where(*_equal(cursors, key))).mappings().first()
            stale = 0 if fresh else (before["stale_pages"] if before else 0) + 1
            offered = (before["offered"] if before else 0) + len(offers)
            after = {"cursor": cursor, "offered": offered, "stale_pages": stale}
            connection.execute(cursors.delete().where(*_equal(cursors, key)))
            exhausted = cursor is None or stale >= stale_limit
            connection.execute(cursors.insert().values(**key, **after, exhausted=exhausted))
        return len(fresh)

    def cursor(self, label: str, source: str, query: str) -> dict[str, Any]:
        """Where a search stands; the beginning when it was never asked."""
        where = (cursors.c.label == label) & (cursors.c.source == source) & (cursors.c.query == query)
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(cursors).where(where)).mappings().first()
        return dict(row) if row else {"cursor": None, "offered": 0, "stale_pages": 0, "exhausted": False}

    def pending(self, label: str, sources: Sequence[str], after: int, limit: int) -> list[dict[str, Any]]:
        """The next candidates of a class that are not fetched yet, in the order of `fetch_id`, from `after` on."""
        query = (
            sa.select(fetches)
            .where(fetches.c.label == label, fetches.c.state == "pending", fetches.c.source.in_(sources))
            .where(fetches.c.fetch_id > after)
            .order_by(fetches.c.fetch_id)
            .limit(limit)
        )
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
        with self.engine.begin() as connection:
            return connection.execute(again).rowcount

    def settle(self, fetch_id: int, state: str, **facts: Any) -> str:
        """Write down how a fetch ended; returns the state: `repeated`, not `ok`, when the bytes are held already."""
        done = fetches.update().where(fetches.c.fetch_id == fetch_id)
        values = {"attempts": fetches.c.attempts + 1, "fetched_at": now(), "state": state, **facts}
        try:
            with self.engine.begin() as connection:
                connection.execute(done.values(values))
        except sa.exc.IntegrityError:
            held = sa.select(fetches.c.label).where(fetches.c.sha256 == facts["sha256"], fetches.c.state == "ok")
            with self.engine.begin() as connection:
                cause = f"the same bytes as an image of {connection.scalar(held)}"
                connection.execute(done.values({**values, "state": "repeated", "cause": cause}))
            return "repeated"
        return state

    def forget(self, fetch_ids: Sequence[int]) -> None:
        """Make fetches pending again, because their files are gone."""
        again = fetches.update().where(fetches.c.fetch_id.in_(fetch_ids)).values(state="pending")
        with self.engine.begin() as connection:
            connection.execute(again)

    def images(self, labels: Sequence[str] | None = None) -> pd.DataFrame:
        """The fetches that brought an image, oldest offer first; of these classes only, when given."""
        query = sa.select(fetches).where(fetches.c.state == "ok").order_by(fetches.c.fetch_id)
        return self._table(query.where(fetches.c.label.in_(labels)) if labels is not None else query)

    def outcomes(self) -> pd.DataFrame:
        """Number of fetches by `label`, `source`, `state` and `cause`."""
        keys = (fetches.c.label, fetches.c.source, fetches.c.state, fetches.c.cause)
        return self._table(sa.select(*keys, sa.func.count().label("fetches")).group_by(*keys))

    def _table(self, query: sa.Select) -> pd.DataFrame:
        with self.engine.connect() as connection:
            result = connection.execute(query)
            return pd.DataFrame(result.mappings().all(), columns=list(result.keys()))


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
    if decision.verdict == "undo" and not decision.undoes:
        raise CurateError("an undo needs the decision_id that it takes back.")
    row = decision._asdict()
    return {**row, "decision_id": row["decision_id"] or str(uuid.uuid4()), "decided_at": row["decided_at"] or now()}


def _equal(table: sa.Table, key: dict[str, str]) -> list[sa.ColumnElement[bool]]:
    return [table.c[column] == value for column, value in key.items()]


def _known(connection: sa.Connection, column: sa.Column, values: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(values), 500):
        found |= set(connection.scalars(sa.select(column).where(column.in_(values[start : start + 500]))))
    return found


def _sqlite_settings(connection: Any, _: Any) -> None:
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 30000"):
        connection.execute(f"PRAGMA {pragma}")
