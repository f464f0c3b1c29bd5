"""Approvals: a person lets a held payload pass the gates, and the receipt says who, when and why.

An approval is bound to one payload by its checksum, or to a range of sizes, and always to a time: an empty payload has
the checksum of every other empty one, so that an approval without an end would switch its gates off for good.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, Row, and_, insert, or_, select

from cohort_pipelines.core.errors import ApprovalIncomplete, NothingHeld
from cohort_pipelines.ledger import schema
from cohort_pipelines.ledger.database import Database
from cohort_pipelines.ledger.schema import AttemptKind, AttemptState

LASTS = timedelta(days=1)
"""How long an approval of one payload holds unless it says so itself."""

_MINUTE = "%Y-%m-%d %H:%M"
_TOLD = re.compile(r"(?P<who>.*?) at (?P<at>\d{4}-\d\d-\d\d \d\d:\d\d) UTC: (?P<why>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one gate found: a value, the limit it was held against, and the finding in words."""

    name: str
    value: float
    limit: float
    held: bool
    finding: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Approval:
    """What lets a payload pass the gates: its number in the ledger, by whose word, why, since and until when."""

    id: int
    who: str
    why: str
    at: datetime
    until: datetime

    def __str__(self) -> str:
        """Say who, when and why, as the receipt does."""
        return f"{self.who} at {self.at:{_MINUTE}} UTC: {self.why}"


@dataclass(frozen=True, slots=True)
class HeldAttempt:
    """A payload that a gate holds: its window, its checksum, how many users it has, and what every gate found.

    It is a window's own, or that of ``restored_from``, which a person wanted back.
    """

    attempt: int
    kind: AttemptKind
    window: str
    restored_from: str | None
    payload_checksum: str
    users: int
    at: datetime
    verdicts: tuple[Verdict, ...]


def held(ledger: Database, sync: str) -> HeldAttempt | None:
    """Return the newest attempt of ``sync`` if a gate holds it; one that was superseded does not count as newer."""
    table = schema.attempt
    newest = select(table).where(table.c.sync == sync, table.c.state != AttemptState.SUPERSEDED)
    with ledger.read() as connection:
        row = connection.execute(newest.order_by(table.c.id.desc()).limit(1)).first()
        if row is None or row.state != AttemptState.HELD:
            return None
        verdicts = tuple(recorded(connection, row.id))
    return HeldAttempt(
        attempt=row.id,
        kind=AttemptKind(row.kind),
        window=row.window,
        restored_from=row.restored_from,
        payload_checksum=row.payload_checksum,
        users=row.users,
        at=row.ended or row.started,
        verdicts=verdicts,
    )


def approve(
    ledger: Database,
    sync: str,
    *,
    who: str,
    why: str,
    payload_checksum: str | None = None,
    min_users: int | None = None,
    max_users: int | None = None,
    until: datetime | None = None,
) -> Approval:
    """Let a payload of ``sync`` pass all gates: the next attempt that delivers it is not held.

    Args:
        ledger: where it is recorded.
        sync: the sync's name.
        who: by whose word.
        why: for readers of the receipt.
        payload_checksum: of a payload that was held; by default the one that is held now.
        min_users: with ``max_users``, let every payload pass that has so many users.
        max_users: see ``min_users``; either may be left out.
        until: until when it holds; needed for a range of sizes, otherwise :data:`LASTS` from now.

    Raises:
        NothingHeld: no gate holds such a payload.
        ApprovalIncomplete: it does not say why, what or until when.
    """
    by_size = min_users is not None or max_users is not None
    _require_complete(sync, why, until, both=by_size and payload_checksum is not None, by_size=by_size)
    if by_size and (min_users or 0) > (max_users if max_users is not None else min_users or 0):
        raise ApprovalIncomplete(sync, f"no payload has at least {min_users:,} and at most {max_users:,} users")
    found = None if by_size or payload_checksum else held(ledger, sync)
    with ledger.write() as connection:
        now = ledger.now(connection)
        if until is not None and until <= now:
            raise ApprovalIncomplete(sync, "the moment until which it should hold is over")
        made = {
            "sync": sync,
            "payload_checksum": None if by_size else _held_checksum(connection, sync, found, payload_checksum),
            "min_users": min_users,
            "max_users": max_users,
            "until": until or now + LASTS,
            "who": who,
            "why": why.strip(),
            "at": now,
        }
        return _read(connection.execute(insert(schema.approval).values(**made).returning(schema.approval)).one())


def fitting(connection: Connection, sync: str, payload_checksum: str, users: int, now: datetime) -> Approval | None:
    """Return the newest approval that lets a payload of ``sync`` pass now, or None, as part of a transaction."""
    table = schema.approval
    of_that_size = and_(
        table.c.payload_checksum.is_(None),
        or_(table.c.min_users.is_(None), table.c.min_users <= users),
        or_(table.c.max_users.is_(None), table.c.max_users >= users),
    )
    fits = or_(table.c.payload_checksum == payload_checksum, of_that_size)
    query = select(table).where(table.c.sync == sync, table.c.until > now, fits).order_by(table.c.id.desc())
    row = connection.execute(query.limit(1)).first()
    return None if row is None else _read(row)


def note_spent(connection: Connection, sync: str, payload_checksum: str, told: str) -> int | None:
    """Note an approval again that only a receipt tells of, and that approves nothing more; return its number.

    ``told`` is a receipt's word, as :class:`Approval` says it; None: it is no such word.
    """
    found = _TOLD.fullmatch(told)
    if found is None:
        return None
    at = datetime.strptime(found["at"], _MINUTE).replace(tzinfo=UTC)
    spent = {"sync": sync, "payload_checksum": payload_checksum, "until": at, "at": at}
    noted = insert(schema.approval).values(who=found["who"], why=found["why"], **spent).returning(schema.approval.c.id)
    number: int = connection.execute(noted).scalar_one()
    return number


def that_approved(connection: Connection, attempt: int) -> Approval | None:
    """Return what let an attempt pass its gates, or None where nothing had to."""
    table = schema.approval
    query = select(table).join(schema.attempt, schema.attempt.c.approved == table.c.id)
    row = connection.execute(query.where(schema.attempt.c.id == attempt)).first()
    return None if row is None else _read(row)


def recorded(connection: Connection, attempt: int) -> list[Verdict]:
    """Return what the gates found for an attempt, as recorded, in the order of their names."""
    query = select(schema.gate).filter_by(attempt=attempt).order_by(schema.gate.c.name)
    return [Verdict(row.name, row.value, row.limit, row.held, row.finding) for row in connection.execute(query)]


def _require_complete(sync: str, why: str, until: datetime | None, *, both: bool, by_size: bool) -> None:
    if not why.strip():
        raise ApprovalIncomplete(sync, "it has to say why, for readers of the receipt")
    if both:
        raise ApprovalIncomplete(sync, "it is bound to one payload or to a range of sizes, not to both")
    if by_size and until is None:
        raise ApprovalIncomplete(sync, "a range of sizes needs a moment until which it holds")


def _held_checksum(connection: Connection, sync: str, found: HeldAttempt | None, wanted: str | None) -> str:
    if found is not None:
        return found.payload_checksum
    table = schema.attempt
    query = select(table.c.id).filter_by(sync=sync, state=AttemptState.HELD, payload_checksum=wanted)
    if wanted is None or connection.execute(query.limit(1)).first() is None:
        raise NothingHeld(sync)
    return wanted


def _read(row: Row[tuple[object, ...]]) -> Approval:
    return Approval(row.id, row.who, row.why, row.at, row.until)
