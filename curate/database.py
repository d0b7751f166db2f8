"""The database that holds the ledger: steps that happen whole or not at all, and errors without the password."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from curate.errors import CurateError
from curate.schema import begin_writing, open_database

if TYPE_CHECKING:
    import pandas as pd

FULL = 65_536  # bytes: with less than that free, SQLite cannot write
TRIES = 8  # of a step, when another process wrote the same rows in the same moment
PART = 500  # values asked for at once: a database takes so many at a time
MET = ("40P01", "40001")  # PostgreSQL: a deadlock, a serialisation failure
KINDS = ("sqlite", "postgresql")

_T = TypeVar("_T")


class Database:
    """One open database; safe to use from several threads and processes."""

    def __init__(self, where: Path | str) -> None:
        """Open or make it: a path is an SQLite file, text with `://` the URL of an SQLite or PostgreSQL database.

        Raises:
            CurateError: it cannot be opened, or is no ledger.
        """
        self.where = shown(where)
        self._lock = threading.Lock()
        url = _url(where)
        try:
            if "://" not in str(where):
                Path(where).parent.mkdir(parents=True, exist_ok=True)
            self.engine = open_database(url)
        except ImportError as error:
            raise CurateError(
                f"{self.where}: this needs the module {error.name}. `pip install 'deeprock[team]'` brings psycopg, for "
                "URLs that begin with postgresql+psycopg://."
            ) from error
        except (sa.exc.SQLAlchemyError, OSError) as error:
            raise CurateError(
                f"{self.where}: the ledger cannot be opened: {self._said(error)}. It must be a ledger that may be "
                "written to; --ledger or --data names another."
            ) from error

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection to read from.

        Raises:
            CurateError: the database does not answer.
        """
        try:
            with self.engine.connect() as connection:
                yield connection
        except (sa.exc.OperationalError, sa.exc.DataError) as error:
            raise CurateError(
                f"{self.where}: the ledger cannot be read: {self._said(error)}. See that the database runs and can be "
                "reached, then run the same command again."
            ) from error

    def write(self, step: Callable[[sa.Connection], _T], *, durable: bool = True) -> _T:
        """Do a step in one transaction, and anew where another process wrote the same rows meanwhile.

        Of this process's threads one at a time, which is quicker than to meet in the database.

        Args:
            step: what to do; may be done again.
            durable: wait until it is on the disk. Else it is lost when the machine of the database loses its power in
                the same moment, and only then.

        Raises:
            CurateError: it cannot be written; nothing of the step stays.
        """
        for _ in range(TRIES):
            try:
                with self._lock, self.engine.begin() as connection:
                    begin_writing(connection, durable=durable)
                    return step(connection)
            except (sa.exc.IntegrityError, sa.exc.OperationalError, sa.exc.DataError) as error:
                said = self._said(error)
                if not _met_another(error):
                    raise CurateError(
                        f"{self.where}: the ledger cannot be written: {said}. What it holds is safe; make room or "
                        "allow writing there, then run the same command again."
                    ) from error
        raise CurateError(f"{self.where}: too many processes write the same rows at once ({said}). Run it again.")

    def table(self, query: sa.Select) -> pd.DataFrame:
        """What a query finds."""
        import pandas as pd  # a fifth of a second, which a search need not wait for

        with self.reading() as connection:
            result = connection.execute(query)
            return pd.DataFrame(list(map(tuple, result)), columns=list(result.keys()))

    def _said(self, error: Exception) -> str:
        """One line on what the database complains of; SQLite calls a full disk by several names."""
        folder = Path(self.where).parent
        if "://" not in self.where and folder.is_dir() and shutil.disk_usage(folder).free < FULL:
            return "the disk is full"
        return str(getattr(error, "orig", None) or error).splitlines()[0]


def shown(where: Path | str) -> str:
    """Where a ledger is, in words that may be printed: a URL without its password."""
    text = str(where)
    if "://" not in text:
        return text
    text = re.sub(r"(?<=://)([^:]*):.*@", r"\1:***@", text, flags=re.DOTALL)
    return re.sub(r"([?&][^=&]*password=)[^&]*", r"\1***", text, flags=re.IGNORECASE)


def rows_of(
    connection: sa.Connection,
    columns: Sequence[sa.Column | sa.Table],
    key: sa.Column,
    values: Sequence[Any],
    *also: sa.ColumnElement[bool],
) -> Iterator[Any]:
    """The rows whose key is one of many values."""
    for start in range(0, len(values), PART):
        part = sa.select(*columns).where(key.in_(values[start : start + PART]), *also)
        yield from connection.execute(part)


def known(connection: sa.Connection, column: sa.Column, values: Sequence[str]) -> set[str]:
    """Those of many values that a column has."""
    return {row[0] for row in rows_of(connection, (column,), column, values)}


def _url(where: Path | str) -> sa.URL:
    """The URL taken apart; an `@` too many would make a part of the password a name of a host."""
    text = str(where)
    if "://" not in text:
        return sa.URL.create("sqlite", database=text)
    form = "a URL reads postgresql+psycopg://user:password@host:5432/database"
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):  # its words may hold the password
        raise CurateError(f"{shown(text)}: no URL of a database: {form}; the port is a number.") from None
    if url.get_backend_name() not in KINDS:
        raise CurateError(f"{shown(text)}: a ledger is kept in SQLite or PostgreSQL: {form}.")
    if url.get_backend_name() != "sqlite" and text.count("@") > 1:
        raise CurateError(f"{shown(text)}: more than one @. {form}; write an @ within a part as %40.")
    return url


def _met_another(error: sa.exc.DBAPIError) -> bool:
    """Whether the same step, tried again, finds what the other one wrote."""
    return isinstance(error, sa.exc.IntegrityError) or getattr(error.orig, "sqlstate", None) in MET
