"""Fixtures of the rooms around a ledger."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cohort_pipelines.history import History
from cohort_pipelines_tests.databases import postgres_url
from cohort_pipelines_tests.delivery.world import World, one_duckdb


# twice the time for what is the same SQL: the quick tests of PostgreSQL are those of the database alone
@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a ledger can be kept: in either kind of database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/data/ledger.sqlite"
    else:
        with postgres_url() as url:
            yield url


@pytest.fixture
def world(tmp_path: Path, ledger_url: str) -> World:
    return World(tmp_path, url=ledger_url)


@pytest.fixture
def tmp_history(tmp_path: Path) -> History:
    return History(tmp_path / "history")


@pytest.fixture(scope="package", autouse=True)
def shared_duckdb() -> Iterator[None]:
    with one_duckdb():
        yield
