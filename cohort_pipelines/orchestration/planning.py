"""What the next delivery of a sync would do, and what a restore would: looked at, and nothing of it recorded."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cohort_pipelines.core import settings
from cohort_pipelines.core.errors import NothingToRestore, NotSealedYet, TargetNotKnown
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.delivery import Preview, Wanted, excluded_of, newest_payload, preview, restorable
from cohort_pipelines.history import History, Overlay, laid_over
from cohort_pipelines.ledger import AttemptKind, Ledger, Target, targets
from cohort_pipelines.orchestration import moving
from cohort_pipelines.orchestration.connections import Partner
from cohort_pipelines.orchestration.launch import Declarations
from cohort_pipelines.orchestration.resolved import ResolvedSync
from cohort_pipelines.orchestration.resources import fitting_ledger
from cohort_pipelines.snapshots import deriving, take_snapshot

_NEXT_EXPORT = "next export"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Queries of a Mixpanel project: an hour's grant, and what its schedules use of it.

    Attributes:
        granted: queries an hour.
        sync: what this sync uses of them, an hour; 0 for a one-time export, which uses one each time.
        project: what all syncs of the project use together, where none shares a snapshot with another.
        spent: queries that looking at it has just cost.
    """

    granted: int
    sync: float
    project: float
    spent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would be delivered, where it comes from, and what the target would be told.

    Attributes:
        sync: the sync's name.
        window: the window that is open now, or that of the sealed payload.
        one_time: whether windows are one-time exports; the next one has no name yet.
        sealed: whether it is a sealed payload; else Mixpanel was read.
        taken_at: when the snapshot was taken.
        members: the cohort's members in it.
        identified: those with a profile.
        excluded: members who are not in the payload, by reason.
        preview: what a delivery would do with it.
        budget: the queries of the Mixpanel project.
    """

    sync: str
    window: str
    one_time: bool
    sealed: bool
    taken_at: datetime
    members: int
    identified: int
    excluded: Mapping[str, int]
    preview: Preview
    budget: Budget


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A payload and where it comes from; ``seq`` is None for a snapshot that is not recorded."""

    payload: StoredFile
    window: str
    taken_at: datetime
    members: int
    identified: int
    excluded: Mapping[str, int]
    seq: int | None = None
    queries: int = 0


def plan(project: Declarations, name: str, *, sealed: bool = False) -> Plan:
    """Read the cohort once (``sealed``: take the newest sealed payload instead), and say what delivering it would do.

    Everything is worked out in a temporary folder. Ledger, history and partner stay as they are.

    Raises:
        SyncUnknown: the project declares no such sync.
        VariableUnusable, MixpanelError: the cohort could not be read.
        NotSealedYet: with ``sealed``, there is no payload yet.
        HistoryError, LedgerUnusable: what was sent before cannot be read.
    """
    sync, ledger = project.sync(name), fitting_ledger()
    with laid_over(History(settings.history_root())) as history:
        found = _newest_sealed(sync, ledger) if sealed else _read(project, sync, history)
        return _planned(project, sync, ledger, history, found)


def plan_restore(project: Declarations, name: str, window: str) -> Plan:
    """Say what restoring the payload of ``window`` would do; nothing is asked of anybody.

    Raises:
        SyncUnknown: the project declares no such sync.
        NothingToRestore: nothing was delivered in ``window``.
        HistoryError, LedgerUnusable: what was sent before cannot be read.
    """
    sync, ledger = project.sync(name), fitting_ledger()
    if ledger is None:
        raise NothingToRestore(name, window, ())
    with laid_over(History(settings.history_root())) as history:
        source = restorable(ledger, history, _reached(project, sync)[1], name, window)
        found = _recorded(ledger, source.snapshot_seq, source.payload)
        return _planned(project, sync, ledger, history, found, kind=AttemptKind.RESTORE)


