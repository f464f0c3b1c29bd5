"""How a window comes by its snapshot: the sealed one is kept, a sibling's is referred to, or Mixpanel is read."""

from functools import partial

import dagster as dg

from cohort_pipelines import mixpanel, progress
from cohort_pipelines.delivery import Ledger, SealedSnapshot
from cohort_pipelines.errors import CohortPipelinesError
from cohort_pipelines.history import History, Stage, StoredFile
from cohort_pipelines.mixpanel import Snapshot, snapshot_schema
from cohort_pipelines.orchestration import metadata
from cohort_pipelines.orchestration.metadata import Metadata
from cohort_pipelines.orchestration.partitions import window_of
from cohort_pipelines.orchestration.resolved import ResolvedSync
from cohort_pipelines.windows import Window


def seal_snapshot(sync: ResolvedSync, context: dg.AssetExecutionContext, *, refresh: bool) -> Metadata:
    """See to it that the run's window has a snapshot, and describe it.

    Without ``refresh`` a sealed one is kept, whether the window is open or closed; and in an open window one that
    another sync took of the same cohort, in the same way, is referred to, which saves a query of the project's hour.

    Raises:
        WindowClosed, WindowNotOpenYet: none is sealed, and none can be taken now.
        MixpanelError, HistoryNotWritable: it could not be taken; nothing is filed.
    """
    history, ledger = context.resources.records.history(), context.resources.records.ledger()
    window = window_of(sync.cadence, context.partition_key)
    if not refresh:
        if sealed := ledger.find_snapshot(sync.name, window.key):
            return metadata.of_kept_snapshot(sealed)
        if sibling := _sibling(sync, window, ledger):
            _refer(sync, window, sibling, history, ledger)
            return metadata.of_kept_snapshot(sibling)
    try:
        snapshot = _take(sync, context, window, history)
    except CohortPipelinesError as error:
        ledger.note_window(sync.name, window.key, "failed", str(error))
        raise
    _record(sync, window, snapshot.file, snapshot, ledger)
    return metadata.of_snapshot(snapshot)


def _take(sync: ResolvedSync, context: dg.AssetExecutionContext, window: Window, history: History) -> Snapshot:
    return mixpanel.take_snapshot(
        getattr(context.resources, sync.source).project(),
        sync.cohort_id,
        history,
        sync=sync.name,
        window=window,
        properties=sync.rule.properties,
        anonymous_members=sync.anonymous_members,
        on_progress=partial(progress.report, sync.name, "cohort_snapshot"),
    )


def _sibling(sync: ResolvedSync, window: Window, ledger: Ledger) -> SealedSnapshot | None:
    if window.opens is None:
        return None
    window.require_open()
    return ledger.find_shared(sync.project_id, sync.cohort_id, sync.reading_options, since=window.opens)


def _refer(sync: ResolvedSync, window: Window, sibling: SealedSnapshot, history: History, ledger: Ledger) -> None:
    """File the sibling's rows under this sync too; the bytes, and so the checksum, are the same."""
    schema = snapshot_schema(sync.rule.properties)
    with history.writer(sync.name, Stage.COHORT_SNAPSHOT, window.key, schema) as writer:
        for batch in history.batches(sibling.file):
            writer.write(batch)
    _record(sync, window, writer.stored, sibling, ledger)


def _record(
    sync: ResolvedSync, window: Window, file: StoredFile, taken: Snapshot | SealedSnapshot, ledger: Ledger
) -> None:
    ledger.record_snapshot(
        sync.name,
        window.key,
        file,
        taken.taken_at,
        taken.total,
        taken.rows,
        project=sync.project_id,
        cohort_id=sync.cohort_id,
        options=sync.reading_options,
    )
