"""The database under the ledger: opened once, private, and durable at every commit."""

import sqlite3
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy import Connection, exc, func, insert, inspect, select

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import LedgerUnusable, NoLedgerYet
from cohort_pipelines.ledger import schema
from cohort_pipelines.ledger.connecting import connect, parse, shown

_PRIMARY = 0xFF  # of an extended code of SQLite's
_OF_THE_DISK = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}


class Database:
    """Transactions on the ledger's database; its tables are created at first use.

    Args:
        url: SQLAlchemy's URL of a SQLite file, ``sqlite:///folder/ledger.sqlite``, or of a PostgreSQL database,
            ``postgresql://user@host/database``.
        create: False opens a ledger only as it is, for who must change nothing.

    Raises:
        LedgerUnusable: it cannot be opened or written, or another version of this project made it. With ``create``
            false also where there is none yet.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        parsed = parse(url)
        self.where = shown(parsed)
        self._reader, self._writer = connect(parsed, create=create)
        weakref.finalize(self, self._reader.dispose)  # the writer's pool is the same
        if create:
            self._prepare()
        self.ledger_id = self._require_current()

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

    def now(self, connection: Connection) -> datetime:
        """Return the database's own time, in UTC, which all hosts share; with SQLite that of its one host."""
        if connection.dialect.name == "sqlite":
            return clock.now()
        moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        return moment.astimezone(UTC) + clock.offset()

    def _prepare(self) -> None:
        with self.read() as connection:
            if _version(connection) is not None:
                return
        with self.write() as connection:
            if _version(connection) is None:  # another process may have been first
                schema.metadata.create_all(connection)
                first = {"ledger_id": uuid.uuid4().hex, "schema_version": schema.SCHEMA_VERSION, "last_seq": 0}
                connection.execute(insert(schema.meta).values(first))

    def _require_current(self) -> str:
        with self.read() as connection:
            version = _version(connection)
            if version == schema.SCHEMA_VERSION:
                return str(connection.execute(select(schema.meta.c.ledger_id)).scalar_one())
        if version is None:
            raise NoLedgerYet(self.where)
        problem = f"another version of this project made it (schema {version}); run the one that made it"
        raise LedgerUnusable(self.where, problem)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except exc.IntegrityError:  # ours to mend, not the database's
            raise
        except exc.DBAPIError as error:
            raise LedgerUnusable(self.where, _problem(error)) from error
        except exc.TimeoutError as error:
            raise LedgerUnusable(self.where, "no connection to it was free for half a minute") from error


def said_by(error: exc.DBAPIError) -> str:
    """Return what a database said, in one line."""
    return " ".join(str(error.orig).split()).rstrip(".")


def _problem(error: exc.DBAPIError) -> str:
    """Return what the database said, and what to do where it is the disk that refused."""
    code = getattr(error.orig, "sqlite_errorcode", 0)
    remedy = "; check free space and permissions of its folder" if code & _PRIMARY in _OF_THE_DISK else ""
    return f"{said_by(error)}{remedy}"


def _version(connection: Connection) -> int | None:
    """Return the version of the ledger's tables, or None where there are none yet."""
    if not inspect(connection).has_table(schema.meta.name):
        return None
    version: int | None = connection.execute(select(schema.meta.c.schema_version)).scalar()
    return version
