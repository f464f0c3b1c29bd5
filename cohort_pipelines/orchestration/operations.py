"""What somebody asks for by name: an earlier audience again, a target moved, a target given up. Jobs of one step each.

They can be launched in the UI and by the command line. Each is recorded as a run like any other.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import dagster as dg

from cohort_pipelines import clock, delivery, progress
from cohort_pipelines.delivery import Ledger, Pause, Receipt, Target, targets
from cohort_pipelines.errors import CohortPipelinesError, MissingVariable, TargetNotKnown
from cohort_pipelines.history import History
from cohort_pipelines.orchestration import metadata
from cohort_pipelines.orchestration.connections import Destination, Partner
from cohort_pipelines.orchestration.limits import runtime_tags
from cohort_pipelines.orchestration.resolved import ResolvedSync
from cohort_pipelines.windows import Window, one_time_window

RESTORE, RETARGET, RETIRE = "restore", "retarget", "retire"
_PATIENCE = timedelta(hours=1)  # somebody waits for it; what is not done by then is said, and can be asked for again


class RestoreConfig(dg.Config):
    """What to restore."""

    sync: str
    window: str
    """The window whose audience is put back."""
    pause: bool = False
    """Pause the sync, so that the next window does not deliver a newer audience over it."""
    who: str = "the Dagster UI"
    because: str = "restored"


class RetargetConfig(dg.Config):
    """The sync that has moved to another target, or that was renamed."""

    sync: str


class RetireConfig(dg.Config):
    """The sync whose target is given up; it need not be declared any more."""

    sync: str
    forget: bool = False
    """Do not empty it, since no declared destination reaches it any more."""
    who: str = "the Dagster UI"


def build_operations(syncs: Sequence[ResolvedSync], destinations: Iterable[str]) -> dg.Definitions:
    """Return the jobs `restore`, `retarget` and `retire` for all syncs of a project."""
    named = {sync.name: sync for sync in syncs}
    needed = {"records", *destinations}
    jobs = [_restore_job(named, needed), _retarget_job(named, needed), _retire_job(named, needed)]
    return dg.Definitions(jobs=jobs if len(needed) > 1 else [])  # a target can outlive the last sync


def _restore_job(syncs: Mapping[str, ResolvedSync], needed: set[str]) -> dg.JobDefinition:
    @dg.op(name="restore_audience", required_resource_keys=needed)
    def restore_audience(context: dg.OpExecutionContext, config: RestoreConfig) -> None:
        with _sentences():
            sync = _declared(syncs, config.sync)
            window, partner = _current(context, sync), _partner(context, sync)
            ledger, history = _records(context)
            receipt = delivery.restore(
                ledger=ledger,
                history=history,
                partner=partner,
                target=_target(partner, sync.target),
                sync=sync.name,
                window=window,
                from_window=config.window,
                gates=sync.gates,
                run_id=context.run_id,
                deadline=clock.now() + _PATIENCE,
                terms=sync.terms,
                pause=Pause(config.who, config.because) if config.pause else None,
                on_progress=partial(progress.report, sync.name, "destination_upload"),
            )
            _log(context, sync, window, receipt, ledger)

    @dg.job(
        name=RESTORE,
        tags=runtime_tags(None),
        description="Put the audience of an earlier window back: a new overwrite, behind the same gates.",
    )
    def restore() -> None:
        restore_audience()

    return restore


def _retarget_job(syncs: Mapping[str, ResolvedSync], needed: set[str]) -> dg.JobDefinition:
    @dg.op(name="move_target", required_resource_keys=needed)
    def move_target(context: dg.OpExecutionContext, config: RetargetConfig) -> None:
        with _sentences():
            sync = _declared(syncs, config.sync)
            ledger, _ = _records(context)
            declared = _target(_partner(context, sync), sync.target)
            if any(each.target == declared and each.owner != sync.name for each in targets.all_targets(ledger)):
                earlier = targets.hand_over(ledger, declared, sync.name, declared=syncs)  # first: it may be refused
                context.log.info("%s now owns %r, which was %s's.", sync.name, declared.name, earlier)
            for left in targets.owned_elsewhere(ledger, sync.name, declared):
                _empty(context, syncs, sync.name, left.target)

    @dg.job(
        name=RETARGET,
        tags=runtime_tags(None),
        description="After a sync's declaration moved: empty the target it had, so that the next window fills the new "
        "one. After a sync was renamed: let it own the target of its earlier name.",
    )
    def retarget() -> None:
        move_target()

    return retarget


def _retire_job(syncs: Mapping[str, ResolvedSync], needed: set[str]) -> dg.JobDefinition:
    @dg.op(name="give_up_target", required_resource_keys=needed)
    def give_up_target(context: dg.OpExecutionContext, config: RetireConfig) -> None:
        with _sentences():
            ledger, _ = _records(context)
            owned = [each for each in targets.all_targets(ledger) if each.owner == config.sync and not each.retired]
            if not owned:
                raise TargetNotKnown(config.sync, "it owns no target")
            if config.sync in syncs:  # else the next window would fill it again
                delivery.pause(ledger, config.sync, who=config.who, why="retired; remove its folder")
            for each in owned:
                if config.forget:
                    targets.forget(ledger, each.target)
                else:
                    _empty(context, syncs, config.sync, each.target)

    @dg.job(
        name=RETIRE,
        tags=runtime_tags(None),
        description="End a sync: empty its target of everybody that was ever sent to it, and give it up.",
    )
    def retire() -> None:
        give_up_target()

    return retire


def _empty(context: dg.OpExecutionContext, syncs: Mapping[str, ResolvedSync], owner: str, target: Target) -> None:
    ledger, history = _records(context)
    partner, terms = _reaching(context, syncs, owner, target)
    receipt = delivery.retire(
        ledger=ledger,
        history=history,
        partner=partner,
        target=target,
        sync=owner,
        window=one_time_window(f"retired-{clock.now():%Y-%m-%dT%H%M%SZ}"),
        run_id=context.run_id,
        deadline=clock.now() + _PATIENCE,
        terms=terms,
        on_progress=partial(progress.report, owner, RETIRE),
    )
    context.log.info("%r was emptied: %s left it, %s requests.", target.name, receipt.leavers, receipt.requests)


def _reaching(
    context: dg.OpExecutionContext, syncs: Mapping[str, ResolvedSync], owner: str, target: Target
) -> tuple[Partner, delivery.Terms]:
    """Return a declared destination's wire that ends where ``target`` lies, and its terms."""
    for name in context.resources._asdict():
        destination = getattr(context.resources, name)
        if not isinstance(destination, Destination):
            continue
        sync = syncs.get(owner)
        try:
            partner: Partner = destination.partner(
                project_id=sync.project_id if sync else 0, cohort_id=sync.cohort_id if sync else 0
            )
        except MissingVariable:  # of a destination that may well be another one
            continue
        if (partner.wire, partner.host, partner.account) == (target.wire, target.host, target.account):
            return partner, destination.terms()
    raise TargetNotKnown(
        owner,
        f"no declared destination reaches {target.name!r} ({target.wire} at {target.host}); declare it again to empty "
        "the target, or give it up as it is with --forget",
    )


