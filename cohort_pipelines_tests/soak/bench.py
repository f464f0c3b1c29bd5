"""Where sequence after sequence is played: what they can share is made once, since making it is most of their cost.

Shared are the connections to the ledger, with all the SQL that was compiled for them, and one DuckDB. Neither keeps
anything from one sequence to the next: each begins with a copy of an empty ledger and without a history.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cohort_pipelines.ledger.ledger import Ledger
from cohort_pipelines_tests.delivery.world import IN_MEMORY, MemoryPartner, World, one_duckdb


class Bench:
    """A folder for one world at a time."""

    def __init__(self, folder: Path) -> None:
        self._empty = folder / "empty.sqlite"
        self._place = folder / "place"
        self._place.mkdir()
        self._ledger = Ledger(f"sqlite:///{self._place}/ledger.sqlite")
        self._ledger._reader.dispose()  # all of it is in one file then
        shutil.copy(self._place / "ledger.sqlite", self._empty)

    def world(self, partner: MemoryPartner) -> World:
        """Return a world in which nothing has happened; the one before it is gone."""
        self._ledger._reader.dispose()
        shutil.rmtree(self._place)
        self._place.mkdir()
        shutil.copy(self._empty, self._place / "ledger.sqlite")
        return World(self._place, partner, ledger=self._ledger)


@contextmanager
def bench() -> Iterator[Bench]:
    """Yield a bench in memory."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder, one_duckdb():
        yield Bench(Path(folder))
