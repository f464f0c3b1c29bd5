"""What a receipt lists of the refused rows, and what is read of the ledger for it, whatever the size of the plan."""

import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from math import ceil

import pyarrow as pa
import pytest
from sqlalchemy import select

from cohort_pipelines.core.engine import BATCH
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.delivery import chunks, receipt
from cohort_pipelines.delivery.chunks import Ended
from cohort_pipelines.delivery.receipt import list_rejected
from cohort_pipelines.history import History
from cohort_pipelines.ledger import schema
from cohort_pipelines.ledger.schema import ChunkState
from cohort_pipelines.membership.plan import PLAN_SCHEMA
from cohort_pipelines.membership.state import CHUNK_SCHEMA
from cohort_pipelines_tests.delivery.world import SYNC, World, users

AT = datetime(2026, 11, 22, tzinfo=UTC)
Ranges = list[tuple[int, int, str]]


def plan_of(history: History, rows: int) -> StoredFile:
    ids = pa.array([f"user-{number:07}" for number in range(rows)])
    columns = {"operation": pa.repeat("add", rows), "id": ids, "alone": pa.repeat(pa.scalar(value=False), rows)}
    return history.write(SYNC, Stage.PLAN, "w", pa.table(columns).cast(PLAN_SCHEMA))


def listed(history: History, plan: StoredFile, ranges: Ranges) -> list[tuple[int, str]]:
    rows = list_rejected(history, plan, ranges)
    return [(int(row["id"].removeprefix("user-")), row["reason"]) for row in rows]


@pytest.mark.parametrize(
    "ranges",
    [
        [],
        [(0, 1, "a"), (1, 2, "b"), (4, 7, "c")],
        [(BATCH - 2, BATCH, "ends with a batch"), (BATCH, BATCH + 2, "begins with one")],
        [
            (3, 5, "a"),
            (BATCH - 3, BATCH + 3, "lies in two"),
            (BATCH + 3, BATCH + 4, "b"),
            (2 * BATCH, 2 * BATCH + 9, "c"),
        ],
        [(2 * BATCH + 5, 2 * BATCH + 10, "in the last")],
    ],
)
def test_refused_rows_are_listed_wherever_they_lie(tmp_history: History, ranges: Ranges) -> None:
    plan = plan_of(tmp_history, 2 * BATCH + 10)
    assert listed(tmp_history, plan, ranges) == [(row, reason) for lo, hi, reason in ranges for row in range(lo, hi)]


@pytest.mark.parametrize("step", [1, 2])
def test_no_more_is_read_than_is_listed(tmp_history: History, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    plan, read = plan_of(tmp_history, size := 3 * receipt.MAX_LISTED), []
    batches = tmp_history.batches

    def counted(*arguments: object) -> Iterator[pa.RecordBatch]:
        for batch in batches(*arguments):  # type: ignore[arg-type]
            read.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(tmp_history, "batches", counted)
    every = [(row, row + 1, "400") for row in range(0, size, step)] if step > 1 else [(0, size, "400")]
    rows = listed(tmp_history, plan, every)
    assert [row for row, _ in rows] == list(range(0, step * receipt.MAX_LISTED, step))
    assert read == [BATCH] * ceil(step * receipt.MAX_LISTED / BATCH)


@pytest.mark.slow
def test_of_the_ledger_a_batch_is_held_and_not_all_ranges(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.overwrite(users(1))
    with world.ledger.read() as connection:
        attempt = connection.execute(select(schema.attempt.c.id)).scalar_one()
    known = [
        Ended(row, row + 1, "add", (ChunkState.ACKED, ChunkState.REJECTED)[row % 2], AT, AT, "400")
        for row in range(30_000)
    ]
    with world.ledger.write() as connection:
        chunks.record(connection, attempt, known)
    monkeypatch.setattr(chunks, "BATCH", 1_000)

    with world.ledger.read() as connection:
        chunks.chunk_table(connection, attempt).slice(0, 0)  # what is made once is not counted
        tracemalloc.start()
        try:
            table = chunks.chunk_table(connection, attempt)
            refused = chunks.rejected_ranges(connection, attempt)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak < 5_000_000  # as rows of Python's the ranges take four times that
    assert table.schema == CHUNK_SCHEMA
    assert table.to_pylist() == [{name: getattr(each, name) for name in table.column_names} for each in known]
    assert refused == [(row, row + 1, "400") for row in range(1, 20_000, 2)]
