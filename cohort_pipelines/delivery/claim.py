"""The claim: one transaction that says whose turn it is, and that the order is kept."""

import time
from datetime import datetime, timedelta

from sqlalchemy import Connection, Row, insert, select, update

from cohort_pipelines import clock
from cohort_pipelines.delivery import schema
from cohort_pipelines.delivery.attempt import Asked, Attempt
from cohort_pipelines.delivery.ledger import Ledger, Target
from cohort_pipelines.delivery.schema import AttemptState
from cohort_pipelines.errors import TargetBusy, TargetOwnedByAnother

LEASE_SECONDS = 60.0
_A_LITTLE = 2.0  # seconds that a waiter stays longer than a dead writer's lease can last
_POLL_SECONDS = 0.25


def claim(ledger: Ledger, asked: Asked, lease_seconds: float) -> Attempt:
    """Claim the target for ``asked``, waiting for the lease of a writer that may be dead to run out.

    Where a newer snapshot was claimed before, the attempt that is returned names it and holds no lease.

    Raises:
        TargetOwnedByAnother: the target belongs to another sync.
        TargetBusy: another run keeps its lease alive.
    """
    patience = clock.now() + timedelta(seconds=lease_seconds + _A_LITTLE)
    while True:
        with ledger.write() as connection:
            claimed = _claim(connection, ledger, asked, lease_seconds)
        if isinstance(claimed, Attempt):
            return claimed
        if clock.now() >= min(patience, asked.deadline):
            raise TargetBusy(asked.target.name, claimed)
        time.sleep(min(_POLL_SECONDS, lease_seconds / 10))


def _claim(connection: Connection, ledger: Ledger, asked: Asked, lease_seconds: float) -> Attempt | datetime:
    """Return the attempt, or until when somebody else's lease holds."""
    now, target = clock.now(), _pinned(connection, asked)
    superseded = asked.snapshot_seq < target.head_seq
    token = 0 if superseded else _take_lease(connection, target.id, asked, now, lease_seconds)
    if isinstance(token, datetime):
        return token
    head = {"generation": target.generation + 1, "head_seq": max(asked.snapshot_seq, target.head_seq)}
    connection.execute(update(schema.target).filter_by(id=target.id).values(**head))
    attempt = _insert_attempt(connection, target, token, asked, now)
    return Attempt(
        ledger=ledger,
        asked=asked,
        id=attempt,
        target_id=target.id,
        generation=target.generation + 1,
        token=token,
        lease_seconds=lease_seconds,
        started=now,
        established=target.established,
        newer=_window_of(connection, target.head_seq) if superseded else "",
    )


def _pinned(connection: Connection, asked: Asked) -> Row[tuple[object, ...]]:
    """Return the target's row, made at its first delivery and never moved by a renaming."""
    known = select(schema.target).filter_by(**_identity(asked.target))
    row = connection.execute(known).first()
    if row is None:
        fresh = {"owner": asked.sync, "generation": 0, "head_seq": 0, "established": False, "unsettled": 0, "held": 0}
        connection.execute(insert(schema.target).values(**_identity(asked.target), **fresh))
        row = connection.execute(known).one()
    if row.owner != asked.sync:
        raise TargetOwnedByAnother(asked.target.name, row.owner)
    return row


def _identity(target: Target) -> dict[str, str]:
    return {"wire": target.wire, "host": target.host, "account": target.account, "name": target.name}


def _take_lease(
    connection: Connection, target: int, asked: Asked, now: datetime, lease_seconds: float
) -> int | datetime:
    """Return the new token, or until when somebody else's lease holds."""
    taken = {"holder": asked.run_id, "expires": now + timedelta(seconds=lease_seconds)}
    row = connection.execute(select(schema.lease).filter_by(target=target)).first()
    if row is None:
        connection.execute(insert(schema.lease).values(target=target, token=1, **taken))
        return 1
    if row.expires > now:
        expires: datetime = row.expires
        return expires
    token: int = row.token + 1
    connection.execute(update(schema.lease).filter_by(target=target).values(token=token, **taken))
    return token


def _insert_attempt(
    connection: Connection, target: Row[tuple[object, ...]], token: int, asked: Asked, now: datetime
) -> int:
    values = {
        "target": target.id,
        "generation": target.generation + 1,
        "token": token,
        "state": AttemptState.PLANNED if token else AttemptState.SUPERSEDED,
        "sync": asked.sync,
        "window": asked.window,
        "snapshot": asked.snapshot_seq,
        "payload_checksum": asked.payload.checksum,
        "users": asked.payload.rows,
        "run_id": asked.run_id,
        "started": now,
        "deadline": asked.deadline,
    }
    inserted = insert(schema.attempt).values(**values).returning(schema.attempt.c.id)
    number: int = connection.execute(inserted).scalar_one()
    return number


def _window_of(connection: Connection, seq: int) -> str:
    window: str = connection.execute(select(schema.snapshot.c.window).filter_by(seq=seq)).scalar_one()
    return window
