"""What a person asks for: an earlier audience again, a target moved or retired. Jobs of one step each.

They can be launched in the UI and by the command line. Each is recorded as a run like any other.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import dagster as dg

from cohort_pipelines import delivery
from cohort_pipelines.core import clock, progress
from cohort_pipelines.core.errors import CohortPipelinesError, HistoryError, LedgerUnusable, TargetNotKnown
from cohort_pipelines.core.windows import Window, one_time_window
from cohort_pipelines.delivery import Receipt
from cohort_pipelines.history import History
from cohort_pipelines.ledger import Ledger, Pause, pauses, targets
from cohort_pipelines.orchestration import metadata, moving
from cohort_pipelines.orchestration.connections import Destination
from cohort_pipelines.orchestration.limits import runtime_tags
from cohort_pipelines.orchestration.moving import Leaving
from cohort_pipelines.orchestration.resolved import ResolvedSync
from cohort_pipelines.orchestration.upload import verdicts
from cohort_pipelines.recovery import pairing

RESTORE, RETARGET, RETIRE = "restore", "retarget", "retire"
_PATIENCE = timedelta(hours=1)  # a person waits for it; what is not done by then is said, and can be asked for again


class RestoreConfig(dg.Config):
    """What to restore."""

    sync: str
    window: str
    """The window or export whose audience is put back."""
    payload: str = ""
    """Which of that window's payloads, by its checksum; the one that was delivered last if empty."""
    pause: bool = False
    """Pause the sync, so that the next window does not deliver a newer audience over it."""
    who: str = "the Dagster UI"
    """Whose word the pause is."""
    because: str = "restored"
    """Why it is paused."""


class RetargetConfig(dg.Config):
    """The sync that has moved to another target, or that was renamed."""

    sync: str
    forget: bool = False
    """Leave the members of the target that it had where they are, since no declared destination reaches it any more."""


class RetireConfig(dg.Config):
    """The sync whose target is given up; it need not be declared any more."""

    sync: str
    forget: bool = False
    """Do not empty it, since no declared destination reaches it any more."""
    who: str = "the Dagster UI"


def build_operations(
    syncs: Sequence[ResolvedSync], unloadable: Container[str], destinations: Iterable[str]
) -> dg.Definitions:
    """Return the jobs `restore`, `retarget` and `retire` for all syncs of a project.

    They are there whatever is declared: a target can outlive the last sync, and the last destination too.
    ``unloadable`` are the names of syncs that are declared and cannot be loaded.
    """
    named = {sync.name: sync for sync in syncs}
    needed = {"records", *destinations}
    moves = [_retarget_job(named, unloadable, needed), _retire_job(named, unloadable, needed)]
    return dg.Definitions(jobs=[_restore_job(named, needed), *moves])


def _restore_job(syncs: Mapping[str, ResolvedSync], needed: set[str]) -> dg.JobDefinition:
    @dg.op(name="restore_audience", required_resource_keys=needed)
    def restore_audience(context: dg.OpExecutionContext, config: RestoreConfig) -> None:
        with _sentences(context, pauses=config.sync if config.pause else ""):
            sync = _declared(syncs, config.sync)
            window = sync.open_window(f"restored-{clock.now():%Y-%m-%dT%H%M%SZ}")
            partner, target = sync.reached(getattr(context.resources, sync.destination))
            ledger, history = _records(context)
            try:
                receipt = delivery.restore(
                    ledger=ledger,
                    history=history,
                    partner=partner,
                    target=target,
                    sync=sync.name,
                    window=window,
                    from_window=config.window,
                    payload_checksum=config.payload,
                    gates=sync.gates,
                    run_id=context.run_id,
                    deadline=clock.now() + _PATIENCE,
                    terms=sync.terms,
                    pause=Pause(config.who, config.because) if config.pause else None,
                    on_progress=partial(progress.report, sync.name, "destination_upload"),
                )
                _log_upload(context, sync, window, receipt, ledger)
            finally:  # a gate may be what it failed at
                _log_verdicts(context, sync, ledger)

    @dg.job(
        name=RESTORE,
        tags=runtime_tags(None),
        description="Put the audience of an earlier window back: a new overwrite, behind the same gates.",
    )
    def restore() -> None:
        restore_audience()

    return restore


def _retarget_job(syncs: Mapping[str, ResolvedSync], unloadable: Container[str], needed: set[str]) -> dg.JobDefinition:
    @dg.op(name="move_target", required_resource_keys=needed)
    def move_target(context: dg.OpExecutionContext, config: RetargetConfig) -> None:
        with _sentences(context):
            sync = _declared(syncs, config.sync)
            ledger, history = _records(context)
            move = moving.move(ledger, syncs, unloadable, _destinations(context), sync, forget=config.forget)
            for left in move.leaves:  # first, so that two can swap their targets: one waits for neither
                _leave(context, sync.name, left)
            if move.taken is not None:
                earlier = targets.hand_over(ledger, move.declared, sync.name, declared=move.owners)
                pairing.refuse_older_copies(ledger, history)
                context.log.info("%s now owns %r, which was %s's.", sync.name, move.declared.name, earlier)

    @dg.job(
        name=RETARGET,
        tags=runtime_tags(None),
        description="After a sync's declaration moved: empty the target it had, so that the next window fills the new "
        "one. After a sync was renamed: let it own the target of its earlier name.",
    )
    def retarget() -> None:
        move_target()

    return retarget


