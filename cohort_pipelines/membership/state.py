"""Membership: what the partner holds, id by id, as far as anybody can know: IN, OUT or UNKNOWN.

It is a sealed file, owned by the target. While an attempt is under way the truth is three things: the membership that
the attempt started from, its plan, and what the ledger says of each range of that plan. :func:`fold` makes them one
again.

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
from cohort_pipelines.ledger import REJECTED_STATES, ChunkState
from cohort_pipelines.membership.spelling import bare_keys, is_padded, key_of, spelling_engine

SETTLES_AFTER = timedelta(minutes=10)
"""No request takes effect later than this after it was sent: assumption A1, above any request's own deadline."""

_FIELDS: "list[pa.Field[Any]]" = [  # quoted: only the type stubs know it as generic
    pa.field("id", pa.string(), nullable=False),
    pa.field("state", pa.string(), nullable=False),  # IN, OUT or UNKNOWN
    pa.field("in_doubt_since", pa.timestamp("us", tz="UTC")),  # an unknown request may land for a while after
    pa.field("rejected", pa.bool_(), nullable=False),  # the partner rejected the last request for it
]
MEMBERSHIP_SCHEMA = pa.schema(_FIELDS)
_CHUNK_COLUMNS: dict[str, pa.DataType] = {
    "lo": pa.int64(),
    "hi": pa.int64(),
    "state": pa.string(),
    "intent_at": pa.timestamp("us", tz="UTC"),
    "ended_at": pa.timestamp("us", tz="UTC"),
}
CHUNK_SCHEMA = pa.schema(_CHUNK_COLUMNS)
_AT_ONCE = 1_000_000
"""Rows of a plan that can be worked into a membership of 10 M ids in one step."""


@dataclass(frozen=True, slots=True)
class Membership:
    """What is known of a target.

    Attributes:
        file: the sealed file; None where nothing was ever sent.
        in_doubt: ids whose outcome is uncertain, or was too lately to be sure.
        held: ids that the target holds, or may hold.
    """

    file: StoredFile | None = None
    in_doubt: int = 0
    held: int = 0

    @property
    def known(self) -> int:
        """How many ids were ever sent, those that are out included."""
        return self.file.rows if self.file else 0


def fold(
    history: History,
    base: Membership,
    plan: StoredFile,
    chunks: pa.Table,
    *,
    equality: Equality = "exact",
    apply_delay: timedelta = timedelta(0),
) -> Membership:
    """Work what became of ``plan`` into membership; ``chunks`` has :data:`CHUNK_SCHEMA`, rows of the plan as ranges.

    An acknowledged row is IN or OUT. A row that may have taken effect is UNKNOWN. Where a try got no answer, though a
    later one may have, the row is in doubt too, and stays so until a request for it, begun later than
    :data:`SETTLES_AFTER` (and ``apply_delay``, which the partner may take to apply it) after, was acknowledged
    without a doubt. Rejected rows stay as they were, an unknown id OUT; but who was in and is rejected as an addition
    is UNKNOWN, since others must have removed them. Rows that were never begun, or were not sent, stay as they were
    altogether.

    An id with white space at an end goes from membership once it is certainly out. The bare id is IN only where it was
    acknowledged, since the plan adds it after the other was removed; else it is UNKNOWN.

    An id is marked while the last request for it was rejected, until one is acknowledged; that it cannot be removed
    where it is out says nothing of it.

    Raises:
        HistoryError: a file is gone, damaged or cannot be read, or the new one cannot be written.
    """
    told = chunks.filter(pc.field("state") != ChunkState.NOT_SENT)
    if not told.num_rows or not plan.rows:
        return base
    with ExitStack() as opened:
        known_membership, paths = opened.enter_context(membership_source(history, base))
        paths["plan"] = exactly(opened.enter_context(history.local_file(plan)))
        duckdb = opened.enter_context(spelling_engine(history, equality))
        duckdb.register("told", told)
        known_membership = _TWINS_IN_DOUBT.format(
            membership=known_membership, bare=bare_keys(known_membership, equality), known=key_of("held.id", equality)
        )
        keys = {"sent": key_of("outcome.id", equality), "known": key_of("membership.id", equality)}
        duckdb.execute("SET threads = 1")  # to join and sort 10 M ids takes more memory than there is in two (measured)
        settles = int((SETTLES_AFTER + apply_delay).total_seconds())
        outcome, folded = _OUTCOME, _FOLD.format(membership=known_membership, settles=settles, **keys)
        if equality != "exact" or plan.rows > _AT_ONCE:  # likewise: one after the other, through files
            steps = opened.enter_context(history.scratch())
            outcome = _step(duckdb, outcome, {"plan": paths.pop("plan")}, steps / "outcome")
            folded = _step(duckdb, f"(WITH outcome AS (FROM {outcome}) FROM {folded})", paths, steps / "folded")
            if equality != "exact":
                folded = _step(duckdb, one_state(folded, equality), {}, steps / "merged")
            paths = {}
        rows = duckdb.sql(f"WITH outcome AS (FROM {outcome}) FROM {folded} {_KEPT} ORDER BY id", params=paths)
        return seal_membership(history, plan.sync, plan.window, rows.to_arrow_reader(BATCH))


