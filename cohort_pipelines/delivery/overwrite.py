"""One attempt on its way: what it started from, what it planned, and how it ends, with a receipt in every case."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cohort_pipelines import clock
from cohort_pipelines.delivery.attempt import Attempt, DeadAttempt
from cohort_pipelines.delivery.belief import Belief, fold
from cohort_pipelines.delivery.plan import PlanCounts, seal_plan
from cohort_pipelines.delivery.receipt import Receipt, list_refused, write_receipt
from cohort_pipelines.delivery.schema import AttemptState, ChunkState, WindowState
from cohort_pipelines.history import History, Stage, StoredFile

_WINDOW_STATES: Mapping[AttemptState, WindowState] = {
    AttemptState.DELIVERED: "delivered",
    AttemptState.HELD: "held",
    AttemptState.SUPERSEDED: "skipped",
    AttemptState.YIELDED: "failed",
    AttemptState.STOPPED: "failed",
    AttemptState.REFUSED: "failed",
}


@dataclass(slots=True)
class Overwrite:
    """An attempt and what is known of it so far; ``base`` is what was believed when it was planned."""

    attempt: Attempt
    history: History
    base: Belief | None = None
    plan: StoredFile | None = None
    counts: PlanCounts = field(default_factory=PlanCounts)
    requests: int = 0

    def bury_the_dead(self) -> None:
        """Work what dead writers may have done into belief.

        Raises:
            HistoryError: plan or belief cannot be trusted, or the history cannot be written.
        """
        for dead in self.attempt.dead_attempts():
            self.attempt.bury(dead, self._fold(dead))

    def prepare(self) -> None:
        """Seal the plan.

        Raises:
            HistoryError: payload or belief cannot be trusted, or the history cannot be written.
        """
        attempt, asked = self.attempt, self.attempt.asked
        self.base = attempt.belief(self.history)
        self.plan, self.counts = seal_plan(self.history, asked.payload, self.base, sync=asked.sync, window=asked.window)
        attempt.begin_sending(self.plan, self.base)

    def refused(self) -> tuple[int, int]:
        """Return how many additions and removals were refused."""
        tally = self.attempt.tally()
        adds, removals = (
            sum(tally.get((operation, state), 0) for state in (ChunkState.REFUSED, ChunkState.REFUSED_WHOLE))
            for operation in ("add", "remove")
        )
        return adds, removals

    def end(self, state: AttemptState, error: str = "") -> Receipt:
        """Make belief of what happened, write the receipt, record both, and give the lease back.

        Raises:
            HistoryError: belief or receipt cannot be written; the next claim makes up for it.
            LeaseLost: another run has taken the target over.
        """
        attempt, asked, tally = self.attempt, self.attempt.asked, self.attempt.tally()
        belief = self._belief_afterwards()
        ended = clock.now()
        receipt = Receipt(
            attempt=attempt.id,
            generation=attempt.generation,
            state=state,
            error=error,
            sync=asked.sync,
            window=asked.window,
            target=asked.target.name,
            payload_checksum=asked.payload.checksum,
            snapshot_seq=asked.snapshot_seq,
            users=asked.payload.rows,
            joiners=self.counts.joiners,
            leavers=self.counts.leavers,
            unchanged=asked.payload.rows - self.counts.joiners if self.plan else 0,
            planned=self.counts.operations,
            acknowledged=_rows(tally, ChunkState.ACKED, ChunkState.DOUBTED),
            refused=sum(self.refused()),
            unsettled=belief.unsettled if belief else 0,
            requests=self.requests,
            seconds=(ended - attempt.started).total_seconds(),
            belief_after=belief.file.checksum if belief and belief.file else None,
        )
        refused_rows = list_refused(self.history, self.plan, attempt.refused_ranges()) if self.plan else []
        file = write_receipt(
            self.history, receipt, ended=ended, ledger_id=attempt.ledger.ledger_id, refused_rows=refused_rows
        )
        attempt.end(receipt, file, belief, _WINDOW_STATES[state])
        return receipt

    def _belief_afterwards(self) -> Belief | None:
        if self.base is None or self.plan is None:
            return self.base
        return fold(self.history, self.base, self.plan, self.attempt.chunk_table())

    def _fold(self, dead: DeadAttempt) -> Belief:
        belief = self.attempt.belief(self.history)
        if dead.plan_checksum is None:
            return belief
        plan = self.history.stored(dead.sync, Stage.PLAN, dead.window, dead.plan_checksum)
        return fold(self.history, belief, plan, self.attempt.chunk_table(dead.id))


def _rows(tally: Mapping[tuple[str, str], int], *wanted: ChunkState) -> int:
    return sum(rows for (_, state), rows in tally.items() if state in wanted)
