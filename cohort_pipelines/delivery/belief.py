"""Belief: what the partner holds, id by id, as far as anybody can know: IN, OUT or MAYBE.

It is a sealed file, owned by the target. While an attempt is under way the truth is three things: the belief that the
attempt started from, its plan, and what the ledger says of each range of that plan. :func:`fold` makes them one again.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cohort_pipelines.delivery.schema import ChunkState
from cohort_pipelines.engine import engine
from cohort_pipelines.history import History, Stage, StoredFile

SETTLES_AFTER = timedelta(minutes=10)
"""No request takes effect later than this after it was sent: assumption A1, above any request's own deadline."""

_FIELDS: "list[pa.Field[Any]]" = [  # quoted: only the type stubs know it as generic
    pa.field("id", pa.string(), nullable=False),
    pa.field("state", pa.string(), nullable=False),  # IN, OUT or MAYBE
    pa.field("unsettled_since", pa.timestamp("us", tz="UTC")),  # an unknown request may land for a while after
]
BELIEF_SCHEMA = pa.schema(_FIELDS)
_CHUNK_COLUMNS: dict[str, pa.DataType] = {
    "lo": pa.int64(),
    "hi": pa.int64(),
    "state": pa.string(),
    "intent_at": pa.timestamp("us", tz="UTC"),
    "ended_at": pa.timestamp("us", tz="UTC"),
}
CHUNK_SCHEMA = pa.schema(_CHUNK_COLUMNS)
BATCH = 65_536


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed of a target.

    Attributes:
        file: the sealed file; None where nothing was ever sent.
        unsettled: ids whose outcome is uncertain, or was too lately to be sure.
        held: ids that the target holds, or may hold.
    """

    file: StoredFile | None = None
    unsettled: int = 0
    held: int = 0


def fold(history: History, base: Belief, plan: StoredFile, chunks: pa.Table) -> Belief:
    """Work what became of ``plan`` into belief; ``chunks`` has :data:`CHUNK_SCHEMA`, rows of the plan as ranges.

    An acknowledged row is IN or OUT. A row that may have taken effect is MAYBE. Where a try got no answer, though a
    later one may have, the row is unsettled too, and stays so until a request for it, begun later than
    :data:`SETTLES_AFTER` after, was acknowledged without a doubt. Rows of requests that were refused whole, or never
    begun, stay as they were.

    Raises:
        HistoryError: a file is gone or damaged, or the new one cannot be written.
    """
    told = chunks.filter(pc.field("state") != ChunkState.REFUSED_WHOLE)
    if not told.num_rows or not plan.rows:
        return base
    unsettled = held = 0
    with history.writer(plan.sync, Stage.BELIEF, plan.window, BELIEF_SCHEMA) as writer:
        for batch in _folded(history, base, plan, told):
            unsettled += batch.num_rows - batch.column("unsettled_since").null_count
            held += batch.filter(pc.field("state") != "OUT").num_rows
            writer.write(batch)
    return Belief(writer.stored, unsettled, held)


def _folded(history: History, base: Belief, plan: StoredFile, told: pa.Table) -> Iterator[pa.RecordBatch]:
    with ExitStack() as opened:
        paths = {"plan": str(opened.enter_context(history.local_file(plan)))}
        if base.file is not None:
            paths["belief"] = str(opened.enter_context(history.local_file(base.file)))
        duckdb = opened.enter_context(engine(opened.enter_context(history.scratch())))
        duckdb.execute("SET TimeZone = 'UTC'")
        duckdb.register("told", told)
        yield from duckdb.sql(_FOLD.format(belief=belief_source(base)), params=paths).to_arrow_reader(BATCH)


def belief_source(belief: Belief) -> str:
    """Return the SQL that reads ``belief``, whose path is the parameter `$belief`; where it is nothing, no rows."""
    if belief.file is not None:
        return "read_parquet($belief)"
    return "(SELECT '' AS id, '' AS state, NULL::TIMESTAMPTZ AS unsettled_since WHERE false)"


# an interval join by ASOF: of the ranges that start at or before a row, only the last can hold it
_FOLD = f"""
WITH outcome AS (
    SELECT planned.id, planned.operation, told.state, told.intent_at, told.ended_at
    FROM read_parquet($plan, file_row_number = true) AS planned
    ASOF JOIN told ON planned.file_row_number >= told.lo
    WHERE planned.file_row_number < told.hi
)
SELECT
    coalesce(outcome.id, belief.id) AS id,
    CASE
        WHEN outcome.id IS NULL THEN belief.state
        WHEN outcome.state NOT IN ('{ChunkState.ACKED}', '{ChunkState.DOUBTED}') THEN 'MAYBE'
        WHEN outcome.operation = 'add' THEN 'IN'
        ELSE 'OUT'
    END AS state,
    CASE
        WHEN outcome.state = '{ChunkState.ACKED}'
            AND outcome.intent_at > belief.unsettled_since + INTERVAL '{SETTLES_AFTER.total_seconds():.0f} seconds'
            THEN NULL
        WHEN outcome.state IN ('{ChunkState.INTENT}', '{ChunkState.UNKNOWN}', '{ChunkState.DOUBTED}')
            THEN greatest(outcome.ended_at, belief.unsettled_since)
        ELSE belief.unsettled_since
    END AS unsettled_since
FROM outcome FULL JOIN {{belief}} AS belief ON outcome.id = belief.id
ORDER BY 1
"""  # noqa: S608  nothing but constants of this module stands in it
