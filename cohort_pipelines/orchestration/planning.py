"""What the next delivery of a sync would do, and what a restore would: looked at, and nothing of it recorded."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cohort_pipelines import clock, mixpanel, settings, steps
from cohort_pipelines.delivery import Ledger, Target, targets
from cohort_pipelines.delivery.previewing import Preview, Wanted, newest_payload, preview, rejects_of
from cohort_pipelines.delivery.restoring import restorable
from cohort_pipelines.delivery.schema import AttemptKind
from cohort_pipelines.delivery.targets import TargetRecord
from cohort_pipelines.errors import NothingToRestore, NotSealedYet
from cohort_pipelines.history import History, Stage, StoredFile
from cohort_pipelines.history.overlay import Overlay, laid_over
from cohort_pipelines.orchestration.connections import Partner
from cohort_pipelines.orchestration.launch import Declarations
from cohort_pipelines.orchestration.resolved import ResolvedSync
from cohort_pipelines.orchestration.resources import fitting_ledger
from cohort_pipelines.windows import Window, one_time_window

_HOUR = 3600.0


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
        sealed: whether it is a sealed payload; else Mixpanel was read.
        taken_at: when the snapshot was taken.
        members: the cohort's members in it.
        identified: those with a profile.
        rejects: members who are not in the payload, by reason.
        preview: what a delivery would do with it.
        budget: the queries of the Mixpanel project.
    """

    sync: str
    window: str
    sealed: bool
    taken_at: datetime
    members: int
    identified: int
    rejects: Mapping[str, int]
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
    rejects: Mapping[str, int]
    seq: int | None = None
    queries: int = 0


def plan(project: Declarations, name: str, *, sealed: bool = False) -> Plan:
    """Read the cohort once (``sealed``: take the newest sealed payload instead), and say what delivering it would do.

    Everything is worked out in a temporary folder. Ledger, history and partner stay as they are.

    Raises:
        SyncUnknown: the project declares no such sync.
        MissingVariable, MixpanelError: the cohort could not be read.
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
        source = restorable(ledger, history, _target(project, sync), name, window)
        found = _recorded(ledger, source.snapshot_seq, source.payload)
        return _planned(project, sync, ledger, history, found, kind=AttemptKind.RESTORE)


def _read(project: Declarations, sync: ResolvedSync, history: Overlay) -> _Source:
    window = open_window(sync)
    snapshot = mixpanel.take_snapshot(
        project.sources[sync.source].project(),
        sync.cohort_id,
        history,
        sync=sync.name,
        window=window,
        properties=sync.rule.properties,
        anonymous_members=sync.anonymous_members,
    )
    identified = steps.filter_identified(history, snapshot.file)
    payload = steps.build_payload(history, snapshot.file, identified.file, sync.rule)
    return _Source(
        payload=payload.file,
        window=window.key,
        taken_at=snapshot.taken_at,
        members=snapshot.rows,
        identified=identified.identified,
        rejects=payload.rejected,
        queries=snapshot.queries,
    )


def open_window(sync: ResolvedSync) -> Window:
    """Return the window of ``sync`` that is open now; a one-time export has one of its own each time."""
    return sync.cadence.window_at(clock.now()) if sync.cadence else one_time_window("plan")


def _newest_sealed(sync: ResolvedSync, ledger: Ledger | None) -> _Source:
    if ledger is None:
        raise NotSealedYet(Stage.PARTNER_PAYLOAD, sync.name, open_window(sync).key)
    seq, payload = newest_payload(ledger, sync.name, open_window(sync).key)
    return _recorded(ledger, seq, payload)


def _recorded(ledger: Ledger, seq: int, payload: StoredFile) -> _Source:
    origin = ledger.origin(seq)
    return _Source(
        payload=payload,
        window=payload.window,
        taken_at=origin.taken_at,
        members=origin.members,
        identified=origin.identified,
        rejects=rejects_of(ledger, seq),
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
    wanted = Wanted(
        target=_target(project, sync),
        sync=sync.name,
        window=found.window,
        payload=found.payload,
        members=found.members,
        identified=found.identified,
        seq=found.seq,
        partner=_partner(project, sync),
        gates=sync.gates,
        terms=sync.terms,
        cadence=sync.cadence,
        kind=kind,
    )
    return Plan(
        sync=sync.name,
        window=found.window,
        sealed=found.seq is not None,
        taken_at=found.taken_at,
        members=found.members,
        identified=found.identified,
        rejects={reason: count for reason, count in found.rejects.items() if count},
        preview=preview(ledger, history, wanted),
        budget=_budget(project, sync, found.queries),
    )


def _budget(project: Declarations, sync: ResolvedSync, spent: int) -> Budget:
    siblings = [each for each in project.syncs.values() if each.project_id == sync.project_id]
    return Budget(
        granted=min(project.sources[each.source].queries_per_hour for each in siblings),
        sync=_queries_per_hour(sync),
        project=sum(_queries_per_hour(each) for each in siblings),
        spent=spent,
    )


def _queries_per_hour(sync: ResolvedSync) -> float:
    return _HOUR / sync.cadence.value.total_seconds() if sync.cadence else 0.0


def moves(project: Declarations, name: str) -> list[str]:
    """Say what `retarget` would do for a sync, a sentence for each target; nothing where that is none.

    Raises:
        SyncUnknown: the project declares no such sync.
        MissingVariable, LedgerUnusable: what the sync owns cannot be told.
    """
    sync, ledger = project.sync(name), fitting_ledger()
    if ledger is None:
        return []
    declared = _target(project, sync)
    left = [
        f"{each.target.name!r} ({each.target.wire}) is emptied: up to {each.held:,} users leave it."
        for each in targets.owned_elsewhere(ledger, name, declared)
    ]
    foreign = [each for each in targets.all_targets(ledger) if each.target == declared and each.owner != name]
    return left + [
        f"{declared.name!r} ({declared.wire}), with up to {each.held:,} users, is taken over from {each.owner}."
        for each in foreign
    ]


def owned(project: Declarations, name: str) -> list[TargetRecord]:
    """Return the targets that a sync owns, declared or not.

    Raises:
        SyncUnknown: the project declares no such sync, and it owns nothing.
        LedgerUnusable: the ledger cannot be read.
    """
    ledger = fitting_ledger()
    found = [] if ledger is None else [each for each in targets.all_targets(ledger) if each.owner == name]
    if not found:
        project.sync(name)
    return [each for each in found if each.retired is None]


def _partner(project: Declarations, sync: ResolvedSync) -> Partner:
    return project.destinations[sync.destination].partner(project_id=sync.project_id, cohort_id=sync.cohort_id)


def _target(project: Declarations, sync: ResolvedSync) -> Target:
    partner = _partner(project, sync)
    return Target(partner.wire, partner.host, partner.account, sync.target)
