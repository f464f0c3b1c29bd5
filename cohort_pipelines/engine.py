"""Set work larger than memory: DuckDB with a memory limit and a spill folder for each operation."""

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from cohort_pipelines.errors import HistoryNotWritable

MEMORY_LIMIT = "128MB"


@contextmanager
def engine(spill: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory DuckDB that spills into ``spill``, a private folder; close it afterwards.

    Raises:
        HistoryNotWritable: the work needs more memory than allowed, and the disk takes no spill.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY_LIMIT,
        "temp_directory": str(spill),
        "threads": 2,
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    pa.default_memory_pool().release_unused()  # Arrow keeps what it has freed; two such caches would add up
    try:
        with duckdb.connect(config=config) as connection:
            yield connection
    except duckdb.OperationalError as error:  # a disk that takes no spill is reported as memory that is used up
        raise HistoryNotWritable(str(spill), f"set work could not spill ({type(error).__name__})") from error


def exactly(path: Path) -> str:
    """Return by what name DuckDB reads ``path`` and nothing else: it takes `*`, `?` and `[` in one for a pattern."""
    return glob.escape(str(path))
