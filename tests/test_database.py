"""Opening a database at once, what its errors say, and that none of them tells a password."""

import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import pytest
import sqlalchemy as sa

from curate.cli import main
from curate.database import Database, shown
from curate.errors import CurateError
from curate.ledger import Decision, Ledger
from curate.schema import QUALITY

SECRET = "Tr0ub4dor"
URL = f"postgresql+psycopg://ana:{SECRET}@127.0.0.1:1/rocks"


@pytest.mark.parametrize(
    ("where", "may_be_printed"),
    [
        ("data/ledger.db", "data/ledger.db"),
        ("a:b@c/ledger.db", "a:b@c/ledger.db"),
        ("sqlite:////data/ledger.db", "sqlite:////data/ledger.db"),
        ("postgresql://db.example/rocks", "postgresql://db.example/rocks"),
        ("postgresql://ana@db.example:5432/rocks", "postgresql://ana@db.example:5432/rocks"),
        (URL, "postgresql+psycopg://ana:***@127.0.0.1:1/rocks"),
        (f"postgresql://ana@x:{SECRET}/@:y@h/d", "postgresql://ana@x:***@h/d"),
        (f"postgresql://h/d?user=ana&password={SECRET}&port=1", "postgresql://h/d?user=ana&password=***&port=1"),
        (f"postgresql://h/d?sslPassword={SECRET}", "postgresql://h/d?sslPassword=***"),
    ],
)
def test_a_password_is_left_out_of_what_is_printed(where, may_be_printed):
    assert shown(where) == may_be_printed


@pytest.mark.parametrize(
    ("where", "says"),
    [
        (URL.replace("rocks", "rocks?connect_timeout=2"), "cannot be opened: connection failed"),
        (f"postgresql+psycopg://ana:{SECRET}@x@127.0.0.1:1/rocks", "an @ within a part as %40"),
        (f"postgresql+psycopg://ana:{SECRET}@127.0.0.1:port/rocks", "the port is a number"),
        (f"://ana:{SECRET}@127.0.0.1/rocks", "no URL of a database"),
        (f"mysql://ana:{SECRET}@127.0.0.1/rocks", "kept in SQLite or PostgreSQL"),
        (f"postgresql+nothing://ana:{SECRET}@127.0.0.1/rocks", "Can't load plugin"),
        (f"postgresql+psycopg://ana@127.0.0.1:1/rocks?password={SECRET}&nothing=2", "cannot be opened"),
    ],
)
def test_what_cannot_be_opened_is_said_without_the_password(where, says):
    with pytest.raises(CurateError) as error:
        Ledger(where)
    assert says in str(error.value)
    assert SECRET not in "".join(traceback.format_exception(error.value))


def test_a_command_says_no_password_either(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["failures", "--ledger", URL])
    said = capsys.readouterr()
    assert "ana:***@127.0.0.1" in said.err
    assert SECRET not in said.err + said.out


def test_a_server_that_refuses_the_password_is_said_without_it(postgresql):
    where = postgresql.new_ledger().replace(postgresql.password, SECRET)
    with pytest.raises(CurateError, match="password authentication failed") as error:
        Ledger(where)
    assert SECRET not in "".join(traceback.format_exception(error.value))


def test_an_open_ledger_does_not_know_the_password_by_name(postgresql):
    with Ledger(postgresql.new_ledger()) as ledger:
        assert postgresql.password not in ledger.where
        assert postgresql.password not in repr(ledger.engine)


def test_a_driver_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(CurateError, match=r"needs the module psycopg.*pip install 'deeprock\[team\]'"):
        Ledger(URL)


def test_a_server_that_is_gone_is_a_clear_error(postgresql):
    with postgresql.connect() as admin:
        admin.execute("CREATE DATABASE gone")
        with Ledger(postgresql.url("gone")) as ledger:
            ledger.decide([Decision("a", "accept")])
            admin.execute("DROP DATABASE gone WITH (FORCE)")
            with pytest.raises(CurateError, match="the ledger cannot be read"):
                ledger.since(0)
            with pytest.raises(CurateError, match="the ledger cannot be written"):
                ledger.decide([Decision("b", "accept")])


