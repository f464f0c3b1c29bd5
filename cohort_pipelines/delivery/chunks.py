"""Chunks: what is known of each range of an attempt's plan, before and after it was sent."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from itertools import chain, groupby, islice
from typing import cast

import pyarrow as pa
from sqlalchemy import Connection, bindparam, func, select, text

from cohort_pipelines.core.changes import Operation
from cohort_pipelines.core.engine import BATCH
from cohort_pipelines.core.files import StoredFile
from cohort_pipelines.delivery.receipt import MAX_LISTED
from cohort_pipelines.destinations import Answer, ChangeWire
from cohort_pipelines.history import History
from cohort_pipelines.ledger import REJECTED_STATES, ChunkState, schema
from cohort_pipelines.membership import CHUNK_SCHEMA, PlanCounts

PUBLISH = "publish"
"""What a file wire does with the whole plan at once."""

Rows = tuple[int, int, str]
"""Rows `[lo, hi)` of a plan, and the operation they are sent by."""

PATIENCE = timedelta(minutes=5)
"""How long one chunk may take with its retries; below membership's SETTLES_AFTER."""

OPENING_ROWS = 32
"""Rows of a phase's first chunk where each row is a request: so many tell whether the target takes anything."""

_MAX_REASON = 200
_LEAST_EXTRA = 64
_EXTRA_SHARE = 50


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
    """Rows `[lo, hi)` of a plan, to be sent at once.

    Attributes:
        lo: its first row.
        hi: the row after its last one.
        operation: what the rows ask for.
        page: its place among the chunks of its operation, from 1; parts of a chunk keep the place of the whole.
        pages: how many they are.
        ids: the partner's ids of the rows.
        alone: whether the partner refused these rows last time, so that another refusal tells nothing new.
        splits: how often it was divided, since the whole was refused.
    """

    lo: int
    hi: int
    operation: Operation
    page: int
    pages: int
    ids: Sequence[str]
    alone: bool = False
    splits: int = 0

    @property
    def rows(self) -> Rows:
        """What the ledger calls it."""
        return self.lo, self.hi, self.operation

    def part(self, lo: int, hi: int, *, splits: int = 0) -> "Chunk":
        """Return rows `[lo, hi)` of the plan, which lie within this chunk, ``splits`` times divided more than it."""
        return replace(self, lo=lo, hi=hi, ids=self.ids[lo - self.lo : hi - self.lo], splits=self.splits + splits)

    def ended(self, state: ChunkState, reason: str, intent_at: datetime, ended_at: datetime) -> Ended:
        """Return that all of the chunk's rows fared alike."""
        return Ended(*self.rows, state, intent_at, ended_at, reason)


@dataclass(frozen=True, slots=True)
class Phase:
    """The chunks of one operation, and after them those with rows that the partner refused last time."""

    chunks: Iterator[Chunk]
    alone: Iterator[Chunk]


