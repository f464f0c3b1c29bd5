from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, Engine, insert, inspect, select

from cohort_pipelines.delivery import Ledger, migrations, schema
from cohort_pipelines.delivery.connecting import connect, parse
from cohort_pipelines.errors import LedgerUnusable
from cohort_pipelines_tests.delivery.world import SYNC, Killed

TABLES = (Path(__file__).parent / "ledger_v1.sql").read_text(encoding="utf-8")
ROWS = """
INSERT INTO meta VALUES ('the-ledger', 1, 7);
INSERT INTO target VALUES
    (1, 'memory', 'localhost', '', 'Beta', 'beta_users', 3, 7, {true}, 'beta_users', 'w', 'abc', 0, 2),
    (2, 'memory', 'localhost', '', 'Held', 'other', 1, 6, {false}, NULL, NULL, NULL, 0, 0);
INSERT INTO snapshot VALUES (7, 'beta_users', 'w', 'abc', 9, '2026-11-22 12:00:00', 3, 3, 1.5, 1, 2, '[]');
INSERT INTO attempt VALUES
    (1, 1, 3, 1, 'delivered', 'beta_users', 'w', 7, 'abc', 2, NULL, 'def', 'run',
     '2026-11-22 12:00:00', '2026-11-22 12:00:00', '2026-11-22 12:00:00', NULL);
INSERT INTO "window" VALUES ('beta_users', '2026-11-22T1200Z', 'delivered', '', '2026-11-22 12:00:00');
INSERT INTO gate VALUES (1, 'min_users', 2, 1, {false});
"""
WORDS = {
    "sqlite": {"number": "INTEGER", "moment": "DATETIME", "true": "1", "false": "0"},
    "postgresql": {"number": "SERIAL", "moment": "TIMESTAMP WITH TIME ZONE", "true": "true", "false": "false"},
}


@pytest.fixture
def engine(ledger_url: str) -> Iterator[Engine]:
    """The writer of a ledger of the first release, with rows in it."""
    _, writer = connect(parse(ledger_url), create=True)
    words = WORDS[writer.dialect.name]
    with writer.begin() as connection:
        for statement in (TABLES + ROWS).format(**words).split(";\n")[:-1]:
            connection.exec_driver_sql(statement)
    yield writer
    writer.dispose()


def differences(connection: Connection) -> list[Any]:
    return list(compare_metadata(MigrationContext.configure(connection), schema.metadata))


def test_a_ledger_of_the_first_release_is_brought_up_to_date_with_its_rows(engine: Engine, ledger_url: str) -> None:
    with engine.begin() as connection:
        assert differences(connection)  # the comparison sees something
    ledger = Ledger(ledger_url)

    assert ledger.ledger_id == "the-ledger"
    with ledger.read() as connection:
        assert differences(connection) == []
        meta = connection.execute(select(schema.meta)).one()
        targets = connection.execute(select(schema.target).order_by(schema.target.c.id)).all()
        attempt = connection.execute(select(schema.attempt)).one()
        gate = connection.execute(select(schema.gate)).one()
    assert (meta.schema_version, meta.last_seq, meta.generation) == (schema.SCHEMA_VERSION, 7, 0)
    assert [(each.name, each.baseline) for each in targets] == [("Beta", "unknown"), ("Held", None)]
    assert [(each.project, each.cohort_id) for each in targets] == [(1, 2), (None, None)]
    assert (attempt.kind, attempt.users, attempt.seq, attempt.released) == ("overwrite", 2, None, None)
    assert (gate.name, gate.finding) == ("min_users", "")
    newest = ledger.newest_delivered(SYNC)
    assert newest is not None
    assert newest.users == 2
    assert ledger.begin_snapshot() == 8


OF_VERSION_2 = """
INSERT INTO snapshot VALUES (8, 'beta_users', 'w', 'abc', 9, '2026-11-22 12:00:00', 3, 3, 1.5, 1, 3, '[]');
INSERT INTO snapshot VALUES (9, 'beta_users', 'w', 'abc', 9, '2026-11-22 12:00:00', 3, 3, 1.5, 1, 4, '[]');
INSERT INTO snapshot VALUES (10, 'beta_users', 'w', 'abc', 9, '2026-11-22 12:00:00', 3, 3, 1.5, 0, 0, '[]');
"""
ATTEMPTS = (  # kind, snapshot, plan: the second is the newest that says in whose name something was sent
    ("overwrite", 7, "plan"),
    ("overwrite", 8, "plan"),
    ("overwrite", 9, None),
    ("retire", 9, "plan"),
    ("overwrite", 10, "plan"),
)


def test_a_ledger_of_version_2_learns_in_whose_name_each_target_was_last_written_to(
    engine: Engine, ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(schema, "SCHEMA_VERSION", 2)
        earlier.setattr(migrations, "_STEPS", {2: migrations._STEPS[2]})
        Ledger(ledger_url)
    with engine.begin() as connection:
        for statement in OF_VERSION_2.split(";\n")[:-1]:
            connection.exec_driver_sql(statement)
        [first] = connection.execute(select(schema.attempt)).all()
        for number, (kind, snapshot, plan) in enumerate(ATTEMPTS, start=2):
            another = {
                "id": number,
                "generation": 3 + number,
                "kind": kind,
                "snapshot": snapshot,
                "plan_checksum": plan,
            }
            connection.execute(insert(schema.attempt).values(first._asdict() | another))

    with Ledger(ledger_url).read() as connection:
        assert differences(connection) == []
        [beta, held] = connection.execute(select(schema.target).order_by(schema.target.c.id)).all()
    assert (beta.project, beta.cohort_id) == (1, 3)
    assert (held.project, held.cohort_id) == (None, None)


def test_a_new_ledger_has_the_same_tables(ledger_url: str) -> None:
    with Ledger(ledger_url).read() as connection:
        assert differences(connection) == []


def test_who_must_change_nothing_leaves_an_old_ledger_as_it_is(engine: Engine, ledger_url: str) -> None:
    with pytest.raises(LedgerUnusable, match="older version"):
        Ledger(ledger_url, create=False)
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT schema_version FROM meta").scalar() == 1


def test_a_migration_that_dies_leaves_the_old_ledger_whole(
    engine: Engine, ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tables(connection: Connection) -> dict[str, list[str]]:
        seen = inspect(connection)
        return {name: [each["name"] for each in seen.get_columns(name)] for name in seen.get_table_names()}

    def dying(step: Callable[[Operations], None]) -> Callable[[Operations], None]:
        def to_its_end_and_no_further(op: Operations) -> None:
            step(op)
            raise Killed

        return to_its_end_and_no_further

    with engine.begin() as connection:
        before = tables(connection)
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "_STEPS", {2: dying(migrations._STEPS[2])})
        with pytest.raises(Killed):
            Ledger(ledger_url)
    with engine.begin() as connection:
        assert tables(connection) == before
        assert connection.exec_driver_sql("SELECT schema_version FROM meta").scalar() == 1
    assert Ledger(ledger_url).ledger_id == "the-ledger"
