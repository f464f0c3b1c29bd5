"""How long deliveries take, measured on recent ones or assumed before there is one; and how much usually changes."""

import statistics
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

from sqlalchemy import select

from cohort_pipelines.core.windows import Cadence
from cohort_pipelines.delivery.deadlines import MARGIN
from cohort_pipelines.destinations import ChangeWire, FileWire
from cohort_pipelines.ledger import GREEN_STATES, AttemptKind, Ledger, schema
from cohort_pipelines.membership import SLICES, Slices, due, oldest

AMPLE = 2
"""A sync that can carry no more than this many times its usual change has little left for an unusual one."""

ENOUGH = 100
"""Operations of a delivery whose pace is worth measuring; the time of a smaller one is mostly that of any delivery."""

_RECENT = 100


@dataclass(frozen=True, slots=True)
class Pace:
    """What a sync's recent deliveries were like.

    Attributes:
        seconds_per_operation: of sending, planning and recording included.
        reading_seconds: of reading Mixpanel and working out the payload; 0 where no snapshot was taken yet.
        measured: whether deliveries were measured; else the wire's assumed pace stands here.
        usual_change: joiners and leavers of an overwrite, the first fill left out; None where there was no other.
    """

    seconds_per_operation: float
    reading_seconds: float
    measured: bool
    usual_change: int | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """What ``operations`` need.

    Attributes:
        seconds: of sending.
        windows: how many windows that takes; None for a one-time export, which has no window's end to keep.
        capacity: operations that fit into a window; None likewise.
        tight: whether the capacity is below :data:`AMPLE` times the usual change.
    """

    seconds: float
    windows: int | None
    capacity: int | None
    tight: bool

    @property
    def keeps_cadence(self) -> bool:
        """Whether everything is sent before the window ends."""
        return self.windows is None or self.windows <= 1


def measure(ledger: Ledger | None, sync: str, partner: ChangeWire | FileWire) -> Pace:
    """Return how fast the newest deliveries of ``sync`` over this kind of wire were.

    Raises:
        LedgerUnusable: the ledger cannot be read.
    """
    assumed = 1 / partner.assumed_per_second
    if ledger is None:
        return Pace(assumed, 0.0, measured=False, usual_change=None)
    attempt, taken, sent = schema.attempt, schema.snapshot, schema.receipt
    deliveries = (
        select(attempt.c.generation, attempt.c.state, attempt.c.started, attempt.c.ended, sent.c.counts)
        .join_from(attempt, sent)
        .join(schema.target, schema.target.c.id == attempt.c.target)
        .where(attempt.c.sync == sync, attempt.c.kind == AttemptKind.OVERWRITE, schema.target.c.wire == partner.wire)
        .order_by(attempt.c.id.desc())
        .limit(_RECENT)
    )
    readings = (
        select(taken.c.seconds)
        .where(taken.c.sync == sync, taken.c.seconds.is_not(None))
        .order_by(taken.c.seq.desc())
        .limit(_RECENT)
    )
    with ledger.read() as connection:
        rows = connection.execute(deliveries).all()
        reading = statistics.median(connection.execute(readings).scalars().all() or [0.0])
    measured = [row for row in rows if row.counts["acknowledged"] >= ENOUGH]
    done = sum(row.counts["acknowledged"] for row in measured)
    seconds = sum((row.ended - row.started).total_seconds() for row in measured)
    changes = [
        row.counts["joiners"] + row.counts["leavers"]
        for row in rows
        if row.state in GREEN_STATES and row.generation > 1
    ]
    return Pace(
        seconds_per_operation=seconds / done if measured else assumed,
        reading_seconds=reading,
        measured=bool(measured),
        usual_change=round(statistics.median(changes)) if changes else None,
    )


def slices_due(
    pace: Pace,
    reconciled_until: datetime | None,
    now: datetime,
    within: timedelta | None,
    *,
    time: timedelta,
    known: int,
    whole: bool = False,
) -> tuple[Slices | None, datetime]:
    """Return which slices of ``known`` ids are sent again ``now``, and up to when a delivery of them has reconciled.

    Who is out is sent again as well, so ``known`` counts them too.

    They are those that are due (:func:`cohort_pipelines.membership.reconciliation.due`), or as many of the oldest as
    fit into half of ``time``: the rest of it is for changes.
    """
    slices = due(reconciled_until, now, within, whole=whole)
    if slices is None or within is None or whole or not known:
        return slices, now
    operations = time.total_seconds() / 2 / pace.seconds_per_operation if pace.seconds_per_operation else known
    return oldest(slices, int(SLICES * min(1.0, operations / known)), now, within)


def forecast(pace: Pace, operations: int, cadence: Cadence | None) -> Forecast:
    """Return what ``operations`` need at ``pace``."""
    seconds = operations * pace.seconds_per_operation
    if cadence is None:
        return Forecast(seconds, None, None, tight=False)
    left = max((cadence.value - MARGIN - timedelta(seconds=pace.reading_seconds)).total_seconds(), 1.0)
    capacity = int(left / pace.seconds_per_operation) if pace.seconds_per_operation else operations
    return Forecast(
        seconds=seconds,
        windows=ceil(seconds / left),
        capacity=capacity,
        tight=pace.usual_change is not None and capacity < AMPLE * pace.usual_change,
    )
