"""The databases that a ledger can be kept in, for tests: a file, and a schema of its own in PostgreSQL.

The server is the one that COHORT_PIPELINES_TEST_POSTGRES names, whose role must be allowed to create databases, or one
on 127.0.0.1:5432 that asks for no password. Each process of pytest makes a database there, and drops it at its end.
"""

import atexit
import os
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache

import psycopg
import pytest
from sqlalchemy import make_url

SERVER = "COHORT_PIPELINES_TEST_POSTGRES"
KINDS = ("sqlite", "postgresql")


@contextmanager
def postgres_url() -> Iterator[str]:
    """Yield the URL of an empty place for a ledger, which goes away afterwards; without a server, skip the test."""
    server = _database()
    if server is None:
        without = f"No PostgreSQL answers on 127.0.0.1:5432, and {SERVER} names none: set it to run this test."
        if os.environ.get("CI"):
            pytest.fail(without)
        pytest.skip(without)
    schema = f"ledger_{uuid.uuid4().hex}"
    execute(server, f"CREATE SCHEMA {schema}")
    try:
        yield (
            make_url(server)
            .update_query_dict({"options": f"-csearch_path={schema}"})
            .render_as_string(hide_password=False)
        )
    finally:
        execute(server, f"DROP SCHEMA {schema} CASCADE")


def execute(url: str, statement: str) -> None:
    with closing(psycopg.connect(url, autocommit=True, connect_timeout=5, options="-clock_timeout=20s")) as connection:
        connection.execute(statement.encode())


@cache
def _server() -> str | None:
    if named := os.environ.get(SERVER):
        return named
    for user in dict.fromkeys(("postgres", os.environ.get("USER", "postgres"))):
        url = f"postgresql://{user}@127.0.0.1:5432/postgres"
        try:
            execute(url, "SELECT 1")
        except psycopg.OperationalError:
            continue
        return url
    return None


@cache
def _database() -> str | None:
    """Return the URL of a database of this process's own."""
    server = _server()
    if server is None:
        return None
    name = f"cohort_pipelines_tests_{uuid.uuid4().hex}"
    execute(server, f"CREATE DATABASE {name}")
    atexit.register(execute, server, f"DROP DATABASE {name} WITH (FORCE)")
    return make_url(server).set(database=name).render_as_string(hide_password=False)
