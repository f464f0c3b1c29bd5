"""The plan: the fewest additions and removals after which the target's ids equal the payload.

It is drawn from membership, not from the last finished overwrite: who left in an attempt that died, and is back, is
no joiner of any plan, and would be lost. Additions go first, so that what a crash leaves behind is a superset. What
only reconciles goes last of all, so that a window which is cut short has done what matters more.

An id with white space at an end is never added. Where one is known from before, the bare id is added again once all
else was sent: a partner that trims takes it out with the other (:mod:`cohort_pipelines.membership.spelling`).
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cohort_pipelines.core.changes import Operation
from cohort_pipelines.core.engine import BATCH, exactly
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.history import History
from cohort_pipelines.identity import Equality
from cohort_pipelines.membership.reconciliation import Slices
from cohort_pipelines.membership.spelling import bare_keys, is_padded, key_of, one_spelling, spelling_engine
from cohort_pipelines.membership.state import Membership, membership_source, one_state

_FIELDS: "list[pa.Field[Any]]" = [  # quoted: only the type stubs know it as generic
    pa.field("operation", pa.string(), nullable=False),
    pa.field("id", pa.string(), nullable=False),
    pa.field("alone", pa.bool_(), nullable=False),  # to be sent in a request of its own: it was refused last time
]
PLAN_SCHEMA = pa.schema(_FIELDS)


class Cause(StrEnum):
    """Why a row is in the plan, in the order in which they are looked for.

    AGAIN: the same id with white space at an end is known, so that its removal may take this one out too.
    CHANGE: the id is not known to be as the payload wants it. REPEAT: it is, but an earlier request may still land.
    RECONCILE: it is, and its turn to be sent again has come. WHOLE: it is, and the partner takes everything or nothing.
    """

    AGAIN = "again"
    CHANGE = "change"
    REPEAT = "repeat"
    RECONCILE = "reconcile"
    WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class PlanCounts:
    """How much is to be done.

    Attributes:
        adds: additions planned; some may be repeated only to make certain.
        removals: removals planned, likewise.
        joiners: additions of ids that are not known to be in.
        leavers: removals of ids that are not known to be out.
        repeated: operations that change nothing, but make certain.
        again: additions among them that are sent after all else; in the plan the last additions that do not reconcile.
        reconciled: operations that change nothing, but undo what others may have changed.
        quarantined_adds: additions that need a request of their own; the last before those.
        quarantined_removals: removals that need a request of their own; the last of them.
        reconciling_removals: removals among the reconciled; the last rows of the plan, behind the additions among them.
    """

    adds: int = 0
    removals: int = 0
    joiners: int = 0
    leavers: int = 0
    repeated: int = 0
    again: int = 0
    reconciled: int = 0
    quarantined_adds: int = 0
    quarantined_removals: int = 0
    reconciling_removals: int = 0

    @property
    def operations(self) -> int:
        """Additions and removals together: the rows of the plan."""
        return self.adds + self.removals

    @property
    def reconciling_adds(self) -> int:
        """Additions among the reconciled."""
        return self.reconciled - self.reconciling_removals

    @property
    def excused_from(self) -> int:
        """The first row of those that may be rejected without harm: reconciled removals of ids that are out."""
        return self.operations - self.reconciling_removals

    @classmethod
    def of(cls, batches: Iterable[pa.RecordBatch]) -> "PlanCounts":
        """Count the batches of :func:`make_plan`."""
        counts = cls()
        for batch in batches:
            counts = counts.with_batch(batch)
        return counts

    def with_batch(self, batch: pa.RecordBatch) -> "PlanCounts":
        """Return the counts with one more batch of :func:`make_plan`."""
        adds, alone = pc.equal(batch["operation"], Operation.ADD.value), batch["alone"]
        again, changes, repeats, reconciles = (
            pc.equal(batch["cause"], cause.value)
            for cause in (Cause.AGAIN, Cause.CHANGE, Cause.REPEAT, Cause.RECONCILE)
        )
        removals = pc.invert(adds)
        return PlanCounts(
            adds=self.adds + adds.true_count,
            removals=self.removals + removals.true_count,
            joiners=self.joiners + pc.and_(adds, changes).true_count,
            leavers=self.leavers + pc.and_(removals, changes).true_count,
            repeated=self.repeated + repeats.true_count + again.true_count,
            again=self.again + again.true_count,
            reconciled=self.reconciled + reconciles.true_count,
            quarantined_adds=self.quarantined_adds + pc.and_(adds, alone).true_count,
            quarantined_removals=self.quarantined_removals + pc.and_(removals, alone).true_count,
            reconciling_removals=self.reconciling_removals + pc.and_(removals, reconciles).true_count,
        )


@contextmanager
def make_plan(
    history: History,
    payload: StoredFile,
    membership: Membership,
    *,
    equality: Equality = "exact",
    reconcile: Slices | None = None,
    whole: bool = False,
) -> Iterator[Iterator[pa.RecordBatch]]:
    """Yield the plan's batches: `operation`, `id`, `alone` and `cause`, one of :class:`Cause`.

    Additions come before removals, of each those that go alone last, sorted by id; then likewise what only reconciles,
    of which nothing goes alone. Additions to be sent again after all else are the last before the removals. Nothing is
    written but spill files that go away.

    Args:
        history: where payload and membership lie.
        payload: what the target shall hold.
        membership: what it holds.
        equality: which spellings the partner takes for one id; one that is in under another spelling is unchanged.
        reconcile: the slices of membership that are sent again.
        whole: if anything is to be done, add everybody and remove every other id that is not known to be out.

    Raises:
        HistoryError: payload or membership cannot be trusted or read.
    """
    with ExitStack() as opened:
        known_membership, paths = opened.enter_context(membership_source(history, membership))
        paths["payload"] = exactly(opened.enter_context(history.local_file(payload)))
        duckdb = opened.enter_context(spelling_engine(history, equality))
        query = _PLAN.format(
            payload=one_spelling(_PAYLOAD, equality),
            membership=one_state(known_membership, equality),
            wanted=key_of("payload.id", equality),
            known=key_of("membership.id", equality),
            bare=bare_keys(known_membership, equality),
            reconcile=reconcile.holding(key_of("membership.id", equality)) if reconcile else "false",
        )
        plan = duckdb.sql(f"{_COLUMNS} FROM {query} {_ORDER}", params={**paths, "whole": False})
        if whole and plan.limit(1).fetchall():
            duckdb.execute("SET threads = 1")  # to join 10 M ids with as many takes more memory in two (measured),
            duckdb.execute(f"CREATE TEMP TABLE everybody AS FROM {query}", {**paths, "whole": True})  # and to sort too
            plan = duckdb.sql(f"{_COLUMNS} FROM everybody {_ORDER}")
        yield plan.to_arrow_reader(BATCH)


def seal_plan(
    history: History,
    payload: StoredFile,
    membership: Membership,
    *,
    sync: str,
    window: str,
    equality: Equality = "exact",
    reconcile: Slices | None = None,
    whole: bool = False,
) -> tuple[StoredFile, PlanCounts]:
    """Write the plan of :func:`make_plan` into the history; an unchanged audience gives one without rows.

    Raises:
        HistoryError: payload or membership cannot be trusted or read, or the plan cannot be written.
    """
    counts = PlanCounts()
    with (
        history.writer(sync, Stage.PLAN, window, PLAN_SCHEMA) as writer,
        make_plan(history, payload, membership, equality=equality, reconcile=reconcile, whole=whole) as plan,
    ):
        for batch in plan:
            counts = counts.with_batch(batch)
            writer.write(batch.select(PLAN_SCHEMA.names))
    return writer.stored, counts


_PAYLOAD = f"(SELECT partner_user_id AS id FROM read_parquet($payload) WHERE NOT {is_padded('partner_user_id')})"  # noqa: S608
# one full outer join: EXCEPT or two anti joins take twice the time (measured on 10 M ids)
_PLAN = f"""(
SELECT
    CASE WHEN payload.id IS NULL THEN 'remove' ELSE 'add' END AS operation,
    coalesce(payload.id, membership.id) AS id,
    CASE
        WHEN bare.key IS NOT NULL THEN '{Cause.AGAIN}'
        WHEN membership.state IS DISTINCT FROM CASE WHEN payload.id IS NULL THEN 'OUT' ELSE 'IN' END THEN
        '{Cause.CHANGE}' WHEN membership.in_doubt_since IS NOT NULL THEN '{Cause.REPEAT}' WHEN {{reconcile}} THEN
        '{Cause.RECONCILE}' WHEN $whole AND payload.id IS NOT NULL THEN '{Cause.WHOLE}'
    END AS cause,
    coalesce(membership.rejected, false) AND cause NOT IN ('{Cause.AGAIN}', '{Cause.RECONCILE}') AS alone
FROM {{payload}} AS payload
FULL JOIN {{membership}} AS membership ON {{wanted}} = {{known}}
LEFT JOIN {{bare}} AS bare ON {{wanted}} = bare.key
WHERE cause IS NOT NULL
)"""  # noqa: S608  nothing but constants of this module stands in it
_COLUMNS = "SELECT operation, id, alone, cause"
_ORDER = f"ORDER BY cause = '{Cause.RECONCILE}', operation, cause = '{Cause.AGAIN}', alone, id"
