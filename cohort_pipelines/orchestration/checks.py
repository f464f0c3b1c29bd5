"""Asset checks beside the inline ones: is the connection there, and is the audience fresh?"""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg

from cohort_pipelines import mixpanel
from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import CohortPipelinesError, HistoryError, LedgerUnusable
from cohort_pipelines.orchestration.connected import sync_connected
from cohort_pipelines.orchestration.resolved import ResolvedSync

CONNECTED = "connected"
FRESH = "fresh"
_BACKFILL_TAG = "dagster/backfill"  # on every run of a backfill, which runs an asset's checks too
FRESHNESS = {"dynamic": timedelta(days=1), "recurring": timedelta(hours=1)}


def build_checks(sync: ResolvedSync) -> list[dg.AssetChecksDefinition]:
    """Return the checks that can be run by themselves; freshness is promised for scheduled syncs only."""
    checks = [_connected(sync)]
    promise = FRESHNESS.get(sync.type)
    return [*checks, _fresh(sync, promise)] if promise else checks


def _connected(sync: ResolvedSync) -> dg.AssetChecksDefinition:
    spec = dg.AssetCheckSpec(
        CONNECTED,
        asset=sync.key("cohort_snapshot"),
        description="Connected, or why not: credential, plan, role, cohort, partner. Costs one Mixpanel query.",
    )

    @dg.multi_asset_check(
        name=f"{sync.name}__{CONNECTED}",
        specs=[spec],
        can_subset=True,  # it may yield nothing
        required_resource_keys={sync.source, sync.destination},
    )
    def connected(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        if _BACKFILL_TAG in context.run.tags:
            context.log.info("Not asked in a backfill: a query for each window would use up the project's hour.")
            return
        try:
            project = mixpanel.check_project_and_cohorts(getattr(context.resources, sync.source).project())
            found = sync_connected(sync, project, getattr(context.resources, sync.destination))
        except CohortPipelinesError as error:
            yield dg.AssetCheckResult(passed=False, description=str(error))
        else:
            yield dg.AssetCheckResult(passed=True, description=found)

    return connected


def _fresh(sync: ResolvedSync, promise: timedelta) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=sync.key("destination_upload"),
        name=FRESH,
        required_resource_keys={"records"},
        description=f"The newest delivered snapshot, by the ledger, is at most {promise} old.",
    )
    def fresh(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        try:
            newest = context.resources.records.ledger().newest_delivered(sync.name)
        except (LedgerUnusable, HistoryError) as error:
            return dg.AssetCheckResult(passed=False, description=str(error))
        if newest is None:
            return dg.AssetCheckResult(passed=False, description="Nothing was ever delivered.")
        age = clock.now() - newest.taken_at
        return dg.AssetCheckResult(
            passed=age <= promise,
            metadata={
                "age in minutes": round(age.total_seconds() / 60, 1),
                "taken at": dg.MetadataValue.timestamp(newest.taken_at),
                "window": newest.window,
            },
        )

    return fresh
