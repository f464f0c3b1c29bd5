import importlib
import re
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, inspect, select, text, update
from sqlalchemy.dialects.postgresql import psycopg as dialect

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import LedgerUnusable, NoLedgerYet
from cohort_pipelines.ledger import connecting, schema
from cohort_pipelines.ledger.ledger import Ledger
from cohort_pipelines_tests import databases


@pytest.fixture
def postgres() -> Iterator[str]:
    with databases.postgres_url() as url:
        yield url


def last_seq(connection: Connection) -> int:
    number: int = connection.execute(select(schema.meta.c.last_seq)).scalar_one()
    return number


def test_the_file_is_private_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "data" / "ledger.sqlite"
    ledger = Ledger(f"sqlite:///{path}")
    assert [stat.S_IMODE(each.stat().st_mode) for each in sorted(path.parent.iterdir())] == [0o600] * 3
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert Ledger(f"sqlite:///{path}").ledger_id == ledger.ledger_id


def test_what_was_committed_survives_a_power_cut(tmp_path: Path) -> None:
    with Ledger(f"sqlite:///{tmp_path}/ledger.sqlite").read() as connection:
        modes = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    assert modes == ["wal", 2]


def test_many_can_open_it_for_the_first_time_at_once(ledger_url: str) -> None:
    start = threading.Barrier(8)

    def open_it(_: int) -> str:
        start.wait()
        return Ledger(ledger_url).ledger_id

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(open_it, range(8)))) == 1


def test_a_file_that_another_process_is_just_making_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ledger.sqlite"
    maker = sqlite3.connect(file, isolation_level=None)
    maker.execute("BEGIN IMMEDIATE")
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        maker.execute("ROLLBACK")

    monkeypatch.setattr(time, "sleep", wait)
    assert Ledger(f"sqlite:///{file}").ledger_id
    assert len(waits) == 1
    maker.close()


def test_writers_take_turns_and_none_of_their_changes_is_lost(ledger_url: str) -> None:
    ledgers = [Ledger(ledger_url) for _ in range(4)]

    def count_up(ledger: Ledger) -> None:
        for _ in range(10):
            with ledger.write() as connection:  # reads first: two writers at once would both write the same
                connection.execute(update(schema.meta).values(last_seq=last_seq(connection) + 1))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(count_up, ledgers))
    with ledgers[0].read() as connection:
        assert last_seq(connection) == 40


def test_a_reader_sees_one_state_throughout(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    with ledger.read() as connection:
        before = last_seq(connection)
        assert ledger.begin_snapshot() == before + 1
        assert last_seq(connection) == before


def test_what_was_begun_is_not_there_if_it_did_not_end(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    with pytest.raises(KeyboardInterrupt), ledger.write() as connection:  # noqa: PT012
        connection.execute(update(schema.meta).values(last_seq=7))
        raise KeyboardInterrupt
    with ledger.read() as connection:
        assert last_seq(connection) == 0


def test_its_clock_is_the_databases_and_can_be_shifted(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    with ledger.read() as connection:
        before = ledger.now(connection)
        assert before.tzinfo is UTC
        assert abs(before - datetime.now(UTC)) < timedelta(minutes=1)
        with clock.shifted(timedelta(hours=2)):
            assert ledger.now(connection) - before >= timedelta(hours=2)
        assert ledger.now(connection) > before  # also within a transaction


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("sqlite:///{}/file/ledger.sqlite", "File exists|Not a directory"),
        ("sqlite:///{}/file", "not a database"),
        ("sqlite://", "SQLite file or in PostgreSQL"),
        ("mysql://user:hunter2@host/ledger", "SQLite file or in PostgreSQL"),
        ("hunter2", "give it as postgresql://"),
        ("postgresql://user:hunter2@127.0.0.1:1/ledger?password=hunter2", "127.0.0.1:1/ledger cannot.*refused"),
        ("postgres://user:hunter2@127.0.0.1:1/ledger", "127.0.0.1:1/ledger cannot.*refused"),
        ("postgresql://user:hunter2@127.0.0.1:1/ledger?nonsense=hunter2", "invalid connection option"),
    ],
)
def test_an_unusable_ledger_is_refused_by_name(tmp_path: Path, url: str, problem: str) -> None:
    (tmp_path / "file").write_text("this is no ledger, and longer than the header of one", encoding="utf-8")
    with pytest.raises(LedgerUnusable, match=problem) as refused:
        Ledger(url.format(tmp_path))
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:hun@ter2@127.0.0.1:1/ledger",
        "postgresql://user:hun@ter2/x@127.0.0.1:1/ledger",
        "postgresql://user:hun@x?ter2=x@127.0.0.1:1/ledger",
        "postgresql://:hun@ter2@127.0.0.1:1/ledger",
        "postgresql://us/er:ter2@127.0.0.1:1/ledger",
        "postgresql://user@ter2@127.0.0.1:1/ledger",
        "postgresql://user:hunter2@127.0.0.1:1/ledger?password=hun@ter2",
        "mysql://user:hun@ter2@127.0.0.1:1/ledger",
    ],
)
def test_a_password_that_is_cut_in_two_by_an_at_sign_of_its_own_is_told_in_no_part(url: str) -> None:
    with pytest.raises(LedgerUnusable, match=r"The ledger at the URL that is set .* as %40") as refused:
        Ledger(url)
    assert not re.search("hun|ter2|127", str(refused.value))


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("postgresql://user:hun%40ter2@host/ledger", ("user", "hun@ter2", "host", "ledger")),
        ("postgresql://user%40corp@host/led%40ger", ("user@corp", None, "host", "led@ger")),
        ("postgresql://host/ledger?password=hun%40ter2", (None, None, "host", "ledger")),
    ],
)
def test_an_at_sign_that_is_encoded_stands_for_itself(url: str, parts: tuple[str | None, ...]) -> None:
    parsed = connecting.parse(url)
    assert (parsed.username, parsed.password, parsed.host, parsed.database) == parts


