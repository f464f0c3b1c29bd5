"""What the history alone still knows of deliveries: their receipts, and every id that may ever have been sent."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyRelation

from cohort_pipelines.core.engine import BATCH, engine, exactly
from cohort_pipelines.core.errors import HistoryFileDamaged, HistoryFileMissing
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.history import History, open_parquet
from cohort_pipelines.ledger import GREEN_STATES, AttemptKind, AttemptState, Target
from cohort_pipelines.membership import MEMBERSHIP_SCHEMA, Membership, seal_membership

REBUILT = "rebuilt"
"""The name of the window that a membership made of the whole history is filed under."""

_ID_COLUMNS = {Stage.MEMBERSHIP: "id", Stage.PLAN: "id", Stage.PARTNER_PAYLOAD: "partner_user_id"}


@dataclass(frozen=True, slots=True)
class FoundReceipt:
    """A receipt as its file has it."""

    checksum: str
    row: Mapping[str, Any]

    @property
    def sync(self) -> str:
        """Whose it is."""
        return str(self.row["sync"])

    @property
    def target(self) -> Target:
        """The target that was written."""
        return Target(self.row["wire"], self.row["host"], self.row["account"], self.row["target"])

    @property
    def kind(self) -> AttemptKind:
        """What the attempt was for."""
        return AttemptKind(self.row["kind"])

    @property
    def state(self) -> AttemptState:
        """How it ended."""
        return AttemptState(self.row["state"])

    @property
    def green(self) -> bool:
        """Whether it reached the target."""
        return self.state in GREEN_STATES

    @property
    def ended(self) -> datetime:
        """When it ended."""
        moment: datetime = self.row["ended"]
        return moment

    @property
    def started(self) -> datetime:
        """When it claimed the target."""
        moment: datetime = self.row["started"]
        return moment

    @property
    def source(self) -> str:
        """The window that its payload was made in."""
        return str(self.row["restored_from"] or self.row["window"])


def read_receipts(history: History) -> tuple[list[FoundReceipt], int]:
    """Return all receipts in the order in which they ended, and how many files are damaged or went away.

    Raises:
        HistoryNotReadable: the disk or the object store refused.
    """
    found, left_out = [], 0
    for file in _files(history, history.syncs(), [Stage.RECEIPT]):
        try:
            with history.local_file(file) as path, open_parquet(path) as parquet:
                columns = [name for name in parquet.schema_arrow.names if name != "rejected_rows"]
                found += [FoundReceipt(file.checksum, row) for row in parquet.read(columns).to_pylist()]
        except (HistoryFileMissing, HistoryFileDamaged, pa.ArrowException):
            left_out += 1
    return sorted(found, key=lambda each: each.ended), left_out


@dataclass(frozen=True, slots=True)
class Gathered:
    """Every id that files of the history name for a target, and what it is known to be.

    Attributes:
        ids: how many they are.
        read: checksums of the files that they were taken from.
        left_out: files that are damaged or went away.
    """

    ids: int
    read: frozenset[str]
    left_out: int
    _history: History
    _rows: DuckDBPyRelation

    def seal(self, owner: str, now: datetime) -> Membership:
        """Seal a membership of them, filed under the sync ``owner``; all are in doubt since ``now``.

        So the next plan has all of them.

        Raises:
            HistoryNotWritable: the disk or the object store refused.
        """
        batches = self._rows.order("id").to_arrow_reader(BATCH)
        return seal_membership(self._history, owner, REBUILT, (_in_doubt(batch, now) for batch in batches))


@contextmanager
def gathered(history: History, syncs: Iterable[str], receipts: Sequence[FoundReceipt]) -> Iterator[Gathered]:
    """Gather every id of any payload, plan or membership of ``syncs``, which are all that ever wrote a target.

    What they are known to be only tells the gates what is a change: IN as the newest of ``receipts`` that says
    delivered has it, UNKNOWN what was tried since, OUT the rest. Where no receipt says delivered, or its payload is
    gone, all are UNKNOWN. ``receipts`` are those of the target, in the order in which they ended.

    Memory stays flat: ids are gathered by DuckDB, file by file, and never become Python objects.

    Raises:
        HistoryNotReadable: the disk or the object store refused.
    """
    read: set[str] = set()
    left_out, states = 0, _states(receipts)
    files = sorted(
        _files(history, sorted(set(syncs)), _ID_COLUMNS),
        key=lambda file: _ORDER.index(states.get(file.checksum, "OUT")),
    )
    with history.scratch() as spill, engine(spill) as duckdb:
        duckdb.execute("CREATE TABLE known (id VARCHAR, state VARCHAR)")
        for file in files:
            if file.checksum in read:  # the same audience in another window
                continue
            try:
                with history.local_file(file) as path:
                    learn = _LEARN.format(id=_ID_COLUMNS[file.stage])
                    duckdb.execute(learn, [states.get(file.checksum, "OUT"), exactly(path)])
                read.add(file.checksum)
            except (HistoryFileMissing, HistoryFileDamaged):
                left_out += 1
        certain = any(state == "IN" and checksum in read for checksum, state in states.items())
        known = duckdb.table("known")
        rows = known if certain else known.project("id, 'UNKNOWN' AS state")
        yield Gathered(len(known), frozenset(read), left_out, history, rows)


def newest(history: History, sync: str, stage: Stage, window: str, checksum: str | None = None) -> StoredFile | None:
    """Return the file of ``checksum``, or the newest of the window's stage; None where it is gone or damaged.

    Raises:
        HistoryNotReadable: the disk or the object store refused.
    """
    wanted = [checksum] if checksum else history.checksums(sync, stage, window)[-1:]
    try:
        return history.stored(sync, stage, window, wanted[0]) if wanted else None
    except (HistoryFileMissing, HistoryFileDamaged):
        return None


def _files(history: History, syncs: Iterable[str], stages: Iterable[Stage]) -> Iterator[StoredFile]:
    """Yield what files there are, by their names alone: neither rows nor size are known."""
    for sync in syncs:
        for stage in stages:
            for window in history.windows(sync, stage):
                for checksum in history.checksums(sync, stage, window):
                    yield StoredFile(sync, stage, window, checksum, rows=0, size=0)


def _states(receipts: Sequence[FoundReceipt]) -> dict[str, str]:
    """Return what the ids of a payload are known to be, by its checksum; nothing where none was delivered."""
    delivered = [number for number, each in enumerate(receipts) if each.green]
    since = receipts[delivered[-1] :] if delivered else []
    tried = {each.row["payload_checksum"]: "UNKNOWN" for each in since if each.row["plan_checksum"]}
    return tried | {each.row["payload_checksum"]: "IN" for each in since[:1]}


def _in_doubt(batch: pa.RecordBatch, now: datetime) -> pa.RecordBatch:
    columns = {"in_doubt_since": now, "rejected": False}
    told = [
        pa.repeat(pa.scalar(value, MEMBERSHIP_SCHEMA.field(name).type), batch.num_rows)
        for name, value in columns.items()
    ]
    return pa.RecordBatch.from_arrays([batch.column("id"), batch.column("state"), *told], schema=MEMBERSHIP_SCHEMA)


_ORDER = ("IN", "UNKNOWN", "OUT")  # what is learnt of an id first stands
_LEARN = """
INSERT INTO known
SELECT DISTINCT file.{id}, ? FROM read_parquet(?) AS file ANTI JOIN known ON file.{id} = known.id
"""
