"""The claim: one transaction that says whose turn it is, and that the order is kept."""

import time
from dataclasses import asdict, replace
from datetime import datetime

from sqlalchemy import Connection, Row, insert, select, update

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import DeliverySuperseded, TargetBusy, TargetMoved, TargetOwnedByAnother
from cohort_pipelines.core.process_names import name_of
from cohort_pipelines.delivery.attempt import Attempt, DeliveryRequest
from cohort_pipelines.ledger import (
    AttemptKind,
    AttemptState,
    Ledger,
    cohorts,
    is_anothers,
    lease,
    next_seq,
    opening_of,
    pause_within,
    require_not_paused,
    schema,
    written,
)

_A_LITTLE = 2.0  # seconds that a waiter stays longer than a dead writer's lease can last
_POLL_SECONDS = 0.25


def claim(ledger: Ledger, asked: DeliveryRequest, lease_seconds: float) -> Attempt:
    """Claim the target for ``asked``, waiting for the lease of a writer that may be dead to run out.

    Where a newer snapshot was claimed before, the attempt that is returned names it and holds no lease. What was asked
    for by name (a restore, a retirement) waits until its deadline, since a window's delivery gives way at its own.

    Raises:
        TargetNotItsOwn: the target belongs to another sync or cohort, or the sync owns another one, which has to
            be given up first.
        TargetBusy: another run keeps its lease alive.
        SyncPaused: the sync is paused.
        ClockSkewed: this host's clock and the database's differ.
    """
    patience = clock.monotonic() + lease_seconds + _A_LITTLE
    gives_way = asked.kind is AttemptKind.OVERWRITE
    while True:
        with ledger.write() as connection:
            claimed = _claim(connection, ledger, asked, lease_seconds)
        if isinstance(claimed, Attempt):
            return claimed
        if clock.now() >= asked.deadline or (gives_way and clock.monotonic() >= patience):
            raise TargetBusy(asked.target.name, claimed)
        time.sleep(min(_POLL_SECONDS, lease_seconds / 10))


def _claim(connection: Connection, ledger: Ledger, asked: DeliveryRequest, lease_seconds: float) -> Attempt | datetime:
    """Return the attempt, or until when another run's lease holds."""
    asked_at, asked_monotonic, now = clock.now(), clock.monotonic(), ledger.now(connection)
    clock.require_agreement(now - clock.offset(), "the ledger's database")
    target = _pinned(connection, asked, now)
    _settle_accepted(connection, target.id, now - asked.terms.apply_delay)
    superseded = _superseded(connection, asked, target, now)
    if not superseded and asked.kind is AttemptKind.OVERWRITE:
        require_not_paused(connection, asked.sync)
        cohorts.require_of_cohort(connection, asked.snapshot_seq, asked.window, asked.sync, asked.cohort)
    token = 0 if superseded else lease.take(connection, target.id, name_of(), now, lease_seconds)
    if isinstance(token, datetime):
        return token
    if asked.pause is not None:
        pause_within(connection, asked.sync, replace(asked.pause, at=now))
    seq = asked.snapshot_seq if asked.kind is AttemptKind.OVERWRITE else next_seq(connection)
    anew = cohorts.is_anew(target, asked.cohort)
    turn = {"owner": asked.sync, "retired": None, "head_seq": max(seq, target.head_seq)}
    taken: dict[str, str | int | None] = {} if superseded else turn
    if taken and target.retired:
        taken["initial_members"] = None  # others may have filled it since: its next owner may say with which ids
        taken |= cohorts.NAMELESS if anew else {}  # also where this comes to nothing, and is claimed again
    claimed = update(schema.target).filter_by(id=target.id)
    connection.execute(claimed.values(generation=target.generation + 1, **taken))
    attempt = _insert_attempt(connection, target, asked, token=token, seq=seq, now=now)
    return Attempt(
        ledger=ledger,
        asked=asked,
        id=attempt,
        target_id=target.id,
        generation=target.generation + 1,
        lease=lease.Lease(ledger, target.id, asked.target.name, token, lease_seconds, renewed=asked_monotonic),
        started=now,
        established=target.established and not anew,
        anew=anew,
        ahead=now - asked_at,
        superseded=superseded,
    )


