"""The receipt: what one attempt came to, in numbers; a row of the ledger and a file of the history.

Only the file lists the refused rows, since ids live nowhere else.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import datetime

import pyarrow as pa

from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.history import History
from cohort_pipelines.ledger import AttemptKind, AttemptState

MAX_LISTED = 10_000
"""Refused rows that a receipt lists; `rejected` counts them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What one attempt came to.

    Attributes:
        attempt: the attempt's number in the ledger.
        generation: its place in the order of all attempts on this target.
        kind: a window's own overwrite, a restore or a retirement.
        state: how it ended; ``delivered`` means that the target equals the payload, ``accepted`` that it will as soon
            as the partner has applied what it acknowledged.
        error: why it did not deliver; empty when it did.
        sync: the sync's name.
        window: the window's key.
        restored_from: the window whose payload a restore puts back; None for anything else.
        target: the target's name at the partner; with ``wire``, ``host`` and ``account`` it names it for good.
        initial_members: what the target held before the first delivery: ``empty``, ``unknown`` or ``adopted``.
        run_id: who wrote it.
        started: when it claimed the target.
        snapshot_seq: the number of the snapshot that the payload comes from.
        snapshot_checksum: of that snapshot's file.
        project: the Mixpanel project that it was taken from.
        cohort_id: the cohort there.
        taken_at: when Mixpanel was asked for it.
        members: members of the cohort in it, ``identified`` of them with a profile property, ``excluded`` without a
            usable partner id or for another reason.
        payload_checksum: of the payload file.
        plan_checksum: of the plan file; None when it did not come to a plan.
        users: ids in the payload.
        joiners: additions planned, of ids not known to be in.
        leavers: removals planned, of ids not known to be out.
        repeated: operations planned only since what became of earlier ones is uncertain.
        reconciled: operations planned only to undo what others may have changed.
        unchanged: ids of the payload that were known to be in.
        planned: operations planned, all of these together.
        acknowledged: operations that the partner acknowledged.
        refused: operations that it refused.
        in_doubt: ids whose outcome is uncertain, or was too lately to be sure.
        requests: requests made.
        seconds: from the claim to the end.
        approved: who let it pass the gates, when and why; None when no gate had to be passed so.
        membership_after: checksum of the membership afterwards; None when nothing was ever sent, or it did not come to
        a plan.
    """

    attempt: int
    generation: int
    kind: AttemptKind = AttemptKind.OVERWRITE
    state: AttemptState
    error: str = ""
    sync: str
    window: str
    restored_from: str | None = None
    target: str
    wire: str
    host: str
    account: str
    initial_members: str | None = None
    run_id: str
    started: datetime
    snapshot_seq: int
    snapshot_checksum: str
    project: int
    cohort_id: int
    taken_at: datetime
    members: int
    identified: int
    excluded: int
    payload_checksum: str
    plan_checksum: str | None = None
    users: int
    joiners: int = 0
    leavers: int = 0
    repeated: int = 0
    reconciled: int = 0
    unchanged: int = 0
    planned: int = 0
    acknowledged: int = 0
    rejected: int = 0
    in_doubt: int = 0
    requests: int = 0
    seconds: float = 0.0
    approved: str | None = None
    membership_after: str | None = None


REFUSED_ROW = pa.struct([("operation", pa.string()), ("id", pa.string()), ("reason", pa.string())])
_MOMENT = pa.timestamp("us", tz="UTC")
_TYPES: dict[object, pa.DataType] = {int: pa.int64(), float: pa.float64(), datetime: _MOMENT}
_COLUMNS: dict[str, pa.DataType] = {each.name: _TYPES.get(each.type, pa.string()) for each in fields(Receipt)} | {
    "ended": _MOMENT,
    "ledger_id": pa.string(),  # with the generation it tells a lost or doubled ledger
    "rejected_rows": pa.list_(REFUSED_ROW),
}
RECEIPT_SCHEMA = pa.schema(_COLUMNS)


def write_receipt(
    history: History, receipt: Receipt, *, ended: datetime, ledger_id: str, rejected_rows: list[dict[str, str]]
) -> StoredFile:
    """Seal a receipt as a file of one row.

    Raises:
        HistoryNotWritable: the disk or the object store refused.
    """
    row = asdict(receipt) | {"ended": ended, "ledger_id": ledger_id, "rejected_rows": rejected_rows}
    return history.write(
        receipt.sync, Stage.RECEIPT, receipt.window, pa.Table.from_pylist([row], schema=RECEIPT_SCHEMA)
    )


def list_rejected(history: History, plan: StoredFile, ranges: Iterable[tuple[int, int, str]]) -> list[dict[str, str]]:
    """Return the rows of ``plan`` in ``ranges`` `[lo, hi)`, each with its reason; at most :data:`MAX_LISTED`.

    Plan and ranges, which are in order, are walked side by side, no further than there is something to list.

    Raises:
        HistoryError: the plan is gone, damaged or cannot be read.
    """
    listed: list[dict[str, str]] = []
    waiting = iter(ranges)
    refused = next(waiting, None)
    first = 0
    for batch in history.batches(plan, ["operation", "id"]) if refused else ():
        end = first + batch.num_rows
        while refused and refused[0] < end and len(listed) < MAX_LISTED:
            lo, hi, reason = refused
            start, room = max(lo, first), MAX_LISTED - len(listed)
            rows = batch.slice(start - first, min(min(hi, end) - start, room)).to_pylist()
            listed += [row | {"reason": reason} for row in rows]
            if hi > end:
                break  # it goes on in the next batch
            refused = next(waiting, None)
        if refused is None or len(listed) == MAX_LISTED:
            break
        first = end
    return listed