def test_a_new_ledger_is_made_once_however_many_open_it_at_once(postgresql):
    together = threading.Barrier(6)

    def open_it(where: str) -> None:
        together.wait(30)
        Ledger(where).close()

    with ThreadPoolExecutor(6) as pool:
        for _ in range(4):
            where = postgresql.new_ledger()
            for opened in [pool.submit(open_it, where) for _ in range(6)]:
                opened.result()


def test_a_ledger_of_an_earlier_version_gains_its_columns_once_and_keeps_its_rows(ledger_at):
    with Ledger(ledger_at) as ledger:
        ledger.add_page("oak", "bing", "q", [{"url": "u1", "rank": 1}], "next", 2)
        ledger.decide([Decision("a", "accept", decision_id="1")])
        with ledger.engine.begin() as connection:
            for table, column in [("decisions", "other"), *(("fetches", name) for name in QUALITY)]:
                connection.execute(sa.DDL(f"ALTER TABLE {table} DROP COLUMN {column}"))
            connection.execute(sa.DDL("DROP TABLE leases"))
            connection.execute(sa.DDL("DROP TABLE opinions"))
            connection.execute(sa.DDL("DROP TABLE cursors"))
            key = "source TEXT, label TEXT, query TEXT, PRIMARY KEY (source, label, query)"
            rest = "cursor TEXT, offered INTEGER, stale_pages INTEGER, exhausted BOOLEAN"
            connection.execute(sa.DDL(f"CREATE TABLE cursors ({rest}, {key})"))
            connection.execute(sa.text("INSERT INTO cursors VALUES ('36', 35, 0, false, 'bing', 'oak', 'q')"))
    together = threading.Barrier(4)

    def open_it(_: int) -> None:
        together.wait(30)
        Ledger(ledger_at).close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(open_it, range(4)))
    with Ledger(ledger_at) as ledger:
        assert ledger.cursor("oak", "bing", "q")["cursor"] == "36"
        assert ledger.history()["other"].isna().tolist() == [True]
        assert ledger.opinions().empty
        assert ledger.claim(["a"], "ana", seconds=60) == {"a"}


def test_a_step_is_tried_again_after_a_deadlock(postgresql):
    """Two transactions take two rows crosswise: the server ends one of them, which then does its step anew."""
    where = postgresql.new_ledger()
    crossed = threading.Barrier(2)

    def crosswise(rows: tuple[int, int], tries: list[int], connection: sa.Connection) -> None:
        tries.append(1)
        for row in rows:
            connection.execute(sa.text("UPDATE numbers SET n = n + 1 WHERE id = :row"), {"row": row})
            if len(tries) == 1 and row == rows[0]:
                crossed.wait(30)

    with Ledger(where) as ledger, ledger.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE numbers (id INTEGER PRIMARY KEY, n INTEGER)"))
        connection.execute(sa.text("INSERT INTO numbers VALUES (1, 0), (2, 0)"))
    tries: tuple[list, list] = ([], [])
    with closing(Database(where)) as one, closing(Database(where)) as two, ThreadPoolExecutor(2) as pool:
        first = pool.submit(one.write, partial(crosswise, (1, 2), tries[0]))
        second = pool.submit(two.write, partial(crosswise, (2, 1), tries[1]))
        first.result(60)
        second.result(60)
        with one.reading() as connection:
            assert connection.execute(sa.text("SELECT n FROM numbers ORDER BY id")).scalars().all() == [2, 2]
    assert sum(map(len, tries)) > 2


def test_text_that_no_postgresql_holds_is_a_clear_error(ledger_at):
    with Ledger(ledger_at) as ledger:
        with pytest.raises(CurateError, match="reviewer of a decision with a NUL"):
            ledger.decide([Decision("a", "accept", reviewer="a\0na")])
        assert ledger.history().empty
        if ledger_at.startswith("postgresql"):
            with pytest.raises(CurateError, match="cannot contain NUL"):
                ledger.claim(["a\0"], "ana", seconds=60)
            with pytest.raises(CurateError, match="cannot contain NUL"):
                ledger.add_page("oak", "bing", "q", [{"url": "u1", "rank": 1, "title": "a\0"}], "next", 2)
