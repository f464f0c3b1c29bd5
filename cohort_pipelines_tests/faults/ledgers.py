"""Ledgers that are lost, copied and put back, in either kind of database."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, exc, insert, select, text

from cohort_pipelines.ledger import schema
from cohort_pipelines.ledger.connecting import WRITER, parse
from cohort_pipelines_tests.databases import postgres_url

Copy = dict[str, list[dict[str, Any]]]

_COUNT_ON = (
    "SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT coalesce(max(id), 0) + 1 FROM {table}), false)"
)


@contextmanager
def place(kind: str, folder: Path) -> Iterator[str]:
    """Yield the URL of an empty place for a ledger."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/ledger.sqlite"
    else:
        with postgres_url() as url:
            yield url


def copy_of(url: str) -> Copy:
    """Return everything that a ledger holds."""
    with _opened(url) as engine, engine.connect() as connection:
        return {
            table.name: [dict(row._mapping) for row in connection.execute(select(table))]
            for table in schema.metadata.sorted_tables
        }


def put_back(url: str, copy: Copy) -> None:
    """Let a ledger, which is there already, hold what it held when ``copy`` was made, and nothing else."""
    with _opened(url) as engine, engine.begin() as connection:
        for table in reversed(schema.metadata.sorted_tables):
            connection.execute(table.delete())
        for table in schema.metadata.sorted_tables:
            if copy[table.name]:
                connection.execute(insert(table), copy[table.name])
            if engine.name == "postgresql" and table.autoincrement_column is not None:
                connection.execute(text(_COUNT_ON.format(table=table.name)))


def is_locked(url: str) -> bool:
    """Say whether somebody is within a transaction that writes the ledger."""
    with _opened(url) as engine, engine.connect() as connection:
        if engine.name == "postgresql":
            return not connection.scalar(text("SELECT pg_try_advisory_xact_lock(:writer)"), {"writer": WRITER})
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        except exc.OperationalError:
            return True
        return False


@contextmanager
def _opened(url: str) -> Iterator[Engine]:
    engine = create_engine(parse(url))
    try:
        yield engine
    finally:
        engine.dispose()
