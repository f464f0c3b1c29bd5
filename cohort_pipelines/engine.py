"""Set work larger than memory: DuckDB with a memory limit and a spill folder for each operation."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

MEMORY_LIMIT = "192MB"


@contextmanager
def engine(spill: Path, memory_limit: str = MEMORY_LIMIT) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory DuckDB that spills into ``spill``, a private folder; close it afterwards."""
    with duckdb.connect(
        config={
            "memory_limit": memory_limit,
            "temp_directory": str(spill),
            "threads": 2,
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    ) as connection:
        yield connection
