"""Judging: what the ledger knows of a target is held against the gates, within the claim, before anything is sent."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, Row, insert, select, update

from cohort_pipelines.core.files import Stage
from cohort_pipelines.delivery.attempt import Attempt
from cohort_pipelines.delivery.gates import Facts, Gates
from cohort_pipelines.ledger import (
    GREEN_STATES,
    Approval,
    AttemptKind,
    Database,
    Verdict,
    approvals,
    opening_of,
    schema,
)
from cohort_pipelines.membership import PlanCounts

DAY, WEEK = timedelta(days=1), timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Delivered:
    """Rows of green attempts on a target: the newest of all, and those that a payload is measured against."""

    newest: Row[tuple[object, ...]] | None
    counted: Sequence[Row[tuple[object, ...]]]


def judge(
    attempt: Attempt, gates: Gates, counts: PlanCounts, *, held: int, adopted: bool
) -> tuple[list[Verdict], Approval | None]:
    """Judge an attempt whose plan is ``counts``; record what each gate finds, and what lets it pass all the same.

    To be called once crashed attempts are recovered: what they added counts too. ``held`` are the ids that the target
    holds, or may hold, by the membership that the plan was drawn from; ``adopted``: which began with a file. An
    approval is looked for only where a gate holds, so that a receipt names one only where it was needed.

    Raises:
        LeaseLost: another run has taken the target over.
    """
    asked = attempt.asked
    with attempt.lease.fenced() as connection:
        now = attempt.ledger.now(connection)
        members, identified = _snapshot(connection, asked.snapshot_seq)
        planned = _planned(asked.payload.rows, counts, held, members, identified)
        before = _delivered(connection, attempt.target_id, asked.window, now)
        verdicts = gates.judge(_with_comparison(planned, before, now, adopted=adopted))
        for each in verdicts:
            found = {"name": each.name, "value": each.value, "limit": each.limit, "held": each.held}
            connection.execute(insert(schema.gate).values(attempt=attempt.id, finding=each.finding, **found))
        if not any(verdict.held for verdict in verdicts):
            return verdicts, None
        approval = approvals.fitting(connection, asked.sync, asked.payload.checksum, asked.payload.rows, now)
        if approval is not None:
            connection.execute(update(schema.attempt).filter_by(id=attempt.id).values(approved=approval.id))
    return verdicts, approval


def preview(
    ledger: Database | None,
    gates: Gates,
    *,
    target_id: int | None,
    window: str,
    users: int,
    counts: PlanCounts,
    held: int,
    adopted: bool,
    members: int | None,
    identified: int | None,
) -> list[Verdict]:
    """Return what the gates would find now, and record nothing.

    Args:
        ledger: what was delivered so far; None where there is no ledger yet.
        gates: the sync's limits.
        target_id: the target's number in the ledger; None for one that was never delivered to.
        window: the window that it would be delivered in.
        users: ids in the payload.
        counts: of the plan.
        held: ids that the target holds, or may hold, by the membership that the plan was drawn from.
        adopted: whether it began with a file, or would.
        members: members of the cohort; None: not known.
        identified: those with a profile property; None: not known.
    """
    planned = _planned(users, counts, held, members, identified)
    if ledger is None or target_id is None:
        return gates.judge(replace(planned, filling=not adopted))
    with ledger.read() as connection:
        now = ledger.now(connection)
        before = _delivered(connection, target_id, window, now)
    return gates.judge(_with_comparison(planned, before, now, adopted=adopted))


def judged(ledger: Database, sync: str, run_id: str) -> tuple[list[Verdict], Approval | None]:
    """Return what :func:`judge` found for the newest attempt that a run made for ``sync``; nothing if it did not."""
    table = schema.attempt
    newest = select(table.c.id).filter_by(sync=sync, run_id=run_id).order_by(table.c.id.desc()).limit(1)
    with ledger.read() as connection:
        attempt = connection.execute(newest).scalar()
        if attempt is None:
            return [], None
        return approvals.recorded(connection, attempt), approvals.that_approved(connection, attempt)


def _planned(users: int, counts: PlanCounts, held: int, members: int | None, identified: int | None) -> Facts:
    return Facts(
        users=users,
        joiners=counts.joiners,
        leavers=counts.leavers,
        held=held,
        members=members,
        identified=identified,
    )


def _with_comparison(planned: Facts, before: Delivered, now: datetime, *, adopted: bool) -> Facts:
    """Return the facts with what the payload is measured against; ``adopted``: the first delivery began with a file."""
    today = [row for row in before.counted if row.ended >= now - DAY]
    return replace(
        planned,
        most_today=max(_sizes(today), default=None),
        most_this_week=max(_sizes(before.counted), default=None),
        least_today=min(filter(None, _sizes(today)), default=None),
        least_this_week=min(filter(None, _sizes(before.counted)), default=None),
        filling=not (before.newest and before.newest.users) and not adopted,
    )


def _delivered(connection: Connection, target_id: int, window: str, now: datetime) -> Delivered:
    """Look up the green attempts on a target that a payload for ``window`` is measured against.

    Restores are left out, and one-time exports among windows, since neither is what the audience usually is. An
    approved one counts in any case and everything before it does not: the audience begins anew, as it does in a target
    that was emptied to be given up. Where none is left, the newest counts, however old it is.
    """
    table = schema.attempt
    green = select(table).where(table.c.target == target_id, table.c.state.in_(GREEN_STATES))
    green = green.order_by(table.c.generation.desc())
    newest = connection.execute(green.limit(1)).first()
    recent = _since_begun_anew(connection.execute(green.where(table.c.ended >= now - WEEK)))
    scheduled = opening_of(window) is not None
    counted = [
        row
        for row in recent
        if row.approved is not None
        or (row.kind == AttemptKind.OVERWRITE and (opening_of(row.window) is not None) == scheduled)
    ]
    return Delivered(newest, counted or ([newest] if newest else []))


def _since_begun_anew(rows: Iterable[Row[tuple[object, ...]]]) -> list[Row[tuple[object, ...]]]:
    """Return ``rows``, newest first, up to the first that was approved, or before one that gave the target up."""
    since = []
    for row in rows:
        if row.kind == AttemptKind.RETIRE:
            break
        since.append(row)
        if row.approved is not None:
            break
    return since


def _sizes(rows: Iterable[Row[tuple[object, ...]]]) -> list[int]:
    return [row.users for row in rows]


def _snapshot(connection: Connection, seq: int) -> tuple[int | None, int | None]:
    """Return how many members snapshot ``seq`` has, and how many of them are identified, as far as is known."""
    table = schema.derived
    identified = (
        select(table.c.rows).filter_by(snapshot=seq, stage=Stage.IDENTIFIED_USERS).order_by(table.c.id.desc()).limit(1)
    )
    members = select(schema.snapshot.c.rows).filter_by(seq=seq)
    return connection.execute(members).scalar(), connection.execute(identified).scalar()
