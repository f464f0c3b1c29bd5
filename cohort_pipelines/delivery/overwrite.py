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
from cohort_pipelines.delivery.attempt import Attempt, DeadAttempt
from cohort_pipelines.delivery.receipt import Receipt, list_refused, write_receipt
from cohort_pipelines.destinations import ChangeWire, FileWire, sends_everybody
from cohort_pipelines.history import History
from cohort_pipelines.ledger import (
    GREEN_STATES,
    REFUSED_STATES,
    WINDOW_STATES,
    AttemptState,
    ChunkState,
    Release,
)
from cohort_pipelines.membership import Belief, PlanCounts, doubt_all, fold, seal_plan, started_from
from cohort_pipelines.recovery import pairing


@dataclass(slots=True)
class Overwrite:
    """An attempt and what is known of it so far.

    Attributes:
        attempt: the attempt.
        history: where its files lie.
        base: what was believed when it was planned.
        plan: the sealed plan.
        counts: how much is planned.
        requests: requests made.
        release: what lets it pass the gates.
        baseline: what the target held before the first delivery; None until something is sent.
        adopting: the same where this attempt takes it over, should it come to send.
        begun: whether anything may have been sent.
        heals_until: up to when belief's slices are sent again by this plan.
    """

    attempt: Attempt
    history: History
    base: Belief | None = None
    plan: StoredFile | None = None
    counts: PlanCounts = field(default_factory=PlanCounts)
    requests: int = 0
    release: Release | None = None
    baseline: str | None = None
    adopting: str | None = None
    begun: bool = False
    heals_until: datetime | None = None

    def bury_the_dead(self) -> None:
        """Work what dead writers may have done into belief.

        Raises:
            HistoryError: plan or belief cannot be trusted, or the history cannot be written.
        """
        for dead in self.attempt.dead_attempts():
            self.attempt.bury(dead, self._fold(dead))

    def prepare(self, partner: ChangeWire | FileWire) -> None:
        """Seal the plan of what ``partner`` is to be sent.

        Raises:
            HistoryError: payload, belief or baseline cannot be trusted, or the history cannot be written.
        """
        attempt, asked, target = self.attempt, self.attempt.asked, self.attempt.on_target()
        self.baseline, belief = target.baseline, attempt.belief(self.history)
        if attempt.anew:
            belief = doubt_all(self.history, belief, sync=asked.sync, window=asked.window)
        self.base, self.adopting = started_from(
            self.history, target, belief, asked.terms, sync=asked.sync, window=asked.window
        )
        whole = sends_everybody(partner)
        heal, self.heals_until = pace.slices_due(
            pace.measure(attempt.ledger, asked.sync, partner),
            target.healed_until,
            attempt.now(),
            asked.terms.heal_within,
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
            heal=heal,
            whole=whole,
        )
        if whole and not self.counts.operations:
            self.heals_until = None

    def begin_sending(self) -> None:
        """Bind the attempt to its plan; from now on something may have been sent."""
        assert self.plan is not None  # noqa: S101  prepared before
        assert self.base is not None  # noqa: S101
        generation = self.attempt.begin_sending(self.plan, self.base, self.adopting)
        self.baseline, self.begun = self.adopting or self.baseline, True
        self._mirror(generation)

    def refused(self) -> tuple[int, int]:
        """Return how many additions and removals were refused."""
        tally = self.attempt.tally()
        adds, removals = (
            sum(tally.get((operation, state), 0) for state in REFUSED_STATES) for operation in ("add", "remove")
        )
        return adds, removals

    def excused(self) -> int:
        """Return how many refused removals are of ids that were out anyway, and were asked for only to heal."""
        return self.attempt.refused_from(self.counts.excused_from)

    def left_over(self) -> int:
        """Return how many operations of the plan have not been tried."""
        return self.counts.operations - sum(
            rows for (_, state), rows in self.attempt.tally().items() if state is not ChunkState.UNTOUCHED
        )

    def end(self, state: AttemptState, error: str = "", *, missing: bool = False) -> Receipt:
        """Make belief of what happened, write the receipt, record both, and give the lease back.

        ``missing``: the partner does not know the target any more, so that all of it is to be sent again.

        Raises:
            HistoryError: belief cannot be read, or belief or receipt cannot be written; the next claim makes up for it.
            LeaseLost: another run has taken the target over.
        """
        attempt, asked, tally = self.attempt, self.attempt.asked, self.attempt.tally()
        origin = attempt.ledger.origin(asked.snapshot_seq)
        belief = self._belief_afterwards(state)
        if missing and belief is not None:
            belief = doubt_all(self.history, belief, sync=asked.sync, window=asked.window)
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
            baseline=self.baseline,
            run_id=asked.run_id,
            started=attempt.started,
            snapshot_seq=asked.snapshot_seq,
            snapshot_checksum=origin.checksum,
            project=origin.project,
            cohort_id=origin.cohort_id,
            taken_at=origin.taken_at,
            members=origin.members,
            identified=origin.identified,
            rejected=origin.rejected,
            payload_checksum=asked.payload.checksum,
            plan_checksum=self.plan.checksum if self.plan else None,
            users=asked.payload.rows,
            joiners=self.counts.joiners,
            leavers=self.counts.leavers,
            repeated=self.counts.repeated,
            healed=self.counts.healed,
            unchanged=asked.payload.rows - self.counts.joiners if self.plan else 0,
            planned=self.counts.operations,
            acknowledged=_rows(tally, ChunkState.ACKED, ChunkState.DOUBTED),
            refused=sum(self.refused()),
            unsettled=belief.unsettled if belief else 0,
            requests=self.requests,
            seconds=(ended - attempt.started).total_seconds(),
            released=str(self.release) if self.release else None,
            belief_after=belief.file.checksum if belief and belief.file else None,
        )
        refused_rows = list_refused(self.history, self.plan, attempt.refused_ranges()) if self.plan else []
        file = write_receipt(
            self.history, receipt, ended=ended, ledger_id=attempt.ledger.ledger_id, refused_rows=refused_rows
        )
        generation = attempt.end(
            receipt, file, belief, WINDOW_STATES[state], healed_until=self._healed(state), missing=missing
        )
        if attempt.lease.token:
            with suppress(HistoryError):  # an older mirror is none that is refused, and the end is recorded
                self._mirror(generation)
        return receipt

    def _healed(self, state: AttemptState) -> datetime | None:
        """Return up to when this has healed, where the whole plan was tried; what was refused is tried again anyway."""
        tried = state in GREEN_STATES or (state is AttemptState.REFUSED and not self.left_over())
        return self.heals_until if tried else None

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
            baseline=self.baseline,
            run=attempt.asked.run_id,
            sent=self.requests > 0,
        )

    def _belief_afterwards(self, state: AttemptState) -> Belief | None:
        if self.base is None or self.plan is None or not self.begun:
            return None if self.adopting else self.base  # what was not taken over by sending is looked at anew
        chunks = self.attempt.chunk_table()
        acknowledged = pc.any(pc.is_in(chunks["state"], pa.array([ChunkState.ACKED, ChunkState.DOUBTED])))
        if state is AttemptState.STOPPED and not acknowledged.as_py():  # refusals speak of the target, not of the rows
            chunks = chunks.filter(pc.field("state") != ChunkState.REFUSED_WHOLE)
        return self._folded(self.base, self.plan, chunks)

    def _fold(self, dead: DeadAttempt) -> Belief:
        belief = self.attempt.belief(self.history)
        if dead.plan_checksum is None:
            return belief
        plan = self.history.stored(dead.sync, Stage.PLAN, dead.window, dead.plan_checksum)
        return self._folded(belief, plan, self.attempt.chunk_table(dead.id))

    def _folded(self, belief: Belief, plan: StoredFile, chunks: pa.Table) -> Belief:
        terms = self.attempt.asked.terms
        return fold(self.history, belief, plan, chunks, equality=terms.id_equality, applies_within=terms.applies_within)


def _rows(tally: Mapping[tuple[str, str], int], *wanted: ChunkState) -> int:
    return sum(rows for (_, state), rows in tally.items() if state in wanted)
