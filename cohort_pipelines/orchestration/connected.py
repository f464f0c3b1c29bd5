"""Is it connected? One answer for each connection and each sync, for the command line and for the asset check."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from cohort_pipelines import mixpanel
from cohort_pipelines.core import event_loop
from cohort_pipelines.core.errors import CohortPipelinesError
from cohort_pipelines.mixpanel import CheckedProject
from cohort_pipelines.orchestration.connections import Destination, MixpanelProject
from cohort_pipelines.orchestration.looked_after import ledger_findings
from cohort_pipelines.orchestration.resolved import ResolvedSync
from cohort_pipelines.orchestration.rules import siblings_in

if TYPE_CHECKING:  # it imports the checks, which import this
    from cohort_pipelines.orchestration.alerts import Alerts


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the connection check; ``warning``: it is connected, and a person should look at it all the same."""

    name: str
    connected: bool
    text: str
    warning: bool = False


def destination_connected(destination: Destination, sync: ResolvedSync | None = None) -> str:
    """Ask the partner, without changing an audience: for the target of ``sync``, if there is one.

    Raises:
        PartnerError, ConfigurationError: why it is not connected.
    """
    if sync is None:
        return event_loop.run(destination.partner().check(None))
    partner, target = sync.reached(destination)
    return event_loop.run(partner.check(target.name))


def sync_connected(sync: ResolvedSync, project: CheckedProject, destination: Destination) -> str:
    """Check what a sync needs beyond its project: the cohort, and the partner with the target.

    Raises:
        CohortPipelinesError: the first thing that is not as it should be.
    """
    cohort = project.cohort(sync.cohort_id)
    remark = destination_connected(destination, sync).removeprefix("Connected")
    remark += f"; {cohort.warning}" if cohort.warning else ""
    return f"Connected: {cohort.described} to {sync.target!r} in {sync.partner_kind}{remark}"


def check_all(tree: dg.ComponentTree, syncs: list[ResolvedSync]) -> Iterator[Finding]:
    """Check every connection, sync and alerts of a project, one after another; each Mixpanel project costs one query.

    First come declarations that cannot be loaded, last orphaned targets and pauses, if the ledger knows of any.
    """
    siblings = siblings_in(tree)
    destinations = siblings.destinations
    for wrong in siblings.unloadable:
        yield Finding(siblings.called(wrong), connected=False, text=wrong.problem)
    projects: dict[str, CheckedProject | CohortPipelinesError] = {}
    for name, source in siblings.sources.items():
        projects[name] = _checked(source)
        yield _finding(name, partial(_project_connected, projects[name]))
    for name, destination in destinations.items():
        first = next((sync for sync in syncs if sync.destination == name), None)
        yield _finding(name, partial(destination_connected, destination, first))
    for sync in syncs:
        yield _finding(sync.name, partial(_sync_connected, sync, projects[sync.source], destinations))
    for name, alerts in siblings.alerts.items():
        yield _finding(name, partial(_alerts_usable, alerts))
    for name, usable, text in ledger_findings(syncs, siblings.unloadable_syncs, destinations):
        yield Finding(name, connected=usable, text=text, warning=usable)


def _checked(source: MixpanelProject) -> CheckedProject | CohortPipelinesError:
    try:
        return mixpanel.check_project_and_cohorts(source.project())
    except CohortPipelinesError as error:
        return error


def _found(checked: CheckedProject | CohortPipelinesError) -> CheckedProject:
    if isinstance(checked, CohortPipelinesError):
        raise checked
    return checked


def _project_connected(checked: CheckedProject | CohortPipelinesError) -> str:
    return f"Connected: {_found(checked).connected}"


def _sync_connected(
    sync: ResolvedSync, checked: CheckedProject | CohortPipelinesError, destinations: Mapping[str, Destination]
) -> str:
    return sync_connected(sync, _found(checked), destinations[sync.destination])


def _alerts_usable(alerts: "Alerts") -> str:
    alerts.require_addresses()
    return f"Usable: {', '.join(alerts.channels)}; nothing was sent"


def _finding(name: str, ask: Callable[[], str]) -> Finding:
    try:
        return Finding(name, connected=True, text=ask())
    except CohortPipelinesError as error:
        return Finding(name, connected=False, text=str(error))