def _step(duckdb: DuckDBPyConnection, rows: str, paths: dict[str, str], file: Path) -> str:
    """Run ``rows`` by itself into ``file``, and return the SQL that reads it."""
    written, read = ("'" + name.replace("'", "''") + "'" for name in (str(file), exactly(file)))
    duckdb.execute(f"COPY (FROM {rows}) TO {written} (FORMAT parquet, ROW_GROUP_SIZE_BYTES {GROUP_BYTES})", paths)
    return f"read_parquet({read})"


def seal_membership(history: History, sync: str, window: str, rows: Iterable[pa.RecordBatch]) -> Membership:
    """Seal ``rows``, of :data:`MEMBERSHIP_SCHEMA` and sorted by id, and count them.

    Raises:
        HistoryNotWritable: the disk or the object store refused.
    """
    in_doubt = held = 0
    with history.writer(sync, Stage.MEMBERSHIP, window, MEMBERSHIP_SCHEMA) as writer:
        for batch in rows:
            in_doubt += batch.num_rows - batch.column("in_doubt_since").null_count
            held += batch.filter(pc.field("state") != "OUT").num_rows
            writer.write(batch)
    return Membership(writer.stored, in_doubt, held)


def mark_all_unknown(history: History, membership: Membership, *, sync: str, window: str) -> Membership:
    """Return ``membership`` with UNKNOWN for every IN: the target was lost at the partner, or was not ours meanwhile.

    Raises:
        HistoryError: the file is gone, damaged or cannot be read, or the new one cannot be written.
    """
    if membership.file is None:
        return membership
    with ExitStack() as opened:
        known_membership, paths = opened.enter_context(membership_source(history, membership))
        duckdb = opened.enter_context(spelling_engine(history, "exact"))
        rows = duckdb.sql(_ALL_UNKNOWN.format(membership=known_membership), params=paths)
        return seal_membership(history, sync, window, rows.to_arrow_reader(BATCH))


@contextmanager
def membership_source(history: History, membership: Membership) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the SQL that reads ``membership``, and its parameters; where nothing was ever sent it has no rows.

    Raises:
        HistoryError: the file is gone, damaged or cannot be read.
    """
    if membership.file is None:
        yield "(SELECT '' AS id, '' AS state, NULL::TIMESTAMPTZ AS in_doubt_since, false AS rejected WHERE false)", {}
        return
    with history.local_file(membership.file) as path:
        yield "read_parquet($membership)", {"membership": exactly(path)}


def one_state(known: str, equality: Equality) -> str:
    """Return the SQL that makes one row of all spellings of an id in ``known``, a relation with membership's columns.

    Two spellings are there when the setting was changed, or after both were sent under the one before it: UNKNOWN,
    unless they agree. The spelling that may be in is kept.
    """
    return known if equality == "exact" else one_row(known, equality)


def one_row(known: str, equality: Equality) -> str:
    """Return the SQL that makes one row of all that ``known``, a relation with membership's columns, has of an id."""
    return _ONE_STATE.format(membership=known, key=key_of("id", equality))


