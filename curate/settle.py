"""What becomes of candidates: a page of them comes in with its cursor, a fetch ends; each a step of one transaction."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple

import sqlalchemy as sa

from curate.database import known, rows_of
from curate.schema import QUALITY, cursors, fetches

LICENSE = ("license", "license_url", "license_basis", "attribution", "creator")
FACTS = ("sha256", "file_name", "width", "height", "format", "bytes", "phash", *QUALITY)
_DONE = (
    fetches.update()
    .where(fetches.c.fetch_id == sa.bindparam("key"))
    .values(
        attempts=fetches.c.attempts + sa.bindparam("tried"),
        **{name: sa.bindparam(name) for name in ("state", "cause", "transient", "fetched_at", *FACTS)},
    )
)


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


def add_page(
    search: dict[str, str], offers: Sequence[dict], cursor: str | None, stale_limit: int, connection: sa.Connection
) -> int:
    """Keep a page of candidates and the cursor after it; how many are new. As `Ledger.add_page`."""
    before_it = known(connection, fetches.c.url, [offer["url"] for offer in offers])
    fresh = list({o["url"]: o for o in offers if o["url"] not in before_it}.values())
    learned = _learn_licenses(connection, [offer for offer in offers if offer["url"] in before_it])
    if fresh:
        found_by = {name: search[name] for name in ("source", "label", "query")}
        rows = [{**offer, **found_by, "state": "pending", "attempts": 0} for offer in fresh]
        connection.execute(fetches.insert(), rows)
    before = connection.execute(sa.select(cursors).where(*same(cursors, search))).mappings().first()
    stale = 0 if fresh or learned else (before["stale_pages"] if before else 0) + 1
    offered = (before["offered"] if before else 0) + len(offers)
    after = {"cursor": cursor, "offered": offered, "stale_pages": stale}
    connection.execute(cursors.delete().where(*same(cursors, search)))
    exhausted = cursor is None or stale >= stale_limit
    connection.execute(cursors.insert().values(**search, **after, exhausted=exhausted))
    return len(fresh)


def _learn_licenses(connection: sa.Connection, offers: Sequence[dict]) -> int:
    """What another search says of the licence of addresses that are known; of how many it is news.

    An asserted licence counts for more than a search filter that let the image through, and any filter for more than
    nothing; the names of several filters stand side by side.
    """
    told = {o["url"]: o for o in offers if o.get("license_basis", "unknown") != "unknown"}
    open_to_news = fetches.c.license_basis.in_(("unknown", "filter"))
    there = rows_of(connection, (fetches,), fetches.c.url, list(told), open_to_news)
    change = fetches.update().where(fetches.c.fetch_id == sa.bindparam("key"))
    change = change.values({name: sa.bindparam(f"told_{name}") for name in LICENSE})
    rows = []
    for row in there:
        offer = told[row.url]
        values = {f"told_{name}": offer.get(name) for name in LICENSE}
        if offer["license_basis"] == "filter" and row.license_basis == "filter":
            filters = dict.fromkeys([*(row.license or "").split(), *(offer.get("license") or "").split()])
            if list(filters) == (row.license or "").split():
                continue
            values["told_license"] = " ".join(filters)
        rows.append({"key": row.fetch_id, **values})
    if rows:
        connection.execute(change, sorted(rows, key=itemgetter("key")))
    return len(rows)


def settle(outcomes: Sequence[Outcome], connection: sa.Connection) -> list[str]:
    """Write down how fetches ended; the state of each. As `Ledger.settle`."""
    hashes = [outcome.facts["sha256"] for outcome in outcomes if outcome.state == "ok"]
    ids = [outcome.fetch_id for outcome in outcomes]
    labels = dict(rows_of(connection, (fetches.c.fetch_id, fetches.c.label), fetches.c.fetch_id, ids))
    kept = rows_of(connection, (fetches,), fetches.c.sha256, hashes, fetches.c.state == "ok")
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
        connection.execute(_DONE, sorted(rows, key=itemgetter("key")))  # two in one order do not block each other
    return [row["state"] for row in rows]


def same(table: sa.Table, key: dict[str, str]) -> list[sa.ColumnElement[bool]]:
    """What finds the row with these values."""
    return [table.c[column] == value for column, value in key.items()]


def now() -> str:
    """UTC to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
