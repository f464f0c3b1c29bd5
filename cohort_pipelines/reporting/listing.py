"""What became of a sync's windows, from the ledger alone: every attempt, and every window that came to none.

The number of questions does not grow with the number of rows, and no file of the history is opened.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, Row, Select, and_, select

from cohort_pipelines.core.files import Stage
from cohort_pipelines.core.windows import Window
from cohort_pipelines.ledger import (
    GREEN_STATES,
    NEVER_BEGUN,
    OPEN_STATES,
    AttemptKind,
    Ledger,
    is_live,
    opening_of,
    schema,
)

UNDER_WAY = "under way"
LEFT_OPEN = "its process died; the next delivery goes on from what is recorded"

_Rows = dict[int, list[Row[tuple[object, ...]]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One attempt on a target, or a window that came to none; None where a number is not known.

    Attributes:
        window: the window's key.
        kind: ``overwrite``, ``restore`` or ``retire``; empty for a window without an attempt.
        state: the attempt's state, or else the window's.
        at: when it began; a missed window at its own start.
        target: the target's name at the partner.
        taken_at: when the snapshot was taken.
        members: the cohort's members in the snapshot.
        identified: those with a profile.
        excluded: members who are not in the payload.
        excluded_by_reason: how many of them each reason has.
        users: ids in the payload.
        delivered: the same, where the target was made equal to it.
        joiners: additions planned, of ids not known to be in.
        leavers: removals planned, of ids not known to be out.
        repeated: operations planned only since what became of earlier ones is uncertain.
        reconciled: operations planned only to undo what others may have changed.
        unchanged: ids of the payload that were known to be in.
        planned: operations planned, all of these together.
        acknowledged: operations that the partner acknowledged.
        refused: operations that it refused.
        in_doubt: ids whose outcome is uncertain.
        requests: requests made.
        seconds: from the claim to the end.
        restored_from: the window whose payload was put back.
        approved: who let it pass the gates, when and why.
        generation: its place in the order of all attempts on the target.
        run: the run's id.
        reason: why it is not green; empty when it is.
    """

    window: str
    kind: str = ""
    state: str
    at: datetime
    target: str | None = None
    taken_at: datetime | None = None
    members: int | None = None
    identified: int | None = None
    excluded: int | None = None
    excluded_by_reason: Mapping[str, int] = field(default_factory=dict)
    users: int | None = None
    delivered: int | None = None
    joiners: int | None = None
    leavers: int | None = None
    repeated: int | None = None
    reconciled: int | None = None
    unchanged: int | None = None
    planned: int | None = None
    acknowledged: int | None = None
    rejected: int | None = None
    in_doubt: int | None = None
    requests: int | None = None
    seconds: float | None = None
    restored_from: str | None = None
    approved: Mapping[str, str] | None = None
    generation: int | None = None
    run: str | None = None
    reason: str = ""


_COUNTED = (
    "joiners",
    "leavers",
    "repeated",
    "reconciled",
    "unchanged",
    "planned",
    "acknowledged",
    "rejected",
    "in_doubt",
    "requests",
)


def entries(ledger: Ledger, sync: str, limit: int = 50, *, before: Window | None = None) -> list[Entry]:
    """Return the newest ``limit`` attempts and windows of ``sync``, newest first.

    ``before``: the scheduled window that is open now, so that those since the last tick are not left out.

    Raises:
        LedgerUnusable: the ledger cannot be read.
    """
    attempts, windows = _attempts(sync, limit), _windows_alone(sync, limit)
    with ledger.read() as connection:
        now = ledger.now(connection)
        tried = connection.execute(attempts).all()
        alone = connection.execute(windows).all()
        read = _by_snapshot(connection, attempts, "snapshot")
        read_alone = _by_snapshot(connection, windows, "seq")
    listed = [_of_attempt(row, read.get(row.snapshot, []), now) for row in tried]
    listed += [_of_window(row, read_alone.get(row.seq, [])) for row in alone]
    listed += map(_of_skipped, ledger.skipped(sync, before) if before else [])
    return sorted(listed, key=lambda each: (each.at, each.generation or 0), reverse=True)[:limit]


def _attempts(sync: str, limit: int) -> Select[tuple[object, ...]]:
    attempt, taken, lease, approved = schema.attempt, schema.snapshot, schema.lease, schema.approval
    return (
        select(
            attempt,
            schema.target.c.name.label("target_name"),
            taken.c.taken_at,
            taken.c.rows.label("members"),
            schema.receipt.c.counts,
            approved.c.who,
            approved.c.why,
            approved.c.at.label("approved_at"),
            lease.c.expires,
        )
        .select_from(attempt)
        .join(schema.target, schema.target.c.id == attempt.c.target)
        .join(taken, taken.c.seq == attempt.c.snapshot)
        .outerjoin(schema.receipt, schema.receipt.c.attempt == attempt.c.id)
        .outerjoin(approved, approved.c.id == attempt.c.approved)
        .outerjoin(lease, and_(lease.c.target == attempt.c.target, lease.c.token == attempt.c.token))
        .where(attempt.c.sync == sync)
        .order_by(attempt.c.id.desc())
        .limit(limit)
    )


