"""Publishing a payload as one file: the whole audience at once, and a pointer to it."""

from cohort_pipelines import clock
from cohort_pipelines.delivery.attempt import Attempt
from cohort_pipelines.delivery.chunks import PUBLISH, Ended, column_of
from cohort_pipelines.delivery.schema import ChunkState
from cohort_pipelines.errors import PartnerError
from cohort_pipelines.history import History
from cohort_pipelines.partners.wire import FileWire


def publish(attempt: Attempt, wire: FileWire, history: History, operations: int) -> str:
    """Publish the payload, as one chunk that covers all ``operations`` of the plan; return why it failed, or "".

    Raises:
        LeaseLost: another run has taken the target over.
        LedgerUnusable: what happened could not be recorded.
    """
    asked = attempt.asked
    intent_at = attempt.record((), (0, operations, PUBLISH))
    batches = (column_of(batch) for batch in history.batches(asked.payload, ["partner_user_id"]))
    try:
        wire.publish(asked.target.name, batches, attempt.generation, asked.payload.checksum)
        state, failure = ChunkState.ACKED, ""
    except PartnerError as error:
        state, failure = ChunkState.UNKNOWN, str(error)
    reason = "" if state is ChunkState.ACKED else "not confirmed"
    attempt.record([Ended(0, operations, PUBLISH, state, intent_at, clock.now(), reason)], None)
    if state is ChunkState.ACKED:
        attempt.mark_established()
    return failure
