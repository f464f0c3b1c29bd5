"""What declarations must not do to each other. Checked at load, so that a wrong file never becomes a wrong audience.

Only the declarations concerned cannot be loaded: both that claim one thing, the one that names what is not there, the
newest that a budget does not carry. The others are held against what is left.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

import dagster as dg

from cohort_pipelines.core.disk import encode_path_name
from cohort_pipelines.orchestration.declared import Declared, Unloadable, declared_in, unloadable
from cohort_pipelines.orchestration.invalid import (
    USABLE,
    BudgetTooSmall,
    CohortSentTwice,
    ConnectionUnknown,
    ConnectionUnloadable,
    DeclarationInvalid,
    DestinationsAlike,
    FirstWindowMisplaced,
    NameDoubled,
    PostProcessingInvalid,
    TargetClaimedTwice,
    TargetTooLong,
    TypeUnsupported,
    WatchedUnknown,
)
from cohort_pipelines.orchestration.partitions import CADENCES
from cohort_pipelines.orchestration.sentences import sentence

if TYPE_CHECKING:
    from cohort_pipelines.orchestration.alerts import Alerts
    from cohort_pipelines.orchestration.connections import Destination, MixpanelProject
    from cohort_pipelines.orchestration.sync import CohortSync

_PATH_NAME = 255  # bytes, where file systems stop

Wrong = Iterator[tuple[Declared, DeclarationInvalid]]


@dataclass(frozen=True, slots=True)
class Siblings:
    """A project's declarations that can be loaded, by name, and all those that cannot."""

    sources: Mapping[str, "MixpanelProject"]
    destinations: Mapping[str, "Destination"]
    syncs: Mapping[str, "CohortSync"]
    alerts: Mapping[str, "Alerts"]
    unloadable: Sequence[Unloadable]
    _wrong: Sequence[tuple[Declared, Unloadable]]

    @property
    def unloadable_syncs(self) -> dict[str, Unloadable]:
        """Those that were declared as syncs, or as something that cannot be told, by name."""
        return {self.called(each): each for each in self.unloadable if each.may_be_a_sync}

    def called(self, unloadable: Unloadable) -> str:
        """Return the name of ``unloadable``; its file, where the name is that of a sync which can be loaded."""
        return unloadable.file if unloadable.name in self.syncs else unloadable.name

    def unloadable_for(self, declared: Declared) -> Unloadable | None:
        """Return what stands in the place of ``declared``, where its siblings contradict it."""
        return next((instead for wrong, instead in self._wrong if wrong is declared), None)


_known: WeakKeyDictionary[object, Siblings] = WeakKeyDictionary()  # by the cache of a tree, which lives as long as it


def siblings_in(tree: dg.ComponentTree) -> Siblings:
    """Return what can be loaded of a project's declarations and what cannot, held against each other once."""
    if tree.state_tracker not in _known:
        _known[tree.state_tracker] = _held_against_each_other(tree)
    return _known[tree.state_tracker]


def _held_against_each_other(tree: dg.ComponentTree) -> Siblings:
    found = _Sorting(declared_in(tree))
    found.refuse(_doubled_names(found.left("source") + found.left("destination")))
    for role in ("sync", "alerts"):
        found.refuse(_doubled_names(found.left(role)))
    destinations = cast("list[Destination]", found.left("destination"))
    found.refuse(_alike(destinations))
    sources = {each.name: each for each in cast("list[MixpanelProject]", found.left("source"))}
    named = {each.name: each for each in cast("list[Destination]", found.left("destination"))}
    connections: list[tuple[str, Mapping[str, Declared]]] = [("source", sources), ("destination", named)]
    for role, known in connections:
        found.refuse(_unconnected(cast("list[CohortSync]", found.left("sync")), role, known, found.unloadable))
    for rule in (_unsupported, _claimed_twice, _sent_twice):
        found.refuse(rule(cast("list[CohortSync]", found.left("sync")), sources, named))
    found.refuse(_beyond_budget(cast("list[CohortSync]", found.left("sync")), sources))
    found.refuse(_wrongly_processed(cast("list[CohortSync]", found.left("sync")), sources, named))
    syncs = {each.name: each for each in cast("list[CohortSync]", found.left("sync"))}
    watchable = {*syncs, *(each.name for each in found.unloadable if each.may_be_a_sync)}
    found.refuse(_watching_unknown(cast("list[Alerts]", found.left("alerts")), watchable))
    alerts = {each.name: each for each in cast("list[Alerts]", found.left("alerts"))}
    return Siblings(sources, named, syncs, alerts, found.unloadable, found.wrong)


class _Sorting:
    """Declarations, and which of them were found to be wrong."""

    def __init__(self, declared: Sequence[Declared]) -> None:
        self._left = [each for each in declared if not isinstance(each, Unloadable)]
        self.unloadable = [each for each in declared if isinstance(each, Unloadable)]
        self.wrong: list[tuple[Declared, Unloadable]] = []

    def left(self, role: str) -> list[Declared]:
        return [each for each in self._left if each.role == role]

    def refuse(self, found: Wrong) -> None:
        for declared, error in list(found):
            instead = unloadable(declared, error)
            self.wrong.append((declared, instead))
            self.unloadable.append(instead)
            self._left = [each for each in self._left if each is not declared]


def _doubled_names(declared: Sequence[Declared]) -> Wrong:
    named = defaultdict(list)
    for each in declared:
        named[each.name].append(each)
    for name, twins in named.items():
        if len(twins) > 1:
            error = NameDoubled(name, _files(twins))
            yield from ((twin, error) for twin in twins)


