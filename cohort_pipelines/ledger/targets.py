"""Targets and who owns them: handing one over, and finding those without a declared sync."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Row, or_, select, update

from cohort_pipelines.core.changes import NamedCohort
from cohort_pipelines.core.errors import TargetBusy, TargetNotKnown
from cohort_pipelines.ledger import schema
from cohort_pipelines.ledger.lease import is_live, live
from cohort_pipelines.ledger.ledger import Ledger, Target
from cohort_pipelines.ledger.pauses import pause_within, paused_within
from cohort_pipelines.ledger.schema import OPEN_STATES


@dataclass(frozen=True, slots=True)
class TargetRecord:
    """A target as the ledger knows it.

    Attributes:
        target: what it is.
        owner: the sync that it belongs to, or belonged to when it was retired.
        held: ids that it holds, or may hold.
        in_doubt: ids whose outcome is uncertain.
        initial_members: what it held before the first delivery: ``empty``, ``unknown``, ``adopted``; None before that.
        written: whether anything may have been sent to it.
        filled: whether it may hold ids.
        retired: when its sync was ended or moved away, else None.
        cohort: the Mixpanel project and cohort in whose name it was last written to; None: not known.
    """

    target: Target
    owner: str
    held: int
    in_doubt: int
    initial_members: str | None
    written: bool
    filled: bool
    retired: datetime | None
    cohort: NamedCohort | None

    def is_left_by(self, cohort: NamedCohort | None) -> bool:
        """Say whether it may hold ids in another name than that of ``cohort``."""
        return bool(cohort and self.cohort and self.filled and self.cohort != cohort)


def written() -> ColumnElement[bool]:
    """Say of a row of :data:`schema.target` whether anything is there, or may be: the one meaning of a written target.

    That is: something was sent or adopted, or an attempt that never ended had its plan and may have begun with it.
    """
    table = schema.target
    return or_(table.c.membership_checksum.is_not(None), table.c.established, _begun())


def is_filled() -> ColumnElement[bool]:
    """Say of a row of :data:`schema.target` whether it may hold ids, or may still get some."""
    return or_(schema.target.c.held > 0, schema.target.c.in_doubt > 0, _begun())


def _begun() -> ColumnElement[bool]:
    attempt = schema.attempt
    begun = select(attempt.c.target).where(attempt.c.state.in_(OPEN_STATES), attempt.c.plan_checksum.is_not(None))
    return schema.target.c.id.in_(begun)


def is_anothers(connection: Connection, target: Target, sync: str, now: datetime) -> bool:
    """Say whether another sync owns ``target``, so that ``sync`` must not write to it.

    One that was claimed and never written goes to the next claim, unless a lease on it is live.
    """
    table = schema.target
    others = select(table.c.id).filter_by(**asdict(target)).where(table.c.owner != sync, table.c.retired.is_(None))
    leased = select(schema.lease.c.target).where(live(now))
    return connection.execute(others.where(or_(written(), table.c.id.in_(leased)))).first() is not None


def all_targets(ledger: Ledger) -> list[TargetRecord]:
    """Return every target that was ever claimed, in the order of the first claim."""
    query = select(schema.target, written().label("written"), is_filled().label("filled"))
    with ledger.read() as connection:
        return [_record(row) for row in connection.execute(query.order_by(schema.target.c.id))]


def orphans(ledger: Ledger, declared: Iterable[tuple[str, Target]]) -> list[TargetRecord]:
    """Return the written targets that no sync of ``declared`` (name and target) owns: their members stay for ever."""
    known = set(declared)
    return [
        each
        for each in all_targets(ledger)
        if each.written and each.retired is None and (each.owner, each.target) not in known
    ]


def owned_elsewhere(
    ledger: Ledger, sync: str, declared: Target, cohort: NamedCohort | None = None
) -> list[TargetRecord]:
    """Return the written targets that ``sync`` owns beside the one that it is declared for, in the name of ``cohort``.

    The one of that name is another where it holds ids in the name of another cohort.
    """
    owned = (each for each in all_targets(ledger) if each.owner == sync and each.written and each.retired is None)
    return [each for each in owned if each.target != declared or each.is_left_by(cohort)]


def require_given_up(target: Target, owner: str, sync: str, declared: Iterable[tuple[str, Target]]) -> None:
    """Refuse where ``owner`` is in ``declared`` (name and target) for ``target``, which ``sync`` wants.

    Raises:
        TargetNotKnown: two are declared for one target, which has one owner.
    """
    if owner != sync and (owner, target) in set(declared):
        problem = f"{target.name!r} belongs to {owner}, which is declared for it too; declare one for another target"
        raise TargetNotKnown(sync, problem)


def hand_over(ledger: Ledger, target: Target, sync: str, *, declared: Iterable[tuple[str, Target]]) -> str:
    """Let ``sync`` own ``target``, with all that is known of it; return the earlier owner.

    A pause of the earlier owner goes with it, so that a renaming resumes nothing.

    Raises:
        TargetNotKnown: no delivery to it was ever begun, or it was given up since, or its owner has written it and is
            declared for it, by ``declared`` (name and target).
        TargetBusy: its owner is writing it.
    """
    known = select(schema.target, written().label("written")).filter_by(**asdict(target))
    with ledger.write() as connection:
        row = connection.execute(known).first()
        if row is None:
            raise TargetNotKnown(sync, f"nothing was ever delivered to {target.name!r}")
        if row.retired is not None:
            raise TargetNotKnown(sync, f"{target.name!r} was given up, and is taken by whichever delivery comes next")
        if row.written:
            require_given_up(target, row.owner, sync, declared)
        _require_quiet(connection, row.id, target, ledger.now(connection))
        connection.execute(update(schema.target).filter_by(id=row.id).values(owner=sync))
        if pause := paused_within(connection, row.owner):
            pause_within(connection, sync, pause)
    earlier: str = row.owner
    return earlier


def forget(ledger: Ledger, target: Target) -> None:
    """Give a target up without emptying it, since nothing that is declared reaches it any more.

    Raises:
        TargetBusy: its owner is writing it.
    """
    with ledger.write() as connection:
        now = ledger.now(connection)
        retired = update(schema.target).filter_by(**asdict(target)).values(retired=now).returning(schema.target.c.id)
        for number in connection.execute(retired).scalars().all():
            _require_quiet(connection, number, target, now)


def _require_quiet(connection: Connection, number: int, target: Target, now: datetime) -> None:
    expires = connection.execute(select(schema.lease.c.expires).filter_by(target=number)).scalar()
    if expires is not None and is_live(expires, now):
        raise TargetBusy(target.name, expires)


def _record(row: Row[tuple[object, ...]]) -> TargetRecord:
    return TargetRecord(
        target=Target(row.wire, row.host, row.account, row.name),
        owner=row.owner,
        held=row.held,
        in_doubt=row.in_doubt,
        initial_members=row.initial_members,
        written=row.written,
        filled=row.filled,
        retired=row.retired,
        cohort=(row.project, row.cohort_id) if row.cohort_id else None,
    )
