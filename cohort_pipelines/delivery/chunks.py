"""Chunks: what is known of each range of an attempt's plan, before and after it was sent."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import chain, groupby, islice
from typing import cast

import pyarrow as pa
from sqlalchemy import Connection, delete, func, insert, select

from cohort_pipelines import clock
from cohort_pipelines.delivery import schema
from cohort_pipelines.delivery.belief import CHUNK_SCHEMA
from cohort_pipelines.delivery.schema import ChunkState
from cohort_pipelines.history import History, StoredFile
from cohort_pipelines.partners.wire import Answer, Operation

PUBLISH = "publish"
"""What a file wire does with the whole plan at once."""

Rows = tuple[int, int, str]
"""Rows `[lo, hi)` of a plan, and the operation they are sent by."""

PATIENCE = timedelta(minutes=5)
"""How long one chunk may take with its retries; below belief's SETTLES_AFTER."""

_MAX_REASON = 200


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of rows `[lo, hi)`, for one and the same ``reason`` (no ids in it; empty where acknowledged)."""

    lo: int
    hi: int
    operation: str
    state: ChunkState
    intent_at: datetime
    ended_at: datetime
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows `[lo, hi)` of a plan, to be sent at once; ``page`` of ``pages`` counts the chunks of its operation."""

    lo: int
    hi: int
    operation: Operation
    page: int
    pages: int
    ids: Sequence[str]

    def ended(self, state: ChunkState, reason: str, intent_at: datetime) -> Ended:
        """Return that all of the chunk's rows fared alike."""
        return Ended(self.lo, self.hi, self.operation, state, intent_at, clock.now(), reason)


def read_phases(history: History, plan: StoredFile, adds: int, chunk_rows: int) -> tuple[Iterator[Chunk], ...]:
    """Return the chunks of a plan's additions and those of its removals; each reads the plan as they are asked for."""

    def read(operation: Operation, first: int, end: int) -> Iterator[Chunk]:
        ids = islice(chain.from_iterable(column_of(batch) for batch in history.batches(plan, ["id"])), first, end)
        pages = -(-(end - first) // chunk_rows)
        for page in range(1, pages + 1):
            lo = first + (page - 1) * chunk_rows
            hi = min(lo + chunk_rows, end)
            yield Chunk(lo, hi, operation, page, pages, list(islice(ids, hi - lo)))

    return read(Operation.ADD, 0, adds), read(Operation.REMOVE, adds, plan.rows)


def column_of(batch: pa.RecordBatch) -> list[str]:
    """Return the one column of ``batch`` as text."""
    return cast("list[str]", batch.column(0).to_pylist())


def split_by_outcome(chunk: Chunk, answer: Answer, intent_at: datetime) -> list[Ended]:
    """Split a chunk into ranges of rows that fared alike."""

    def outcome(index: int) -> tuple[ChunkState, str]:
        if index in answer.unknown:
            return ChunkState.UNKNOWN, answer.unknown[index]
        if index in answer.refused:
            return ChunkState.REFUSED, answer.refused[index]
        return ChunkState.DOUBTED if index in answer.doubtful else ChunkState.ACKED, ""

    ended, ended_at = [], clock.now()
    for (state, reason), rows in groupby(range(chunk.hi - chunk.lo), key=outcome):
        run = list(rows)
        lo, hi = chunk.lo + run[0], chunk.lo + run[-1] + 1
        ended.append(Ended(lo, hi, chunk.operation, state, intent_at, ended_at, reason[:_MAX_REASON]))
    return ended


def record_intent(connection: Connection, attempt: int, rows: Rows, at: datetime, last_try: datetime) -> None:
    """Record that ``rows`` are about to be sent: from now on they may have taken effect.

    Should the writer die, or be cut off from the ledger while it goes on trying, nobody records more than this:
    ``last_try`` is when it sends them for the last time at the latest.
    """
    record_ended(connection, attempt, [Ended(*rows, ChunkState.INTENT, at, last_try)])


def record_ended(connection: Connection, attempt: int, ended: Sequence[Ended]) -> None:
    """Replace what was known of a chunk by what became of its rows."""
    if not ended:
        return
    connection.execute(delete(schema.chunk).filter_by(attempt=attempt, lo=ended[0].lo))
    connection.execute(
        insert(schema.chunk),
        [asdict(each) | {"attempt": attempt} for each in ended],
    )


def chunk_table(connection: Connection, attempt: int) -> pa.Table:
    """Return what is known of an attempt's plan, with belief's :data:`CHUNK_SCHEMA`, in order."""
    table = schema.chunk
    columns = [table.c[name] for name in CHUNK_SCHEMA.names]
    rows = connection.execute(select(*columns).filter_by(attempt=attempt).order_by(table.c.lo)).all()
    return pa.Table.from_pydict(
        {name: [row[place] for row in rows] for place, name in enumerate(CHUNK_SCHEMA.names)}, schema=CHUNK_SCHEMA
    )


def tally(connection: Connection, attempt: int) -> Mapping[tuple[str, str], int]:
    """Count an attempt's rows by operation and state."""
    table = schema.chunk
    rows = func.sum(table.c.hi - table.c.lo)
    query = select(table.c.operation, table.c.state, rows).filter_by(attempt=attempt)
    counted = connection.execute(query.group_by(table.c.operation, table.c.state))
    return {(operation, state): int(count) for operation, state, count in counted}


def refused_ranges(connection: Connection, attempt: int) -> list[tuple[int, int, str]]:
    """Return the refused rows of an attempt as ranges `[lo, hi)` with their reasons, in order."""
    table = schema.chunk
    refused = table.c.state.in_([ChunkState.REFUSED, ChunkState.REFUSED_WHOLE])
    query = select(table.c.lo, table.c.hi, table.c.reason).filter_by(attempt=attempt).where(refused)
    return [(row.lo, row.hi, row.reason) for row in connection.execute(query.order_by(table.c.lo))]
