"""How a window comes by its snapshot: the sealed one is kept, a sibling's is referred to, or Mixpanel is read."""

from collections.abc import Callable
from functools import partial

import dagster as dg

from cohort_pipelines import mixpanel, progress
from cohort_pipelines.delivery import SealedSnapshot
from cohort_pipelines.history import Stage, StoredFile
from cohort_pipelines.mixpanel import Snapshot, snapshot_schema
from cohort_pipelines.orchestration import metadata
from cohort_pipelines.orchestration.limits import deadline
from cohort_pipelines.orchestration.metadata import Metadata
from cohort_pipelines.orchestration.resolved import ResolvedSync
from cohort_pipelines.orchestration.step import Step


def seal_snapshot(sync: ResolvedSync, context: dg.AssetExecutionContext, at: Step, *, refresh: bool) -> Metadata:
    """See to it that the run's window has a snapshot, and describe it.

    Without ``refresh`` a sealed one is kept, whether the window is open or closed; and in an open window one that
    another sync took of the same cohort, in the same way, is referred to, which saves a query of the project's hour.

    Raises:
        WindowClosed, WindowNotOpenYet: none is sealed, and none can be taken now.
        MixpanelError, HistoryNotWritable: it could not be taken; nothing is filed.
    """
    if not refresh:
        if sealed := at.ledger.find_snapshot(sync.name, at.window.key):
            return metadata.of_kept_snapshot(sealed)
        if sibling := _sibling(sync, at):
            _refer(sync, sibling, at)
            return metadata.of_kept_snapshot(sibling)
    numbers: list[int] = []
    snapshot = _take(sync, context, at, on_taken=lambda: numbers.append(at.ledger.begin_snapshot()))
    _record(sync, snapshot.file, snapshot, at, seq=numbers[-1])
    return metadata.of_snapshot(snapshot)


def _take(sync: ResolvedSync, context: dg.AssetExecutionContext, at: Step, *, on_taken: Callable[[], None]) -> Snapshot:
    return mixpanel.take_snapshot(
        getattr(context.resources, sync.source).project(),
        sync.cohort_id,
        at.history,
        sync=sync.name,
        window=at.window,
        properties=sync.rule.properties,
        anonymous_members=sync.anonymous_members,
        deadline=deadline(context, sync.cadence, at.window),
        on_taken=on_taken,
        on_progress=partial(progress.report, sync.name, "cohort_snapshot"),
    )


def _sibling(sync: ResolvedSync, at: Step) -> SealedSnapshot | None:
    if at.window.opens is None:
        return None
    at.window.require_open()
    return at.ledger.find_shared(sync.project_id, sync.cohort_id, sync.reading, since=at.window.opens)


def _refer(sync: ResolvedSync, sibling: SealedSnapshot, at: Step) -> None:
    """File the sibling's rows under this sync too; the bytes, and so the checksum, are the same."""
    schema = snapshot_schema(sync.rule.properties)
    with at.history.writer(sync.name, Stage.COHORT_SNAPSHOT, at.window.key, schema) as writer:
        for batch in at.history.batches(sibling.file):
            writer.write(batch)
    _record(sync, writer.stored, sibling, at)


def _record(
    sync: ResolvedSync, file: StoredFile, taken: Snapshot | SealedSnapshot, at: Step, seq: int | None = None
) -> None:
    at.ledger.record_snapshot(
        sync.name,
        at.window.key,
        file,
        taken.taken_at,
        taken.total,
        taken.rows,
        project=sync.project_id,
        cohort_id=sync.cohort_id,
        options=sync.reading,
        seconds=taken.seconds if isinstance(taken, Snapshot) else None,
        seq=seq,
    )