def test_a_file_may_have_an_at_sign_in_its_path(tmp_path: Path) -> None:
    assert Ledger(f"sqlite:///{tmp_path}/a@b/c@d.sqlite").ledger_id


def test_a_missing_driver_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        importlib.import_module("a_driver_that_is_not_installed")

    monkeypatch.setattr(dialect.PGDialect_psycopg, "import_dbapi", missing)
    with pytest.raises(LedgerUnusable, match=r"pip install 'cohort-pipelines\[postgres\]'") as refused:
        Ledger("postgresql://user:hunter2@host/ledger")
    assert "hunter2" not in str(refused.value)


def test_a_ledger_of_another_version_is_refused(ledger_url: str) -> None:
    with Ledger(ledger_url).write() as connection:
        connection.execute(update(schema.meta).values(schema_version=schema.SCHEMA_VERSION + 1))
    for create in (True, False):
        with pytest.raises(LedgerUnusable, match="another version of this project made it"):
            Ledger(ledger_url, create=create)


def test_who_must_change_nothing_makes_no_ledger(ledger_url: str, tmp_path: Path) -> None:
    with pytest.raises(NoLedgerYet):
        Ledger(ledger_url, create=False)
    with pytest.raises(NoLedgerYet):  # still
        Ledger(ledger_url, create=False)
    assert list(tmp_path.iterdir()) == []
    assert Ledger(ledger_url).ledger_id == Ledger(ledger_url, create=False).ledger_id


@pytest.mark.parametrize("place", ["file", "x" * 300])
def test_a_file_that_cannot_be_looked_for_is_refused_by_name(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerUnusable, match=place):
        Ledger(f"sqlite:///{tmp_path}/{place}/ledger.sqlite", create=False).read().__enter__()


def test_a_ledger_that_goes_bad_says_where_it_lies(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    with ledger.write() as connection:
        connection.exec_driver_sql("DROP TABLE pause")
    with pytest.raises(LedgerUnusable, match=re.escape(ledger.where)), ledger.read() as connection:
        connection.execute(select(schema.pause))


def test_a_file_that_another_program_keeps_locked_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "_PRAGMAS", ("PRAGMA busy_timeout = 10", *connecting._PRAGMAS[1:]))
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    holder = sqlite3.connect(ledger.where)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnusable, match="locked"):
        ledger.begin_snapshot()
    holder.close()
    assert ledger.begin_snapshot() == 1


def test_a_writer_that_waits_too_long_for_another_says_so(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(postgres)
    monkeypatch.setattr(
        connecting,
        "_POSTGRES_BEGINS",
        {kind: begin.replace("30s", "50ms") for kind, begin in connecting._POSTGRES_BEGINS.items()},
    )
    impatient = Ledger(postgres)
    with ledger.write(), pytest.raises(LedgerUnusable, match=r"(lock|statement) timeout"):
        impatient.begin_snapshot()
    assert impatient.begin_snapshot() == 1


@pytest.mark.parametrize(
    ("setting", "limit"),
    [("lock_timeout", "30s"), ("statement_timeout", "30s"), ("idle_in_transaction_session_timeout", "20s")],
)
def test_nothing_waits_for_ever(postgres: str, setting: str, limit: str) -> None:
    ledger = Ledger(postgres)
    for transaction in (ledger.read, ledger.write):
        with transaction() as connection:
            assert connection.execute(select(func.current_setting(setting))).scalar() == limit


def test_a_reader_of_postgresql_cannot_write(postgres: str) -> None:
    ledger = Ledger(postgres)
    with pytest.raises(LedgerUnusable, match="read-only"), ledger.read() as connection:
        connection.execute(update(schema.meta).values(last_seq=7))


def test_a_connection_that_the_server_ended_is_replaced(postgres: str) -> None:
    ledger, other = Ledger(postgres), Ledger(postgres)
    with ledger.read() as connection:
        process = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with other.write() as connection:
        assert connection.execute(select(func.pg_terminate_backend(process))).scalar()
    assert ledger.begin_snapshot() == 1


def test_a_connection_that_ends_within_a_transaction_is_named_and_changes_nothing(postgres: str) -> None:
    ledger, other = Ledger(postgres), Ledger(postgres)
    with pytest.raises(LedgerUnusable, match=r"127\.0\.0\.1|terminat"), ledger.write() as connection:  # noqa: PT012
        connection.execute(update(schema.meta).values(last_seq=7))
        process = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with other.read() as reading:
            reading.execute(select(func.pg_terminate_backend(process)))
        connection.execute(select(schema.meta)).all()
    assert ledger.begin_snapshot() == 1


def test_options_of_the_url_are_passed_on(postgres: str) -> None:
    with Ledger(f"{postgres}&application_name=who").read() as connection:
        assert connection.execute(select(func.current_setting("application_name"))).scalar() == "who"
        tables = inspect(connection).get_table_names(connection.execute(select(func.current_schema())).scalar())
    assert "meta" in tables  # and not in the schema that everybody uses
