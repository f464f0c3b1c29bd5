"""The ledger: what was taken, worked out and delivered, and in which order. It never holds a user id."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, func, insert, select, update

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import LedgerUnusable, NotSealedYet
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.ledger import schema
from cohort_pipelines.ledger.database import Database
from cohort_pipelines.ledger.lease import live
from cohort_pipelines.ledger.schema import GREEN_STATES, OPEN_STATES, AttemptKind, AttemptState
from cohort_pipelines.ledger.windows import Windows

Options = Mapping[str, str | int | bool | None]

_SENT_ALL = (*GREEN_STATES, AttemptState.REJECTED)
_CUT_SHORT = (*OPEN_STATES, AttemptState.DEFERRED, AttemptState.STOPPED, AttemptState.CRASHED)
"""What was held or superseded is in neither: it took no time."""


@dataclass(frozen=True, slots=True)
class Target:
    """One segment or group in a destination; the four together name it for good, whatever a key or a sync is called."""

    wire: str
    host: str
    account: str
    name: str


@dataclass(frozen=True, slots=True)
class SealedSnapshot:
    """A complete snapshot that the ledger knows; ``seq`` is its place in the order of all snapshots."""

    seq: int
    file: StoredFile
    taken_at: datetime
    total: int
    rows: int
    project: int
    cohort_id: int
    options: Options


@dataclass(frozen=True, slots=True)
class DeliveredSnapshot:
    """The snapshot that a target was last made equal to."""

    seq: int
    window: str
    taken_at: datetime
    users: int
    delivered_at: datetime


@dataclass(frozen=True, slots=True)
class Origin:
    """The snapshot behind a payload: its checksum, of which cohort, when, and its members, identified and excluded."""

    checksum: str
    project: int
    cohort_id: int
    taken_at: datetime
    members: int
    identified: int
    excluded: int


class Ledger(Windows):
    """Opens the ledger, creating it at first use; safe to share between threads.

    Args:
        url: SQLAlchemy's URL of a SQLite file, or of a PostgreSQL database.

    Raises:
        LedgerUnusable: it cannot be opened or written, or a newer version of this project made it. Every method may
            raise it.
    """

    def begin_snapshot(self) -> int:
        """Take the number that orders a snapshot among all others; to be called when page 0 answered."""
        with self.write() as connection:
            return next_seq(connection)

    def record_snapshot(  # noqa: PLR0917  what a snapshot is, in its own order
        self,
        sync: str,
        window: str,
        file: StoredFile,
        taken_at: datetime,
        total: int,
        rows: int,
        *,
        project: int,
        cohort_id: int,
        options: Options | None = None,
        seq: int | None = None,
        seconds: float | None = None,
    ) -> int:
        """Record a sealed snapshot and return its number; it took ``seconds`` (None: it is another sync's).

        Without ``seq`` (from :meth:`begin_snapshot`) the number is taken now, after the file was sealed. That is the
        same order as long as no two snapshots of a sync are taken at once.
        """
        with self.write() as connection:
            number = next_seq(connection) if seq is None else seq
            connection.execute(
                insert(schema.snapshot).values(
                    seq=number,
                    sync=sync,
                    window=window,
                    checksum=file.checksum,
                    size=file.size,
                    taken_at=taken_at,
                    total=total,
                    rows=rows,
                    seconds=seconds,
                    project=project,
                    cohort_id=cohort_id,
                    options=dict(options or {}),
                )
            )
        return number

    def find_snapshot(self, sync: str, window: str) -> SealedSnapshot | None:
        """Return the newest sealed snapshot of a window, or None when there is none."""
        query = select(schema.snapshot).filter_by(sync=sync, window=window).order_by(schema.snapshot.c.seq.desc())
        with self.read() as connection:
            row = connection.execute(query.limit(1)).first()
        return None if row is None else _sealed(row)

    def find_shared(self, project: int, cohort_id: int, options: Options, *, since: datetime) -> SealedSnapshot | None:
        """Return the newest snapshot that any sync took of a cohort, in the same way, at ``since`` or later."""
        table = schema.snapshot
        query = (
            select(table)
            .where(table.c.project == project, table.c.cohort_id == cohort_id, table.c.taken_at >= since)
            .order_by(table.c.seq.desc())
        )
        with self.read() as connection:
            rows = connection.execute(query).all()
        return next((_sealed(row) for row in rows if row.options == dict(options)), None)

    def snapshot(self, sync: str, window: str) -> SealedSnapshot:
        """Return the newest sealed snapshot of a window.

        Raises:
            NotSealedYet: there is none.
        """
        found = self.find_snapshot(sync, window)
        if found is None:
            raise NotSealedYet(Stage.COHORT_SNAPSHOT, sync, window)
        return found

    def record_identified(self, seq: int, file: StoredFile) -> None:
        """Record the identified users of snapshot ``seq``; the newest record counts."""
        with self.write() as connection:
            _derive(connection, seq, file, {})

    def identified(self, seq: int) -> StoredFile:
        """Return the identified users of snapshot ``seq``.

        Raises:
            NotSealedYet: they were never worked out.
        """
        return self._derived(seq, Stage.IDENTIFIED_USERS)

    def record_payload(
        self, seq: int, file: StoredFile, excluded: StoredFile, excluded_by_reason: Mapping[str, int]
    ) -> None:
        """Record the payload of snapshot ``seq`` and its excluded members; the newest counts."""
        with self.write() as connection:
            _derive(connection, seq, file, {})
            _derive(connection, seq, excluded, excluded_by_reason)

    def payload(self, seq: int) -> StoredFile:
        """Return the payload of snapshot ``seq``.

        Raises:
            NotSealedYet: it was never worked out.
        """
        return self._derived(seq, Stage.PARTNER_PAYLOAD)

    def is_delivering(self, sync: str) -> bool:
        """Say whether a live lease is held on a target of ``sync``, whatever Dagster thinks of the run."""
        return self.writer(sync) is not None

    def writer(self, sync: str) -> str | None:
        """Return the name of the process that took the live lease on a target of ``sync``; None where there is none."""
        query = select(schema.lease.c.holder).join(schema.target).where(schema.target.c.owner == sync)
        with self.read() as connection:
            return connection.execute(query.where(live(self.now(connection)))).scalar()

    def newest_delivered(self, sync: str) -> DeliveredSnapshot | None:
        """Return the newest snapshot that reached the target of ``sync``: what freshness is judged by."""
        delivered = (
            select(schema.attempt.c.id, schema.attempt.c.users, schema.attempt.c.ended, schema.snapshot)
            .join(schema.snapshot, schema.snapshot.c.seq == schema.attempt.c.snapshot)
            .where(schema.attempt.c.sync == sync, schema.attempt.c.kind == AttemptKind.OVERWRITE)
            .order_by(schema.attempt.c.id.desc())
            .limit(1)
        )
        with self.read() as connection:  # state by state, so that the index gives the newest without a sort
            newest = [connection.execute(delivered.where(schema.attempt.c.state == state)) for state in GREEN_STATES]
            row = max((row for found in newest for row in found), key=lambda row: row.id, default=None)
        return None if row is None else DeliveredSnapshot(row.seq, row.window, row.taken_at, row.users, row.ended)

    def origin(self, seq: int) -> "Origin":
        """Return where the payload of snapshot ``seq`` comes from, as numbers."""
        with self.read() as connection:
            row = connection.execute(select(schema.snapshot).filter_by(seq=seq)).one()
            derived = connection.execute(
                select(schema.derived.c.stage, schema.derived.c.rows)
                .filter_by(snapshot=seq)
                .order_by(schema.derived.c.id)
            )
            rows = {stage: count for stage, count in derived}  # noqa: C416  a row is no pair for dict()
        identified, excluded = rows.get(Stage.IDENTIFIED_USERS, 0), rows.get(Stage.EXCLUDED, 0)
        return Origin(row.checksum, row.project, row.cohort_id, row.taken_at, row.rows, identified, excluded)

    def expected_seconds(self, sync: str, last: int = 20) -> float | None:
        """Return how long a window of ``sync`` takes, in seconds, or None where it is not known.

        That is the median of its ``last`` snapshots and the median of its ``last`` deliveries together. The newest
        delivery counts by itself if it took longer, so that who became slow is known for it at once. Nobody knows
        before the first one, nor after an attempt that was cut short: what is left may take any time.
        """
        taken = schema.snapshot
        snapshots = (
            select(taken.c.seconds)
            .where(taken.c.sync == sync, taken.c.seconds.is_not(None))
            .order_by(taken.c.seq.desc())
            .limit(last)
        )
        with self.read() as connection:
            reading: Sequence[float] = connection.execute(snapshots).scalars().all()
            through = _newest_attempts(connection, sync, _SENT_ALL, last)
            cut_short = _newest_attempts(connection, sync, _CUT_SHORT, 1)
        if not through or (cut_short and cut_short[0].id > through[0].id):
            return None
        sending: list[float] = [(row.ended - row.started).total_seconds() for row in through]
        return statistics.median(reading or [0.0]) + max(statistics.median(sending), sending[0])

    def last_attempt(self, sync: str) -> int:
        """Return the number of the newest attempt of ``sync``, which orders all turns; 0 where it had none yet."""
        newest = select(func.max(schema.attempt.c.id)).filter_by(sync=sync)
        with self.read() as connection:
            return connection.execute(newest).scalar() or 0

    def _derived(self, seq: int, stage: Stage) -> StoredFile:
        table = schema.derived
        source = select(schema.snapshot).filter_by(seq=seq)
        query = select(table).filter_by(snapshot=seq, stage=stage).order_by(table.c.id.desc()).limit(1)
        with self.read() as connection:
            snapshot: Row[tuple[object, ...]] = connection.execute(source).one()
            row = connection.execute(query).first()
        if row is None:
            raise NotSealedYet(stage, snapshot.sync, snapshot.window)
        return StoredFile(snapshot.sync, stage, snapshot.window, row.checksum, row.rows, row.size)


def _sealed(row: Row[tuple[object, ...]]) -> SealedSnapshot:
    file = StoredFile(row.sync, Stage.COHORT_SNAPSHOT, row.window, row.checksum, row.rows, row.size)
    return SealedSnapshot(row.seq, file, row.taken_at, row.total, row.rows, row.project, row.cohort_id, row.options)


def _newest_attempts(
    connection: Connection, sync: str, states: Iterable[AttemptState], last: int
) -> list[Row[tuple[object, ...]]]:
    """Return the ``last`` attempts of ``sync`` in these states, newest first: a look into the index for each state."""
    table = schema.attempt
    newest = select(table).where(table.c.sync == sync).order_by(table.c.id.desc()).limit(last)
    rows = [row for state in states for row in connection.execute(newest.where(table.c.state == state))]
    return sorted(rows, key=lambda row: row.id, reverse=True)[:last]


def next_seq(connection: Connection) -> int:
    """Take the next number in the order of snapshots as part of a transaction."""
    last = schema.meta.c.last_seq
    seq: int = connection.execute(update(schema.meta).values(last_seq=last + 1).returning(last)).scalar_one()
    return seq


def next_generation(connection: Connection, ledger: Database) -> int:
    """Count one more change that the history mirrors, as part of a transaction; it only grows.

    Raises:
        LedgerUnusable: the ledger was rebuilt since it was opened.
    """
    last = schema.meta.c.generation
    counted = update(schema.meta).filter_by(ledger_id=ledger.ledger_id).values(generation=last + 1).returning(last)
    generation: int | None = connection.execute(counted).scalar()
    if generation is None:
        raise LedgerUnusable(ledger.where, "it was rebuilt in the meantime; run this again")
    return generation


def _derive(connection: Connection, seq: int, file: StoredFile, counts: Mapping[str, int]) -> None:
    connection.execute(
        insert(schema.derived).values(
            snapshot=seq,
            stage=file.stage,
            checksum=file.checksum,
            rows=file.rows,
            size=file.size,
            counts=dict(counts),
            at=clock.now(),
        )
    )