# an interval join by ASOF: of the ranges that start at or before a row, only the last can hold it
_OUTCOME = """(
SELECT planned.id, planned.operation, told.state, told.intent_at, told.ended_at
FROM read_parquet($plan, file_row_number = true) AS planned
ASOF JOIN told ON planned.file_row_number >= told.lo
WHERE planned.file_row_number < told.hi
)"""

_REJECTED = str(tuple(map(str, REJECTED_STATES)))
_FOLD = f"""(
SELECT
    CASE
        WHEN outcome.state IN {_REJECTED} THEN coalesce(membership.id, outcome.id)
        ELSE coalesce(outcome.id, membership.id)
    END AS id,
    CASE
        WHEN outcome.state IS NULL THEN membership.state
        WHEN outcome.state IN {_REJECTED} AND outcome.operation = 'add' AND membership.state = 'IN' THEN 'UNKNOWN'
        WHEN outcome.state IN {_REJECTED} THEN coalesce(membership.state, 'OUT')
        WHEN outcome.state NOT IN ('{ChunkState.ACKED}', '{ChunkState.IN_DOUBT}') THEN 'UNKNOWN'
        WHEN outcome.operation = 'add' THEN 'IN'
        ELSE 'OUT'
    END AS state,
    CASE
        WHEN outcome.state = '{ChunkState.ACKED}'
            AND outcome.intent_at > membership.in_doubt_since + INTERVAL '{{settles}} seconds'
            THEN NULL
        WHEN outcome.state IN ('{ChunkState.INTENT}', '{ChunkState.UNKNOWN}', '{ChunkState.IN_DOUBT}')
            THEN greatest(outcome.ended_at, membership.in_doubt_since)
        ELSE membership.in_doubt_since
    END AS in_doubt_since,
    CASE
        WHEN outcome.state IN {_REJECTED} AND outcome.operation = 'remove' AND membership.state = 'OUT'
            THEN membership.rejected
        WHEN outcome.state IN {_REJECTED} THEN true
        WHEN outcome.state IN ('{ChunkState.ACKED}', '{ChunkState.IN_DOUBT}') THEN false
        ELSE coalesce(membership.rejected, false)
    END AS rejected
FROM outcome FULL JOIN {{membership}} AS membership ON {{sent}} = {{known}}
)"""  # noqa: S608  nothing but constants of this module stands in it

_TWINS_IN_DOUBT = """(
SELECT held.* REPLACE (CASE WHEN bare.key IS NOT NULL AND state = 'IN' THEN 'UNKNOWN' ELSE state END AS state)
FROM {membership} AS held LEFT JOIN {bare} AS bare ON {known} = bare.key
)"""
_KEPT = f"WHERE state <> 'OUT' OR in_doubt_since IS NOT NULL OR NOT {is_padded('id')}"

_ALL_UNKNOWN = """
SELECT id, CASE state WHEN 'IN' THEN 'UNKNOWN' ELSE state END AS state, in_doubt_since, rejected
FROM {membership}
ORDER BY id
"""

_ONE_STATE = """(
SELECT
    coalesce(min(id) FILTER (state <> 'OUT'), min(id)) AS id,
    CASE WHEN min(state) = max(state) THEN min(state) ELSE 'UNKNOWN' END AS state,
    max(in_doubt_since) AS in_doubt_since,
    bool_or(rejected) AS rejected
FROM {membership}
GROUP BY {key}
)"""
