"""Rebuilding: a ledger that was lost, put back from a copy, or doubled becomes the one ledger of a history again.

What was sent since the ledger's last sure word cannot be known, so nothing is guessed: every id that the history names
for a target is in doubt, and the next delivery sends again what it wants there and removes the rest. Gates compare
with the newest delivery that a receipt tells of. Numbers go on above all that the history names. The ledger gets a new
id: every other copy of it is refused from then on.
"""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from cohort_pipelines.core.errors import CohortPipelinesError, IdsForgotten, LedgerUnusable, TargetBusy
from cohort_pipelines.history import History
from cohort_pipelines.ledger import (
    GIVEN_BACK,
    GREEN_STATES,
    OPEN_STATES,
    AttemptKind,
    AttemptState,
    Ledger,
    Target,
    live,
    next_seq,
    schema,
)
from cohort_pipelines.membership import Membership
from cohort_pipelines.recovery import pairing
from cohort_pipelines.recovery.pairing import Identity, Mirror
from cohort_pipelines.recovery.rebuilt_rows import Rows
from cohort_pipelines.recovery.recovering import FoundReceipt, Gathered, gathered, read_receipts


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a ledger was rebuilt from.

    Attributes:
        targets: targets that the ledger now knows.
        receipts: receipts of attempts that it did not know.
        files: payloads, plans and memberships that ids were taken from.
        left_out: files and marks that are damaged, or went away meanwhile.
        ids: ids that are now possibly delivered, over all targets.
        forgotten: ids, at most, that targets may hold and that no file names any more: they stay at the partner.
        unmeasured: targets that something was sent to, and of which no receipt tells what was delivered last: all
            their ids count as held for the gates.
    """

    targets: int
    receipts: int
    files: int
    left_out: int
    ids: int
    forgotten: int
    unmeasured: int


@dataclass(slots=True)
class _Known:
    """What ledger and history know of one target."""

    target: Target
    row: Row[tuple[object, ...]] | None = None
    mirror: Mirror | None = None
    delivered: str | None = None  # the payload that the ledger delivered last
    receipts: list[FoundReceipt] = field(default_factory=list)
    syncs: set[str] = field(default_factory=set)

    def owner(self, *, forgetful: bool) -> str:
        """Return whose it is; ``forgetful``: the ledger is not as new as the history."""
        if self.row is not None and not (forgetful and self.mirror):
            return str(self.row.owner)
        return self.mirror.owner if self.mirror else self.receipts[-1].sync

    def retired(self, *, forgetful: bool) -> datetime | None:
        """Return when it was given up, or None where it was not."""
        if self.row is not None and not (forgetful and self.receipts):
            moment: datetime | None = self.row.retired
            return moment
        last = self.newest()
        given_up = last and last.green and last.kind is AttemptKind.RETIRE and not last.row["in_doubt"]
        return last.ended if last and given_up else None

    def newest(self) -> FoundReceipt | None:
        """Return the newest receipt of an attempt that had its turn: what was superseded changed nothing."""
        had_their_turn = (each for each in reversed(self.receipts) if each.state is not AttemptState.SUPERSEDED)
        return next(had_their_turn, None)

    def initial_members(self) -> str | None:
        """Return what the target held before the first delivery; None where nothing was ever begun there."""
        told = [each.row["initial_members"] for each in reversed(self.receipts)]
        mirrored = self.mirror.initial_members if self.mirror else None
        if found := next(filter(None, [self.row and self.row.initial_members, *told, mirrored]), None):
            return str(found)
        written = self.row is not None and (self.row.established or self.row.membership_checksum)
        return "unknown" if written else None

    def cohort(self, *, forgetful: bool) -> dict[str, int]:
        """Return the cohort in whose name it was last written to, as columns of its row; none where that stands."""
        if self.row is not None and not (forgetful and self.receipts):
            return {}
        windows = (each.row for each in reversed(self.receipts) if each.kind is AttemptKind.OVERWRITE)
        newest = next((row for row in windows if row["project"] and row["requests"]), None)
        return {"project": newest["project"], "cohort_id": newest["cohort_id"]} if newest else {}

    def generation(self) -> int:
        """Return the number of the newest attempt that the history tells of."""
        return self.mirror.target_generation if self.mirror else 0

    def held(self, *, forgetful: bool) -> int:
        """Return how many ids it may hold: as the ledger believes, or as the newest delivery sent."""
        memberships = int(self.row.held) if self.row else 0
        newest = self._newest_delivery() if forgetful or not self.row else None
        return max(memberships, newest.row["users"] if newest else 0)

    def forgotten(self, found: Gathered, *, forgetful: bool) -> int:
        """Return how many of these may be missing among what was ``found``.

        None are where the newest membership was read, which names every id. Without it the payload that was delivered
        last names those that are in, and nothing tells more than their number of those that may be in beside them.
        """
        told = (each.row["membership_after"] for each in reversed(self.receipts) if each.row["membership_after"])
        if {next(told, None), self.row and self.row.membership_checksum} - {None} <= found.read:
            return 0
        newest = self._newest_delivery()
        delivered = {self.delivered, newest and newest.row["payload_checksum"]} - {None}
        held = self.held(forgetful=forgetful)
        return max(held - found.ids, 0) if delivered <= found.read else held

    def _newest_delivery(self) -> FoundReceipt | None:
        return next((each for each in reversed(self.receipts) if each.green), None)


@dataclass(slots=True)
class _Recovered:
    """What the history names for all targets together."""

    memberships: dict[Target, Membership] = field(default_factory=dict)
    files: int = 0
    left_out: int = 0
    forgotten: int = 0


def rebuild(ledger: Ledger, history: History, *, forget: bool = False) -> Rebuilt:
    """Make ``ledger`` the one ledger of ``history``; whatever is damaged or gone is left out and counted.

    Killed anywhere it can be run again; until it was run to its end, deliveries are refused. Ids that a target may hold
    and that no file names any more would stay there for good, behind green deliveries: only ``forget`` leaves them.

    Raises:
        TargetBusy: a delivery is under way.
        IdsForgotten: there are such ids.
        HistoryNotReadable, HistoryNotWritable: the disk or the object store refused; what cannot be read now is not
            left out for that.
    """
    history.require_writable()
    with ledger.read() as connection:
        now, before = ledger.now(connection), _require_quiet(ledger, connection)
    with _nobodys(history) as identity:
        return _rebuild(ledger, history, identity, now, before, forget=forget)


def _rebuild(
    ledger: Ledger, history: History, identity: Sequence[Identity], now: datetime, before: int, *, forget: bool
) -> Rebuilt:
    marks = {name: content for name, content in history.read_marks().items() if name != pairing.IDENTITY}
    mirrors = {name: read for name, content in marks.items() if (read := pairing.read_mark(Mirror, content))}
    receipts, unread = read_receipts(history)
    targets = _targets(ledger, receipts, mirrors.values())
    orphans = _orphans(ledger, receipts)
    forgetful = _is_forgetful(ledger, mirrors.values(), [each for each in receipts if each.checksum not in orphans])
    found = _recover(history, targets.values(), now, forgetful=forgetful, forget=forget)

    with ledger.write() as connection:
        if _require_quiet(ledger, connection) != before:
            raise LedgerUnusable(ledger.where, "a delivery began while it was rebuilt; run the rebuilding again")
        rows = Rows(connection, history, receipts)
        rows.make_room()
        generations: dict[Target, int] = {}
        for known in targets.values():
            number = _write_target(connection, known, found.memberships[known.target], forgetful=forgetful, now=now)
            rows.write_attempts(number, [each for each in known.receipts if each.checksum not in orphans])
            rows.write_unknown(number, known.owner(forgetful=forgetful), known.generation(), now)
            generations[known.target] = _settle_target(connection, number, known)
        ledger.ledger_id, generation = _take_over(connection, [*mirrors.values(), *identity])
    for target, known in targets.items():
        pairing.mirror(
            ledger,
            history,
            generation,
            target,
            known.owner(forgetful=forgetful),
            target_generation=generations[target],
            initial_members=known.initial_members(),
            writers=known.syncs,
        )
    for name in marks.keys() - {pairing.mark_of(target) for target in targets}:
        history.remove_mark(name)
    pairing.mark(history, ledger.ledger_id, generation)  # last: until then the history is another ledger's
    unmeasured = sum(
        known.initial_members() is not None and not any(each.green for each in known.receipts)
        for known in targets.values()
    )
    ids = sum(membership.in_doubt for membership in found.memberships.values())
    left_out = found.left_out + unread + len(marks) - len(mirrors)
    return Rebuilt(len(targets), rows.written, found.files, left_out, ids, found.forgotten, unmeasured)


def _recover(
    history: History, targets: Iterable[_Known], now: datetime, *, forgetful: bool, forget: bool
) -> _Recovered:
    """Seal a membership of every target; where nothing was ever begun, none, so that the first delivery adopts one."""
    recovered = _Recovered()
    for known in targets:
        if known.initial_members() is None:
            recovered.memberships[known.target] = Membership()
            continue
        owner = known.owner(forgetful=forgetful)
        with gathered(history, known.syncs | {owner}, known.receipts) as found:
            forgotten = known.forgotten(found, forgetful=forgetful)
            if forgotten and not forget:
                raise IdsForgotten(known.target.name, known.held(forgetful=forgetful), found.ids, history.shown)
            recovered.memberships[known.target] = found.seal(owner, now)
        recovered.files += len(found.read)
        recovered.left_out += found.left_out
        recovered.forgotten += forgotten
    return recovered


def _require_quiet(ledger: Ledger, connection: Connection) -> int:
    """Refuse while a lease is live; return the number of the newest attempt."""
    leases = select(schema.target.c.name, schema.lease.c.expires).join(schema.lease)
    held = connection.execute(leases.where(live(ledger.now(connection)))).first()
    if held is not None:
        raise TargetBusy(held.name, held.expires)
    return connection.execute(select(func.max(schema.attempt.c.id))).scalar() or 0


def _orphans(ledger: Ledger, receipts: Iterable[FoundReceipt]) -> set[str]:
    """Return the checksums of receipts that the ledger does not know although it knows all of the attempt.

    Their writers died before the ledger had them too, and whoever claimed next made membership of what they had done.
    """
    of, attempt = schema.target.c, schema.attempt.c
    died = select(of.wire, of.host, of.account, of.name, attempt.generation, attempt.run_id).join(schema.attempt)
    with ledger.read() as connection:
        found = connection.execute(died.where(attempt.state == AttemptState.CRASHED, attempt.run_id != "")).all()
    dead = {(Target(*row[:4]), row.generation, row.run_id) for row in found}
    return {each.checksum for each in receipts if (each.target, each.row["generation"], each.row["run_id"]) in dead}


def _is_forgetful(ledger: Ledger, mirrors: Iterable[Mirror], receipts: list[FoundReceipt]) -> bool:
    """Say whether the history knows of changes that the ledger does not."""
    with ledger.read() as connection:
        mine = connection.execute(select(schema.meta.c.ledger_id, schema.meta.c.generation)).one()
        known = set(connection.execute(select(schema.receipt.c.checksum)).scalars())
    ahead = any(each.ledger_id != mine.ledger_id or each.generation > mine.generation for each in mirrors)
    return ahead or any(each.checksum not in known for each in receipts)


def _targets(ledger: Ledger, receipts: Iterable[FoundReceipt], mirrors: Iterable[Mirror]) -> dict[Target, _Known]:
    targets: dict[Target, _Known] = {}
    wrote = select(schema.attempt.c.target, schema.attempt.c.sync).distinct()
    delivered = select(schema.attempt.c.payload_checksum).where(schema.attempt.c.state.in_(GREEN_STATES))
    with ledger.read() as connection:
        writers = connection.execute(wrote).all()
        for row in connection.execute(select(schema.target).order_by(schema.target.c.id)):
            target = Target(row.wire, row.host, row.account, row.name)
            syncs = {each.sync for each in writers if each.target == row.id} | {row.owner}
            sent = delivered.filter_by(target=row.id).order_by(schema.attempt.c.generation.desc()).limit(1)
            targets[target] = _Known(target, row, delivered=connection.execute(sent).scalar(), syncs=syncs)
    for mirror in mirrors:
        known = targets.setdefault(mirror.target, _Known(mirror.target))
        if known.mirror is None or known.generation() < mirror.target_generation:  # of a copy there may be one, too
            known.mirror = mirror
        known.syncs |= {mirror.owner, *mirror.writers}
    for receipt in receipts:
        known = targets.setdefault(receipt.target, _Known(receipt.target))
        known.receipts.append(receipt)
        known.syncs.add(receipt.sync)
    for known in targets.values():
        known.receipts.sort(key=lambda each: each.ended)
    return targets


def _write_target(
    connection: Connection, known: _Known, membership: Membership, *, forgetful: bool, now: datetime
) -> int:
    """Write what is known of a target, and whose it is; return its number."""
    file = membership.file
    values: dict[str, Any] = {
        "owner": known.owner(forgetful=forgetful),
        "retired": known.retired(forgetful=forgetful),
        "initial_members": known.initial_members(),
        "established": bool(known.row and known.row.established)
        or any(each.green or each.row["acknowledged"] for each in known.receipts),
        "membership_sync": file and file.sync,
        "membership_window": file and file.window,
        "membership_checksum": file and file.checksum,
        "in_doubt": membership.in_doubt,
        "held": membership.held,
        "last_sent": file and now,
        "reconciled_until": None,
        **known.cohort(forgetful=forgetful),
    }
    if known.row is not None:
        connection.execute(update(schema.target).filter_by(id=known.row.id).values(**values))
        number: int = known.row.id
        return number
    fresh = insert(schema.target).values(**asdict(known.target), **values, generation=0, head_seq=0)
    written: int = connection.execute(fresh.returning(schema.target.c.id)).scalar_one()
    return written


def _settle_target(connection: Connection, target: int, known: _Known) -> int:
    """Close what earlier writers left open, and let generation, order and token go on above all that is known.

    Returns:
        The generation.
    """
    table = schema.attempt
    left = update(table).where(table.c.target == target, table.c.state.in_(OPEN_STATES))
    connection.execute(left.values(state=AttemptState.CRASHED, error="the ledger was rebuilt"))
    highest = select(func.max(table.c.generation), func.max(func.coalesce(table.c.seq, table.c.snapshot)))
    newest, seq = connection.execute(highest.filter_by(target=target)).one()
    row = connection.execute(select(schema.target).filter_by(id=target)).one()
    head = max(seq or 0, row.head_seq)
    last = known.newest()
    if last and last.kind is not AttemptKind.OVERWRITE:
        head = next_seq(connection)  # what was asked for by name stood above every window before it
    generation: int = max(newest or 0, row.generation, known.generation()) + 1
    connection.execute(update(schema.target).filter_by(id=target).values(generation=generation, head_seq=head))

    lease = schema.lease
    token = connection.execute(select(lease.c.token).filter_by(target=target)).scalar()
    # no claim without a generation of its own, so that no token was ever above it
    values = {"token": max(generation, token or 0), "holder": "rebuild", "expires": GIVEN_BACK}
    if token is None:
        connection.execute(insert(lease).values(target=target, **values))
    else:
        connection.execute(update(lease).filter_by(target=target).values(**values))
    return generation


@contextmanager
def _nobodys(history: History) -> Iterator[list[Identity]]:
    """Let ``history`` be no ledger's meanwhile, so that whoever still writes a lost one begins nothing that is missed.

    Yields what the history says of the ledger that wrote it, as far as that can be read. A refusal puts it back.
    """
    before = history.read_mark(pairing.IDENTITY)
    read = pairing.read_mark(Identity, before or b"")
    pairing.mark(history, f"rebuilding {uuid.uuid4().hex}", read.generation if read else 0)
    try:
        yield [read] if read else []
    except CohortPipelinesError:
        if before is None:
            history.remove_mark(pairing.IDENTITY)
        else:
            history.write_mark(pairing.IDENTITY, before)
        raise


def _take_over(connection: Connection, marks: Iterable[Mirror | Identity]) -> tuple[str, int]:
    """Give the ledger a new id and a generation above all marks."""
    ledger_id = uuid.uuid4().hex
    generation = connection.execute(select(schema.meta.c.generation)).scalar_one()
    generation = max([generation, *(each.generation for each in marks)]) + 1
    connection.execute(update(schema.meta).values(ledger_id=ledger_id, generation=generation))
    return ledger_id, generation
