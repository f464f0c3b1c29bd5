"""One attempt on its way: what it started from, what it planned, and how it ends, with a receipt in every case."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import HistoryError
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.delivery import pace
from cohort_pipelines.delivery.attempt import Attempt, CrashedAttempt
from cohort_pipelines.delivery.receipt import Receipt, list_rejected, write_receipt
from cohort_pipelines.destinations import ChangeWire, FileWire, sends_everybody
from cohort_pipelines.history import History
from cohort_pipelines.ledger import (
    GREEN_STATES,
    REJECTED_STATES,
    WINDOW_STATES,
    Approval,
    AttemptState,
    ChunkState,
)
from cohort_pipelines.membership import Membership, PlanCounts, fold, mark_all_unknown, seal_plan, started_from
from cohort_pipelines.recovery import pairing


@dataclass(slots=True)
class Overwrite:
    """An attempt and what is known of it so far.

    Attributes:
        attempt: the attempt.
        history: where its files lie.
        base: what was known when it was planned.
        plan: the sealed plan.
        counts: how much is planned.
        requests: requests made.
        approval: what lets it pass the gates.
        initial_members: what the target held before the first delivery; None until something is sent.
        adopting: the same where this attempt takes it over, should it come to send.
        begun: whether anything may have been sent.
        reconciles_until: up to when membership's slices are sent again by this plan.
    """

    attempt: Attempt
    history: History
    base: Membership | None = None
    plan: StoredFile | None = None
    counts: PlanCounts = field(default_factory=PlanCounts)
    requests: int = 0
    approval: Approval | None = None
    initial_members: str | None = None
    adopting: str | None = None
    begun: bool = False
    reconciles_until: datetime | None = None

    def recover_crashed_attempts(self) -> None:
        """Work what crashed attempts may have done into membership.

        Raises:
            HistoryError: plan or membership cannot be trusted, or the history cannot be written.
        """
        for dead in self.attempt.dead_attempts():
            self.attempt.close_crashed(dead, self._fold(dead))

    def prepare(self, partner: ChangeWire | FileWire) -> None:
        """Seal the plan of what ``partner`` is to be sent.

        Raises:
            HistoryError: payload, membership or initial members cannot be trusted, or the history cannot be written.
        """
        attempt, asked, target = self.attempt, self.attempt.asked, self.attempt.on_target()
        self.initial_members, membership = target.initial_members, attempt.membership(self.history)
        if attempt.anew:
            membership = mark_all_unknown(self.history, membership, sync=asked.sync, window=asked.window)
        self.base, self.adopting = started_from(
            self.history, target, membership, asked.terms, sync=asked.sync, window=asked.window
        )
        whole = sends_everybody(partner)
        reconcile, self.reconciles_until = pace.slices_due(
            pace.measure(attempt.ledger, asked.sync, partner),
            target.reconciled_until,
            attempt.now(),
            asked.terms.reconcile_within,
            time=asked.deadline - clock.now(),
            known=self.base.known,
            whole=whole,
        )
        self.plan, self.counts = seal_plan(
            self.history,
            asked.payload,
            self.base,
            sync=asked.sync,
            window=asked.window,
            equality=asked.terms.id_equality,
            reconcile=reconcile,
            whole=whole,
        )
        if whole and not self.counts.operations:
            self.reconciles_until = None

    def begin_sending(self) -> None:
        """Bind the attempt to its plan; from now on something may have been sent."""
        assert self.plan is not None  # noqa: S101  prepared before
        assert self.base is not None  # noqa: S101
        generation = self.attempt.begin_sending(self.plan, self.base, self.adopting)
        self.initial_members, self.begun = self.adopting or self.initial_members, True
        self._mirror(generation)

    def rejected(self) -> tuple[int, int]:
        """Return how many additions and removals were refused."""
        tally = self.attempt.tally()
        adds, removals = (
            sum(tally.get((operation, state), 0) for state in REJECTED_STATES) for operation in ("add", "remove")
        )
        return adds, removals

    def excused(self) -> int:
        """Return how many refused removals are of ids that were out anyway, and were asked for only to reconcile."""
        return self.attempt.refused_from(self.counts.excused_from)

    def left_over(self) -> int:
        """Return how many operations of the plan have not been tried."""
        return self.counts.operations - sum(
            rows for (_, state), rows in self.attempt.tally().items() if state is not ChunkState.NOT_SENT
        )

    def end(self, state: AttemptState, error: str = "", *, missing: bool = False) -> Receipt:
        """Make membership of what happened, write the receipt, record both, and give the lease back.

        ``missing``: the partner does not know the target any more, so that all of it is to be sent again.

        Raises:
            HistoryError: membership cannot be read, or membership or receipt cannot be written; the next claim makes up
            for it.
            LeaseLost: another run has taken the target over.
        """
        attempt, asked, tally = self.attempt, self.attempt.asked, self.attempt.tally()
        origin = attempt.ledger.origin(asked.snapshot_seq)
        membership = self._membership_afterwards(state)
        if missing and membership is not None:
            membership = mark_all_unknown(self.history, membership, sync=asked.sync, window=asked.window)
        ended = attempt.now()
        receipt = Receipt(
            attempt=attempt.id,
            generation=attempt.generation,
            kind=asked.kind,
            state=state,
            error=error,
            sync=asked.sync,
            window=asked.window,
            restored_from=asked.restored_from,
            target=asked.target.name,
            wire=asked.target.wire,
            host=asked.target.host,
            account=asked.target.account,
            initial_members=self.initial_members,
            run_id=asked.run_id,
            started=attempt.started,
            snapshot_seq=asked.snapshot_seq,
            snapshot_checksum=origin.checksum,
            project=origin.project,
            cohort_id=origin.cohort_id,
            taken_at=origin.taken_at,
            members=origin.members,
            identified=origin.identified,
            excluded=origin.excluded,
            payload_checksum=asked.payload.checksum,
            plan_checksum=self.plan.checksum if self.plan else None,
            users=asked.payload.rows,
            joiners=self.counts.joiners,
            leavers=self.counts.leavers,
            repeated=self.counts.repeated,
            reconciled=self.counts.reconciled,
            unchanged=asked.payload.rows - self.counts.joiners if self.plan else 0,
            planned=self.counts.operations,
            acknowledged=_rows(tally, ChunkState.ACKED, ChunkState.IN_DOUBT),
            rejected=sum(self.rejected()),
            in_doubt=membership.in_doubt if membership else 0,
            requests=self.requests,
            seconds=(ended - attempt.started).total_seconds(),
            approved=str(self.approval) if self.approval else None,
            membership_after=membership.file.checksum if membership and membership.file else None,
        )
        rejected_rows = list_rejected(self.history, self.plan, attempt.rejected_ranges()) if self.plan else []
        file = write_receipt(
            self.history, receipt, ended=ended, ledger_id=attempt.ledger.ledger_id, rejected_rows=rejected_rows
        )
        generation = attempt.end(
            receipt, file, membership, WINDOW_STATES[state], reconciled_until=self._reconciled(state), missing=missing
        )
        if attempt.lease.token:
            with suppress(HistoryError):  # an older mirror is none that is refused, and the end is recorded
                self._mirror(generation)
        return receipt

    def _reconciled(self, state: AttemptState) -> datetime | None:
        """Return up to when this has reconciled, where the whole plan was tried; what was rejected is tried again."""
        tried = state in GREEN_STATES or (state is AttemptState.REJECTED and not self.left_over())
        return self.reconciles_until if tried else None

    def _mirror(self, generation: int) -> None:
        attempt = self.attempt
        pairing.require_own(attempt.ledger, self.history)
        pairing.mirror(
            attempt.ledger,
            self.history,
            generation,
            attempt.asked.target,
            attempt.asked.sync,
            target_generation=attempt.generation,
            initial_members=self.initial_members,
            run=attempt.asked.run_id,
            sent=self.requests > 0,
        )

    def _membership_afterwards(self, state: AttemptState) -> Membership | None:
        if self.base is None or self.plan is None or not self.begun:
            return None if self.adopting else self.base  # what was not taken over by sending is looked at anew
        chunks = self.attempt.chunk_table()
        acknowledged = pc.any(pc.is_in(chunks["state"], pa.array([ChunkState.ACKED, ChunkState.IN_DOUBT])))
        if state is AttemptState.STOPPED and not acknowledged.as_py():  # refusals speak of the target, not of the rows
            chunks = chunks.filter(pc.field("state") != ChunkState.REJECTED_WHOLE)
        return self._folded(self.base, self.plan, chunks)

    def _fold(self, dead: CrashedAttempt) -> Membership:
        membership = self.attempt.membership(self.history)
        if dead.plan_checksum is None:
            return membership
        plan = self.history.stored(dead.sync, Stage.PLAN, dead.window, dead.plan_checksum)
        return self._folded(membership, plan, self.attempt.chunk_table(dead.id))

    def _folded(self, membership: Membership, plan: StoredFile, chunks: pa.Table) -> Membership:
        terms = self.attempt.asked.terms
        return fold(self.history, membership, plan, chunks, equality=terms.id_equality, apply_delay=terms.apply_delay)


def _rows(tally: Mapping[tuple[str, str], int], *wanted: ChunkState) -> int:
    return sum(rows for (_, state), rows in tally.items() if state in wanted)
