"""Targets and who owns them: handing one over, and finding those that nobody looks after any more."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Row, select, update

from cohort_pipelines.delivery import schema
from cohort_pipelines.delivery.ledger import Ledger, Target
from cohort_pipelines.errors import TargetBusy, TargetNotKnown


@dataclass(frozen=True, slots=True)
class TargetRecord:
    """A target as the ledger knows it.

    Attributes:
        target: what it is.
        owner: the sync that it belongs to, or belonged to when it was retired.
        held: ids that it holds, or may hold.
        unsettled: ids whose outcome is uncertain.
        baseline: what it held before the first delivery: ``empty``, ``unknown``, ``adopted``; None before that.
        written: whether anything may have been sent to it.
        retired: when its sync was ended or moved away, else None.
    """

    target: Target
    owner: str
    held: int
    unsettled: int
    baseline: str | None
    written: bool
    retired: datetime | None


def all_targets(ledger: Ledger) -> list[TargetRecord]:
    """Return every target that was ever claimed, in the order of the first claim."""
    with ledger.read() as connection:
        return [_record(row) for row in connection.execute(select(schema.target).order_by(schema.target.c.id))]


def orphans(ledger: Ledger, declared: Iterable[tuple[str, Target]]) -> list[TargetRecord]:
    """Return the written targets that no sync of ``declared`` (name and target) owns: their members stay for ever."""
    known = set(declared)
    return [
        each
        for each in all_targets(ledger)
        if each.written and each.retired is None and (each.owner, each.target) not in known
    ]


def owned_elsewhere(ledger: Ledger, sync: str, declared: Target) -> list[TargetRecord]:
    """Return the written targets that ``sync`` owns beside the one that it is declared for."""
    return [
        each
        for each in all_targets(ledger)
        if each.owner == sync and each.written and each.retired is None and each.target != declared
    ]


def hand_over(ledger: Ledger, target: Target, sync: str, *, declared: Iterable[str]) -> str:
    """Let ``sync`` own ``target``, with all that is believed of it; return the earlier owner.

    Raises:
        TargetNotKnown: nothing was ever sent to it, or its owner is a sync in ``declared`` and has not given it up.
        TargetBusy: its owner is writing it.
    """
    with ledger.write() as connection:
        row = connection.execute(select(schema.target).filter_by(**asdict(target))).first()
        if row is None:
            raise TargetNotKnown(sync, f"nothing was ever delivered to {target.name!r}")
        if row.retired is None and row.owner in set(declared) - {sync}:
            way = f"once {row.owner} is declared for another: cohort-pipelines retarget {row.owner}"
            raise TargetNotKnown(sync, f"{target.name!r} belongs to {row.owner}, which gives it up {way}")
        lease = connection.execute(select(schema.lease.c.expires).filter_by(target=row.id)).scalar()
        if lease is not None and lease > ledger.now(connection):
            raise TargetBusy(target.name, lease)
        connection.execute(update(schema.target).filter_by(id=row.id).values(owner=sync, retired=None))
    earlier: str = row.owner
    return earlier


def forget(ledger: Ledger, target: Target) -> None:
    """Give a target up without emptying it, since nothing that is declared reaches it any more."""
    with ledger.write() as connection:
        retired = update(schema.target).filter_by(**asdict(target)).values(retired=ledger.now(connection))
        connection.execute(retired)


def _record(row: Row[tuple[object, ...]]) -> TargetRecord:
    return TargetRecord(
        target=Target(row.wire, row.host, row.account, row.name),
        owner=row.owner,
        held=row.held,
        unsettled=row.unsettled,
        baseline=row.baseline,
        written=row.established or row.belief_checksum is not None,
        retired=row.retired,
    )
