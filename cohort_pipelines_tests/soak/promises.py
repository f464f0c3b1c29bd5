"""What is promised of a delivery, held against what the partner really holds and may still be told."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cohort_pipelines.core import clock
from cohort_pipelines.core.changes import Operation
from cohort_pipelines.core.files import Stage
from cohort_pipelines.delivery import Receipt
from cohort_pipelines.history import History
from cohort_pipelines.ledger import schema
from cohort_pipelines.membership.terms import Terms
from cohort_pipelines_tests.delivery.world import SYNC
from cohort_pipelines_tests.soak.receiver import Receiver
from cohort_pipelines_tests.soak.story import Story

BEGINS = datetime(2026, 1, 1, tzinfo=UTC)
"""When each story begins, since which slices of an audience are reconciled depends on the time."""

RECONCILES_WITHIN = timedelta(minutes=30)


class Violation(AssertionError):
    """Something that is promised did not hold."""


@dataclass
class Promises:
    """What must hold of the next green.

    Attributes:
        history: where receipts lie.
        partner: what the partner holds.
        story: the terms of the target.
        newest: below this number in the order of snapshots nothing may be delivered any more.
        usual: how many users the gates measure by, at the least.
        approved: checksums of payloads that no gate holds.
        ours: ids that may ever have been sent, since a delivery of them was begun.
    """

    history: History
    partner: Receiver
    story: Story
    newest: int = 0
    usual: int = 0
    approved: set[str] = field(default_factory=set)
    ours: set[str] = field(default_factory=set)

    @property
    def terms(self) -> Terms:
        return Terms(
            reconcile_within=RECONCILES_WITHIN if self.story.reconciles else None,
            rejection_tolerance=self.story.rejection_tolerance,
        )

    def overwritten(self, receipt: Receipt, ids: set[str], seq: int, *, gated: bool) -> None:
        """Hold a window's delivery of snapshot ``seq`` against what is promised."""
        require(seq >= self.newest, "went back to an older snapshot")
        self.newest = seq
        self._green(receipt, ids, gated=gated)
        self.usual = len(ids)

    def restored(self, receipt: Receipt, ids: set[str], newest: int, *, gated: bool) -> None:
        """Hold a restore against what is promised; from now on nothing up to snapshot ``newest`` may go over it."""
        self.newest = newest + 1
        self._green(receipt, ids, gated=gated)

    def _green(self, receipt: Receipt, ids: set[str], *, gated: bool) -> None:
        """Green is exact, but for what it lists and for strangers; once it is settled it cannot change any more."""
        refused = self.partner.turned_down
        left_out = {each for each, operation in refused.items() if operation is Operation.ADD}
        require(receipt.state in schema.GREEN_STATES, f"a receipt that is {receipt.state}")
        require(len(left_out) <= self.story.rejection_tolerance, "green, and more was refused than may be")
        require(self._listed(receipt) == set(refused), "green, and other ids are listed than were refused")
        wrong = (self.partner.members & self.partner.told) ^ ids
        require(wrong <= self._not_reconciled_yet(ids) | left_out, "green, and not the payload")
        require(all(self.ours.issuperset(sent.ids) for sent in self.partner.requests), "a stranger was taken for ours")
        require(bool(receipt.in_doubt) or not self.partner.late, "settled, and yet a request may still land")
        if gated and not receipt.approved:
            require(2 * len(ids) >= max(self.usual, 1), "no gate held it")
        if receipt.approved:
            self.usual = len(ids)

    def _listed(self, receipt: Receipt) -> set[str]:
        if not receipt.rejected:
            return set()
        file = self.history.versions(SYNC, Stage.RECEIPT, receipt.window)[-1]
        [row] = next(self.history.batches(file, ["rejected_rows"])).to_pylist()
        return {each["id"] for each in row["rejected_rows"]}

    def _not_reconciled_yet(self, ids: set[str]) -> set[str]:
        """Return whom somebody edited by hand so lately that it may still be so, or who is not reconciled."""
        since = clock.now() - RECONCILES_WITHIN if self.story.reconciles else BEGINS
        left_alone = self.partner.marked - ids  # a partner that refused an id which is out is not asked again
        return {each for each, at in self.partner.edited.items() if at > since or each in left_alone}


def require(held: bool, promise: str) -> None:
    if not held:
        raise Violation(promise)
