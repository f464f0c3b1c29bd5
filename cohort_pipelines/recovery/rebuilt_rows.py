"""Rows of the ledger made again from receipts: what `restore` and `history` need of the attempts that it lost."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.history import History
from cohort_pipelines.ledger import OPEN_STATES, WINDOW_STATES, AttemptKind, AttemptState, next_seq, note_spent, schema
from cohort_pipelines.recovery.recovering import REBUILT, FoundReceipt, newest

UNKNOWN = 0
"""The number of a snapshot that stands for those that nothing tells of; it comes before all that are given out."""


class Rows:
    """Writes what receipts tell, in a transaction of the ledger.

    Attributes:
        written: attempts that the ledger did not know, or had left open.
    """

    def __init__(self, connection: Connection, history: History, receipts: Sequence[FoundReceipt]) -> None:
        self.written = 0
        self._connection = connection
        self._history = history
        self._ended = max((each.ended for each in receipts), default=None)
        self._sources: dict[int, FoundReceipt] = {}  # by the number of the snapshot
        for each in receipts:
            if each.kind is not AttemptKind.RETIRE or each.row["snapshot_seq"] not in self._sources:
                self._sources.setdefault(each.row["snapshot_seq"], each)

    def make_room(self) -> None:
        """Let numbers of snapshots go on above those of the receipts, and move the ledger's own out of their way.

        A snapshot that was taken after the last receipt is newer than all of them, whatever number a ledger without a
        memory gave it.
        """
        named = max(self._sources, default=0)
        last = schema.meta.c.last_seq
        self._connection.execute(update(schema.meta).where(last < named).values(last_seq=named))
        own = select(schema.snapshot).where(schema.snapshot.c.seq > UNKNOWN).order_by(schema.snapshot.c.seq)
        for row in self._connection.execute(own).all():
            source = self._sources.get(row.seq)
            if source is not None and (source.sync, source.source) == (row.sync, row.window):
                continue
            late = self._ended is not None and row.taken_at > self._ended and row.seq <= named
            if source is not None or late:
                self._move(row, next_seq(self._connection))

    def write_attempts(self, target: int, receipts: Iterable[FoundReceipt]) -> None:
        """Write the attempts on a target that the ledger does not know, oldest first."""
        table, known = schema.attempt, set(self._connection.execute(select(schema.receipt.c.checksum)).scalars())
        for receipt in receipts:
            if receipt.checksum in known:
                continue
            self._write_snapshot(receipt.row["snapshot_seq"])
            generation = receipt.row["generation"]
            row = self._connection.execute(select(table).filter_by(target=target, generation=generation)).first()
            if row is not None and row.state in OPEN_STATES and row.window == receipt.row["window"]:
                number = row.id  # it was under way when the copy was made
                ended = {"state": receipt.state, "ended": receipt.ended, "error": receipt.row["error"] or None}
                approved = row.approved or self._write_approval(receipt)
                self._connection.execute(update(table).filter_by(id=number).values(**ended, approved=approved))
            else:
                if row is not None:  # another ledger's
                    highest = select(func.max(table.c.generation)).filter_by(target=target)
                    generation = self._connection.execute(highest).scalar_one() + 1
                number = self._write_attempt(target, generation, receipt)
            self._write_receipt(number, receipt)
            self._note_window(receipt)
            self.written += 1

    def write_unknown(self, target: int, sync: str, generation: int, now: datetime) -> None:
        """Write the one attempt of ``sync`` that nothing is left of but files and a mark, unless any is known.

        Without an attempt the target could not be retired.
        """
        known = select(schema.attempt.c.id).filter_by(target=target).limit(1)
        if self._connection.execute(known).first() is not None:
            return
        filed = {"sync": sync, "window": REBUILT}
        if self._connection.execute(select(schema.snapshot.c.seq).filter_by(seq=UNKNOWN)).first() is None:
            numbers = dict.fromkeys(("size", "total", "rows", "project", "cohort_id"), 0)
            placeholder = {"seq": UNKNOWN, "checksum": "", "taken_at": now, "options": {}}
            self._connection.execute(insert(schema.snapshot).values(**filed, **numbers, **placeholder))
        values = {
            "target": target,
            "generation": generation,
            "token": 0,
            "state": AttemptState.CRASHED,
            "kind": AttemptKind.OVERWRITE,
            "snapshot": UNKNOWN,
            "seq": UNKNOWN,
            "payload_checksum": "",
            "users": 0,
            "run_id": "",
            "started": now,
            "deadline": now,
            "ended": now,
            "error": "the ledger was rebuilt, and no receipt tells what was delivered",
        }
        self._connection.execute(insert(schema.attempt).values(**filed, **values))

    def _move(self, row: Row[tuple[object, ...]], seq: int) -> None:
        """Give a snapshot another number."""
        values = row._asdict() | {"seq": seq}
        self._connection.execute(insert(schema.snapshot).values(**values))
        for table in (schema.derived, schema.attempt):
            self._connection.execute(update(table).filter_by(snapshot=row.seq).values(snapshot=seq))
        own = update(schema.attempt).filter_by(snapshot=seq, seq=row.seq)
        self._connection.execute(own.values(seq=seq))
        self._connection.execute(schema.snapshot.delete().filter_by(seq=row.seq))

    def _write_snapshot(self, seq: int) -> None:
        """Write a snapshot and what was made of it, as far as receipt and files tell."""
        if self._connection.execute(select(schema.snapshot.c.seq).filter_by(seq=seq)).first() is not None:
            return
        source = self._sources[seq]
        row, window = source.row, source.source
        stored = newest(self._history, source.sync, Stage.COHORT_SNAPSHOT, window, row["snapshot_checksum"])
        members = row["members"] or (stored.rows if stored else 0)
        values: Mapping[str, Any] = {
            "seq": seq,
            "sync": source.sync,
            "window": window,
            "checksum": row["snapshot_checksum"] or (stored.checksum if stored else ""),
            "size": stored.size if stored else 0,
            "taken_at": row["taken_at"] or source.started,
            "total": members,
            "rows": members,
            "project": row["project"] or 0,  # not known: it is nobody else's to share
            "cohort_id": row["cohort_id"] or 0,
            "options": {},
        }
        self._connection.execute(insert(schema.snapshot).values(**values))
        for stage in (Stage.IDENTIFIED_USERS, Stage.EXCLUDED, Stage.PARTNER_PAYLOAD):
            checksum = row["payload_checksum"] if stage is Stage.PARTNER_PAYLOAD else None
            file = newest(self._history, source.sync, stage, window, checksum)
            if file is not None:
                self._derive(seq, file, source)

    def _derive(self, seq: int, file: StoredFile, source: FoundReceipt) -> None:
        told = {"checksum": file.checksum, "rows": file.rows, "size": file.size, "counts": {}, "at": source.started}
        self._connection.execute(insert(schema.derived).values(snapshot=seq, stage=file.stage, **told))

    def _write_attempt(self, target: int, generation: int, receipt: FoundReceipt) -> int:
        row, overwrite = receipt.row, receipt.kind is AttemptKind.OVERWRITE
        values = {
            "target": target,
            "generation": generation,
            "token": 0,
            "state": receipt.state,
            "sync": receipt.sync,
            "kind": receipt.kind,
            "window": row["window"],
            "snapshot": row["snapshot_seq"],
            "seq": row["snapshot_seq"] if overwrite else None,
            "restored_from": row["restored_from"],
            "payload_checksum": row["payload_checksum"],
            "users": row["users"],
            "plan_checksum": row["plan_checksum"],
            "run_id": row["run_id"] or "",
            "started": receipt.started,
            "deadline": receipt.ended,
            "ended": receipt.ended,
            "error": row["error"] or None,
            "approved": self._write_approval(receipt),
        }
        inserted = insert(schema.attempt).values(**values).returning(schema.attempt.c.id)
        number: int = self._connection.execute(inserted).scalar_one()
        return number

    def _write_approval(self, receipt: FoundReceipt) -> int | None:
        """Write what let an attempt pass its gates, since the audience that they compare with begins anew with it."""
        told = receipt.row["approved"]
        return note_spent(self._connection, receipt.sync, receipt.row["payload_checksum"], told) if told else None

    def _write_receipt(self, attempt: int, receipt: FoundReceipt) -> None:
        row = receipt.row
        values = {
            "state": receipt.state,
            "counts": {name: number for name, number in row.items() if isinstance(number, int)},
            "membership_after": row["membership_after"],
            "checksum": receipt.checksum,
            "at": receipt.ended,
        }
        self._connection.execute(insert(schema.receipt).values(attempt=attempt, **values))

    def _note_window(self, receipt: FoundReceipt) -> None:
        """Note what became of the window, unless a delivery is noted there or the ledger knows more than this."""
        if receipt.kind is not AttemptKind.OVERWRITE:
            return
        table, where = schema.window, {"sync": receipt.sync, "key": receipt.row["window"]}
        noted = {"state": WINDOW_STATES[receipt.state], "reason": receipt.row["error"], "at": receipt.ended}
        known = self._connection.execute(select(table).filter_by(**where)).first()
        if known is None:
            self._connection.execute(insert(table).values(**where, **noted))
        elif known.state != "delivered" and known.at < receipt.ended:
            self._connection.execute(update(table).filter_by(**where).values(**noted))