def _read(project: Declarations, sync: ResolvedSync, history: Overlay) -> _Source:
    window = sync.open_window(_NEXT_EXPORT)
    snapshot = take_snapshot(
        project.sources[sync.source].project(),
        sync.cohort_id,
        history,
        sync=sync.name,
        window=window,
        properties=sync.rule.properties,
        anonymous_members=sync.anonymous_members,
    )
    identified = deriving.filter_identified(history, snapshot.file)
    payload = deriving.build_payload(history, snapshot.file, identified.file, sync.rule)
    return _Source(
        payload=payload.file,
        window=window.key,
        taken_at=snapshot.taken_at,
        members=snapshot.rows,
        identified=identified.identified,
        excluded=payload.excluded_by_reason,
        queries=snapshot.queries,
    )


def _newest_sealed(sync: ResolvedSync, ledger: Ledger | None) -> _Source:
    if ledger is None:
        raise NotSealedYet(Stage.PARTNER_PAYLOAD, sync.name, sync.open_window(_NEXT_EXPORT).key)
    seq, payload = newest_payload(ledger, sync.name, sync.open_window(_NEXT_EXPORT).key)
    return _recorded(ledger, seq, payload)


def _recorded(ledger: Ledger, seq: int, payload: StoredFile) -> _Source:
    origin = ledger.origin(seq)
    return _Source(
        payload=payload,
        window=payload.window,
        taken_at=origin.taken_at,
        members=origin.members,
        identified=origin.identified,
        excluded=excluded_of(ledger, seq),
        seq=seq,
    )


def _planned(
    project: Declarations,
    sync: ResolvedSync,
    ledger: Ledger | None,
    history: Overlay,
    found: _Source,
    *,
    kind: AttemptKind = AttemptKind.OVERWRITE,
) -> Plan:
    partner, target = _reached(project, sync)
    wanted = Wanted(
        target=target,
        sync=sync.name,
        window=found.window,
        payload=found.payload,
        members=found.members,
        identified=found.identified,
        seq=found.seq,
        partner=partner,
        gates=sync.gates,
        terms=sync.terms,
        cadence=sync.cadence,
        kind=kind,
    )
    return Plan(
        sync=sync.name,
        window=found.window,
        one_time=sync.cadence is None,
        sealed=found.seq is not None,
        taken_at=found.taken_at,
        members=found.members,
        identified=found.identified,
        excluded={reason: count for reason, count in found.excluded.items() if count},
        preview=preview(ledger, history, wanted),
        budget=_budget(project, sync, found.queries),
    )


def _budget(project: Declarations, sync: ResolvedSync, spent: int) -> Budget:
    siblings = [each for each in project.syncs.values() if each.project_id == sync.project_id]
    return Budget(
        granted=min(project.sources[each.source].queries_per_hour for each in siblings),
        sync=sync.cadence.per_hour if sync.cadence else 0.0,
        project=sum(each.cadence.per_hour for each in siblings if each.cadence),
        spent=spent,
    )


def plan_move(project: Declarations, name: str, *, forget: bool) -> list[str]:
    """Say what `retarget` would do for a sync, a sentence for each target; nothing where there is nothing to do.

    Raises:
        SyncUnknown: the project declares no such sync.
        TargetNotKnown, ConfigurationError: it could not be done.
        LedgerUnusable: what the sync owns cannot be told.
    """
    sync, ledger = project.sync(name), fitting_ledger()
    if ledger is None:
        return []
    return list(moving.move(ledger, project.syncs, project.unloadable, project.destinations, sync, forget=forget))


def plan_retirement(project: Declarations, name: str, *, forget: bool) -> list[str]:
    """Say what `retire` would do for a sync, declared or not, a sentence for each target that it owns.

    Raises:
        SyncUnknown: the project declares no such sync, and it never owned a target.
        TargetNotKnown, ConfigurationError: it owns none any more, or it could not be done.
        LedgerUnusable: what the sync owns cannot be told.
    """
    ledger = fitting_ledger()
    if ledger is None or not any(each.owner == name for each in targets.all_targets(ledger)):
        project.sync(name)
    if ledger is None:
        raise TargetNotKnown(name, "it owns no target")
    leaves = moving.retirement(ledger, project.syncs, project.destinations, name, forget=forget)
    return [str(each) for each in leaves]


def _reached(project: Declarations, sync: ResolvedSync) -> tuple[Partner, Target]:
    return sync.reached(project.destinations[sync.destination])
