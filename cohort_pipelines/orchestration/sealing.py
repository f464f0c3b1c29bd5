"""How a window comes by its snapshot: the sealed one is kept, a sibling's is referred to, or Mixpanel is read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import dagster as dg

from cohort_pipelines.core import progress
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.ledger import SealedSnapshot, Share, permit
from cohort_pipelines.mixpanel import snapshot_schema
from cohort_pipelines.orchestration import metadata
from cohort_pipelines.orchestration.limits import deadline
from cohort_pipelines.orchestration.metadata import Metadata
from cohort_pipelines.orchestration.resolved import ResolvedSync
from cohort_pipelines.orchestration.step import Step
from cohort_pipelines.snapshots import Snapshot, take_snapshot


def seal_snapshot(sync: ResolvedSync, context: dg.AssetExecutionContext, at: Step, *, refresh: bool) -> Metadata:
    """See to it that the run's window has a snapshot, and describe it.

    Without ``refresh`` a sealed one is kept, whether the window is open or closed; and in an open window one that
    another sync took of the same cohort, in the same way, is referred to, which saves a query of the project's hour.

    Raises:
        WindowClosed, WindowNotOpenYet: none is sealed, and none can be taken now.
        ReadingDeferred: other syncs of the project were reading until the deadline.
        MixpanelError, HistoryNotWritable: it could not be taken; nothing is filed.
    """
    if not refresh and (sealed := at.ledger.find_snapshot(sync.name, at.window.key)):
        return metadata.of_kept_snapshot(sealed)
    numbers: list[int] = []
    try:
        if not refresh:
            _require_none_of_a_sibling(sync, at)
        snapshot = _take(sync, context, at, refresh=refresh, numbers=numbers)
    except _TakenBySibling as found:
        _refer(sync, found.snapshot, at)
        return metadata.of_kept_snapshot(found.snapshot)
    _record(sync, snapshot.file, snapshot, at, seq=numbers[-1])
    return metadata.of_snapshot(snapshot)


class _TakenBySibling(Exception):
    """Another sync has taken a snapshot that serves this one too."""

    def __init__(self, snapshot: SealedSnapshot) -> None:
        super().__init__()
        self.snapshot = snapshot


def _take(
    sync: ResolvedSync,
    context: dg.AssetExecutionContext,
    at: Step,
    *,
    refresh: bool,
    numbers: list[int],
) -> Snapshot:
    project = getattr(context.resources, sync.source).project()
    until = deadline(context, sync.cadence, at.window)

    @asynccontextmanager
    async def place() -> AsyncIterator[Share]:
        key = f"project {project.project_id} at {project.base_url}"
        async with permit(at.ledger, key, sync.cohort_id, deadline=until) as share:
            if not refresh:  # a sibling may have been read meanwhile
                await asyncio.to_thread(_require_none_of_a_sibling, sync, at)
            yield share

    return take_snapshot(
        project,
        sync.cohort_id,
        at.history,
        sync=sync.name,
        window=at.window,
        properties=sync.rule.properties,
        anonymous_members=sync.anonymous_members,
        deadline=until,
        place=place,
        on_taken=lambda: numbers.append(at.ledger.begin_snapshot()),
        on_progress=partial(progress.report, sync.name, "cohort_snapshot"),
    )


def _require_none_of_a_sibling(sync: ResolvedSync, at: Step) -> None:
    if at.window.opens is None:
        return
    at.window.require_open()
    found = at.ledger.find_shared(sync.project_id, sync.cohort_id, sync.reading, since=at.window.opens)
    if found is not None:
        raise _TakenBySibling(found)


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
