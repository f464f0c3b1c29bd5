"""Set work larger than memory: DuckDB with a memory limit and a spill folder for each operation."""

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from cohort_pipelines.errors import HistoryNotWritable, MemoryLimitReached

MEMORY_LIMIT = "256MB"
BATCH = 8_192
"""Rows of a batch that is read from a file or from the engine: 8 MB of the longest ids."""


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
    except (duckdb.OperationalError, OSError) as error:  # what reading a result as Arrow meets comes as an OSError
        raise _refusal(str(spill), error) from error


def _refusal(spill: str, error: Exception) -> Exception:
    """Return the error of ours that one of DuckDB's stands for; any other is returned as it is."""
    text = str(error)
    if text.startswith("Out of Memory Error") and "failed to offload" not in text:
        return MemoryLimitReached(MEMORY_LIMIT)
    if text.startswith(("Out of Memory Error", "IO Error")):
        return HistoryNotWritable(spill, f"set work could not spill ({type(error).__name__})")
    return error


def exactly(path: Path) -> str:
    """Return by what name DuckDB reads ``path`` and nothing else: it takes `*`, `?` and `[` in one for a pattern."""
    return glob.escape(str(path))
