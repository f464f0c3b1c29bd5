"""All that runs leave behind, to be searched for what must be in none of it: a key and, outside Parquet, an id."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest
from dagster._core.storage.event_log import InMemoryEventLogStorage
from dagster._core.storage.runs import InMemoryRunStorage

from cohort_pipelines_tests.faults.projects import Faulty

_SQLITE = b"SQLite format 3\0"


@dataclass(frozen=True)
class Found:
    """All that was found: places, with what they hold."""

    places: Sequence[tuple[str, bytes]]

    def with_any(self, texts: Iterable[str]) -> list[str]:
        """Return the places that hold one of ``texts``."""
        needles = [text.encode() for text in texts]
        return [place for place, content in self.places if any(needle in content for needle in needles)]

    def outside_parquet(self, ids: Iterable[str]) -> list[str]:
        """Return the places that hold one of ``ids`` and are not the history's Parquet files, where ids belong."""
        return [place for place in self.with_any(ids) if not place.endswith(".parquet")]


@dataclass(frozen=True)
class Traces:
    """Finds what a test has logged and printed, and what lies in its project's folders."""

    caplog: pytest.LogCaptureFixture
    capfd: pytest.CaptureFixture[str]

    def found(self, project: Faulty, *said: str) -> Found:
        """Return all of it, Dagster's records included, and with it what was ``said``."""
        printed = self.capfd.readouterr()
        texts = {"said": "\n".join(said), "log": self.caplog.text, "stdout": printed.out, "stderr": printed.err}
        places = [(place, text.encode()) for place, text in texts.items()]
        return Found([*places, *_files(project.judge.data), *_records(project.instance)])


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for file in filter(Path.is_file, folder.rglob("*")):
        content = file.read_bytes()
        yield str(file), content
        if file.suffix == ".parquet":
            yield f"rows of {file}", str(pq.read_table(file).to_pylist()).encode()  # they are compressed
        elif content.startswith(_SQLITE):
            with closing(sqlite3.connect(file)) as database:
                yield f"rows of {file}", _rows(database)  # which pages cut into pieces


def _records(instance: dg.DagsterInstance) -> Iterator[tuple[str, bytes]]:
    """Yield all that an instance in memory keeps of its runs: their tags and configuration, events and metadata."""
    for storage in (instance.run_storage, instance.event_log_storage):
        assert isinstance(storage, InMemoryRunStorage | InMemoryEventLogStorage)
        with storage._engine.connect() as connection:
            database = connection.connection.driver_connection
            assert isinstance(database, sqlite3.Connection)
            yield type(storage).__name__, _rows(database)


def _rows(database: sqlite3.Connection) -> bytes:
    return "\n".join(database.iterdump()).encode()
