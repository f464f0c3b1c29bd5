"""What the ledger says that a check should tell: targets without a declared sync, and syncs that are paused."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from cohort_pipelines.core.changes import NamedCohort
from cohort_pipelines.core.errors import ConfigurationError, HistoryError, LedgerUnusable
from cohort_pipelines.ledger import Ledger, Target, TargetRecord, pauses, targets
from cohort_pipelines.orchestration.connections import Destination
from cohort_pipelines.orchestration.resolved import ResolvedSync
from cohort_pipelines.orchestration.resources import fitting_ledger

Told = tuple[str, bool, str]
"""What it is about, whether deliveries can go on all the same, and a sentence."""


def ledger_findings(
    syncs: Sequence[ResolvedSync], unloadable: Collection[str], destinations: Mapping[str, Destination]
) -> Iterator[Told]:
    """Yield what is to be told of the ledger; nothing where all is well, or none was made yet. It is not changed.

    ``unloadable`` are the names of syncs that are declared and cannot be loaded: what they own is not orphaned.
    """
    try:
        if ledger := fitting_ledger():
            yield from _orphans(ledger, syncs, unloadable, destinations)
            yield from _pauses(ledger, [*(sync.name for sync in syncs), *unloadable])
    except LedgerUnusable as error:
        yield "ledger", False, str(error)
    except HistoryError as error:  # without which it is not known whether the ledger is the right one
        yield "history", False, str(error)


def _orphans(
    ledger: Ledger,
    syncs: Sequence[ResolvedSync],
    unloadable: Collection[str],
    destinations: Mapping[str, Destination],
) -> Iterator[Told]:
    declared = {sync.name: _reached(sync, destinations[sync.destination]) for sync in syncs}
    known = [(name, reached[0]) for name, reached in declared.items() if reached]
    for each in targets.orphans(ledger, known):
        if each.owner in unloadable or (each.owner in declared and declared[each.owner] is None):
            continue  # that its declaration, or a setting of its destination, cannot be used is told of these
        heir = next((name for name, target in known if target == each.target), None)
        yield f"target {each.target.name!r}", True, _what_to_do(each, heir, declared=each.owner in declared)
    for each in targets.all_targets(ledger):
        target, cohort = declared.get(each.owner) or (None, None)
        if each.target == target and each.retired is None and each.is_left_by(cohort):
            told = f"{_where(each)} is declared for another cohort: cohort-pipelines retarget {each.owner}"
            yield f"target {each.target.name!r}", True, told


def _what_to_do(orphan: TargetRecord, heir: str | None, *, declared: bool) -> str:
    if declared:
        return f"{_where(orphan)} is declared for another: cohort-pipelines retarget {orphan.owner}"
    gone = f"{_where(orphan)} is not declared any more"
    if heir:
        return f"{gone}; {heir}, which is declared for it, takes it over with: cohort-pipelines retarget {heir}"
    return f"{gone}; they stay there until: cohort-pipelines retire {orphan.owner}"


def _where(record: TargetRecord) -> str:
    where = f"up to {record.held:,} users in {record.target.wire} at {record.target.host}"
    return f"{where}, and its owner {record.owner}"


def _pauses(ledger: Ledger, syncs: Iterable[str]) -> Iterator[Told]:
    for sync in syncs:
        if pause := pauses.paused(ledger, sync):
            since = f"{pause.at:%Y-%m-%d %H:%M} UTC" if pause.at else "now"
            told = f"paused by {pause.who} since {since}: {pause.why}; cohort-pipelines resume {sync}"
            yield f"pause of {sync}", True, told


def _reached(sync: ResolvedSync, destination: Destination) -> tuple[Target, NamedCohort | None] | None:
    try:
        partner, target = sync.reached(destination)
    except ConfigurationError:
        return None
    return target, partner.cohort
