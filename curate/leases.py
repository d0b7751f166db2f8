"""Leases: which reviewer has which images, for how long, by the clock of the database."""

from collections.abc import Sequence

import sqlalchemy as sa

from curate.database import PART, rows_of
from curate.schema import leases

# Seconds since 1970. PostgreSQL's `now()` would be the time at which a transaction began, before it waited.
CLOCK = {
    "sqlite": "((julianday('now') - 2440587.5) * 86400)",
    "postgresql": "(extract(epoch from clock_timestamp())::float8)",
}


def held_for_long(image_ids: Sequence[str], reviewer: str, seconds: float, connection: sa.Connection) -> set[str]:
    """Those of the images that the reviewer holds for at least `seconds` more."""
    mine = (leases.c.reviewer == reviewer, leases.c.until >= _clock(connection) + seconds)
    return {row.image_id for row in rows_of(connection, (leases.c.image_id,), leases.c.image_id, image_ids, *mine)}


def take(image_ids: Sequence[str], reviewer: str, seconds: float, connection: sa.Connection) -> set[str]:
    """Lease the images that are free, that nobody holds any more, or that the reviewer holds; those of them it got.

    Args:
        image_ids: in order and each once, so that two that want the same ones do not wait for each other crosswise.
        reviewer: who wants them.
        seconds: from now on.
        connection: in a transaction.
    """
    got: set[str] = set()
    for start in range(0, len(image_ids), PART):
        part = image_ids[start : start + PART]
        values = {"reviewer": reviewer, "seconds": seconds} | {f"i{n}": image_id for n, image_id in enumerate(part)}
        got.update(connection.execute(_take(len(part), CLOCK[connection.dialect.name]), values).scalars())
    return got


def release(image_ids: Sequence[str], reviewer: str, connection: sa.Connection) -> None:
    """End the reviewer's leases of the images, which are in order, one row after the other as `take` takes them."""
    mine = (leases.c.image_id == sa.bindparam("image"), leases.c.reviewer == reviewer)
    connection.execute(leases.delete().where(*mine), [{"image": image_id} for image_id in image_ids])


def held_by_others(reviewer: str, connection: sa.Connection) -> dict[str, str]:
    """Image -> reviewer, of the leases in force that somebody else has."""
    query = sa.select(leases.c.image_id, leases.c.reviewer)
    in_force = leases.c.until > _clock(connection)
    return {
        row.image_id: row.reviewer for row in connection.execute(query.where(in_force, leases.c.reviewer != reviewer))
    }


def _clock(connection: sa.Connection) -> sa.ColumnElement[float]:
    return sa.literal_column(CLOCK[connection.dialect.name], sa.Float)


def _take(images: int, clock: str) -> sa.TextClause:
    """In words that SQLite and PostgreSQL share: one statement, so that nobody comes between look and leap."""
    rows = ", ".join(f"(:i{n}, :reviewer, {clock} + :seconds)" for n in range(images))
    return sa.text(
        f"INSERT INTO leases (image_id, reviewer, until) VALUES {rows} ON CONFLICT (image_id) DO UPDATE "
        "SET reviewer = excluded.reviewer, until = excluded.until "
        f"WHERE leases.reviewer = excluded.reviewer OR leases.until <= {clock} RETURNING image_id"
    )
