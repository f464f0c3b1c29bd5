"""Publishing a payload whole, to a partner that takes it as one file or as pages that only count together."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import (
    NewerFilePublished,
    PartnerError,
    PartnerFolderNotWritable,
    PartnerOutcomeUnknown,
    PartnerRequestRejected,
    PartnerTargetMissing,
    PartnerUnreachable,
    SyncPaused,
)
from cohort_pipelines.core.files import StoredFile
from cohort_pipelines.delivery.attempt import Attempt
from cohort_pipelines.delivery.chunks import PATIENCE, PUBLISH, Ended, Rows, column_of
from cohort_pipelines.delivery.sending import GRACE
from cohort_pipelines.destinations import Audience, FileWire, Publication
from cohort_pipelines.history import History
from cohort_pipelines.identity import PARTNER_ID, surrounding_space
from cohort_pipelines.ledger import ChunkState

_WITHOUT_EFFECT = (PartnerRequestRejected, PartnerUnreachable, NewerFilePublished)


@dataclass(frozen=True, slots=True)
class Published:
    """How publishing a payload ended.

    Attributes:
        stopped: why it failed, in words; empty where it did not.
        deferred: whether the deadline came before all of it was there.
        paused: whether the sync was paused before all of it was there.
        missing: whether the partner does not know the target any more.
        acknowledged: rows of the plan that the partner acknowledged: all or none.
        requests: HTTP requests made, as far as is known.
    """

    stopped: str = ""
    deferred: bool = False
    paused: bool = False
    missing: bool = False
    acknowledged: int = 0
    requests: int = 0


def publish(attempt: Attempt, wire: FileWire, history: History, operations: int, *, look: bool) -> Published:
    """Publish the payload, as one chunk that covers all ``operations`` of the plan.

    Where nothing is planned, it is published if the partner does not hold it: files can be deleted or edited. With
    ``look`` a partner that cannot be read is asked whether it knows the target; if not, nothing is published, since
    what is cut short would leave no trace in a plan without rows.

    Raises:
        LeaseLost: another run has taken the target over.
        LedgerUnusable: what happened could not be recorded.
    """
    target, payload = attempt.asked.target.name, attempt.asked.payload
    permits = _Permits(attempt, (0, operations, PUBLISH))
    try:
        if not operations and attempt.established:
            looked = wire.find(target, permits.look) if look else 0
            if wire.holds(target, payload.checksum):
                return Published(requests=looked)
        rows = sum(batch.num_rows for batch in _bare(history, payload))
        ids = (column_of(batch) for batch in _bare(history, payload))
        audience = Audience(ids, rows, attempt.generation, payload.checksum)
        publication = wire.publish(target, audience, permits.another)
    except SyncPaused:
        permits.end(ChunkState.UNKNOWN, "paused")
        return Published(paused=True, requests=permits.given)
    except PartnerError as error:
        without_effect = isinstance(error, _WITHOUT_EFFECT) and permits.given <= 1  # no earlier page was taken either
        permits.end(ChunkState.NOT_SENT if without_effect else ChunkState.UNKNOWN, type(error).__name__)
        cut_off = isinstance(error, PartnerOutcomeUnknown) and not isinstance(error, PartnerFolderNotWritable)
        out_of_time = cut_off and clock.now() >= attempt.asked.deadline
        return Published(
            stopped="" if out_of_time else str(error),
            deferred=out_of_time,
            missing=isinstance(error, PartnerTargetMissing),
            requests=error.requests,
        )
    return _published(attempt, permits, publication, operations)


def _bare(history: History, payload: StoredFile) -> Iterator[pa.RecordBatch]:
    """Yield the ids of a payload but for those with white space at an end, which one of long ago may hold."""
    for batch in history.batches(payload, [PARTNER_ID]):
        yield batch.filter(pc.invert(surrounding_space(batch.column(0))))


def _published(attempt: Attempt, permits: "_Permits", publication: Publication, operations: int) -> Published:
    if publication.reached != "all":
        permits.end(ChunkState.NOT_SENT if publication.reached == "none" else ChunkState.UNKNOWN, "no time was left")
        return Published(deferred=True, requests=publication.requests)
    permits.end(ChunkState.IN_DOUBT if publication.doubtful else ChunkState.ACKED, "")
    if not publication.doubtful:  # what may still change what is there establishes nothing
        attempt.mark_established()
    return Published(acknowledged=operations, requests=publication.requests)


@dataclass(slots=True)
class _Permits:
    """The permits to send that were given; each is recorded first, since what it allows may take effect."""

    attempt: Attempt
    rows: Rows
    given: int = 0
    first_at: datetime | None = None

    def another(self) -> datetime | None:
        """Return until when the next request may be tried, or None once the deadline has come.

        Raises:
            LeaseLost: another run has taken the target over, or this process was stopped for long.
            SyncPaused: the sync is paused.
        """
        if (until := self._time_limit()) is None:
            return None
        intent_at = self.attempt.record((), [self.rows])
        self.given += 1
        self.first_at = self.first_at or intent_at
        self.attempt.lease.require_live()
        return until

    def look(self) -> datetime | None:
        """Permit a request that changes no id, of which there is nothing to record.

        Raises:
            LeaseLost, SyncPaused: as for :meth:`another`.
        """
        self.attempt.require_lease()
        return self._time_limit()

    def end(self, state: ChunkState, reason: str) -> None:
        """Record what became of the rows, as sent when the first permit was given; nothing where none was."""
        if self.first_at is not None:
            self.attempt.record([Ended(*self.rows, state, self.first_at, self.attempt.now(), reason)], ())

    def _time_limit(self) -> datetime | None:
        now, deadline = clock.now(), self.attempt.asked.deadline
        return max(now + GRACE, min(deadline, now + PATIENCE)) if now < deadline else None
