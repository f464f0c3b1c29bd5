"""Spellings that a partner takes for one id, in set work: the same key for them as :mod:`cohort_pipelines.identity`'s.

DuckDB has its own ideas of upper and lower case, so it asks Python; where every spelling is an id, nothing is asked.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from cohort_pipelines.engine import engine
from cohort_pipelines.history import History
from cohort_pipelines.identity import Equality, equality_key


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


def one_spelling(ids: str, equality: Equality) -> str:
    """Return the SQL that leaves one `id` of each in the relation ``ids``: of several spellings the first by its bytes.

    That is also the one which a payload keeps.
    """
    if equality == "exact":
        return ids
    return f"(SELECT min(id) AS id FROM {ids} GROUP BY {key_of('id', equality)})"  # noqa: S608  a relation of ours
