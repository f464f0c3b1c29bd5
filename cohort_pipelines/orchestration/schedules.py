"""One schedule for each cadence: a tick opens a window and launches runs that carry several due syncs.

Dagster does not catch up on missed ticks, which is right here, since Mixpanel answers for now. So that no gap is
silent, each tick first writes the windows that were missed into the ledger.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import dagster as dg

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import HistoryNotReadable, LedgerUnpaired
from cohort_pipelines.core.process_names import is_gone
from cohort_pipelines.core.windows import Cadence, Window
from cohort_pipelines.ledger import Ledger, pauses
from cohort_pipelines.orchestration.checks import FRESH
from cohort_pipelines.orchestration.dead_runs import SYNCS_TAG, end_dead_runs
from cohort_pipelines.orchestration.limits import UNKNOWN_LENGTH, runtime_tags
from cohort_pipelines.orchestration.packing import pack
from cohort_pipelines.orchestration.resolved import ResolvedSync

if TYPE_CHECKING:  # what define_asset_job returns has no public name
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition as AssetJob

_STILL_DELIVERING = "the delivery of an earlier window still goes on"


def build_jobs_and_schedules(syncs: Sequence[ResolvedSync]) -> dg.Definitions:
    """Return, for each cadence in use, the job, its schedule and the job `rebuild`; the exports' jobs; the checks'."""
    jobs: list[AssetJob] = []
    schedules: list[dg.ScheduleDefinition] = []
    for job_name, group in groupby(sorted(syncs, key=lambda sync: sync.job), key=lambda sync: sync.job):
        members = list(group)
        job = _sync_job(job_name, members)
        jobs.append(job)
        if cadence := members[0].cadence:
            jobs.append(_rebuild_job(job_name, members))
            schedules.append(_schedule(members, cadence, job))
    if promised := [sync for sync in syncs if sync.cadence]:
        checks = _freshness_job(promised)
        jobs.append(checks)
        schedules.append(
            dg.ScheduleDefinition(
                name=checks.name,
                job=checks,
                cron_schedule="*/30 * * * *",
                execution_timezone="UTC",
                default_status=dg.DefaultScheduleStatus.RUNNING,
                description="Judge every half hour whether each audience is as fresh as promised.",
            )
        )
    return dg.Definitions(jobs=jobs, schedules=schedules)


def _sync_job(name: str, syncs: Sequence[ResolvedSync]) -> "AssetJob":
    keys = [key for sync in syncs for key in sync.keys]
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(*keys).without_checks() | _inline_checks(syncs),
        tags=runtime_tags(syncs[0].cadence),
        description=f"{', '.join(sync.name for sync in syncs)}: from the cohort to the partner, in one window.",
    )


def _rebuild_job(job: str, syncs: Sequence[ResolvedSync]) -> "AssetJob":
    keys = [sync.key(stage) for sync in syncs for stage in ("identified_users", "partner_payload")]
    return dg.define_asset_job(
        f"rebuild_{job}",
        selection=dg.AssetSelection.assets(*keys).without_checks()
        | dg.AssetSelection.checks(*(check for sync in syncs for check in sync.payload_checks)),
        description="Work past windows out again after a mapping rule changed. It never fetches and never sends.",
    )


def _inline_checks(syncs: Sequence[ResolvedSync]) -> dg.AssetSelection:
    return dg.AssetSelection.checks(*(check for sync in syncs for check in sync.inline_checks))


def _freshness_job(syncs: Sequence[ResolvedSync]) -> "AssetJob":
    keys = [dg.AssetCheckKey(sync.key("destination_upload"), FRESH) for sync in syncs]
    return dg.define_asset_job(
        "freshness", selection=dg.AssetSelection.checks(*keys), description="Is each audience as fresh as promised?"
    )


def _schedule(syncs: Sequence[ResolvedSync], cadence: Cadence, job: "AssetJob") -> dg.ScheduleDefinition:
    @dg.schedule(
        name=job.name,
        job=job,
        cron_schedule=cadence.cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        required_resource_keys={"records"},
        description=f"Opens a window and delivers every sync that is due: {', '.join(sync.name for sync in syncs)}.",
    )
    def due_syncs(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        ledger = _own_ledger(context)
        window = cadence.window_at(context.scheduled_execution_time)
        skipped = {sync.name: reason for sync in syncs if ledger and (reason := _why_skipped(sync, ledger))}
        is_open = window == cadence.window_at(clock.now())
        if is_open and context.instance_ref:
            end_dead_runs(context.instance)
        if ledger and is_open:  # the UI evaluates ticks of any time, to show what they would do
            _note(syncs, window, skipped, ledger)
        judged = [(sync, _left_out(sync, window, skipped)) for sync in syncs]
        for _, reason in judged:
            if reason:
                context.log.info(reason)
        due = [sync for sync, reason in judged if not reason]
        if not due:
            yield dg.SkipReason(" ".join(reason for _, reason in judged))
        for run, tags in _runs(due, cadence, ledger):
            yield dg.RunRequest(
                run_key=f"{window.key}/{run[0].name}",
                partition_key=window.key,
                asset_selection=[key for sync in run for key in sync.keys],
                asset_check_keys=[check for sync in run for check in sync.inline_checks],
                tags={SYNCS_TAG: ",".join(sync.name for sync in run), **runtime_tags(cadence), **tags},
            )

    return due_syncs


def _own_ledger(context: dg.ScheduleEvaluationContext) -> Ledger | None:
    """Return the history's ledger, or None where it is not known to be the history's own: then nothing is noted in it.

    The runs are launched all the same: each is refused before it asks anybody, is red, and says what to do.
    """
    try:
        ledger: Ledger = context.resources.records.ledger()
    except (LedgerUnpaired, HistoryNotReadable) as error:
        context.log.warning(str(error))
        return None
    return ledger


def _why_skipped(sync: ResolvedSync, ledger: Ledger) -> str:
    """Return why ``sync`` must not be started now, whatever the window; empty when it may.

    The lease of a writer that was killed is none: it runs out while the next run starts and waits for it.
    """
    if pause := pauses.paused(ledger, sync.name):
        return f"paused: {pause.why}"
    writer = ledger.writer(sync.name)
    return _STILL_DELIVERING if writer is not None and not is_gone(writer) else ""


def _note(syncs: Sequence[ResolvedSync], window: Window, skipped: Mapping[str, str], ledger: Ledger) -> None:
    """Write down the windows that were missed, and what this one begins as."""
    for sync in syncs:
        if not _too_early(sync, window):
            ledger.record_missed(sync.name, window)
            if reason := skipped.get(sync.name):
                ledger.note_window(sync.name, window.key, "skipped", reason)
            else:
                ledger.note_window(sync.name, window.key, "open")


def _left_out(sync: ResolvedSync, window: Window, skipped: Mapping[str, str]) -> str:
    """Return why ``sync`` is not run in ``window``; empty when it is due."""
    if _too_early(sync, window):
        return f"{sync.name} begins with the first window of {sync.since}, {window.key} is before that."
    if reason := skipped.get(sync.name):
        return f"{sync.name} is left out of {window.key}: {reason}."
    return ""


def _too_early(sync: ResolvedSync, window: Window) -> bool:
    return bool(sync.since and window.opens and window.opens.date() < sync.since)


def _runs(
    due: Sequence[ResolvedSync], cadence: Cadence, ledger: Ledger | None
) -> Iterator[tuple[list[ResolvedSync], Mapping[str, str]]]:
    """Yield the syncs of each run, and its tags, in the order in which they are to start.

    A first fill, or what a slow partner left over, may take any time: it runs alone, and before the others, which it
    cannot hold up, since only so many of its kind run at once. Of these the one goes first whose last turn is longest
    ago: a new sync before one that goes on with its first fill. Others share runs with syncs of their own project, so
    that waiting to read one project holds up no other.
    """
    by_name = {sync.name: sync for sync in due}
    unknown: list[str] = []
    known = defaultdict[str, dict[str, float]](dict)
    for sync in due:
        seconds = ledger.expected_seconds(sync.name) if ledger else None
        if seconds is None:
            unknown.append(sync.name)
        else:
            known[sync.source][sync.name] = seconds
    for name in sorted(unknown, key=ledger.last_attempt) if ledger else unknown:
        yield [by_name[name]], UNKNOWN_LENGTH
    for expected in known.values():
        for run in pack(expected, capacity=cadence.value.total_seconds() / 3):
            yield [by_name[name] for name in run], {}
