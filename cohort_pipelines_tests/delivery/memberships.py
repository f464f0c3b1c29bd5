"""Memberships, plans and outcomes of a few rows, for the tests of what is made of them."""

from datetime import UTC, datetime

import pyarrow as pa

from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.history import History
from cohort_pipelines.membership.plan import PLAN_SCHEMA, PlanCounts, make_plan
from cohort_pipelines.membership.state import CHUNK_SCHEMA, MEMBERSHIP_SCHEMA, Membership

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
Row = tuple[str, str, datetime | None]
Marked = tuple[str, str, datetime | None, bool]
Planned = tuple[str, str, bool, str]


def believe(history: History, *rows: Row | Marked) -> Membership:
    """Seal membership of id, state, since when it is in doubt and, where it matters, whether it was refused."""
    if not rows:
        return Membership()
    marked = sorted(
        (row if len(row) == len(MEMBERSHIP_SCHEMA) else (*row, False) for row in rows), key=lambda row: row[0]
    )
    columns = dict(zip(MEMBERSHIP_SCHEMA.names, zip(*marked, strict=True), strict=True))
    file = history.write("s", Stage.MEMBERSHIP, "base", pa.Table.from_pydict(columns, schema=MEMBERSHIP_SCHEMA))
    return Membership(file, sum(row[2] is not None for row in rows), sum(row[1] != "OUT" for row in rows))


def plan_of(history: History, *rows: tuple[str, str]) -> StoredFile:
    """Seal a plan of operations and ids, none alone."""
    planned = [dict(zip(PLAN_SCHEMA.names, (*row, False), strict=True)) for row in rows]
    return history.write("s", Stage.PLAN, "w", pa.Table.from_pylist(planned, schema=PLAN_SCHEMA))


def payload_of(history: History, *ids: str) -> StoredFile:
    """Seal a payload."""
    table = pa.table({"partner_user_id": pa.array(sorted(ids, key=str.encode), pa.string())})
    return history.write("s", Stage.PARTNER_PAYLOAD, "w", table)


def chunks(*rows: tuple[int, int, str, datetime, datetime]) -> pa.Table:
    """Return what the ledger would know of ranges of a plan."""
    return pa.Table.from_pylist([dict(zip(CHUNK_SCHEMA.names, row, strict=True)) for row in rows], schema=CHUNK_SCHEMA)


def read(history: History, membership: Membership) -> list[Row]:
    """Return the rows of a membership, but for who was refused."""
    assert membership.file is not None
    columns = ["id", "state", "in_doubt_since"]
    return [tuple(row.values()) for batch in history.batches(membership.file, columns) for row in batch.to_pylist()]


def read_refused(history: History, membership: Membership) -> set[str]:
    """Return the ids of a membership whose last request was refused."""
    assert membership.file is not None
    return {row["id"] for batch in history.batches(membership.file) for row in batch.to_pylist() if row["rejected"]}


def planned(history: History, payload: StoredFile, membership: Membership, **options: object) -> list[Planned]:
    """Return the rows of the plan; its counts agree with them."""
    with make_plan(history, payload, membership, **options) as plan:  # type: ignore[arg-type]
        batches = list(plan)
    rows = [tuple(row.values()) for batch in batches for row in batch.to_pylist()]
    assert PlanCounts.of(batches).operations == len(rows)
    return rows