def _pinned(connection: Connection, asked: DeliveryRequest, now: datetime) -> Row[tuple[object, ...]]:
    """Return the target's row, made at its first delivery and never moved by a renaming.

    A retired target has no owner, and its membership still holds for the next one; nor is one that was
    claimed and never written.
    """
    known = select(schema.target).filter_by(**asdict(asked.target))
    row = connection.execute(known).first()
    if row is not None and is_anothers(connection, asked.target, asked.sync, now):
        raise TargetOwnedByAnother(asked.target.name, row.owner)
    if asked.kind is not AttemptKind.RETIRE:
        _require_no_other(connection, asked, row.id if row else 0)
        cohorts.require_its_cohort(connection, row, asked.sync, asked.cohort)
        cohorts.require_sent_once(connection, asked.target, asked.sync, asked.cohort)
    if row is None:
        fresh = {"owner": asked.sync, "generation": 0, "head_seq": 0, "established": False, "in_doubt": 0, "held": 0}
        connection.execute(insert(schema.target).values(**asdict(asked.target), **fresh))
    return connection.execute(known).one()


def _require_no_other(connection: Connection, asked: DeliveryRequest, target: int) -> None:
    """Refuse to leave members behind in a target that the sync owns and is not declared for any more."""
    table = schema.target
    others = select(table.c.name).where(
        table.c.owner == asked.sync, table.c.retired.is_(None), table.c.id != target, written()
    )
    if moved_from := connection.execute(others).scalar():
        raise TargetMoved(asked.sync, moved_from, asked.target.name)


def _settle_accepted(connection: Connection, target: int, applied_before: datetime) -> None:
    """Call delivered what the partner had time enough to apply."""
    table = schema.attempt
    accepted = update(table).where(
        table.c.target == target, table.c.state == AttemptState.ACCEPTED, table.c.ended <= applied_before
    )
    connection.execute(accepted.values(state=AttemptState.DELIVERED))


def _insert_attempt(
    connection: Connection,
    target: Row[tuple[object, ...]],
    asked: DeliveryRequest,
    *,
    token: int,
    seq: int,
    now: datetime,
) -> int:
    values = {
        "target": target.id,
        "generation": target.generation + 1,
        "token": token,
        "state": AttemptState.PLANNED if token else AttemptState.SUPERSEDED,
        "sync": asked.sync,
        "kind": asked.kind,
        "window": asked.window,
        "snapshot": asked.snapshot_seq,
        "seq": seq,
        "restored_from": asked.restored_from,
        "payload_checksum": asked.payload.checksum,
        "users": asked.payload.rows,
        "run_id": asked.run_id,
        "started": now,
        "deadline": asked.deadline,
    }
    inserted = insert(schema.attempt).values(**values).returning(schema.attempt.c.id)
    number: int = connection.execute(inserted).scalar_one()
    return number


def _superseded(
    connection: Connection, asked: DeliveryRequest, target: Row[tuple[object, ...]], now: datetime
) -> DeliverySuperseded | None:
    """Say what comes before a window's own overwrite: a newer snapshot, or what was asked for by name since."""
    if asked.kind is not AttemptKind.OVERWRITE:
        return None
    if asked.snapshot_seq < target.head_seq:
        export_of = "" if opening_of(asked.window) else asked.sync
        return DeliverySuperseded(asked.window, _newer(connection, target.id, target.head_seq), export_of=export_of)
    if asked.requested is None:
        return None
    table = schema.attempt
    by_name = select(table).where(
        table.c.target == target.id, table.c.kind != AttemptKind.OVERWRITE, table.c.plan_checksum.is_not(None)
    )
    row = connection.execute(by_name.order_by(table.c.id.desc()).limit(1)).first()
    if row is None or not _overtakes(row, asked.window, asked.requested, now):
        return None
    return DeliverySuperseded(asked.window, _called(row), overtaken=True)


def _overtakes(by_name: Row[tuple[object, ...]], window: str, requested: datetime, now: datetime) -> bool:
    """Say whether what was asked ``by_name`` goes over a run that was asked for before, though it reads only now.

    A later window wins all the same. What a clock ahead has noted overtakes nothing: it would for as long.
    """
    own, its = opening_of(window), opening_of(by_name.window)
    if own and its and own > its:
        return False
    return bool(requested < by_name.started <= now + clock.TOLERANCE)


def _newer(connection: Connection, target: int, head_seq: int) -> str:
    """Return what is at the head of the target's order, in words."""
    table = schema.attempt
    query = select(table).filter_by(target=target, seq=head_seq).order_by(table.c.id.desc())
    if row := connection.execute(query).first():
        return _called(row)
    window = connection.execute(select(schema.snapshot.c.window).filter_by(seq=head_seq)).scalar()
    return f"that of {window or 'a later one'}"


def _called(attempt: Row[tuple[object, ...]]) -> str:
    if attempt.kind == AttemptKind.RESTORE:
        return f"the restore of {attempt.restored_from} in {attempt.window}"
    return f"that of {attempt.window}" if attempt.kind == AttemptKind.OVERWRITE else "the retirement of the target"
