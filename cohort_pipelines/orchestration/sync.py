"""The declaration "this cohort to this target, in this way", and what it becomes."""

from dataclasses import replace
from datetime import date
from typing import Annotated, ClassVar, Literal

import dagster as dg
from pydantic import Field

from cohort_pipelines.core import settings
from cohort_pipelines.delivery import Gates
from cohort_pipelines.membership import NO_FILE, Terms
from cohort_pipelines.orchestration.assets import build_assets
from cohort_pipelines.orchestration.checks import build_checks
from cohort_pipelines.orchestration.connections import SyncType
from cohort_pipelines.orchestration.declared import NUMBER, Declared, Id, Reference, Text
from cohort_pipelines.orchestration.invalid import LinkInvalid
from cohort_pipelines.orchestration.metadata import is_web_address
from cohort_pipelines.orchestration.partitions import CADENCES, export_partitions, scheduled_partitions
from cohort_pipelines.orchestration.resolved import ResolvedSync
from cohort_pipelines.orchestration.rules import Siblings, siblings_in
from cohort_pipelines.orchestration.sync_scaffolder import SyncScaffolder

_FIRST_DAY, _LAST_DAY = date(2009, 1, 1), date(2099, 12, 31)  # Mixpanel's first year; what windows can be counted to

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), NUMBER]
Ratio = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False), NUMBER]
Count = Annotated[int, Field(ge=0, le=1_000_000_000), NUMBER]
Day = Annotated[
    date, Field(ge=_FIRST_DAY, le=_LAST_DAY), dg.Resolver(lambda _context, value: value, model_field_type=str)
]


class GateSettings(dg.Resolvable, dg.Model):
    """What an overwrite must not do unasked: see :class:`cohort_pipelines.delivery.Gates`."""

    min_users: Count = Gates().min_users
    max_shrink: Share = Gates().max_shrink
    max_growth: Ratio | None = Gates().max_growth
    max_churn: Ratio | None = Gates().max_churn
    min_identified_share: Share = Gates().min_identified_share
    min_mapped_share: Share = Gates().min_mapped_share
    allow_empty: bool = Gates().allow_empty


@dg.scaffold_with(SyncScaffolder)
class CohortSync(Declared, dg.Model):
    """One Mixpanel cohort, to one target: four assets, their checks, a place in the cadence's schedule."""

    role: ClassVar[str] = "sync"

    source: Text
    cohort_id: Id
    destination: Text
    target: Annotated[Text, Field(min_length=1)]
    type: SyncType
    since: Day | None = None
    anonymous_members: Literal["fetch", "skip"] = "fetch"
    gates: GateSettings = GateSettings()
    initial_members: Annotated[Text, Field(min_length=1)] = Terms().initial_members
    initial_members_have_header: bool = Terms().initial_members_have_header
    rejection_tolerance: Count = Terms().rejection_tolerance
    link: Reference = ""
    owners: tuple[Text, ...] = ()

    def require_usable(self) -> None:
        """Refuse owners that Dagster does not take, a baseline that is no path, and a link that is no web address.

        Raises:
            PathInvalid: the baseline lies in the home folder of a user who has none.
            LinkInvalid: it is of another scheme.
        """
        dg.AssetSpec(self.name, owners=self.owners)  # which would fail later, and stop the others
        settings.local_path(self.initial_members)  # likewise
        if self.link and not is_web_address(self.link) and not self.link.strip().startswith("{{"):
            raise LinkInvalid(self.name, self.file)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Build the sync's assets and checks, unless its siblings contradict it."""
        siblings = siblings_in(context.component_tree)
        if wrong := siblings.unloadable_for(self):
            return wrong.build_defs(context)
        return self.processed(self.built(siblings))

    def built(self, siblings: Siblings) -> dg.Definitions:
        """Return the sync's assets and checks, as they are before `post_processing`."""
        resolved = self.resolved(siblings)
        return dg.Definitions(assets=build_assets(resolved), asset_checks=build_checks(resolved))

    def resolved(self, siblings: Siblings) -> ResolvedSync:
        """Look up the connections, and return all that the sync's assets need to know."""
        source, destination = siblings.sources[self.source], siblings.destinations[self.destination]
        cadence = CADENCES.get(self.type)
        terms = replace(
            destination.terms(),
            initial_members=self.initial_members
            if self.initial_members in NO_FILE
            else str(settings.local_path(self.initial_members)),
            initial_members_have_header=self.initial_members_have_header,
            rejection_tolerance=self.rejection_tolerance,
        )
        rule = replace(destination.id_rule(source.id_merge), equality=terms.id_equality)
        return ResolvedSync(
            name=self.name,
            source=self.source,
            project_id=source.project_id,
            cohort_id=self.cohort_id,
            destination=self.destination,
            partner_kind=destination.partner_kind,
            target=self.target,
            type=self.type,
            cadence=cadence,
            since=self.since,
            partitions_def=(
                scheduled_partitions(
                    cadence, [each.since for each in siblings.syncs.values() if each.type == self.type and each.since]
                )
                if cadence
                else export_partitions(self.name)
            ),
            rule=rule,
            anonymous_members=self.anonymous_members,
            reading={
                "view": f"{source.api_url or source.region}/{source.workspace_id or ''}",
                "anonymous_members": self.anonymous_members,
                "properties": ",".join(rule.properties),
            },
            gates=Gates(**self.gates.model_dump()),
            terms=terms,
            link=self.link,
            owners=self.owners,
        )
