"""The database under the ledger: opened once, private, and durable at every commit."""

import os
import sqlite3
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, exc, insert, inspect, make_url, select

from cohort_pipelines.delivery import schema
from cohort_pipelines.errors import LedgerUnusable

_BUSY_MILLISECONDS = 30_000
_PRAGMAS = (
    f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # a commit that a power cut takes back would be a request that never was
    "PRAGMA foreign_keys = ON",
)


class Database:
    """Transactions on the ledger's database; its tables are created at first use.

    Args:
        url: SQLAlchemy's URL of a SQLite file, ``sqlite:///folder/ledger.sqlite``.

    Raises:
        LedgerUnusable: it cannot be opened or written, or a newer version of this project made it.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.where = parsed.database or parsed.render_as_string(hide_password=True)
        if parsed.get_backend_name() != "sqlite" or parsed.database in {None, "", ":memory:"}:
            raise LedgerUnusable(self.where, "this version keeps its ledger in a SQLite file")
        self._create_private(Path(self.where))
        engine = create_engine(parsed, hide_parameters=True)
        event.listen(engine, "connect", _configure)
        event.listen(engine, "begin", _begin)
        weakref.finalize(self, engine.dispose)
        self._reader = engine
        self._writer: Engine = engine.execution_options(begin="BEGIN IMMEDIATE")
        self.ledger_id = self._prepare()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection that sees one state of the ledger throughout."""
        with self._refusals(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Yield a connection that alone may write; what it wrote is durable after a clean exit, or never was."""
        with self._refusals(), self._writer.begin() as connection:
            yield connection

    def _create_private(self, path: Path) -> None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its side files the same mode
        except OSError as error:
            raise LedgerUnusable(self.where, error.strerror or type(error).__name__) from error

    def _prepare(self) -> str:
        with self.read() as connection:
            known = inspect(connection).has_table(schema.meta.name)
        if not known:
            self._create_tables()
        with self.read() as connection:
            row = connection.execute(select(schema.meta)).one()
        if row.schema_version > schema.SCHEMA_VERSION:
            problem = f"a newer version of this project made it (schema {row.schema_version}); upgrade this one"
            raise LedgerUnusable(self.where, problem)
        return str(row.ledger_id)

    def _create_tables(self) -> None:
        with self.write() as connection:
            schema.metadata.create_all(connection)
            if connection.execute(select(schema.meta)).first() is None:  # another process may have been first
                first = {"ledger_id": uuid.uuid4().hex, "schema_version": schema.SCHEMA_VERSION, "last_seq": 0}
                connection.execute(insert(schema.meta).values(first))

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except (exc.OperationalError, exc.DatabaseError) as error:
            if isinstance(error, exc.IntegrityError | exc.ProgrammingError):
                raise
            raise LedgerUnusable(self.where, str(error.orig)) from error


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where SQLAlchemy says so, in _begin
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))