def _declared(syncs: Mapping[str, ResolvedSync], name: str) -> ResolvedSync:
    if name not in syncs:
        raise TargetNotKnown(name, f"no such sync is declared; there are {', '.join(sorted(syncs))}")
    return syncs[name]


def _records(context: dg.OpExecutionContext) -> tuple[Ledger, History]:
    return context.resources.records.ledger(), context.resources.records.history()


def _partner(context: dg.OpExecutionContext, sync: ResolvedSync) -> Partner:
    destination = getattr(context.resources, sync.destination)
    partner: Partner = destination.partner(project_id=sync.project_id, cohort_id=sync.cohort_id)
    return partner


def _target(partner: Partner, name: str) -> Target:
    return Target(partner.wire, partner.host, partner.account, name)


def _current(context: dg.OpExecutionContext, sync: ResolvedSync) -> Window:
    """Return the window that a restore is filed under: the open one, or one of its own for a one-time export."""
    if sync.cadence is not None:
        return sync.cadence.window_at(clock.now())
    window = one_time_window(f"restored-{clock.now():%Y-%m-%dT%H%M%SZ}")
    context.instance.add_dynamic_partitions(f"{sync.name}_exports", [window.key])
    return window


def _log(context: dg.OpExecutionContext, sync: ResolvedSync, window: Window, receipt: Receipt, ledger: Ledger) -> None:
    context.log_event(
        dg.AssetMaterialization(
            asset_key=sync.key("destination_upload"),
            partition=window.key,
            metadata=metadata.of_receipt(receipt, sync, ledger.windows(sync.name)),
        )
    )


@contextmanager
def _sentences() -> Iterator[None]:
    try:
        yield
    except CohortPipelinesError as error:
        raise dg.Failure(
            description=str(error), metadata={"error": type(error).__name__}, allow_retries=False
        ) from error
