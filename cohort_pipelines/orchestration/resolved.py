"""All that a sync's assets, checks and schedule need to know, once its declaration has been looked up."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal

import dagster as dg

from cohort_pipelines.core import clock
from cohort_pipelines.core.windows import Cadence, Window, one_time_window
from cohort_pipelines.delivery import Gates
from cohort_pipelines.identity import IdRule
from cohort_pipelines.ledger import Target
from cohort_pipelines.membership import Terms
from cohort_pipelines.orchestration.connections import Destination, Partner, SyncType, target_named

COUNTS_ADD_UP = "counts_add_up"
NO_DUPLICATES = "no_duplicates"
DELIVERED = "delivered"
STAGES = ("cohort_snapshot", "identified_users", "partner_payload", "destination_upload")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedSync:
    """One sync, resolved: ``source`` and ``destination`` are resource keys; a one-time export has no cadence.

    ``reading`` says how Mixpanel is read for it: syncs that read a cohort alike can share a snapshot.
    """

    name: str
    source: str
    project_id: int
    cohort_id: int
    destination: str
    partner_kind: str
    target: str
    type: SyncType
    cadence: Cadence | None
    since: date | None
    partitions_def: dg.PartitionsDefinition
    rule: IdRule
    anonymous_members: Literal["fetch", "skip"]
    reading: Mapping[str, str]
    gates: Gates
    terms: Terms
    link: str
    owners: tuple[str, ...]

    def key(self, stage: str) -> dg.AssetKey:
        """Return the key of one of the sync's assets."""
        return dg.AssetKey([self.name, stage])

    @property
    def keys(self) -> list[dg.AssetKey]:
        """The sync's assets in their order."""
        return [self.key(stage) for stage in STAGES]

    @property
    def payload_checks(self) -> list[dg.AssetCheckKey]:
        """The checks that a materialization of the payload yields by itself."""
        return [dg.AssetCheckKey(self.key("partner_payload"), name) for name in (COUNTS_ADD_UP, NO_DUPLICATES)]

    @property
    def inline_checks(self) -> list[dg.AssetCheckKey]:
        """The checks that materializations of all four assets yield by themselves: each gate that is on is one."""
        upload = self.key("destination_upload")
        return [
            *self.payload_checks,
            *(dg.AssetCheckKey(upload, name) for name in (*self.gates.names, DELIVERED)),
        ]

    def reached(self, destination: Destination) -> tuple[Partner, Target]:
        """Return the wire of its ``destination``, and the target that it is declared for there.

        Raises:
            ConfigurationError: a setting of the destination cannot be used.
        """
        partner = destination.partner(project_id=self.project_id, cohort_id=self.cohort_id)
        return partner, target_named(partner, self.target)

    def open_window(self, export: str) -> Window:
        """Return the window that is open now; a one-time export has none, and what is made now is called ``export``."""
        return self.cadence.window_at(clock.now()) if self.cadence else one_time_window(export)

    @property
    def job(self) -> str:
        """The job that runs the sync: all of its cadence share one, a one-time export has its own."""
        return f"{self.name}_export" if self.cadence is None else f"{self.type}_syncs"