def _alike(destinations: Sequence["Destination"]) -> Wrong:
    """Two declarations of one end would let two syncs write one target, or one green hide that another is empty."""
    ends = defaultdict(list)
    for destination in destinations:
        ends[destination.partner_kind, *destination.end].append(destination)
    for twins in ends.values():
        if len(twins) > 1:
            error = DestinationsAlike([each.name for each in twins], _files(twins))
            yield from ((twin, error) for twin in twins)


def _unconnected(
    syncs: Sequence["CohortSync"], role: str, known: Mapping[str, Declared], wrong: Sequence[Unloadable]
) -> Wrong:
    problems = {each.name: each.problem for each in wrong if not each.may_be_a_sync or not each.kind}
    for sync in syncs:
        name = sync.source if role == "source" else sync.destination
        if name in known:
            continue
        if name in problems:
            yield sync, ConnectionUnloadable(sync.name, role, name, problems[name], sync.file)
        else:
            yield sync, ConnectionUnknown(sync.name, role, name, known, sync.file)


def _unsupported(
    syncs: Sequence["CohortSync"],
    sources: Mapping[str, "MixpanelProject"],  # noqa: ARG001  every rule's arguments
    destinations: Mapping[str, "Destination"],
) -> Wrong:
    for sync in syncs:
        destination, scheduled = destinations[sync.destination], sync.type in CADENCES
        if sync.type not in destination.types:
            files = (sync.file, destination.file)
            yield sync, TypeUnsupported(sync.name, sync.type, destination.partner_kind, destination.types, files)
        elif destination.files and len(encode_path_name(sync.target)) > _PATH_NAME:
            yield sync, TargetTooLong(sync.name, (sync.file,))
        elif scheduled != (sync.since is not None):
            yield sync, FirstWindowMisplaced(sync.name, sync.type, scheduled=scheduled, file=sync.file)


def _claimed_twice(
    syncs: Sequence["CohortSync"],
    sources: Mapping[str, "MixpanelProject"],  # noqa: ARG001  every rule's arguments
    destinations: Mapping[str, "Destination"],  # noqa: ARG001
) -> Wrong:
    owners = defaultdict(list)
    for sync in syncs:
        owners[sync.destination, sync.target].append(sync)
    for (destination, target), rivals in owners.items():
        if len(rivals) > 1:
            error = TargetClaimedTwice([sync.name for sync in rivals], target, destination, _files(rivals))
            yield from ((rival, error) for rival in rivals)


def _sent_twice(
    syncs: Sequence["CohortSync"], sources: Mapping[str, "MixpanelProject"], destinations: Mapping[str, "Destination"]
) -> Wrong:
    """Two syncs of one cohort would write one group of a receiver that tells its groups by the cohort."""
    senders = defaultdict(list)
    for sync in syncs:
        if destinations[sync.destination].names_cohorts:
            senders[sync.destination, sources[sync.source].project_id, sync.cohort_id].append(sync)
    for (destination, _, cohort_id), rivals in senders.items():
        if len(rivals) > 1:
            error = CohortSentTwice([sync.name for sync in rivals], cohort_id, destination, _files(rivals))
            yield from ((rival, error) for rival in rivals)


def _beyond_budget(syncs: Sequence["CohortSync"], sources: Mapping[str, "MixpanelProject"]) -> Wrong:
    """Refuse the newest syncs of a project, by their first windows, that its queries do not carry."""
    projects = defaultdict(list)
    for sync in syncs:
        if sync.type in CADENCES:
            projects[sources[sync.source].project_id].append(sync)
    for project_id, scheduled in projects.items():
        views = [sources[name] for name in dict.fromkeys(sync.source for sync in scheduled)]
        granted = min(source.queries_per_hour for source in views)
        usable, needed = granted * USABLE, sum(CADENCES[sync.type].per_hour for sync in scheduled)
        files, planned = _files([*views, *scheduled]), 0.0
        for sync in sorted(scheduled, key=lambda each: (str(each.since), each.name)):
            planned += CADENCES[sync.type].per_hour
            if planned > usable:
                yield sync, BudgetTooSmall(sync.name, project_id, needed, granted, files)


def _wrongly_processed(
    syncs: Sequence["CohortSync"], sources: Mapping[str, "MixpanelProject"], destinations: Mapping[str, "Destination"]
) -> Wrong:
    """Try `post_processing` out, whose values Dagster would first look at when it builds the whole location."""
    siblings = Siblings(sources, destinations, {each.name: each for each in syncs}, {}, (), ())
    for sync in syncs:
        if sync.post_processors:
            try:
                built = sync.built(siblings)
                kept = _partitions(built) == _partitions(sync.processed(built))
            except Exception as error:  # noqa: BLE001  Dagster's, pydantic's, Jinja's, those of what a template calls
                yield sync, PostProcessingInvalid(sync.name, sentence(error), sync.file)
            else:
                if not kept:
                    problem = "the keys and partitions of a sync's assets cannot be changed"
                    yield sync, PostProcessingInvalid(sync.name, problem, sync.file)


def _partitions(built: dg.Definitions) -> dict[dg.AssetKey, dg.PartitionsDefinition | None]:
    assets = [each for each in built.assets or () if isinstance(each, dg.AssetsDefinition)]
    return {spec.key: spec.partitions_def for asset in assets for spec in asset.specs}


def _watching_unknown(alerts: Sequence["Alerts"], watchable: Iterable[str]) -> Wrong:
    for each in alerts:
        unknown = next((name for name in each.syncs if name not in watchable), None)
        if unknown is not None:
            yield each, WatchedUnknown(each.name, unknown, watchable, each.file)


def _files(declared: Sequence[Declared]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.file for each in declared))
