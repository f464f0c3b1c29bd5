"""What declarations must not do to each other. Checked at load, so that a wrong file never becomes a wrong audience."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from cohort_pipelines.orchestration.connections import Destination, MixpanelProject
from cohort_pipelines.orchestration.invalid import (
    BudgetTooSmall,
    CohortSentTwice,
    ConnectionUnknown,
    DestinationsAlike,
    FirstWindowMisplaced,
    TargetClaimedTwice,
    TypeUnsupported,
)
from cohort_pipelines.orchestration.partitions import CADENCES

if TYPE_CHECKING:
    from cohort_pipelines.orchestration.sync import CohortSync

RESERVE = 0.2  # of a project's queries, kept for people and other tools


def require_sound(
    syncs: Sequence["CohortSync"], sources: Mapping[str, MixpanelProject], destinations: Mapping[str, Destination]
) -> None:
    """Refuse declarations that cannot work together.

    Raises:
        DeclarationInvalid: a source or destination is unknown, a type is not the partner's, a scheduled sync has no
            first window, two syncs own one target or send one cohort to one receiver, two destinations cannot be told
            apart, or a project's queries cannot carry the cadences.
    """
    for sync in syncs:
        _require_known("source", sync.source, sources, sync)
        _require_known("destination", sync.destination, destinations, sync)
        _require_type(sync, destinations[sync.destination])
    _require_one_owner(syncs)
    _require_cohorts_once(syncs, sources, destinations)
    _require_distinct(destinations.values())
    _require_budget(sources.values(), syncs)


def _require_known(role: str, name: str, known: Iterable[str], sync: "CohortSync") -> None:
    if name not in known:
        raise ConnectionUnknown(sync.name, role, name, known, sync.file)


def _require_type(sync: "CohortSync", destination: Destination) -> None:
    if sync.type not in destination.types:
        files = (sync.file, destination.file)
        raise TypeUnsupported(sync.name, sync.type, destination.partner_kind, destination.types, files)
    scheduled = sync.type in CADENCES
    if scheduled != (sync.since is not None):
        raise FirstWindowMisplaced(sync.name, sync.type, scheduled=scheduled, file=sync.file)


def _require_one_owner(syncs: Sequence["CohortSync"]) -> None:
    owners = defaultdict(list)
    for sync in syncs:
        owners[sync.destination, sync.target].append(sync)
    for (destination, target), rivals in owners.items():
        if len(rivals) > 1:
            files = tuple(sync.file for sync in rivals)
            raise TargetClaimedTwice([sync.name for sync in rivals], target, destination, files)


def _require_cohorts_once(
    syncs: Sequence["CohortSync"], sources: Mapping[str, MixpanelProject], destinations: Mapping[str, Destination]
) -> None:
    """Two syncs of one cohort would write one group of a receiver that tells its groups by the cohort."""
    senders = defaultdict(list)
    for sync in syncs:
        if destinations[sync.destination].names_cohorts:
            senders[sync.destination, sources[sync.source].project_id, sync.cohort_id].append(sync)
    for (destination, _, cohort_id), rivals in senders.items():
        if len(rivals) > 1:
            files = tuple(sync.file for sync in rivals)
            raise CohortSentTwice([sync.name for sync in rivals], cohort_id, destination, files)


def _require_distinct(destinations: Iterable[Destination]) -> None:
    """Two declarations of one end would let two syncs write one target, or one green hide that another is empty."""
    ends = defaultdict(list)
    for destination in destinations:
        ends[destination.partner_kind, *destination.end].append(destination)
    for twins in ends.values():
        if len(twins) > 1:
            raise DestinationsAlike([each.name for each in twins], tuple(each.file for each in twins))


def _require_budget(sources: Iterable[MixpanelProject], syncs: Sequence["CohortSync"]) -> None:
    projects = defaultdict(list)
    for source in sources:
        projects[source.project_id].append(source)
    for project_id, views in projects.items():
        names = {source.name for source in views}
        scheduled = [sync for sync in syncs if sync.source in names and sync.type in CADENCES]
        needed = sum(CADENCES[sync.type].per_hour for sync in scheduled)
        granted = min(source.queries_per_hour for source in views)
        if needed > granted * (1 - RESERVE):
            files = (*(source.file for source in views), *(sync.file for sync in scheduled))
            raise BudgetTooSmall(project_id, needed, granted * (1 - RESERVE), granted, files)
