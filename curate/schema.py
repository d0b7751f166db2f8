"""The tables of the ledger, and opening a database that has them."""

import sqlite3
import time
from typing import Any

import sqlalchemy as sa

LOCKED = 30  # seconds that one process waits for another to be done
ASLEEP = 60  # seconds that PostgreSQL lets somebody hold up the others in the middle of a step
CONNECTING = 10  # seconds to reach a PostgreSQL server

QUALITY = ("sharpness", "brightness", "contrast", "entropy")

schema = sa.MetaData()
fetches = sa.Table(
    "fetches",
    schema,
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
    *(sa.Column(name, sa.Float) for name in QUALITY),  # missing where it was decoded before they were measured
    sa.Column("fetched_at", sa.Text),
    sa.Index("fetches_by_state", "label", "state"),
)
# Whatever two processes do at once, no bytes are counted twice. In words that SQLite and PostgreSQL share: SQLAlchemy's
# own for a partial index load each database's dialect, whichever is used.
one_fetch_holds_the_bytes = sa.DDL(
    "CREATE UNIQUE INDEX one_fetch_holds_the_bytes ON fetches (sha256) WHERE state = 'ok'"
)
sa.event.listen(fetches, "after_create", one_fetch_holds_the_bytes)
cursors = sa.Table(
    "cursors",
    schema,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("label", sa.Text, primary_key=True),
    sa.Column("query", sa.Text, primary_key=True),
    sa.Column("license", sa.Text, primary_key=True, server_default="any"),  # the filter asked with: another search
    sa.Column("cursor", sa.Text),
    sa.Column("offered", sa.Integer, nullable=False),  # candidates so far: the rank of the next one is one more
    sa.Column("stale_pages", sa.Integer, nullable=False),  # pages in a row without an address unseen
    sa.Column("exhausted", sa.Boolean, nullable=False),
)


def _judgements(name: str) -> sa.Table:
    return sa.Table(
        name,
        schema,
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("decision_id", sa.Text, nullable=False, unique=True),
        sa.Column("image_id", sa.Text, nullable=False, index=True),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("label", sa.Text),
        sa.Column("other", sa.Text),
        sa.Column("undoes", sa.Text),
        sa.Column("batch", sa.Text),
        sa.Column("reviewer", sa.Text, nullable=False),
        sa.Column("decided_at", sa.Text, nullable=False),
    )


decisions = _judgements("decisions")
opinions = _judgements("opinions")  # of a second, blind review: they decide nothing
leases = sa.Table(
    "leases",
    schema,
    sa.Column("image_id", sa.Text, primary_key=True),
    sa.Column("reviewer", sa.Text, nullable=False),
    sa.Column("until", sa.Float, nullable=False, index=True),  # seconds since 1970 by the clock of the database
)


def open_database(url: sa.URL) -> sa.Engine:
    """Connect, make what tables there are not, and bring those of earlier versions up to date.

    Raises:
        SQLAlchemyError: it cannot be opened, or is no such database.
        ImportError: the driver of PostgreSQL is not installed.
    """
    engine = _sqlite(url) if url.get_backend_name() == "sqlite" else _postgresql(url)
    with engine.begin() as connection:  # all tables or none, and one process after the other
        begin_writing(connection, durable=True)
        wait_for_turn(connection, "schema")
        schema.create_all(connection)
        _add_license_to_cursors(connection)
        _add_columns(connection, fetches, QUALITY)  # nothing is known of images that were decoded before
        _add_columns(connection, decisions, ("other",))
    return engine


def begin_writing(connection: sa.Connection, *, durable: bool) -> None:
    """The first words of a transaction that writes: whether it waits for the disk when it ends.

    In SQLite nobody else writes until then, so that what it reads stays true.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif not durable:
        connection.exec_driver_sql("SET LOCAL synchronous_commit = off")


def wait_for_turn(connection: sa.Connection, what: str) -> None:
    """Until this transaction ends nobody else has a turn at `what`. In SQLite only one writes at a time anyway.

    The next one begins when this one's rows can be seen, so that rows are seen in the order of their positions.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(what))))


def _sqlite(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url)
    sa.event.listen(engine, "connect", _sqlite_settings)
    return engine


def _postgresql(url: sa.URL) -> sa.Engine:
    patience = {} if "connect_timeout" in url.query else {"connect_timeout": CONNECTING}
    engine = sa.create_engine(url, pool_pre_ping=True, connect_args=patience)  # the server may have been restarted
    sa.event.listen(engine, "connect", _postgresql_settings)
    return engine


def _add_license_to_cursors(connection: sa.Connection) -> None:
    """Ledgers of before searches had a licence filter: their cursors are those of searches without one."""
    if "license" in _columns(connection, "cursors"):
        return
    old = sa.Table("cursors", sa.MetaData(), autoload_with=connection)
    rows = [dict(row) for row in connection.execute(sa.select(old)).mappings()]
    old.drop(connection)
    cursors.create(connection)
    if rows:
        connection.execute(cursors.insert(), rows)


def _add_columns(connection: sa.Connection, table: sa.Table, names: tuple[str, ...]) -> None:
    """Columns that ledgers of earlier versions do not have; empty in their rows."""
    there = _columns(connection, table.name)
    for name in names:
        if name not in there:
            kind = table.c[name].type.compile(connection.dialect)
            connection.execute(sa.DDL(f"ALTER TABLE {table.name} ADD COLUMN {name} {kind}"))


def _columns(connection: sa.Connection, table: str) -> set[str]:
    return {column["name"] for column in sa.inspect(connection).get_columns(table)}


def _postgresql_settings(connection: Any, _: Any) -> None:
    """Nobody waits for ever: not for the turn of another one, and not for one that went to sleep in the middle."""
    connection.execute(f"SET lock_timeout = '{LOCKED}s'")
    connection.execute(f"SET idle_in_transaction_session_timeout = '{ASLEEP}s'")
    connection.commit()


def _sqlite_settings(connection: sqlite3.Connection, _: Any) -> None:
    connection.execute(f"PRAGMA busy_timeout = {1000 * LOCKED}")
    until = time.monotonic() + LOCKED
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:  # whoever makes the database holds it; SQLite does not wait for that
            if "locked" not in str(error) or time.monotonic() > until:
                raise
        time.sleep(0.02)
