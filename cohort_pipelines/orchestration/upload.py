"""The upload: the asset that delivers, and what it shows of gates that held and of deliveries that are not through yet.

The gates are judged within the delivery, so that no way of starting it slips past them; the checks only show it.
"""

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from cohort_pipelines import delivery
from cohort_pipelines.core import clock, progress
from cohort_pipelines.core.errors import (
    CohortPipelinesError,
    DeliveryDeferred,
    DeliverySuperseded,
    LedgerUnusable,
    SyncPaused,
)
from cohort_pipelines.delivery import judging
from cohort_pipelines.ledger import Ledger
from cohort_pipelines.orchestration import metadata
from cohort_pipelines.orchestration.limits import deadline
from cohort_pipelines.orchestration.resolved import DELIVERED, ResolvedSync
from cohort_pipelines.orchestration.step import Step, step

if TYPE_CHECKING:
    Results = Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]
else:
    Results = Iterator[dg.MaterializeResult]  # dagster reads the annotation, and knows only the bare class

GATES = {
    "min_users": "The payload has enough users.",
    "max_shrink": "The audience does not shrink too much, and not too many who are in it are removed.",
    "max_growth": "The audience does not grow too much.",
    "max_churn": "Not too many join and leave at once.",
    "min_identified_share": "Enough of the cohort's members are identified.",
    "min_mapped_share": "Enough of the identified users have a partner id.",
}


def build_upload(sync: ResolvedSync) -> dg.AssetsDefinition:
    """Return the asset that delivers, with a check for each gate that is on, and one that it came to its end."""
    key = sync.key("destination_upload")

    # a plain asset must yield all of its checks, and one that is superseded or stopped comes to none: can_subset
    @dg.multi_asset(
        name=key.to_python_identifier(),
        specs=[
            dg.AssetSpec(
                key,
                deps=[sync.key("partner_payload")],
                skippable=True,
                group_name=sync.name,
                partitions_def=sync.partitions_def,
                kinds={sync.partner_kind},
                owners=sync.owners,
                description=(
                    f"{sync.target!r} in {sync.partner_kind}, made equal to the payload: only the difference is sent. "
                    "Green with a materialization means delivered. A delivery that yields at its deadline or is paused "
                    "fails the check `delivered` and yields nothing; nor does an older audience than the delivered one."
                ),
            )
        ],
        check_specs=[
            *(dg.AssetCheckSpec(name, asset=key, description=GATES[name]) for name in sync.gates.names),
            dg.AssetCheckSpec(
                DELIVERED, asset=key, description="The whole plan was sent, and not only what its window had time for."
            ),
        ],
        can_subset=True,
        required_resource_keys={sync.source, sync.destination, "records"},
    )
    def destination_upload(context: dg.AssetExecutionContext) -> Results:
        if key not in context.selected_asset_keys:
            context.log.info("Gates are judged when something is delivered: materialize the upload.")
            return
        wanted = context.selected_asset_check_keys  # Dagster warns of a result that was not asked for
        with step(sync, context) as at:
            for each in _upload(sync, context, at):
                if isinstance(each, dg.MaterializeResult) or dg.AssetCheckKey(key, str(each.check_name)) in wanted:
                    yield each

    return destination_upload


def _upload(sync: ResolvedSync, context: dg.AssetExecutionContext, at: Step) -> Results:
    """Deliver, and yield what the gates found, however that ended; it may have ended before it came to them."""
    try:
        receipt = _deliver(sync, context, at)
    except DeliverySuperseded as superseded:
        context.log.warning("%s", superseded)
        return
    except (DeliveryDeferred, SyncPaused) as later:
        context.log.warning("%s", later)
        yield from verdicts(sync, at.ledger, context.run.run_id)
        yield dg.AssetCheckResult(
            check_name=DELIVERED,
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            description=str(later),
            metadata=metadata.of_deferred(later) if isinstance(later, DeliveryDeferred) else {},
        )
        return
    except CohortPipelinesError:
        yield from verdicts(sync, at.ledger, context.run.run_id)
        raise
    yield dg.MaterializeResult(metadata=metadata.of_receipt(receipt, sync, at.ledger.windows(sync.name)))
    yield from verdicts(sync, at.ledger, context.run.run_id)
    yield dg.AssetCheckResult(check_name=DELIVERED, passed=True, metadata={"state": receipt.state.value})


def verdicts(sync: ResolvedSync, ledger: Ledger, run_id: str) -> Iterator[dg.AssetCheckResult]:
    """Yield what the gates found; one that held what was approved warns, and says by whose word it was let go."""
    try:
        found, approval = judging.judged(ledger, sync.name, run_id)
    except LedgerUnusable:  # how the delivery itself ended is what is to be said
        return
    for verdict in found:
        yield dg.AssetCheckResult(
            check_name=verdict.name,
            passed=not verdict.held,
            severity=dg.AssetCheckSeverity.WARN if approval else dg.AssetCheckSeverity.ERROR,
            description=verdict.finding,
            metadata=metadata.of_verdict(verdict, approval if verdict.held else None),
        )


def _deliver(sync: ResolvedSync, context: dg.AssetExecutionContext, at: Step) -> delivery.Receipt:
    snapshot = at.ledger.snapshot(sync.name, at.window.key)
    partner, target = sync.reached(getattr(context.resources, sync.destination))
    return delivery.deliver(
        ledger=at.ledger,
        history=at.history,
        partner=partner,
        target=target,
        sync=sync.name,
        window=at.window,
        payload=at.ledger.payload(snapshot.seq),
        snapshot_seq=snapshot.seq,
        gates=sync.gates,
        terms=sync.terms,
        run_id=context.run.run_id,
        deadline=deadline(context, sync.cadence, at.window),
        requested=_requested(context),
        on_progress=partial(progress.report, sync.name, "destination_upload"),
    )


def _requested(context: dg.AssetExecutionContext) -> datetime | None:
    """Return when the run was asked for, before it waited in the queue."""
    record = context.instance.get_run_record_by_id(context.run.run_id)
    return record.create_timestamp + clock.offset() if record else None
