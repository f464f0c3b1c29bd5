"""An attempt on a target by who holds its lease: each arrow is a transaction that checks the lease's token."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta

import pyarrow as pa
from sqlalchemy import Connection, Row, func, insert, or_, select, update

from cohort_pipelines.core import clock
from cohort_pipelines.core.changes import NamedCohort
from cohort_pipelines.core.errors import DeliverySuperseded, LeaseLost, SyncPaused
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.delivery import chunks
from cohort_pipelines.delivery.receipt import Receipt
from cohort_pipelines.history import History
from cohort_pipelines.ledger import (
    GREEN_STATES,
    OPEN_STATES,
    AttemptKind,
    AttemptState,
    ChunkState,
    Lease,
    Ledger,
    Pause,
    Target,
    WindowState,
    cohorts,
    next_generation,
    note_window,
    require_not_paused,
    schema,
)
from cohort_pipelines.membership import Membership, Terms

_GENERATIONS_OF_A_DAY = 100  # windows of a quarter of an hour, and some more


@dataclass(frozen=True, slots=True)
class DeliveryRequest:
    """What a delivery was asked for: this payload, of this snapshot, to this target, on these terms.

    A restore names the window that it puts back, and may pause the sync in the same transaction that claims the target.
    ``cohort`` is the one in whose name the partner is written to, where its wire names any. ``requested``: when the run
    was asked for, which may have waited since; None: just now.
    """

    target: Target
    sync: str
    window: str
    snapshot_seq: int
    payload: StoredFile
    run_id: str
    deadline: datetime
    terms: Terms = field(default_factory=Terms)
    kind: AttemptKind = AttemptKind.OVERWRITE
    restored_from: str | None = None
    pause: Pause | None = None
    cohort: NamedCohort | None = None
    requested: datetime | None = None


@dataclass(frozen=True, slots=True)
class CrashedAttempt:
    """An attempt whose writer died: what it was sending, if it came to that."""

    id: int
    sync: str
    window: str
    plan_checksum: str | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A claimed attempt.

    Attributes:
        ledger: where it is recorded.
        asked: what was asked for.
        id: its number in the ledger.
        target_id: the target's number in the ledger.
        generation: its place in the order of all attempts on the target.
        lease: what makes it the target's one writer.
        started: when it was claimed, by the ledger's time.
        ahead: by how much the ledger's time was ahead of this host's then; hosts may differ by up to a minute.
        established: whether the target was made at the partner, as far as is known.
        anew: whether it was written to in the name of another cohort, so that it may be another one now.
        superseded: that something newer supersedes it; None: nothing does.
    """

    ledger: Ledger
    asked: DeliveryRequest
    id: int
    target_id: int
    generation: int
    lease: Lease
    started: datetime
    established: bool
    ahead: timedelta = timedelta(0)
    superseded: DeliverySuperseded | None = None
    anew: bool = False

    def now(self) -> datetime:
        """Return the ledger's time, by this host's clock: what the ledger's own moments are compared with."""
        return clock.now() + self.ahead

    def dead_attempts(self) -> list[CrashedAttempt]:
        """Return the attempts that earlier writers left open, oldest first."""
        table = schema.attempt
        query = (
            select(table)
            .where(table.c.target == self.target_id, table.c.id != self.id, table.c.state.in_(OPEN_STATES))
            .order_by(table.c.generation)
        )
        with self.ledger.read() as connection:
            return [
                CrashedAttempt(row.id, row.sync, row.window, row.plan_checksum) for row in connection.execute(query)
            ]

    def close_crashed(self, dead: CrashedAttempt, membership: Membership) -> None:
        """Mark an attempt as crashed, now that ``membership`` holds all it may have done."""
        with self.lease.fenced() as connection:
            now = self.ledger.now(connection)
            word = func.coalesce(schema.attempt.c.error, "its process died")
            ended = {"state": AttemptState.CRASHED, "ended": now, "error": word}
            connection.execute(update(schema.attempt).filter_by(id=dead.id).values(**ended))
            self._believe(connection, membership, dead.id)

    def record_failure_reason(self, error: str) -> None:
        """Say why the attempt is left open: what it did is recorded, and what came of it cannot be.

        Raises:
            LeaseLost: another run has taken the target over.
            LedgerUnusable: nor can this be recorded.
        """
        with self.lease.fenced() as connection:
            connection.execute(update(schema.attempt).filter_by(id=self.id).values(error=error))
            if self.asked.kind is AttemptKind.OVERWRITE:
                note_window(connection, self.asked.sync, self.asked.window, "failed", error)

    def on_target(self) -> "Row[tuple[object, ...]]":
        """Return what the ledger has of the target: a row of :data:`schema.target`."""
        with self.ledger.read() as connection:
            return connection.execute(select(schema.target).filter_by(id=self.target_id)).one()

    def membership(self, history: History) -> Membership:
        """Return what is known of the target.

        Raises:
            HistoryError: the membership's file is gone, damaged or cannot be read.
        """
        return known_membership(history, self.on_target())

    def begin_sending(self, plan: StoredFile, base: Membership, adopted: str | None) -> int:
        """Bind the attempt to its sealed plan: planned -> sending; return the ledger's generation.

        With ``adopted``, the word for what the target held before the first delivery, ``base`` is made of that; of a
        target that begins anew it is what is left of membership. The first round of reconciliation begins here, since
        others may change whatever is sent.
        """
        bound = {"plan_checksum": plan.checksum, "base_membership": base.file.checksum if base.file else None}
        never_reconciled = update(schema.target).filter_by(id=self.target_id, reconciled_until=None)
        with self.lease.fenced() as connection:
            self._move(connection, AttemptState.PLANNED, AttemptState.SENDING, bound)
            connection.execute(never_reconciled.values(reconciled_until=self.started))
            started = update(schema.target).filter_by(id=self.target_id)
            if self.asked.cohort:
                if self.asked.kind is not AttemptKind.RETIRE:
                    cohorts.require_sent_once(connection, self.asked.target, self.asked.sync, self.asked.cohort)
                cohorts.name(connection, self.target_id, self.asked.cohort)
            if self.anew:
                connection.execute(started.values(established=False, **_columns(base)))
            if adopted is not None:
                connection.execute(started.values(initial_members=adopted, **_columns(base)))
            return next_generation(connection, self.ledger)

    def record(self, ended: Sequence[chunks.Ended], begun: Sequence[chunks.Rows]) -> datetime:
        """Record what became of chunks and that others are about to be sent.

        One transaction for both: it is the price of every chunk. Returns the moment of the intents.

        Raises:
            LeaseLost: another run has taken the target over.
            SyncPaused: the sync was paused; ``ended`` is recorded, ``begun`` is not.
        """
        paused: SyncPaused | None = None
        intents: list[chunks.Ended] = []
        with self.lease.fenced() as connection:
            now = self.ledger.now(connection)
            try:
                if begun:
                    self._require_not_paused(connection)
            except SyncPaused as error:
                paused = error
            else:
                last_try = now + timedelta(seconds=self.lease.seconds) + chunks.PATIENCE
                intents = [chunks.intent(rows, now, last_try) for rows in begun]
            chunks.record(connection, self.id, [*ended, *intents])
        if paused:
            raise paused
        return now

    def require_lease(self) -> None:
        """Refuse to go on unless it is still this attempt's turn.

        Raises:
            LeaseLost: another run has taken the target over.
            SyncPaused: the sync was paused.
        """
        with self.lease.fenced() as connection:
            self._require_not_paused(connection)

    def ever_acknowledged(self) -> bool:
        """Say whether the partner ever acknowledged anything for this target."""
        acknowledged = schema.chunk.c.state.in_([ChunkState.ACKED, ChunkState.IN_DOUBT])
        query = select(schema.chunk.c.lo).join(schema.attempt).filter_by(target=self.target_id).where(acknowledged)
        with self.ledger.read() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def heard_since(self, moment: datetime) -> bool:
        """Say whether a delivery to this target has ended since ``moment`` with an answer that tells that it is there.

        To be rate limited tells nothing of it.
        """
        attempt, receipt = schema.attempt, schema.receipt
        number = receipt.c.counts
        query = (
            select(receipt.c.at)
            .join(attempt)
            .where(
                attempt.c.target == self.target_id,
                attempt.c.generation > self.generation - _GENERATIONS_OF_A_DAY,  # so that no older ones are read
                receipt.c.at >= moment,
                receipt.c.state != AttemptState.STOPPED,
                number["requests"].as_integer() > 0,
                or_(receipt.c.state.in_(GREEN_STATES), number["acknowledged"].as_integer() > 0),
            )
        )
        with self.ledger.read() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def mark_established(self) -> None:
        """Remember that the target is there, and what it held before stands."""
        with self.lease.fenced() as connection:
            connection.execute(update(schema.target).filter_by(id=self.target_id).values(established=True))

    def mark_sent(self) -> None:
        """Record that nothing of the plan is left to be sent: sending -> sent."""
        with self.lease.fenced() as connection:
            self._move(connection, AttemptState.SENDING, AttemptState.SENT, {})

    def chunk_table(self, attempt: int | None = None) -> pa.Table:
        """Return what is known of the plan of this attempt, or of another one."""
        with self.ledger.read() as connection:
            return chunks.chunk_table(connection, self.id if attempt is None else attempt)

    def tally(self) -> Mapping[tuple[str, str], int]:
        """Count the rows of the plan by operation and what became of them."""
        with self.ledger.read() as connection:
            return chunks.tally(connection, self.id)

    def refused_from(self, row: int) -> int:
        """Return how many rows of the plan from ``row`` on, the first of a chunk, were refused."""
        with self.ledger.read() as connection:
            return chunks.refused_from(connection, self.id, row)

    def rejected_ranges(self) -> list[tuple[int, int, str]]:
        """Return the refused rows of the plan as ranges `[lo, hi)` with their reasons."""
        with self.ledger.read() as connection:
            return chunks.rejected_ranges(connection, self.id)

    def end(
        self,
        receipt: Receipt,
        file: StoredFile,
        membership: Membership | None,
        window: WindowState,
        *,
        reconciled_until: datetime | None = None,
        missing: bool = False,
    ) -> int:
        """Record how the attempt ended, and give the lease back, in one transaction; return the ledger's generation.

        ``reconciled_until``: up to when the slices of membership have been sent again; None: as before. ``missing``:
        the partner does not know the target any more, so that it has to be established anew.
        """
        with self.lease.fenced() if self.lease.token else self.ledger.write() as connection:
            now = self.ledger.now(connection)
            ended = {"state": receipt.state, "ended": now, "error": receipt.error or None}
            connection.execute(update(schema.attempt).filter_by(id=self.id).values(**ended))
            connection.execute(
                insert(schema.receipt).values(
                    attempt=self.id,
                    state=receipt.state,
                    counts={name: number for name, number in asdict(receipt).items() if isinstance(number, int)},
                    membership_after=receipt.membership_after,
                    checksum=file.checksum,
                    at=now,
                )
            )
            if self.asked.kind is AttemptKind.OVERWRITE:
                note_window(connection, self.asked.sync, self.asked.window, window, receipt.error)
            if self.lease.token:
                self._believe(connection, membership, self.id)
                self._conclude(connection, receipt, reconciled_until, now, missing=missing)
            return next_generation(connection, self.ledger)

    def _require_not_paused(self, connection: Connection) -> None:
        """A restore is asked for by name, also for a sync that is paused already."""
        by_name = self.asked.kind is not AttemptKind.OVERWRITE
        require_not_paused(connection, self.asked.sync, since=self.started if by_name else None)

    def _conclude(
        self,
        connection: Connection,
        receipt: Receipt,
        reconciled_until: datetime | None,
        now: datetime,
        *,
        missing: bool,
    ) -> None:
        green = receipt.state in GREEN_STATES
        concluded: dict[str, datetime | bool] = {"reconciled_until": reconciled_until} if reconciled_until else {}
        if missing:
            concluded["established"] = False
        if green and self.asked.kind is AttemptKind.RETIRE:
            if not receipt.in_doubt:  # else ids may still be put back, and would stay for good
                concluded["retired"] = now
            if self.asked.cohort:
                cohorts.emptied(connection, self.asked.target, self.asked.cohort)
        if concluded:
            connection.execute(update(schema.target).filter_by(id=self.target_id).values(**concluded))
        self.lease.give_back(connection)

    def _believe(self, connection: Connection, membership: Membership | None, attempt: int) -> None:
        """Let the target have ``membership``, which the chunks of ``attempt`` have led to."""
        if membership is None or membership.file is None:
            return
        ended_at, state = schema.chunk.c.ended_at, schema.chunk.c.state
        sent = select(func.max(ended_at)).where(state != ChunkState.NOT_SENT).filter_by(attempt=attempt)
        last_sent = connection.execute(sent).scalar()
        connection.execute(
            update(schema.target)
            .filter_by(id=self.target_id)
            .values(**_columns(membership), **({"last_sent": last_sent} if last_sent else {}))
        )

    def _move(
        self, connection: Connection, before: AttemptState, after: AttemptState, more: Mapping[str, object]
    ) -> None:
        moved = connection.execute(
            update(schema.attempt).filter_by(id=self.id, state=before).values(state=after, **more)
        )
        if moved.rowcount != 1:
            raise LeaseLost(self.asked.target.name)


def _columns(membership: Membership) -> dict[str, str | int | None]:
    """Return the columns of :data:`schema.target` that say what is known of it."""
    file = membership.file
    return {
        "membership_sync": file.sync if file else None,
        "membership_window": file.window if file else None,
        "membership_checksum": file.checksum if file else None,
        "in_doubt": membership.in_doubt,
        "held": membership.held,
    }


def known_membership(history: History, target: "Row[tuple[object, ...]]") -> Membership:
    """Return what is known of ``target``, a row of :data:`schema.target`.

    Raises:
        HistoryError: the membership's file is gone, damaged or cannot be read.
    """
    if target.membership_checksum is None:
        return Membership()
    file = history.stored(
        target.membership_sync, Stage.MEMBERSHIP, target.membership_window, target.membership_checksum
    )
    return Membership(file, target.in_doubt, target.held)
