"""The four assets of a sync: what was read, who is identified, what the partner shall hold, what was delivered.

They write their own Parquet files and return numbers, never rows: no user id reaches Dagster's log or metadata.
"""

from typing import TYPE_CHECKING

import dagster as dg

from cohort_pipelines.orchestration import metadata
from cohort_pipelines.orchestration.resolved import COUNTS_ADD_UP, NO_DUPLICATES, ResolvedSync
from cohort_pipelines.orchestration.sealing import seal_snapshot
from cohort_pipelines.orchestration.step import step
from cohort_pipelines.orchestration.upload import build_upload
from cohort_pipelines.snapshots import deriving

if TYPE_CHECKING:
    Materialized = dg.MaterializeResult[None]
else:
    Materialized = dg.MaterializeResult  # dagster reads the annotation, and knows only the bare class


class SnapshotConfig(dg.Config):
    """How to take a snapshot of a window that has one already."""

    refresh: bool = False
    """Read Mixpanel again, while the window is open; the earlier version stays in the history."""


def build_assets(sync: ResolvedSync) -> list[dg.AssetsDefinition]:
    """Return the chain of assets of one sync."""
    return [_cohort_snapshot(sync), _identified_users(sync), _partner_payload(sync), build_upload(sync)]


def _cohort_snapshot(sync: ResolvedSync) -> dg.AssetsDefinition:
    @dg.asset(
        key=sync.key("cohort_snapshot"),
        group_name=sync.name,
        partitions_def=sync.partitions_def,
        kinds={"mixpanel", "parquet"},
        owners=sync.owners,
        required_resource_keys={sync.source, "records"},
        description=(
            f"Every member of Mixpanel cohort {sync.cohort_id} in one window, proven complete, never changed "
            "afterwards. It can only be taken while its window is open; a sealed one is kept and not read again."
        ),
    )
    def cohort_snapshot(context: dg.AssetExecutionContext, config: SnapshotConfig) -> Materialized:
        with step(sync, context) as at:
            return dg.MaterializeResult(metadata=seal_snapshot(sync, context, at, refresh=config.refresh))

    return cohort_snapshot


def _identified_users(sync: ResolvedSync) -> dg.AssetsDefinition:
    @dg.asset(
        key=sync.key("identified_users"),
        deps=[sync.key("cohort_snapshot")],
        group_name=sync.name,
        partitions_def=sync.partitions_def,
        kinds={"parquet"},
        owners=sync.owners,
        required_resource_keys={"records"},
        description="The members with at least one profile property. Anonymous members are counted and go no further.",
    )
    def identified_users(context: dg.AssetExecutionContext) -> Materialized:
        with step(sync, context) as at:
            snapshot = at.ledger.snapshot(sync.name, at.window.key)
            found = deriving.filter_identified(at.history, snapshot.file)
            at.ledger.record_identified(snapshot.seq, found.file)
        return dg.MaterializeResult(metadata=metadata.of_identified(found))

    return identified_users


def _partner_payload(sync: ResolvedSync) -> dg.AssetsDefinition:
    key = sync.key("partner_payload")

    @dg.asset(
        key=key,
        deps=[sync.key("identified_users")],
        group_name=sync.name,
        partitions_def=sync.partitions_def,
        kinds={"parquet", sync.partner_kind},
        owners=sync.owners,
        required_resource_keys={"records"},
        check_specs=[
            dg.AssetCheckSpec(
                COUNTS_ADD_UP, asset=key, description="Payload and excluded together are the cohort's members."
            ),
            dg.AssetCheckSpec(NO_DUPLICATES, asset=key, description="No partner user id stands in the payload twice."),
        ],
        description=(
            f"The user ids that {sync.target!r} shall hold, a sorted set; beside it who is excluded, and why."
        ),
    )
    def partner_payload(context: dg.AssetExecutionContext) -> Materialized:
        with step(sync, context) as at:
            snapshot = at.ledger.snapshot(sync.name, at.window.key)
            identified = at.ledger.identified(snapshot.seq)
            payload = deriving.build_payload(at.history, snapshot.file, identified, sync.rule)
            at.ledger.record_payload(snapshot.seq, payload.file, payload.excluded, payload.excluded_by_reason)
            duplicates = deriving.duplicate_ids(at.history, payload.file)
        members = payload.users + sum(payload.excluded_by_reason.values())
        return dg.MaterializeResult(
            metadata=metadata.of_payload(payload, snapshot.rows),
            check_results=[
                dg.AssetCheckResult(
                    check_name=COUNTS_ADD_UP,
                    passed=members == snapshot.rows,
                    metadata={"payload and excluded": members, "members": snapshot.rows},
                ),
                dg.AssetCheckResult(
                    check_name=NO_DUPLICATES, passed=duplicates == 0, metadata={"duplicates": duplicates}
                ),
            ],
        )

    return partner_payload
