"""Publishing a payload as one file: the whole audience at once, and a pointer to it that every window looks at."""

from cohort_pipelines import clock
from cohort_pipelines.delivery.attempt import Attempt
from cohort_pipelines.delivery.chunks import PUBLISH, Ended, column_of
from cohort_pipelines.delivery.schema import ChunkState
from cohort_pipelines.errors import NewerFilePublished, PartnerError
from cohort_pipelines.history import History
from cohort_pipelines.partners.wire import FileWire


def publish(attempt: Attempt, wire: FileWire, history: History, operations: int) -> str:
    """Publish the payload, as one chunk that covers all ``operations`` of the plan; return why it failed, or "".

    Where nothing is planned, it is published if the partner does not hold it: files can be deleted.

    Raises:
        LeaseLost: another run has taken the target over.
        LedgerUnusable: what happened could not be recorded.
    """
    asked = attempt.asked
    intent_at = attempt.record((), (0, operations, PUBLISH))
    batches = (column_of(batch) for batch in history.batches(asked.payload, ["partner_user_id"]))
    state, reason, failure = ChunkState.ACKED, "", ""
    try:
        if operations or not wire.holds(asked.target.name, asked.payload.checksum):
            wire.publish(asked.target.name, batches, attempt.generation, asked.payload.checksum)
    except NewerFilePublished as error:
        state, reason, failure = ChunkState.REFUSED_WHOLE, "a newer file is there", str(error)
    except PartnerError as error:
        state, reason, failure = ChunkState.UNKNOWN, "not confirmed", str(error)
    attempt.record([Ended(0, operations, PUBLISH, state, intent_at, clock.now(), reason)], None)
    if state is ChunkState.ACKED:
        attempt.mark_established()
    return failure
