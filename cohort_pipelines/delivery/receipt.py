"""The receipt: what one attempt came to, in numbers; a row of the ledger and a file of the history.

Only the file lists the refused rows, since ids live nowhere else.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime

import pyarrow as pa

from cohort_pipelines.delivery.schema import AttemptState
from cohort_pipelines.history import History, Stage, StoredFile

MAX_LISTED = 10_000
"""Refused rows that a receipt lists; `refused` counts them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What one attempt came to.

    Attributes:
        attempt: the attempt's number in the ledger.
        generation: its place in the order of all attempts on this target.
        state: how it ended; only ``delivered`` means that the target equals the payload.
        error: why it did not deliver; empty when it did.
        sync: the sync's name.
        window: the window's key.
        target: the target's name at the partner.
        payload_checksum: of the payload file.
        snapshot_seq: the number of the snapshot that the payload comes from.
        users: ids in the payload.
        joiners: additions planned, of ids not known to be in.
        leavers: removals planned, of ids not known to be out.
        unchanged: ids of the payload that were known to be in.
        planned: operations planned, those repeated to make certain included.
        acknowledged: operations that the partner acknowledged.
        refused: operations that it refused.
        unsettled: ids whose outcome is uncertain, or was too lately to be sure.
        requests: requests made.
        seconds: from the claim to the end.
        belief_after: checksum of the belief afterwards; None when nothing was ever sent, or it did not come to a plan.
    """

    attempt: int
    generation: int
    state: AttemptState
    error: str = ""
    sync: str
    window: str
    target: str
    payload_checksum: str
    snapshot_seq: int
    users: int
    joiners: int = 0
    leavers: int = 0
    unchanged: int = 0
    planned: int = 0
    acknowledged: int = 0
    refused: int = 0
    unsettled: int = 0
    requests: int = 0
    seconds: float = 0.0
    belief_after: str | None = None


REFUSED_ROW = pa.struct([("operation", pa.string()), ("id", pa.string()), ("reason", pa.string())])
_NUMBERS: dict[object, pa.DataType] = {int: pa.int64(), float: pa.float64()}
_COLUMNS: dict[str, pa.DataType] = {each.name: _NUMBERS.get(each.type, pa.string()) for each in fields(Receipt)} | {
    "ended": pa.timestamp("us", tz="UTC"),
    "ledger_id": pa.string(),  # with the generation it tells a lost or doubled ledger
    "refused_rows": pa.list_(REFUSED_ROW),
}
RECEIPT_SCHEMA = pa.schema(_COLUMNS)


def write_receipt(
    history: History, receipt: Receipt, *, ended: datetime, ledger_id: str, refused_rows: list[dict[str, str]]
) -> StoredFile:
    """Seal a receipt as a file of one row.

    Raises:
        HistoryNotWritable: the disk or the object store refused.
    """
    row = asdict(receipt) | {"ended": ended, "ledger_id": ledger_id, "refused_rows": refused_rows}
    return history.write(
        receipt.sync, Stage.RECEIPT, receipt.window, pa.Table.from_pylist([row], schema=RECEIPT_SCHEMA)
    )


def list_refused(history: History, plan: StoredFile, ranges: Sequence[tuple[int, int, str]]) -> list[dict[str, str]]:
    """Return the rows of ``plan`` in ``ranges`` `[lo, hi)`, each with its reason; at most :data:`MAX_LISTED`.

    Raises:
        HistoryError: the plan is gone or damaged.
    """
    listed: list[dict[str, str]] = []
    first = 0
    for batch in history.batches(plan) if ranges else ():
        for lo, hi, reason in ranges:
            start, end = max(lo - first, 0), min(hi - first, batch.num_rows)
            if start < end:
                rows = batch.slice(start, end - start).to_pylist()
                listed += [row | {"reason": reason} for row in rows[: MAX_LISTED - len(listed)]]
        first += batch.num_rows
    return listed
