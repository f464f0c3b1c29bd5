"""Set work larger than memory: DuckDB with a memory limit and a spill folder for each operation."""

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from cohort_pipelines.core.errors import HistoryNotWritable, MemoryLimitReached

MEMORY_LIMIT = "256MB"
BATCH = 8_192
"""Rows of a batch that is read from a file or from the engine: 8 MB of the longest ids."""

_OUT_OF_MEMORY, _DISK = "Out of Memory Error", "IO Error"
_FULL_DISK = "max_temp_directory_size"  # what DuckDB names where memory is used up since the disk takes no more


@contextmanager
def engine(spill: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory DuckDB that spills into ``spill``, a private folder; close it afterwards.

    Raises:
        HistoryNotWritable: the disk takes no spill, or no more of it.
        MemoryLimitReached: the work takes more memory than :data:`MEMORY_LIMIT` although it spills.
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
    except (
        duckdb.OperationalError,
        OSError,
    ) as error:  # the latter from Arrow, in DuckDB's words
        said = str(error)
        if said.startswith(_OUT_OF_MEMORY) and _FULL_DISK not in said:
            raise MemoryLimitReached(MEMORY_LIMIT) from error
        if isinstance(error, OSError) and not said.startswith((_OUT_OF_MEMORY, _DISK)):
            raise
        raise HistoryNotWritable(str(spill), f"set work could not spill ({type(error).__name__})") from error


def exactly(path: Path) -> str:
    """Return by what name DuckDB reads ``path`` and nothing else: it takes `*`, `?` and `[` in one for a pattern."""
    return glob.escape(str(path))
