"""What a delivery would do, worked out by the code that delivers, without claiming, recording or sending anything."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
from sqlalchemy import Connection, Row, select

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import (
    DeliveryError,
    DeliverySuperseded,
    NotSealedYet,
    SyncPaused,
    TargetMoved,
    TargetNotItsOwn,
    TargetOwnedByAnother,
)
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.core.windows import Cadence, one_time_window
from cohort_pipelines.delivery import chunks, judging, pace
from cohort_pipelines.delivery.attempt import known_membership
from cohort_pipelines.delivery.deadlines import deadline
from cohort_pipelines.delivery.gates import Gates
from cohort_pipelines.delivery.pace import Forecast, Pace
from cohort_pipelines.destinations import ChangeWire, FileWire, sends_everybody
from cohort_pipelines.history import Overlay
from cohort_pipelines.ledger import (
    OPEN_STATES,
    AttemptKind,
    Ledger,
    Target,
    Verdict,
    approvals,
    is_anew,
    is_anothers,
    owned_elsewhere,
    paused,
    require_its_cohort,
    require_of_cohort,
    require_sent_once,
    schema,
)
from cohort_pipelines.membership import Membership, PlanCounts, Terms, fold, make_plan, mark_all_unknown, started_from


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What would be delivered, and on which terms.

    Attributes:
        target: what would be overwritten.
        sync: the sync's name.
        window: the key of the window that it would be delivered in.
        payload: what the target would hold; ``members`` of the cohort were read for it, ``identified`` with a profile.
        members: see there.
        identified: see there.
        seq: the number of its snapshot; None for one that was only taken to look at it.
        partner: the connection; nothing is asked of it.
        gates: what must not happen unasked.
        terms: what is true of the target.
        cadence: how often it is delivered; None for a one-time export.
        kind: what it would be delivered as; what is asked for by name heeds neither a pause nor the order.
    """

    target: Target
    sync: str
    window: str
    payload: StoredFile
    members: int
    identified: int
    seq: int | None = None
    partner: ChangeWire | FileWire
    gates: Gates
    terms: Terms = field(default_factory=Terms)
    cadence: Cadence | None = None
    kind: AttemptKind = AttemptKind.OVERWRITE


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a delivery would do now.

    Attributes:
        target: the target's name.
        first: nothing was ever sent to it.
        users: ids in the payload.
        unchanged: ids of the payload that are known to be in.
        counts: what would be sent, by why it would be.
        in_doubt: ids whose outcome is uncertain; they are among the repeated.
        requests: requests to the partner, if none has to be repeated.
        pace: how fast deliveries of this sync are.
        forecast: what this one needs.
        verdicts: what each gate would find.
        approved: who lets it pass the gates all the same, when and why; empty where no approval does, or no gate holds
        it.
        obstacles: why nothing would be sent, each as a sentence; gates left out.
        under_way: a delivery is being made just now, and may have done more than what is shown.
    """

    target: str
    first: bool
    users: int
    unchanged: int
    counts: PlanCounts
    in_doubt: int
    requests: int
    pace: Pace
    forecast: Forecast
    verdicts: tuple[Verdict, ...]
    approved: str
    obstacles: tuple[str, ...]
    under_way: bool

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for machines."""
        return asdict(self) | {
            "operations": self.counts.operations,
            "keeps_cadence": self.forecast.keeps_cadence,
            "held": self.held,
        }

    @property
    def held(self) -> bool:
        """Whether a gate would hold it."""
        return not self.approved and any(verdict.held for verdict in self.verdicts)


def preview(ledger: Ledger | None, history: Overlay, wanted: Wanted) -> Preview:
    """Return what a delivery would do now; only ``history``'s own root is written to.

    Args:
        ledger: what was sent so far; None where there is no ledger yet.
        history: laid over the history that the ledger belongs to.
        wanted: what would be delivered.

    Raises:
        HistoryError: payload, membership or initial members cannot be trusted.
        LedgerUnusable: the ledger cannot be read.
    """
    row = None if ledger is None else _target(ledger, wanted.target)
    membership, adopting = _believed(ledger, history, wanted, row)
    whole = sends_everybody(wanted.partner)
    measured = pace.measure(ledger, wanted.sync, wanted.partner)
    reconcile, _ = pace.slices_due(
        measured,
        row.reconciled_until if row else None,
        clock.now(),
        wanted.terms.reconcile_within,
        time=deadline(one_time_window(wanted.window), wanted.cadence) - clock.now(),
        known=membership.known,
        whole=whole,
    )
    equality = wanted.terms.id_equality
    with make_plan(history, wanted.payload, membership, equality=equality, reconcile=reconcile, whole=whole) as plan:
        counts = PlanCounts.of(plan)
    verdicts = judging.preview(
        ledger,
        wanted.gates,
        target_id=row.id if row else None,
        window=wanted.window,
        users=wanted.payload.rows,
        counts=counts,
        held=membership.held,
        adopted=(adopting or (row and row.initial_members)) == "adopted",
        members=wanted.members,
        identified=wanted.identified,
    )
    to_make = row is None or not row.established or is_anew(row, wanted.partner.cohort)
    return Preview(
        target=wanted.target.name,
        first=row is None or not (row.established or row.last_sent),
        users=wanted.payload.rows,
        unchanged=wanted.payload.rows - counts.joiners,
        counts=counts,
        in_doubt=membership.in_doubt,
        requests=_requests(wanted, counts, first=to_make),
        pace=measured,
        forecast=pace.forecast(measured, counts.operations, wanted.cadence),
        verdicts=tuple(verdicts),
        approved=_approved(ledger, wanted) if any(verdict.held for verdict in verdicts) else "",
        obstacles=tuple(str(error) for error in _obstacles(ledger, wanted, row)),
        under_way=bool(ledger and ledger.is_delivering(wanted.sync)),
    )


