"""How the ledger's database is reached: a private SQLite file, or PostgreSQL through psycopg; one writer in both."""

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url

from cohort_pipelines.core.disk import make_private
from cohort_pipelines.core.errors import LedgerUnusable, NoLedgerYet

_PATIENCE_SECONDS = 30
_IDLE_SECONDS = 20  # in a transaction: less, so that who waits for a stopped process outlives it
_PRAGMAS = (
    f"PRAGMA busy_timeout = {_PATIENCE_SECONDS * 1_000}",
    "PRAGMA synchronous = FULL",  # a commit that a power cut takes back would be a request that never was
    "PRAGMA foreign_keys = ON",
)
_POLL_SECONDS = 0.02
_SQLITE_BEGINS = {"read": "BEGIN", "write": "BEGIN IMMEDIATE"}

WRITER = 6_291_456_001  # the advisory lock of the one writer; any number that is free in this database
_LIMITS = " ".join(
    f"SET LOCAL {name} = '{seconds}s';"
    for name, seconds in (
        ("lock_timeout", _PATIENCE_SECONDS),
        ("statement_timeout", _PATIENCE_SECONDS),
        ("idle_in_transaction_session_timeout", _IDLE_SECONDS),
    )
)
_POSTGRES_BEGINS = {  # each one message to the server; a writer looks only once it is alone, so it sees all commits
    "read": f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {_LIMITS}",
    "write": f"BEGIN ISOLATION LEVEL READ COMMITTED; {_LIMITS} SELECT pg_advisory_xact_lock({WRITER})",
}
_POSTGRES_DEFAULTS = {  # libpq waits for a host that fell silent for as long as the kernel does: a quarter of an hour
    "connect_timeout": "10",
    "tcp_user_timeout": f"{_PATIENCE_SECONDS * 1_000}",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
}
_URL = "the URL that is set"  # which is not quoted, since it may hold a password


def parse(url: str) -> URL:
    """Return the URL of a ledger, with the driver that is used for it.

    Raises:
        LedgerUnusable: it is no URL, not one of a database that a ledger can be kept in, or its password can be cut in
            two, so that it is not known what of it may be told.
    """
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):  # its words may hold the password
        problem = "give it as postgresql://user@host/database or sqlite:///folder/file"
        raise LedgerUnusable(_URL, problem) from None
    _require_encoded(url, parsed)
    match parsed.get_backend_name():
        case "sqlite" if parsed.database and parsed.database != ":memory:":
            return parsed.set(drivername="sqlite")
        case "postgresql" | "postgres":
            query = {key: value for key, value in _POSTGRES_DEFAULTS.items() if key not in parsed.query}
            return parsed.set(drivername="postgresql+psycopg").update_query_dict(query)
    raise LedgerUnusable(shown(parsed), "a ledger is kept in a SQLite file or in PostgreSQL")


def _require_encoded(text: str, parsed: URL) -> None:
    """Refuse an ``@`` beside the one that ends the credentials: what follows a password's own would pass for a host."""
    credentials = 0 if parsed.username is None else 1
    if parsed.get_backend_name() != "sqlite" and text.count("@") > credentials:
        problem = "write an @ of a user name, a password or an option as %40 there, or keep the password in PGPASSWORD"
        raise LedgerUnusable(_URL, problem)


def shown(url: URL) -> str:
    """Return what may be said of ``url``: neither a password nor options, which can hold one."""
    if url.get_backend_name() == "sqlite":
        return url.database or "sqlite://"
    return url.set(password=None, query={}, drivername=url.get_backend_name()).render_as_string()


def connect(url: URL, *, create: bool) -> tuple[Engine, Engine]:
    """Return the engines of readers and of the one writer; a SQLite file is made, where ``create`` says so.

    Raises:
        LedgerUnusable: the file cannot be made, or the driver is not installed.
        NoLedgerYet: there is no file, and none shall be made.
    """
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite:
        _require_file(Path(url.database or ""), create=create)
    try:
        engine = create_engine(url, hide_parameters=True, pool_pre_ping=not sqlite)
    except ImportError:
        problem = "the driver of PostgreSQL is not installed; run pip install 'cohort-pipelines[postgres]'"
        raise LedgerUnusable(shown(url), problem) from None
    begins = _SQLITE_BEGINS if sqlite else _POSTGRES_BEGINS
    event.listen(engine, "connect", _configure_sqlite if sqlite else _configure_postgres)
    event.listen(engine, "begin", _begin)
    return (
        engine.execution_options(begin=begins["read"]),
        engine.execution_options(begin=begins["write"]),
    )


def _require_file(path: Path, *, create: bool) -> None:
    try:
        if not create:
            path.stat()
            return
        make_private(path.parent)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its side files the same mode
    except OSError as error:
        if not create and isinstance(error, FileNotFoundError):
            raise NoLedgerYet(str(path)) from None
        raise LedgerUnusable(str(path), error.strerror or type(error).__name__) from error


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where SQLAlchemy says so, in _begin
    _switch_to_wal(connection)
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Let readers go on beside a writer; where another process is making the file, SQLite itself would not wait."""
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= give_up:
                raise
            time.sleep(_POLL_SECONDS)
        else:
            return


def _configure_postgres(connection: Any, _record: object) -> None:  # noqa: ANN401  the driver is optional
    connection.autocommit = True  # as above; COMMIT and ROLLBACK are still SQLAlchemy's
    connection.prepare_threshold = None  # a pooler between here and the server may know nothing of them


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options()["begin"])
