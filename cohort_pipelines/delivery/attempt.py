"""An attempt on a target by who holds its lease: each arrow is a transaction that checks the lease's token."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa
from sqlalchemy import Connection, insert, select, update

from cohort_pipelines import clock
from cohort_pipelines.delivery import chunks, schema
from cohort_pipelines.delivery.belief import Belief
from cohort_pipelines.delivery.gates import Gates, Verdict
from cohort_pipelines.delivery.ledger import Ledger, Target
from cohort_pipelines.delivery.ledger_windows import note_window
from cohort_pipelines.delivery.receipt import Receipt
from cohort_pipelines.delivery.schema import OPEN_STATES, AttemptState, ChunkState, WindowState
from cohort_pipelines.errors import DeliveryError, LeaseLost, LedgerUnusable
from cohort_pipelines.history import History, Stage, StoredFile

GIVEN_BACK = datetime(1970, 1, 1, tzinfo=UTC)
"""When a lease expires that is not needed any more: long ago, even for a clock that was set back."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a delivery was asked for: this payload, of this snapshot, to this target."""

    target: Target
    sync: str
    window: str
    snapshot_seq: int
    payload: StoredFile
    run_id: str
    deadline: datetime


@dataclass(frozen=True, slots=True)
class DeadAttempt:
    """An attempt whose writer died: what it was sending, if it came to that."""

    id: int
    sync: str
    window: str
    plan_checksum: str | None
    base_belief: str | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A claimed attempt.

    Attributes:
        ledger: where it is recorded.
        asked: what was asked for.
        id: its number in the ledger.
        target_id: the target's number in the ledger.
        generation: its place in the order of all attempts on the target.
        token: the lease's token, which only grows; 0 for an attempt that was superseded and so has no lease.
        lease_seconds: how long the lease holds without being renewed.
        started: when it was claimed.
        established: whether anything was ever sent to the target.
        newer: the window of the newer snapshot that supersedes it; empty when none does.
    """

    ledger: Ledger
    asked: Asked
    id: int
    target_id: int
    generation: int
    token: int
    lease_seconds: float
    started: datetime
    established: bool
    newer: str = ""

    @contextmanager
    def leased(self) -> Iterator[None]:
        """Keep the lease alive from a thread of its own, since planning may take long, and give it back at the end."""
        over = threading.Event()

        def renew() -> None:
            while not over.wait(self.lease_seconds / 3):
                try:
                    self._renew()
                except LedgerUnusable:  # locked or full for now; what is written next will say so if it stays
                    continue
                except LeaseLost:  # the next transaction meets it where it can be dealt with
                    return

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            with suppress(DeliveryError):
                self._release()

    def dead_attempts(self) -> list[DeadAttempt]:
        """Return the attempts that earlier writers left open, oldest first."""
        table = schema.attempt
        query = (
            select(table)
            .where(table.c.target == self.target_id, table.c.id != self.id, table.c.state.in_(OPEN_STATES))
            .order_by(table.c.generation)
        )
        with self.ledger.read() as connection:
            return [
                DeadAttempt(row.id, row.sync, row.window, row.plan_checksum, row.base_belief)
                for row in connection.execute(query)
            ]

    def bury(self, dead: DeadAttempt, belief: Belief) -> None:
        """Mark an attempt as orphaned, now that ``belief`` holds all it may have done."""
        ended = {"state": AttemptState.ORPHANED, "ended": clock.now(), "error": "its process died"}
        with self._fenced() as connection:
            connection.execute(update(schema.attempt).filter_by(id=dead.id).values(**ended))
            self._believe(connection, belief)

    def belief(self, history: History) -> Belief:
        """Return what is believed of the target.

        Raises:
            HistoryFileMissing: the belief's file is gone.
        """
        with self.ledger.read() as connection:
            row = connection.execute(select(schema.target).filter_by(id=self.target_id)).one()
        if row.belief_checksum is None:
            return Belief()
        file = history.stored(row.belief_sync, Stage.BELIEF, row.belief_window, row.belief_checksum)
        return Belief(file, row.unsettled, row.held)

    def judge(self, gates: Gates) -> list[Verdict]:
        """Judge the payload against the last delivered one and what the target may hold since; record the findings.

        To be called once the dead attempts are buried: what a delivery that did not end green has added counts too.
        """
        delivered, held = schema.attempt, select(schema.target.c.held).filter_by(id=self.target_id)
        newest = (
            select(delivered.c.users)
            .filter_by(target=self.target_id, state=AttemptState.DELIVERED)
            .order_by(delivered.c.generation.desc())
            .limit(1)
        )
        with self._fenced() as connection:
            before = max(connection.execute(newest).scalar() or 0, connection.execute(held).scalar_one())
            verdicts = gates.judge(self.asked.payload.rows, before)
            for each in verdicts:
                judged = {"name": each.name, "value": each.value, "limit": each.limit, "held": each.held}
                connection.execute(insert(schema.gate).values(attempt=self.id, **judged))
        return verdicts

    def begin_sending(self, plan: StoredFile, base: Belief) -> None:
        """Bind the attempt to its sealed plan: planned -> sending."""
        bound = {"plan_checksum": plan.checksum, "base_belief": base.file.checksum if base.file else None}
        with self._fenced() as connection:
            self._move(connection, AttemptState.PLANNED, AttemptState.SENDING, bound)

    def record(self, ended: Sequence[chunks.Ended], begun: chunks.Rows | None) -> datetime:
        """Record what became of one chunk and that the next one is about to be sent.

        One transaction for both: it is the price of every chunk. Returns the moment of the intent.
        """
        with self._fenced() as connection:
            chunks.record_ended(connection, self.id, ended)
            now = clock.now()
            if begun is not None:
                last_try = now + timedelta(seconds=self.lease_seconds) + chunks.PATIENCE
                chunks.record_intent(connection, self.id, begun, now, last_try)
        return now

    def ever_acknowledged(self) -> bool:
        """Say whether the partner ever acknowledged anything for this target."""
        acknowledged = schema.chunk.c.state.in_([ChunkState.ACKED, ChunkState.DOUBTED])
        query = select(schema.chunk.c.lo).join(schema.attempt).filter_by(target=self.target_id).where(acknowledged)
        with self.ledger.read() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def mark_established(self) -> None:
        """Remember that something was sent to the target."""
        with self._fenced() as connection:
            connection.execute(update(schema.target).filter_by(id=self.target_id).values(established=True))

    def mark_sent(self) -> None:
        """Record that nothing of the plan is left to be sent: sending -> sent."""
        with self._fenced() as connection:
            self._move(connection, AttemptState.SENDING, AttemptState.SENT, {})

    def chunk_table(self, attempt: int | None = None) -> pa.Table:
        """Return what is known of the plan of this attempt, or of another one."""
        with self.ledger.read() as connection:
            return chunks.chunk_table(connection, self.id if attempt is None else attempt)

    def tally(self) -> Mapping[tuple[str, str], int]:
        """Count the rows of the plan by operation and what became of them."""
        with self.ledger.read() as connection:
            return chunks.tally(connection, self.id)

    def refused_ranges(self) -> list[tuple[int, int, str]]:
        """Return the refused rows of the plan as ranges `[lo, hi)` with their reasons."""
        with self.ledger.read() as connection:
            return chunks.refused_ranges(connection, self.id)

    def end(self, receipt: Receipt, file: StoredFile, belief: Belief | None, window: WindowState) -> None:
        """Record how the attempt ended, and give the lease back, in one transaction."""
        with self._fenced() if self.token else self.ledger.write() as connection:
            now = clock.now()
            ended = {"state": receipt.state, "ended": now, "error": receipt.error or None}
            connection.execute(update(schema.attempt).filter_by(id=self.id).values(**ended))
            connection.execute(
                insert(schema.receipt).values(
                    attempt=self.id,
                    state=receipt.state,
                    counts={name: number for name, number in asdict(receipt).items() if isinstance(number, int)},
                    belief_after=receipt.belief_after,
                    checksum=file.checksum,
                    at=now,
                )
            )
            note_window(connection, self.asked.sync, self.asked.window, window, receipt.error)
            if self.token:
                self._believe(connection, belief)
                connection.execute(update(schema.lease).filter_by(target=self.target_id).values(expires=GIVEN_BACK))

    def _believe(self, connection: Connection, belief: Belief | None) -> None:
        if belief is None or belief.file is None:
            return
        connection.execute(
            update(schema.target)
            .filter_by(id=self.target_id)
            .values(
                belief_sync=belief.file.sync,
                belief_window=belief.file.window,
                belief_checksum=belief.file.checksum,
                unsettled=belief.unsettled,
                held=belief.held,
            )
        )

    def _move(
        self, connection: Connection, before: AttemptState, after: AttemptState, more: Mapping[str, object]
    ) -> None:
        moved = connection.execute(
            update(schema.attempt).filter_by(id=self.id, state=before).values(state=after, **more)
        )
        if moved.rowcount != 1:
            raise LeaseLost(self.asked.target.name)

    def _renew(self) -> None:
        with self._fenced():
            pass

    def _release(self) -> None:
        with self._fenced() as connection:
            connection.execute(update(schema.lease).filter_by(target=self.target_id).values(expires=GIVEN_BACK))

    @contextmanager
    def _fenced(self) -> Iterator[Connection]:
        """Open a transaction that only the lease's holder can make; it renews the lease.

        The token decides, not the time: a lease that ran out but was not taken is still ours.

        Raises:
            LeaseLost: another run has taken the target over.
        """
        held = update(schema.lease).filter_by(target=self.target_id, token=self.token)
        with self.ledger.write() as connection:
            expires = clock.now() + timedelta(seconds=self.lease_seconds)
            if connection.execute(held.values(expires=expires)).rowcount != 1:
                raise LeaseLost(self.asked.target.name)
            yield connection