def _target(ledger: Ledger, target: Target) -> Row[tuple[object, ...]] | None:
    with ledger.read() as connection:
        return connection.execute(select(schema.target).filter_by(**asdict(target))).first()


def _believed(
    ledger: Ledger | None, history: Overlay, wanted: Wanted, row: Row[tuple[object, ...]] | None
) -> tuple[Membership, str | None]:
    """Return what the next delivery would start from, what dead ones may have done included, as `started_from` does."""
    terms = wanted.terms
    membership = known_membership(history, row) if row else Membership()
    if ledger is not None and row is not None:
        with ledger.read() as connection:
            left_open = list(_left_open(connection, row.id))
        for dead, told in left_open:
            plan = history.stored(dead.sync, Stage.PLAN, dead.window, dead.plan_checksum)
            membership = fold(
                history, membership, plan, told, equality=terms.id_equality, apply_delay=terms.apply_delay
            )
    if row is not None and is_anew(row, wanted.partner.cohort):
        membership = mark_all_unknown(history, membership, sync=wanted.sync, window=wanted.window)
    return started_from(history, row, membership, terms, sync=wanted.sync, window=wanted.window)


def _left_open(connection: Connection, target: int) -> Iterator[tuple[Row[tuple[object, ...]], pa.Table]]:
    """Yield each attempt that may have sent something and was not worked into membership, with what is known of it."""
    attempt = schema.attempt
    query = select(attempt).where(
        attempt.c.target == target, attempt.c.state.in_(OPEN_STATES), attempt.c.plan_checksum.is_not(None)
    )
    for row in connection.execute(query.order_by(attempt.c.generation)).all():
        yield row, chunks.chunk_table(connection, row.id)


def _requests(wanted: Wanted, counts: PlanCounts, *, first: bool) -> int:
    """Count the requests of a plan; what was refused last time goes alone."""
    partner = wanted.partner
    if isinstance(partner, FileWire):
        return partner.count_requests(wanted.payload.rows) if counts.operations or first else 0
    adds = counts.adds - counts.again - counts.quarantined_adds - counts.reconciling_adds
    removals = counts.removals - counts.quarantined_removals - counts.reconciling_removals
    alone = sum(
        chunks.quarantined_requests(refused, partner)
        for refused in (counts.quarantined_adds, counts.quarantined_removals)
    )
    reconciliation = partner.count_requests(counts.reconciling_adds, counts.reconciling_removals, first=False)
    again = partner.count_requests(counts.again, 0, first=False)
    return partner.count_requests(adds, removals, first=first) + alone + reconciliation + again


def _approved(ledger: Ledger | None, wanted: Wanted) -> str:
    if ledger is None:
        return ""
    payload = wanted.payload
    with ledger.read() as connection:
        approval = approvals.fitting(connection, wanted.sync, payload.checksum, payload.rows, ledger.now(connection))
    return "" if approval is None else str(approval)


def _obstacles(ledger: Ledger | None, wanted: Wanted, row: Row[tuple[object, ...]] | None) -> Iterator[DeliveryError]:
    """Yield what the claim would refuse with."""
    if ledger is None:
        return
    by_itself = wanted.kind is AttemptKind.OVERWRITE
    if by_itself and (pause := paused(ledger, wanted.sync)):
        yield SyncPaused(wanted.sync, pause.who, pause.why)
    with ledger.read() as connection:
        anothers = is_anothers(connection, wanted.target, wanted.sync, ledger.now(connection))
        try:
            require_its_cohort(connection, row, wanted.sync, wanted.partner.cohort)
            require_sent_once(connection, wanted.target, wanted.sync, wanted.partner.cohort)
            if by_itself and wanted.seq is not None:
                require_of_cohort(connection, wanted.seq, wanted.window, wanted.sync, wanted.partner.cohort)
        except TargetNotItsOwn as error:
            yield error
    if row is not None and anothers:
        yield TargetOwnedByAnother(wanted.target.name, row.owner)
    for other in owned_elsewhere(ledger, wanted.sync, wanted.target):
        yield TargetMoved(wanted.sync, other.target.name, wanted.target.name)
    if by_itself and row is not None and wanted.seq is not None and wanted.seq < row.head_seq:
        yield DeliverySuperseded(wanted.window, "that of a later window")


def newest_payload(ledger: Ledger, sync: str, window: str) -> tuple[int, StoredFile]:
    """Return the newest snapshot of ``sync`` that has a payload, by its number, and the payload.

    Raises:
        NotSealedYet: none was worked out yet, nor in ``window``, the one that is open.
    """
    derived, taken = schema.derived, schema.snapshot
    query = select(derived, taken.c.window).join_from(derived, taken)
    query = query.where(taken.c.sync == sync, derived.c.stage == Stage.PARTNER_PAYLOAD)
    with ledger.read() as connection:
        row = connection.execute(query.order_by(taken.c.seq.desc(), derived.c.id.desc()).limit(1)).first()
    if row is None:
        raise NotSealedYet(Stage.PARTNER_PAYLOAD, sync, window)
    return row.snapshot, StoredFile(sync, Stage.PARTNER_PAYLOAD, row.window, row.checksum, row.rows, row.size)


def excluded_of(ledger: Ledger, seq: int) -> Mapping[str, int]:
    """Return how many members of snapshot ``seq`` were excluded for which reason, as it was worked out last."""
    derived = schema.derived
    query = select(derived.c.counts).filter_by(snapshot=seq, stage=Stage.EXCLUDED).order_by(derived.c.id.desc())
    with ledger.read() as connection:
        return connection.execute(query.limit(1)).scalar() or {}
