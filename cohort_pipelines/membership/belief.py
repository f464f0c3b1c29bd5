"""Belief: what the partner holds, id by id, as far as anybody can know: IN, OUT or MAYBE.

It is a sealed file, owned by the target. While an attempt is under way the truth is three things: the belief that the
attempt started from, its plan, and what the ledger says of each range of that plan. :func:`fold` makes them one again.

Spellings that the partner takes for one id are one row, in the spelling that was sent last.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection

from cohort_pipelines.core.engine import BATCH, exactly
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.history import GROUP_BYTES, History
from cohort_pipelines.identity import Equality
from cohort_pipelines.ledger import REFUSED_STATES, ChunkState
from cohort_pipelines.membership.spelling import bare_keys, is_padded, key_of, spelling_engine

SETTLES_AFTER = timedelta(minutes=10)
"""No request takes effect later than this after it was sent: assumption A1, above any request's own deadline."""

_FIELDS: "list[pa.Field[Any]]" = [  # quoted: only the type stubs know it as generic
    pa.field("id", pa.string(), nullable=False),
    pa.field("state", pa.string(), nullable=False),  # IN, OUT or MAYBE
    pa.field("unsettled_since", pa.timestamp("us", tz="UTC")),  # an unknown request may land for a while after
    pa.field("refused", pa.bool_(), nullable=False),  # the partner refused the last request for it
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
_AT_ONCE = 1_000_000
"""Rows of a plan that can be worked into a belief of 10 M ids in one step."""


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

    @property
    def known(self) -> int:
        """How many ids were ever sent, those that are out included."""
        return self.file.rows if self.file else 0


def fold(
    history: History,
    base: Belief,
    plan: StoredFile,
    chunks: pa.Table,
    *,
    equality: Equality = "exact",
    applies_within: timedelta = timedelta(0),
) -> Belief:
    """Work what became of ``plan`` into belief; ``chunks`` has :data:`CHUNK_SCHEMA`, rows of the plan as ranges.

    An acknowledged row is IN or OUT. A row that may have taken effect is MAYBE. Where a try got no answer, though a
    later one may have, the row is unsettled too, and stays so until a request for it, begun later than
    :data:`SETTLES_AFTER` (and ``applies_within``, which the partner may take to apply it) after, was acknowledged
    without a doubt. Refused rows stay as they were, an unknown id OUT; but who was in and is refused as an addition is
    MAYBE, since somebody must have put them out. Rows that were never begun, or left untouched, stay as they were
    altogether.

    An id with white space at an end goes from belief once it is certainly out. The bare id is IN only where it was
    acknowledged, since the plan adds it after the other was removed; else it is MAYBE.

    An id is marked while the last request for it was refused, until one is acknowledged; that it cannot be removed
    where it is out says nothing of it.

    Raises:
        HistoryError: a file is gone, damaged or cannot be read, or the new one cannot be written.
    """
    told = chunks.filter(pc.field("state") != ChunkState.UNTOUCHED)
    if not told.num_rows or not plan.rows:
        return base
    with ExitStack() as opened:
        believed, paths = opened.enter_context(belief_source(history, base))
        paths["plan"] = exactly(opened.enter_context(history.local_file(plan)))
        duckdb = opened.enter_context(spelling_engine(history, equality))
        duckdb.register("told", told)
        believed = _TWINS_DOUBTED.format(
            belief=believed, bare=bare_keys(believed, equality), known=key_of("held.id", equality)
        )
        keys = {"sent": key_of("outcome.id", equality), "known": key_of("belief.id", equality)}
        duckdb.execute("SET threads = 1")  # to join and sort 10 M ids takes more memory than there is in two (measured)
        settles = int((SETTLES_AFTER + applies_within).total_seconds())
        outcome, folded = _OUTCOME, _FOLD.format(belief=believed, settles=settles, **keys)
        if equality != "exact" or plan.rows > _AT_ONCE:  # likewise: one after the other, through files
            steps = opened.enter_context(history.scratch())
            outcome = _step(duckdb, outcome, {"plan": paths.pop("plan")}, steps / "outcome")
            folded = _step(duckdb, f"(WITH outcome AS (FROM {outcome}) FROM {folded})", paths, steps / "folded")
            if equality != "exact":
                folded = _step(duckdb, one_state(folded, equality), {}, steps / "merged")
            paths = {}
        rows = duckdb.sql(f"WITH outcome AS (FROM {outcome}) FROM {folded} {_KEPT} ORDER BY id", params=paths)
        return seal_belief(history, plan.sync, plan.window, rows.to_arrow_reader(BATCH))


def _step(duckdb: DuckDBPyConnection, rows: str, paths: dict[str, str], file: Path) -> str:
    """Run ``rows`` by itself into ``file``, and return the SQL that reads it."""
    written, read = ("'" + name.replace("'", "''") + "'" for name in (str(file), exactly(file)))
    duckdb.execute(f"COPY (FROM {rows}) TO {written} (FORMAT parquet, ROW_GROUP_SIZE_BYTES {GROUP_BYTES})", paths)
    return f"read_parquet({read})"


def seal_belief(history: History, sync: str, window: str, rows: Iterable[pa.RecordBatch]) -> Belief:
    """Seal ``rows``, of :data:`BELIEF_SCHEMA` and sorted by id, and count them.

    Raises:
        HistoryNotWritable: the disk or the object store refused.
    """
    unsettled = held = 0
    with history.writer(sync, Stage.BELIEF, window, BELIEF_SCHEMA) as writer:
        for batch in rows:
            unsettled += batch.num_rows - batch.column("unsettled_since").null_count
            held += batch.filter(pc.field("state") != "OUT").num_rows
            writer.write(batch)
    return Belief(writer.stored, unsettled, held)


def doubt_all(history: History, belief: Belief, *, sync: str, window: str) -> Belief:
    """Return ``belief`` with nobody IN any more, but MAYBE: the target was lost at the partner, or out of our hands.

    Raises:
        HistoryError: the file is gone, damaged or cannot be read, or the new one cannot be written.
    """
    if belief.file is None:
        return belief
    with ExitStack() as opened:
        believed, paths = opened.enter_context(belief_source(history, belief))
        duckdb = opened.enter_context(spelling_engine(history, "exact"))
        rows = duckdb.sql(_DOUBTED.format(belief=believed), params=paths)
        return seal_belief(history, sync, window, rows.to_arrow_reader(BATCH))


@contextmanager
def belief_source(history: History, belief: Belief) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the SQL that reads ``belief``, and its parameters; where nothing was ever sent it has no rows.

    Raises:
        HistoryError: the file is gone, damaged or cannot be read.
    """
    if belief.file is None:
        yield "(SELECT '' AS id, '' AS state, NULL::TIMESTAMPTZ AS unsettled_since, false AS refused WHERE false)", {}
        return
    with history.local_file(belief.file) as path:
        yield "read_parquet($belief)", {"belief": exactly(path)}


def one_state(believed: str, equality: Equality) -> str:
    """Return the SQL that makes one row of all spellings of an id in ``believed``, a relation with belief's columns.

    Two spellings are there when the setting was changed, or after both were sent under the one before it: MAYBE, unless
    they agree. The spelling that may be in is kept.
    """
    return believed if equality == "exact" else one_row(believed, equality)


def one_row(believed: str, equality: Equality) -> str:
    """Return the SQL that makes one row of all that ``believed``, a relation with belief's columns, has of an id."""
    return _ONE_STATE.format(believed=believed, key=key_of("id", equality))


# an interval join by ASOF: of the ranges that start at or before a row, only the last can hold it
_OUTCOME = """(
SELECT planned.id, planned.operation, told.state, told.intent_at, told.ended_at
FROM read_parquet($plan, file_row_number = true) AS planned
ASOF JOIN told ON planned.file_row_number >= told.lo
WHERE planned.file_row_number < told.hi
)"""

_REFUSED = str(tuple(map(str, REFUSED_STATES)))
_FOLD = f"""(
SELECT
    CASE
        WHEN outcome.state IN {_REFUSED} THEN coalesce(belief.id, outcome.id)
        ELSE coalesce(outcome.id, belief.id)
    END AS id,
    CASE
        WHEN outcome.state IS NULL THEN belief.state
        WHEN outcome.state IN {_REFUSED} AND outcome.operation = 'add' AND belief.state = 'IN' THEN 'MAYBE'
        WHEN outcome.state IN {_REFUSED} THEN coalesce(belief.state, 'OUT')
        WHEN outcome.state NOT IN ('{ChunkState.ACKED}', '{ChunkState.DOUBTED}') THEN 'MAYBE'
        WHEN outcome.operation = 'add' THEN 'IN'
        ELSE 'OUT'
    END AS state,
    CASE
        WHEN outcome.state = '{ChunkState.ACKED}'
            AND outcome.intent_at > belief.unsettled_since + INTERVAL '{{settles}} seconds'
            THEN NULL
        WHEN outcome.state IN ('{ChunkState.INTENT}', '{ChunkState.UNKNOWN}', '{ChunkState.DOUBTED}')
            THEN greatest(outcome.ended_at, belief.unsettled_since)
        ELSE belief.unsettled_since
    END AS unsettled_since,
    CASE
        WHEN outcome.state IN {_REFUSED} AND outcome.operation = 'remove' AND belief.state = 'OUT' THEN belief.refused
        WHEN outcome.state IN {_REFUSED} THEN true
        WHEN outcome.state IN ('{ChunkState.ACKED}', '{ChunkState.DOUBTED}') THEN false
        ELSE coalesce(belief.refused, false)
    END AS refused
FROM outcome FULL JOIN {{belief}} AS belief ON {{sent}} = {{known}}
)"""  # noqa: S608  nothing but constants of this module stands in it

_TWINS_DOUBTED = """(
SELECT held.* REPLACE (CASE WHEN bare.key IS NOT NULL AND state = 'IN' THEN 'MAYBE' ELSE state END AS state)
FROM {belief} AS held LEFT JOIN {bare} AS bare ON {known} = bare.key
)"""
_KEPT = f"WHERE state <> 'OUT' OR unsettled_since IS NOT NULL OR NOT {is_padded('id')}"

_DOUBTED = """
SELECT id, CASE state WHEN 'IN' THEN 'MAYBE' ELSE state END AS state, unsettled_since, refused
FROM {belief}
ORDER BY id
"""

_ONE_STATE = """(
SELECT
    coalesce(min(id) FILTER (state <> 'OUT'), min(id)) AS id,
    CASE WHEN min(state) = max(state) THEN min(state) ELSE 'MAYBE' END AS state,
    max(unsettled_since) AS unsettled_since,
    bool_or(refused) AS refused
FROM {believed}
GROUP BY {key}
)"""
