"""What moving or ending a sync comes to: which targets it leaves, how each is emptied, and which one it takes over.

It is worked out before anybody is asked, and again by the job that does it: nothing is begun that cannot be done.
"""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

from cohort_pipelines.core.errors import ConfigurationError, TargetNotKnown
from cohort_pipelines.ledger import Ledger, Target, TargetRecord, targets
from cohort_pipelines.membership import Terms
from cohort_pipelines.orchestration.connections import Destination, Partner, target_named
from cohort_pipelines.orchestration.resolved import ResolvedSync

Syncs = Mapping[str, ResolvedSync]
Destinations = Mapping[str, Destination]


@dataclass(frozen=True, slots=True)
class Leaving:
    """A target that a sync leaves: emptied over ``partner``, or as it is where that is None."""

    record: TargetRecord
    partner: Partner | None
    terms: Terms

    def __str__(self) -> str:
        """Say what becomes of its members."""
        target, users = self.record.target, f"up to {self.record.held:,} users"
        if self.partner is None:
            return f"{target.name!r} ({target.wire}) is given up as it is: {users} stay there."
        return f"{target.name!r} ({target.wire}) is emptied: {users} leave it."


@dataclass(frozen=True, slots=True)
class Move:
    """What a sync does that was declared for another target, or renamed.

    Attributes:
        leaves: the targets that it owns beside the declared one.
        declared: the one that it is declared for.
        taken: that one, where it belongs to another sync; one that was given up is taken by the next delivery.
        owners: which sync is declared for which target, as far as ``taken`` concerns it.
    """

    leaves: tuple[Leaving, ...]
    declared: Target
    taken: TargetRecord | None
    owners: tuple[tuple[str, Target], ...]

    def __iter__(self) -> Iterator[str]:
        """Say it, a sentence for each target."""
        yield from map(str, self.leaves)
        if self.taken is not None:
            users = f"with up to {self.taken.held:,} users"
            yield f"{self.declared.name!r} ({self.declared.wire}), {users}, is taken over from {self.taken.owner}."


def move(
    ledger: Ledger,
    syncs: Syncs,
    unloadable: Container[str],
    destinations: Destinations,
    sync: ResolvedSync,
    *,
    forget: bool,
) -> Move:
    """Work out what it takes for ``sync`` to own the target that it is declared for, and no other.

    Args:
        ledger: who owns what.
        syncs: all that can be loaded, by name.
        unloadable: the names of those that are declared and cannot be loaded.
        destinations: all that are declared.
        sync: the one that has moved, or was renamed.
        forget: leave the targets that it had as they are.

    Raises:
        TargetNotKnown: a target cannot be reached, or another sync is declared for the one that is wanted, or may be.
        ConfigurationError: a setting that is needed to tell cannot be used.
    """
    partner, declared = sync.reached(destinations[sync.destination])
    leaves = [
        _leaving(syncs, destinations, each, forget=forget)
        for each in targets.owned_elsewhere(ledger, sync.name, declared, partner.cohort)
    ]
    owned = (each for each in targets.all_targets(ledger) if each.target == declared and each.retired is None)
    taken = next((each for each in owned if each.owner != sync.name), None)
    owners: tuple[tuple[str, Target], ...] = ()
    if taken and taken.written and taken.owner in unloadable:
        problem = f"it is {taken.owner}'s, whose declaration cannot be loaded; correct that, or retire {taken.owner}"
        raise TargetNotKnown(sync.name, problem)
    if taken and taken.written and (owner := syncs.get(taken.owner)):
        owners = ((owner.name, owner.reached(destinations[owner.destination])[1]),)
        targets.require_given_up(declared, owner.name, sync.name, owners)
    return Move(tuple(leaves), declared, taken, owners)


def retirement(ledger: Ledger, syncs: Syncs, destinations: Destinations, name: str, *, forget: bool) -> list[Leaving]:
    """Work out what it takes to end the sync called ``name``, which need not be declared; ``forget``: see :func:`move`.

    Raises:
        TargetNotKnown: it owns no target, or one that cannot be reached.
        ConfigurationError: a setting that is needed to tell cannot be used.
    """
    owned = [each for each in targets.all_targets(ledger) if each.owner == name and each.retired is None]
    if not owned:
        raise TargetNotKnown(name, "it owns no target")
    return [_leaving(syncs, destinations, each, forget=forget) for each in owned]


def _leaving(syncs: Syncs, destinations: Destinations, record: TargetRecord, *, forget: bool) -> Leaving:
    if forget or not record.written:  # of what was never written there is nothing to empty
        return Leaving(record, None, Terms())
    owner = syncs.get(record.owner)
    # in the name of which its audience was sent: what is declared may be another cohort by now, or nothing any more
    known = (owner.project_id, owner.cohort_id) if owner else (0, 0)
    project_id, cohort_id = record.cohort or known
    unusable: ConfigurationError | None = None
    for destination in destinations.values():
        try:
            partner = destination.partner(project_id=project_id, cohort_id=cohort_id)
        except ConfigurationError as error:  # of a destination that may well be another one
            unusable = unusable or error
            continue
        if target_named(partner, record.target.name) == record.target:
            return Leaving(record, partner, destination.terms())
    if unusable:
        raise unusable
    where = f"{record.target.name!r} ({record.target.wire} at {record.target.host})"
    way = "declare it again to empty the target, or give it up as it is with --forget"
    raise TargetNotKnown(record.owner, f"no destination that can be loaded reaches {where}; {way}")
