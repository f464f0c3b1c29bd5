"""The plan: the fewest additions and removals after which the target's ids equal the payload.

It is drawn from belief, not from the last finished overwrite: who left in an attempt that died, and is back, is
nobody's joiner, and would be lost. Additions go first, so that what a crash leaves behind is a superset. What only
heals goes last of all, so that a window which is cut short has done what matters more.

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
from cohort_pipelines.membership.belief import Belief, belief_source, one_state
from cohort_pipelines.membership.healing import Slices
from cohort_pipelines.membership.spelling import bare_keys, is_padded, key_of, one_spelling, spelling_engine

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
    HEAL: it is, and its turn to be sent again has come. WHOLE: it is, and the partner takes everything or nothing.
    """

    AGAIN = "again"
    CHANGE = "change"
    REPEAT = "repeat"
    HEAL = "heal"
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
        again: additions among them that are sent after all else; in the plan the last additions that do not heal.
        healed: operations that change nothing, but undo what somebody else may have changed.
        alone_adds: additions that need a request of their own; the last before those.
        alone_removals: removals that need a request of their own; the last of them.
        healing_removals: removals among the healed; the last rows of the plan, behind the additions among them.
    """

    adds: int = 0
    removals: int = 0
    joiners: int = 0
    leavers: int = 0
    repeated: int = 0
    again: int = 0
    healed: int = 0
    alone_adds: int = 0
    alone_removals: int = 0
    healing_removals: int = 0

    @property
    def operations(self) -> int:
        """Additions and removals together: the rows of the plan."""
        return self.adds + self.removals

    @property
    def healing_adds(self) -> int:
        """Additions among the healed."""
        return self.healed - self.healing_removals

    @property
    def excused_from(self) -> int:
        """The first row of the plan from which on nobody is to blame for a refusal: only healing of who is out."""
        return self.operations - self.healing_removals

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
        again, changes, repeats, heals = (
            pc.equal(batch["cause"], cause.value) for cause in (Cause.AGAIN, Cause.CHANGE, Cause.REPEAT, Cause.HEAL)
        )
        removals = pc.invert(adds)
        return PlanCounts(
            adds=self.adds + adds.true_count,
            removals=self.removals + removals.true_count,
            joiners=self.joiners + pc.and_(adds, changes).true_count,
            leavers=self.leavers + pc.and_(removals, changes).true_count,
            repeated=self.repeated + repeats.true_count + again.true_count,
            again=self.again + again.true_count,
            healed=self.healed + heals.true_count,
            alone_adds=self.alone_adds + pc.and_(adds, alone).true_count,
            alone_removals=self.alone_removals + pc.and_(removals, alone).true_count,
            healing_removals=self.healing_removals + pc.and_(removals, heals).true_count,
        )


@contextmanager
def make_plan(
    history: History,
    payload: StoredFile,
    belief: Belief,
    *,
    equality: Equality = "exact",
    heal: Slices | None = None,
    whole: bool = False,
) -> Iterator[Iterator[pa.RecordBatch]]:
    """Yield the plan's batches: `operation`, `id`, `alone` and `cause`, one of :class:`Cause`.

    Additions come before removals, of each those that go alone last, sorted by id; then likewise what only heals, of
    which nothing goes alone. Additions to be sent again after all else are the last before the removals. Nothing is
    written but spill files that go away.

    Args:
        history: where payload and belief lie.
        payload: what the target shall hold.
        belief: what it holds.
        equality: which spellings the partner takes for one id; one that is in under another spelling is unchanged.
        heal: the slices of belief that are sent again.
        whole: if anything is to be done, add everybody and remove every other id that is not known to be out.

    Raises:
        HistoryError: payload or belief cannot be trusted or read.
    """
    with ExitStack() as opened:
        believed, paths = opened.enter_context(belief_source(history, belief))
        paths["payload"] = exactly(opened.enter_context(history.local_file(payload)))
        duckdb = opened.enter_context(spelling_engine(history, equality))
        query = _PLAN.format(
            payload=one_spelling(_PAYLOAD, equality),
            belief=one_state(believed, equality),
            wanted=key_of("payload.id", equality),
            known=key_of("belief.id", equality),
            bare=bare_keys(believed, equality),
            heal=heal.holding(key_of("belief.id", equality)) if heal else "false",
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
    belief: Belief,
    *,
    sync: str,
    window: str,
    equality: Equality = "exact",
    heal: Slices | None = None,
    whole: bool = False,
) -> tuple[StoredFile, PlanCounts]:
    """Write the plan of :func:`make_plan` into the history; an unchanged audience gives one without rows.

    Raises:
        HistoryError: payload or belief cannot be trusted or read, or the plan cannot be written.
    """
    counts = PlanCounts()
    with (
        history.writer(sync, Stage.PLAN, window, PLAN_SCHEMA) as writer,
        make_plan(history, payload, belief, equality=equality, heal=heal, whole=whole) as plan,
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
    coalesce(payload.id, belief.id) AS id,
    CASE
        WHEN bare.key IS NOT NULL THEN '{Cause.AGAIN}'
        WHEN belief.state IS DISTINCT FROM CASE WHEN payload.id IS NULL THEN 'OUT' ELSE 'IN' END THEN '{Cause.CHANGE}'
        WHEN belief.unsettled_since IS NOT NULL THEN '{Cause.REPEAT}'
        WHEN {{heal}} THEN '{Cause.HEAL}'
        WHEN $whole AND payload.id IS NOT NULL THEN '{Cause.WHOLE}'
    END AS cause,
    coalesce(belief.refused, false) AND cause NOT IN ('{Cause.AGAIN}', '{Cause.HEAL}') AS alone
FROM {{payload}} AS payload
FULL JOIN {{belief}} AS belief ON {{wanted}} = {{known}}
LEFT JOIN {{bare}} AS bare ON {{wanted}} = bare.key
WHERE cause IS NOT NULL
)"""  # noqa: S608  nothing but constants of this module stands in it
_COLUMNS = "SELECT operation, id, alone, cause"
_ORDER = f"ORDER BY cause = '{Cause.HEAL}', operation, cause = '{Cause.AGAIN}', alone, id"
