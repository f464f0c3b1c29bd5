"""What the ledger says that a check should tell: targets that nobody looks after, and syncs that are paused."""

from collections.abc import Iterator, Mapping, Sequence

from cohort_pipelines.delivery import Ledger, Target, pausing, targets
from cohort_pipelines.delivery.targets import TargetRecord
from cohort_pipelines.errors import DestinationInvalid, LedgerUnusable, MissingVariable
from cohort_pipelines.orchestration.connections import Destination
from cohort_pipelines.orchestration.resolved import ResolvedSync
from cohort_pipelines.orchestration.resources import fitting_ledger

Told = tuple[str, bool, str]
"""What it is about, whether deliveries can go on all the same, and a sentence."""


def ledger_findings(syncs: Sequence[ResolvedSync], destinations: Mapping[str, Destination]) -> Iterator[Told]:
    """Yield what is to be told of the ledger; nothing where all is well, or none was made yet. It is not changed."""
    try:
        if ledger := fitting_ledger():
            yield from _orphans(ledger, syncs, destinations)
            yield from _pauses(ledger, syncs)
    except LedgerUnusable as error:
        yield "ledger", False, str(error)


def _orphans(ledger: Ledger, syncs: Sequence[ResolvedSync], destinations: Mapping[str, Destination]) -> Iterator[Told]:
    declared = {sync.name: _target(sync, destinations[sync.destination]) for sync in syncs}
    known = [(name, target) for name, target in declared.items() if target]
    for each in targets.orphans(ledger, known):
        if each.owner in declared and declared[each.owner] is None:
            continue  # a setting cannot be used, which is told of its destination
        heir = next((name for name, target in known if target == each.target), None)
        yield f"target {each.target.name!r}", True, _what_to_do(each, heir, declared=each.owner in declared)
    for sync in syncs:
        if target := declared[sync.name]:
            cohort = sync.reached(destinations[sync.destination])[0].cohort
            for moved in targets.owned_elsewhere(ledger, sync.name, target, cohort):
                if moved.target == target:
                    yield f"target {target.name!r}", True, _of_another_cohort(moved)


def _what_to_do(orphan: TargetRecord, heir: str | None, *, declared: bool) -> str:
    where = f"up to {orphan.held:,} users in {orphan.target.wire} at {orphan.target.host}"
    owner = f"its owner {orphan.owner}"
    if declared:
        return f"{where}, and {owner} is declared for another: cohort-pipelines retarget {orphan.owner}"
    gone = f"{where}, and {owner} is not declared any more"
    if heir:
        return f"{gone}; {heir}, which is declared for it, takes it over with: cohort-pipelines retarget {heir}"
    return f"{gone}; they stay there until: cohort-pipelines retire {orphan.owner}"


def _of_another_cohort(target: TargetRecord) -> str:
    where = f"up to {target.held:,} users in {target.target.wire} at {target.target.host}"
    owner = f"its owner {target.owner} is declared for another cohort"
    return f"{where}, and {owner}: cohort-pipelines retarget {target.owner}"


def _pauses(ledger: Ledger, syncs: Sequence[ResolvedSync]) -> Iterator[Told]:
    for sync in syncs:
        if pause := pausing.paused(ledger, sync.name):
            since = f"{pause.at:%Y-%m-%d %H:%M} UTC" if pause.at else "now"
            told = f"paused by {pause.who} since {since}: {pause.why}; cohort-pipelines resume {sync.name}"
            yield f"pause of {sync.name}", True, told


def _target(sync: ResolvedSync, destination: Destination) -> Target | None:
    try:
        return sync.reached(destination)[1]
    except (MissingVariable, DestinationInvalid):
        return None
