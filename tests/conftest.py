"""A PostgreSQL server of the test session's own, and ledgers in SQLite and PostgreSQL alike."""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

START = 60  # seconds that a server has to begin, on a busy machine
# The shell ends the server, at once, when its own input ends: when it is told to, or when the tests are killed.
WATCHED = '"$@" & server=$!; read -r _; kill -QUIT "$server"; wait "$server"'


class PostgreSQL:
    """A running server with a password, for ledgers."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.folder = folder
        self.password = secrets.token_urlsafe(12)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        (folder / "password").write_text(self.password)
        self._owner = owner()
        if self._owner:
            shutil.chown(folder, self._owner["user"])
            shutil.chown(folder / "password", self._owner["user"])
        data = folder / "data"
        initdb = [
            programs / "initdb",
            "-D",
            data,
            "-U",
            "deeprock",
            "--auth=scram-sha-256",
            "-E",
            "UTF8",
            "--no-locale",
        ]
        self._as_owner(*initdb, "--no-sync", f"--pwfile={folder / 'password'}")
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}"]
        server = [programs / "postgres", "-D", data, *(word for setting in settings for word in ("-c", setting))]
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", WATCHED, "sh", *server],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=folder,
                start_new_session=True,
                **self._owner,
            )
        self._names = count()
        self._wait()

    def new_ledger(self) -> str:
        """The URL of an empty place: a schema, which is much quicker to make than a database."""
        name = f"ledger{next(self._names)}"
        with self.connect() as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{self.url('postgres')}?options=-csearch_path%3D{name}"

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://deeprock:{self.password}@127.0.0.1:{self.port}/{database}"

    def stop(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(START)

    def connect(self):
        import psycopg

        where = {"host": "127.0.0.1", "port": self.port, "dbname": "postgres"}
        return psycopg.connect(**where, user="deeprock", password=self.password, autocommit=True)

    def _wait(self) -> None:
        import psycopg

        until = time.monotonic() + START
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError as error:
                if self.process.poll() is not None or time.monotonic() > until:
                    log = (self.folder / "log").read_text()
                    raise RuntimeError(f"the PostgreSQL server of the tests does not begin: {error}\n{log}") from error
            time.sleep(0.05)

    def _as_owner(self, *command: object) -> None:
        words = list(map(str, command))
        done = subprocess.run(words, cwd=self.folder, capture_output=True, text=True, check=False, **self._owner)
        assert done.returncode == 0, done.stderr


def owner() -> dict[str, Any]:
    """As whom to start the server, which refuses to be run by root: nothing where this is not root."""
    if os.getuid():
        return {}
    entries = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = entries.get("postgres") or entries["nobody"]
    return {"user": entry.pw_name, "group": entry.pw_gid, "extra_groups": []}


def postgresql_programs() -> Path | None:
    """The folder with `initdb` and `postgres`; of Debian's versions the newest."""
    on_path = shutil.which("postgres")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    folder = Path(on_path).resolve().parent if on_path else found[-1].parent if found else None
    return folder if folder and (folder / "initdb").exists() else None


@pytest.fixture(autouse=True)
def _main_stays() -> Iterator[None]:
    """Streamlit's AppTest leaves its script as `__main__`, which processes that are spawned later would run again."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """One server for the session; skips where there is none to be had."""
    pytest.importorskip("psycopg", reason="no psycopg: pip install 'deeprock[team]'")
    programs = postgresql_programs()
    if programs is None:
        pytest.skip("no PostgreSQL: Debian's package postgresql has it, `make postgresql` installs it")
    with tempfile.TemporaryDirectory(prefix="deeprock-postgresql-") as folder:  # pytest's own is closed to `owner`
        server = PostgreSQL(programs, Path(folder))
        yield server
        server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_at(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a ledger can be made that does not exist yet: a file, and a schema of a server."""
    if request.param == "sqlite":
        return str(tmp_path / "ledger.db")
    return request.getfixturevalue("postgresql").new_ledger()