def extra_requests(rows: int) -> int:
    """Return how many requests may be spent on finding the refused ones among ``rows``: 64, or 2 % of them if more."""
    return max(_LEAST_EXTRA, rows // _EXTRA_SHARE)


def quarantined_requests(rejected: int, wire: ChangeWire) -> int:
    """Return how many requests are made of so many rows that were refused last time."""
    return rejected if wire.judges_rows else -(-rejected // _quarantined_rows(rejected, wire))


def _quarantined_rows(rejected: int, wire: ChangeWire) -> int:
    """Return how many rows that were refused last time share a request: one, or as few as may be spent on them."""
    return min(wire.chunk_rows, max(-(-rejected // extra_requests(rejected)), 1))


def read_phases(
    history: History, plan: StoredFile, counts: PlanCounts, wire: ChangeWire, turn: int
) -> tuple[Phase, Phase, Phase, Phase, Phase]:
    """Return a plan's additions and removals, those that only reconcile, then the additions to be made again after all.

    They read the plan as chunks are asked for.

    Rows that were refused last time go one to a request, or as few as :func:`extra_requests` allows; ``turn`` says
    which of these requests is the first, so that they take turns at being divided further. Where each row is a request
    the first chunk has :data:`OPENING_ROWS`.
    """
    opening = min(OPENING_ROWS, wire.chunk_rows) if wire.judges_rows else wire.chunk_rows

    def read(operation: Operation, bounds: Sequence[tuple[int, int]], *, alone: bool) -> Iterator[Chunk]:
        if not bounds:
            return
        ids = chain.from_iterable(column_of(batch) for batch in history.batches(plan, ["id"]))
        wanted = islice(ids, bounds[0][0], bounds[-1][1])
        for page, (lo, hi) in enumerate(bounds, start=1):
            yield Chunk(lo, hi, operation, page, len(bounds), list(islice(wanted, hi - lo)), alone)

    def phase(operation: Operation, first: int, end: int, rejected: int) -> Phase:
        together = _bounds(first, end - rejected, wire.chunk_rows, opening)
        alone = _bounds(end - rejected, end, opening if wire.judges_rows else _quarantined_rows(rejected, wire))
        start = turn % len(alone) if alone else 0
        return Phase(
            read(operation, together, alone=False),
            chain(read(operation, alone[start:], alone=True), read(operation, alone[:start], alone=True)),
        )

    removals = counts.adds - counts.reconciling_adds
    adds, reconciles = removals - counts.again, removals + counts.removals - counts.reconciling_removals
    return (
        phase(Operation.ADD, 0, adds, counts.quarantined_adds),
        phase(Operation.REMOVE, removals, reconciles, counts.quarantined_removals),
        phase(Operation.ADD, reconciles, reconciles + counts.reconciling_adds, 0),
        phase(Operation.REMOVE, reconciles + counts.reconciling_adds, plan.rows, 0),
        phase(Operation.ADD, adds, removals, 0),
    )


def _bounds(first: int, end: int, rows: int, opening: int | None = None) -> Sequence[tuple[int, int]]:
    """Return ranges of so many rows from ``first`` to ``end``, of which the first has ``opening``."""
    second = min(first + (opening or rows), end)
    starts = [first, *range(second, end, rows)] if second > first else []
    return list(zip(starts, [*starts[1:], end], strict=False))


def column_of(batch: pa.RecordBatch) -> list[str]:
    """Return the one column of ``batch`` as text."""
    return cast("list[str]", batch.column(0).to_pylist())


def split_by_outcome(chunk: Chunk, answer: Answer, intent_at: datetime, ended_at: datetime) -> list[Ended]:
    """Split a chunk into ranges of rows that fared alike."""

    def outcome(index: int) -> tuple[ChunkState, str]:
        if index in answer.unknown:
            return ChunkState.UNKNOWN, answer.unknown[index]
        if index in answer.not_sent:
            return ChunkState.NOT_SENT, answer.not_sent[index]
        if index in answer.rejected:
            return ChunkState.REJECTED, answer.rejected[index]
        return ChunkState.IN_DOUBT if index in answer.doubtful else ChunkState.ACKED, ""

    ended = []
    for (state, reason), rows in groupby(range(chunk.hi - chunk.lo), key=outcome):
        run = list(rows)
        lo, hi = chunk.lo + run[0], chunk.lo + run[-1] + 1
        ended.append(Ended(lo, hi, chunk.operation, state, intent_at, ended_at, reason[:_MAX_REASON]))
    return ended


def intent(rows: Rows, at: datetime, last_try: datetime) -> Ended:
    """Return that ``rows`` are about to be sent: from now on they may have taken effect.

    Should the writer die, or be cut off from the ledger while it goes on trying, no more than this is recorded:
    ``last_try`` is when it sends them for the last time at the latest.
    """
    return Ended(*rows, ChunkState.INTENT, at, last_try)


def record(connection: Connection, attempt: int, ended: Sequence[Ended]) -> None:
    """Put what became of rows in the place of what was known of them.

    A range that is not of the same rows as one known before must be one of several that make up the same rows.
    """
    if ended:
        connection.execute(
            _RECORD, [{"attempt": attempt} | {name: getattr(each, name) for name in _ENDED} for each in ended]
        )


_REFUSED = schema.chunk.c.state.in_(REJECTED_STATES)
_ENDED = tuple(each.name for each in fields(Ended))

# one statement, built once: it is the price of every chunk
_RECORD = text(
    "INSERT INTO chunk (attempt, lo, hi, operation, state, intent_at, ended_at, reason) "
    "VALUES (:attempt, :lo, :hi, :operation, :state, :intent_at, :ended_at, :reason) "
    "ON CONFLICT (attempt, lo) DO UPDATE SET hi = excluded.hi, state = excluded.state, "
    "intent_at = excluded.intent_at, ended_at = excluded.ended_at, reason = excluded.reason"
).bindparams(bindparam("intent_at", type_=schema.Moment()), bindparam("ended_at", type_=schema.Moment()))


def chunk_table(connection: Connection, attempt: int) -> pa.Table:
    """Return what is known of an attempt's plan, with membership's :data:`CHUNK_SCHEMA`, in order."""
    table = schema.chunk
    columns = [table.c[name] for name in CHUNK_SCHEMA.names]
    query = select(*columns).filter_by(attempt=attempt).order_by(table.c.lo)
    found = connection.execute(query, execution_options={"yield_per": BATCH})  # never all of them as Python objects
    batches = [
        pa.RecordBatch.from_arrays(
            [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), CHUNK_SCHEMA, strict=True)],
            schema=CHUNK_SCHEMA,
        )
        for rows in found.partitions()
    ]
    return pa.Table.from_batches(batches, schema=CHUNK_SCHEMA)


def tally(connection: Connection, attempt: int) -> Mapping[tuple[str, str], int]:
    """Count an attempt's rows by operation and state."""
    table = schema.chunk
    rows = func.sum(table.c.hi - table.c.lo)
    query = select(table.c.operation, table.c.state, rows).filter_by(attempt=attempt)
    counted = connection.execute(query.group_by(table.c.operation, table.c.state))
    return {(operation, state): int(count) for operation, state, count in counted}


def refused_from(connection: Connection, attempt: int, row: int) -> int:
    """Count an attempt's refused rows from ``row`` on, which is the first of a chunk."""
    table = schema.chunk
    query = select(func.sum(table.c.hi - table.c.lo)).filter_by(attempt=attempt).where(_REFUSED, table.c.lo >= row)
    return int(connection.execute(query).scalar() or 0)


def rejected_ranges(connection: Connection, attempt: int) -> list[tuple[int, int, str]]:
    """Return refused rows of an attempt as ranges `[lo, hi)` with their reasons, in order, as many as are listed."""
    table = schema.chunk
    query = select(table.c.lo, table.c.hi, table.c.reason).filter_by(attempt=attempt).where(_REFUSED)
    found = connection.execute(query.order_by(table.c.lo).limit(MAX_LISTED))
    return [(row.lo, row.hi, row.reason) for row in found]
