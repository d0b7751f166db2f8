"""The tables of the ledger, and opening a database that has them."""

import sqlite3
import time
from typing import Any

import sqlalchemy as sa

LOCKED = 30  # seconds that one process waits for another to be done

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
decisions = sa.Table(
    "decisions",
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


def open_database(url: str) -> sa.Engine:
    """Connect, make what tables there are not, and bring those of earlier versions up to date.

    Raises:
        SQLAlchemyError: it cannot be opened, or is no such database.
    """
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _sqlite_settings)
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # all tables or none, and one process after the other
        schema.create_all(connection)
        connection.commit()
    _add_license_to_cursors(engine)
    _add_columns(engine, fetches, QUALITY)  # nothing is known of the quality of images that were decoded before
    _add_columns(engine, decisions, ("other",))
    return engine


def _add_license_to_cursors(engine: sa.Engine) -> None:
    """Ledgers of before searches had a licence filter: their cursors are those of searches without one."""
    if "license" in _columns(engine, "cursors"):
        return
    with engine.begin() as connection:
        old = sa.Table("cursors", sa.MetaData(), autoload_with=connection)
        rows = [dict(row) for row in connection.execute(sa.select(old)).mappings()]
        old.drop(connection)
        cursors.create(connection)
        if rows:
            connection.execute(cursors.insert(), rows)


def _add_columns(engine: sa.Engine, table: sa.Table, names: tuple[str, ...]) -> None:
    """Columns that ledgers of earlier versions do not have; empty in their rows."""
    for name in names:
        if name in _columns(engine, table.name):
            continue
        kind = table.c[name].type.compile(engine.dialect)
        try:
            with engine.begin() as connection:
                connection.execute(sa.DDL(f"ALTER TABLE {table.name} ADD COLUMN {name} {kind}"))
        except sa.exc.DBAPIError:
            if name not in _columns(engine, table.name):  # else another process was quicker
                raise


def _columns(engine: sa.Engine, table: str) -> set[str]:
    return {column["name"] for column in sa.inspect(engine).get_columns(table)}


def _sqlite_settings(connection: sqlite3.Connection, _: Any) -> None:
    connection.execute(f"PRAGMA busy_timeout = {1000 * LOCKED}")
    connection.execute("PRAGMA synchronous = FULL")
    until = time.monotonic() + LOCKED
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:  # whoever makes the database holds it; SQLite does not wait for that
            if "locked" not in str(error) or time.monotonic() > until:
                raise
        time.sleep(0.02)