def _windows_alone(sync: str, limit: int) -> Select[tuple[object, ...]]:
    """Ask for the windows that came to no attempt, with the newest snapshot where they came that far."""
    window, taken, each = schema.window, schema.snapshot, schema.snapshot.alias()
    own = {"sync": sync, "kind": AttemptKind.OVERWRITE}
    tried = select(schema.attempt.c.id).filter_by(**own).where(schema.attempt.c.window == window.c.key)
    newest = (
        select(each.c.seq)
        .where(each.c.sync == sync, each.c.window == window.c.key)
        .order_by(each.c.seq.desc())
        .limit(1)
        .scalar_subquery()
    )
    return (
        select(window, taken.c.seq, taken.c.taken_at, taken.c.rows.label("members"))
        .select_from(window.outerjoin(taken, taken.c.seq == newest))
        .where(window.c.sync == sync, ~tried.exists())
        .order_by(window.c.at.desc(), window.c.key.desc())
        .limit(limit)
    )


def _by_snapshot(connection: Connection, listed: Select[tuple[object, ...]], column: str) -> _Rows:
    """Return what was worked out from the snapshots that ``listed`` names in ``column``, oldest first."""
    derived, seqs = schema.derived, listed.subquery()
    query = select(derived).where(derived.c.snapshot.in_(select(seqs.c[column]))).order_by(derived.c.id)
    found: _Rows = {}
    for row in connection.execute(query):
        found.setdefault(row.snapshot, []).append(row)
    return found


def _of_attempt(row: Row[tuple[object, ...]], derived: list[Row[tuple[object, ...]]], now: datetime) -> Entry:
    counts = row.counts or {}
    identified, excluded = _identified(derived), _excluded(derived, row.payload_checksum)
    return Entry(
        window=row.window,
        kind=row.kind,
        state=row.state,
        at=row.started,
        target=row.target_name,
        taken_at=row.taken_at,
        members=row.members,
        identified=identified,
        excluded=excluded.rows if excluded else None,
        excluded_by_reason=excluded.counts if excluded else {},
        users=row.users,
        delivered=row.users if row.state in GREEN_STATES else None,
        seconds=(row.ended - row.started).total_seconds() if row.ended else None,
        restored_from=row.restored_from,
        approved={"who": row.who, "why": row.why, "at": row.approved_at.isoformat()} if row.approved else None,
        generation=row.generation,
        run=row.run_id,
        reason=_why(row, now),
        **{name: counts.get(name) for name in _COUNTED},
    )


def _of_window(row: Row[tuple[object, ...]], derived: list[Row[tuple[object, ...]]]) -> Entry:
    began = opening_of(row.key) if row.state == "missed" else None  # noted later than it was
    excluded = _excluded(derived)
    return Entry(
        window=row.key,
        state=row.state,
        at=began or row.at,
        taken_at=row.taken_at,
        members=row.members,
        identified=_identified(derived),
        excluded=excluded.rows if excluded else None,
        excluded_by_reason=excluded.counts if excluded else {},
        reason=row.reason,
    )


def _of_skipped(key: str) -> Entry:
    began = opening_of(key)
    assert began is not None  # noqa: S101  a cadence's
    return Entry(window=key, state="missed", at=began, reason=NEVER_BEGUN)


def _why(row: Row[tuple[object, ...]], now: datetime) -> str:
    if row.state in OPEN_STATES:
        return UNDER_WAY if row.expires and is_live(row.expires, now) else row.error or LEFT_OPEN
    return row.error or ""


def _identified(derived: list[Row[tuple[object, ...]]]) -> int | None:
    rows = [row.rows for row in derived if row.stage == Stage.IDENTIFIED_USERS]
    return rows[-1] if rows else None


def _excluded(derived: list[Row[tuple[object, ...]]], payload: str | None = None) -> Row[tuple[object, ...]] | None:
    """Return the newest excluded, or those that were recorded with the payload of that checksum."""
    excluded = [row for row in derived if row.stage == Stage.EXCLUDED]
    made = [row.id for row in derived if row.stage == Stage.PARTNER_PAYLOAD and row.checksum == payload]
    beside = [row for row in excluded if made and row.id > made[-1]]
    return beside[0] if beside else excluded[-1] if excluded else None
