"""Spellings that a partner takes for one id, in set work: the same key for them as :mod:`cohort_pipelines.identity`'s.

DuckDB has its own ideas of upper and lower case, so it asks Python; where every spelling is an id, nothing is asked.

Whether a partner trims ids is not known. So an id with white space at an end is never added. One that a target holds
from before is removed by its own spelling, and the bare id that a partner which trims then lacks is added after that.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from cohort_pipelines.core.engine import engine
from cohort_pipelines.history import History
from cohort_pipelines.identity import SPACE, Equality, equality_key

_PADDED = f"'^[{SPACE}]|[{SPACE}]$'"


@contextmanager
def spelling_engine(history: History, equality: Equality) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a DuckDB that spills into the history's scratch space, speaks UTC and understands :func:`key_of`.

    Raises:
        HistoryNotWritable: the disk takes no spill.
    """

    def key(ids: pa.ChunkedArray) -> pa.Array:
        return equality_key(ids.combine_chunks(), equality)

    with history.scratch() as spill, engine(spill) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        if equality != "exact":
            # where the enum of this word lies differs from one DuckDB to the next, and the stubs know only that
            connection.create_function("equality_key", key, ["VARCHAR"], "VARCHAR", type="arrow")  # type: ignore[call-overload]
        yield connection


def key_of(column: str, equality: Equality) -> str:
    """Return the SQL of what all spellings of the id in ``column`` have in common."""
    return column if equality == "exact" else f"equality_key({column})"


def is_padded(column: str) -> str:
    """Return the SQL condition that the id in ``column`` has white space at an end."""
    return f"regexp_matches({column}, {_PADDED})"


def bare_keys(ids: str, equality: Equality) -> str:
    """Return the SQL of the keys, once each, that the ids with white space at an end in ``ids`` have without it."""
    key = key_of(f"trim(id, '{SPACE}')", equality)
    return f"(SELECT DISTINCT {key} AS key FROM {ids} WHERE {is_padded('id')})"  # noqa: S608  a relation of ours


def one_spelling(ids: str, equality: Equality) -> str:
    """Return the SQL that leaves one `id` of each in the relation ``ids``: of several spellings the first by its bytes.

    That is also the one which a payload keeps.
    """
    if equality == "exact":
        return ids
    return f"(SELECT min(id) AS id FROM {ids} GROUP BY {key_of('id', equality)})"  # noqa: S608  a relation of ours