def _retire_job(syncs: Mapping[str, ResolvedSync], unloadable: Container[str], needed: set[str]) -> dg.JobDefinition:
    @dg.op(name="give_up_target", required_resource_keys=needed)
    def give_up_target(context: dg.OpExecutionContext, config: RetireConfig) -> None:
        declared = config.sync in syncs or config.sync in unloadable
        with _sentences(context, pauses=config.sync if declared else ""):
            ledger, _ = _records(context)
            leaves = moving.retirement(ledger, syncs, _destinations(context), config.sync, forget=config.forget)
            if declared:  # else the next window would fill it again
                pauses.pause(ledger, config.sync, who=config.who, why="retired; remove its folder")
            for left in leaves:
                _leave(context, config.sync, left)

    @dg.job(
        name=RETIRE,
        tags=runtime_tags(None),
        description="End a sync: empty its target of everybody that was ever sent to it, and give it up.",
    )
    def retire() -> None:
        give_up_target()

    return retire


def _leave(context: dg.OpExecutionContext, owner: str, left: Leaving) -> None:
    ledger, history = _records(context)
    target = left.record.target
    if left.partner is None:
        targets.forget(ledger, target)
        pairing.refuse_older_copies(ledger, history)
        context.log.info("%r was given up as it is.", target.name)
        return
    receipt = delivery.retire(
        ledger=ledger,
        history=history,
        partner=left.partner,
        target=target,
        sync=owner,
        window=one_time_window(f"retired-{clock.now():%Y-%m-%dT%H%M%SZ}"),
        run_id=context.run_id,
        deadline=clock.now() + _PATIENCE,
        terms=left.terms,
        on_progress=partial(progress.report, owner, RETIRE),
    )
    context.log.info("%r was emptied: %s left it, %s requests.", target.name, receipt.leavers, receipt.requests)


def _declared(syncs: Mapping[str, ResolvedSync], name: str) -> ResolvedSync:
    if name not in syncs:
        raise TargetNotKnown(name, f"no such sync is declared; there are {', '.join(sorted(syncs)) or 'none'}")
    return syncs[name]


def _records(context: dg.OpExecutionContext) -> tuple[Ledger, History]:
    return context.resources.records.ledger(), context.resources.records.history()


def _destinations(context: dg.OpExecutionContext) -> dict[str, Destination]:
    offered: dict[str, object] = context.resources._asdict()
    return {name: each for name, each in offered.items() if isinstance(each, Destination)}


def _log_upload(
    context: dg.OpExecutionContext, sync: ResolvedSync, window: Window, receipt: Receipt, ledger: Ledger
) -> None:
    """Show the delivery with the upload: in the open window, or with the export whose audience was put back.

    An export's own partition is never made for it: materialized again, it would read Mixpanel and undo the restore.
    """
    context.log_event(
        dg.AssetMaterialization(
            asset_key=sync.key("destination_upload"),
            partition=window.key if sync.cadence else receipt.restored_from,
            metadata=metadata.of_receipt(receipt, sync, ledger.windows(sync.name)),
        )
    )


def _log_verdicts(context: dg.OpExecutionContext, sync: ResolvedSync, ledger: Ledger) -> None:
    """Show what the gates found with the upload's checks, as a window's own delivery does."""
    for found in verdicts(sync, ledger, context.run_id):
        evaluation = dg.AssetCheckEvaluation(
            asset_key=sync.key("destination_upload"),
            check_name=str(found.check_name),
            passed=found.passed,
            severity=found.severity,
            description=found.description,
            metadata=found.metadata,
        )
        context.log_event(evaluation)  # type: ignore[arg-type]  # it takes them, whatever its annotation says


@contextmanager
def _sentences(context: dg.OpExecutionContext, pauses: str = "") -> Iterator[None]:
    """Let the step fail with our error's sentence, and say so where the sync ``pauses`` stays paused all the same."""
    try:
        yield
    except CohortPipelinesError as error:
        description = " ".join(filter(None, (str(error), _still_paused(context, pauses))))
        raise dg.Failure(
            description=description, metadata={"error": type(error).__name__}, allow_retries=False
        ) from error


def _still_paused(context: dg.OpExecutionContext, sync: str) -> str:
    try:
        paused = bool(sync) and pauses.paused(context.resources.records.ledger(), sync) is not None
    except (LedgerUnusable, HistoryError):  # which is what has been said
        return ""
    return f"{sync} is paused; cohort-pipelines resume {sync} lets it deliver again." if paused else ""
