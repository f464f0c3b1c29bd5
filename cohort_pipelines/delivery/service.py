"""The overwrite, from claim to receipt: after it, the target's ids equal the payload, or an error says how far it came.

Killed anywhere and run again it converges. What a request may have done is recorded before the request; membership is
made of these records, whatever the verdict on the whole; the next attempt starts from membership.
"""

import time
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import (
    NOTHING_SENT,
    CohortPipelinesError,
    DeliveryDeferred,
    DeliveryHeld,
    DeliveryRejected,
    DeliveryStopped,
    HistoryError,
    LeaseLost,
    LedgerUnusable,
    SyncPaused,
    TargetBusy,
    TargetNotItsOwn,
)
from cohort_pipelines.core.files import StoredFile
from cohort_pipelines.core.windows import Window
from cohort_pipelines.delivery import judging
from cohort_pipelines.delivery.attempt import Attempt, DeliveryRequest
from cohort_pipelines.delivery.chunks import read_phases
from cohort_pipelines.delivery.claim import claim
from cohort_pipelines.delivery.gates import Gates
from cohort_pipelines.delivery.overwrite import Overwrite
from cohort_pipelines.delivery.publishing import publish
from cohort_pipelines.delivery.receipt import Receipt
from cohort_pipelines.delivery.sending import Progress, Sending
from cohort_pipelines.destinations import ChangeWire, FileWire, only_while
from cohort_pipelines.history import History
from cohort_pipelines.ledger import LEASE_SECONDS, AttemptKind, AttemptState, Ledger, Pause, Target, opening_of, paused
from cohort_pipelines.membership import Terms
from cohort_pipelines.recovery import pairing

_POLL_SECONDS = 1.0
_LOOK_EVERY = timedelta(days=1)
_BY_NAME = {AttemptKind.RESTORE: "restore", AttemptKind.RETIRE: "retirement"}


def deliver(
    *,
    ledger: Ledger,
    history: History,
    partner: ChangeWire | FileWire,
    target: Target,
    sync: str,
    window: Window,
    payload: StoredFile,
    snapshot_seq: int,
    gates: Gates | None,
    run_id: str,
    deadline: datetime,
    terms: Terms | None = None,
    kind: AttemptKind = AttemptKind.OVERWRITE,
    restored_from: str | None = None,
    pause: Pause | None = None,
    requested: datetime | None = None,
    on_progress: Progress | None = None,
    lease_seconds: float = LEASE_SECONDS,
) -> Receipt:
    """Make the target's ids equal ``payload``, a file of the history with the column `partner_user_id`.

    An export and a restore ask the partner for the target first, a window does so where nothing was heard of it for a
    day. Where it is gone, an export and a restore make it anew and fill it; a window ends there, and the next one does.

    Args:
        ledger: what was sent so far, and whose turn it is.
        history: where plan, membership and receipt are written.
        partner: the connection.
        target: what is overwritten; ``sync`` becomes its owner at the first delivery.
        sync: the sync's name.
        window: the window that the payload belongs to.
        payload: what the target shall hold.
        snapshot_seq: the number of the recorded snapshot that the payload comes from.
        gates: what must not happen unasked; None: nothing holds it, since it was asked for by name.
        run_id: the Dagster run that writes, for readers of the ledger.
        deadline: when to stop between two chunks; the next window goes on.
        terms: what is true of the target.
        kind: a window's own overwrite, or what :mod:`cohort_pipelines.delivery.restoring` asks for.
        restored_from: the window whose payload is put back.
        pause: pause the sync in the transaction that claims the target.
        requested: when the run was asked for, by the clock of its host; None: just now. What was asked for by name
            since goes over it, whichever snapshot is newer.
        on_progress: told every half second, in the caller's thread, how many of how many operations are done.
        lease_seconds: how long a dead writer keeps others waiting.

    Raises:
        DeliveryHeld: a gate holds the payload; nothing was sent.
        DeliverySuperseded: a newer snapshot was delivered or claimed, or a restore was asked for after this; nothing
            was sent.
        DeliveryDeferred: the deadline came before the plan was done.
        SyncPaused: the sync is paused, or was while this was under way.
        DeliveryStopped: the partner, the ledger or the history did not let the plan be done.
        DeliveryRejected: everything was sent, some of it was refused.
        TargetBusy, TargetNotItsOwn, LeaseLost: another run writes the target, or it is another target.
        HistoryError, LedgerUnusable: what is needed is gone, damaged, or cannot be read or written; nothing was sent.
        ClockSkewed: this host's clock and the database's differ; nothing was sent.
    """
    history.require_writable()
    pairing.require_paired(ledger, history)
    asked = DeliveryRequest(
        target=target,
        sync=sync,
        window=window.key,
        snapshot_seq=snapshot_seq,
        payload=payload,
        run_id=run_id,
        deadline=deadline,
        terms=terms or Terms(),
        kind=kind,
        restored_from=restored_from,
        pause=pause,
        cohort=partner.cohort,
        requested=requested,
    )
    once = partial(
        _deliver_once,
        asked,
        ledger=ledger,
        history=history,
        partner=partner,
        gates=gates,
        on_progress=on_progress,
        lease_seconds=lease_seconds,
    )
    try:
        return once()
    except DeliveryStopped as stopped:
        if not (stopped.missing and _is_by_hand(asked)):
            raise
    return once()


def _deliver_once(
    asked: DeliveryRequest,
    *,
    ledger: Ledger,
    history: History,
    partner: ChangeWire | FileWire,
    gates: Gates | None,
    on_progress: Progress | None,
    lease_seconds: float,
) -> Receipt:
    try:
        attempt = claim(ledger, asked, lease_seconds)
    except (TargetBusy, TargetNotItsOwn, SyncPaused) as error:
        if asked.kind is AttemptKind.OVERWRITE:
            passes = isinstance(error, TargetBusy | SyncPaused)  # by itself, or on `resume`
            ledger.note_window(asked.sync, asked.window, "skipped" if passes else "failed", str(error))
        raise
    overwrite = Overwrite(attempt, history)
    if attempt.superseded:
        overwrite.end(AttemptState.SUPERSEDED, str(attempt.superseded))
        raise attempt.superseded
    with attempt.lease.heartbeat(partial(pairing.require_own, ledger, history)):
        _prepare(overwrite, gates, partner)
        return _carry_out(overwrite, partner, on_progress)


def _prepare(overwrite: Overwrite, gates: Gates | None, partner: ChangeWire | FileWire) -> None:
    try:
        overwrite.recover_crashed_attempts()
        overwrite.prepare(partner)
        if gates is not None:
            _require_gates(overwrite, gates)
        overwrite.begin_sending()
    except (HistoryError, TargetNotItsOwn) as error:
        overwrite.end(AttemptState.STOPPED, str(error))
        raise


def _require_gates(overwrite: Overwrite, gates: Gates) -> None:
    verdicts, overwrite.approval = judging.judge(
        overwrite.attempt,
        gates,
        overwrite.counts,
        held=overwrite.base.held if overwrite.base else 0,
        adopted=(overwrite.adopting or overwrite.initial_members) == "adopted",
    )
    held = next((verdict for verdict in verdicts if verdict.held), None)
    if held is not None and overwrite.approval is None:
        error = DeliveryHeld(held.name, held.finding, held.remedy)
        overwrite.end(AttemptState.HELD, str(error))
        raise error


def _carry_out(overwrite: Overwrite, partner: ChangeWire | FileWire, on_progress: Progress | None) -> Receipt:
    """Send what is planned, and record how that ended.

    Whatever cannot be recorded now is made up for by the next claim, from the chunks in the ledger.
    """
    counts = overwrite.counts
    sending = Sending(overwrite.attempt)
    try:
        _send(overwrite, sending, partner, on_progress)
        return _conclude(overwrite, sending)
    except (HistoryError, LedgerUnusable) as error:
        cause = str(error).replace(f" {NOTHING_SENT}", "")  # something may well have been
        stopped = DeliveryStopped(cause, sending.acknowledged, counts.operations)
        with suppress(LedgerUnusable):  # where it is the ledger that refuses, nothing can be told
            overwrite.attempt.record_failure_reason(str(stopped))  # unless it was taken over meanwhile, which says more
        raise stopped from error


def _send(overwrite: Overwrite, sending: Sending, partner: ChangeWire | FileWire, on_progress: Progress | None) -> None:
    attempt, plan, counts = overwrite.attempt, overwrite.plan, overwrite.counts
    if plan is None:
        return
    look = partner.findable and _must_look(attempt)
    try:
        if counts.operations and not _wait_until_applied(overwrite):
            sending.deferred = True
        elif isinstance(partner, FileWire):
            with only_while(attempt.lease.require_live_in_loop):
                published = publish(attempt, partner, overwrite.history, counts.operations, look=look)
            sending.stopped, sending.deferred, sending.paused = published.stopped, published.deferred, published.paused
            sending.missing = published.missing
            sending.done = sending.acknowledged = published.acknowledged
            sending.requests = published.requests
        elif counts.operations or look or not attempt.established:
            phases = read_phases(overwrite.history, plan, counts, partner, attempt.generation)
            with only_while(attempt.lease.require_live_in_loop):
                sending.run(partner, phases, counts, on_progress, look=look)
            if not (
                sending.established or sending.stopped or sending.deferred
            ):  # initial members that needed nothing stand
                attempt.mark_established()
    except (LeaseLost, LedgerUnusable):
        raise
    except SyncPaused:
        sending.paused = True
    except Exception as error:  # noqa: BLE001  a partner adapter that broke: no words of it, they may hold ids
        ours = isinstance(error, CohortPipelinesError)
        cause = str(error).replace(f" {NOTHING_SENT}", "") if ours else type(error).__name__
        broken = DeliveryStopped(cause, sending.acknowledged, counts.operations)
        overwrite.requests = sending.requests
        overwrite.end(AttemptState.STOPPED, str(broken))
        raise broken from None
    except BaseException as error:  # a cancel
        overwrite.requests = sending.requests
        with suppress(CohortPipelinesError):  # what cannot be recorded now is made up for by the next claim
            overwrite.end(AttemptState.DEFERRED, type(error).__name__)
        raise


def _must_look(attempt: Attempt) -> bool:
    """Say whether the partner is to be asked for the target, also where nothing is to be sent; a late window is not."""
    if _asked_by_name(attempt.asked):
        return _is_by_hand(attempt.asked)
    return clock.now() < attempt.asked.deadline and not attempt.heard_since(attempt.now() - _LOOK_EVERY)


def _is_by_hand(asked: DeliveryRequest) -> bool:
    """Say whether a person asked for the audience to be there: an export or a restore."""
    return asked.kind is not AttemptKind.RETIRE and bool(_asked_by_name(asked))


def _wait_until_applied(overwrite: Overwrite) -> bool:
    """Wait until the partner has applied what was sent last, so that no id is reversed before; False: out of time.

    Raises:
        SyncPaused: the sync was paused meanwhile.
        LeaseLost: another run has taken the target over.
    """
    asked, last_sent = overwrite.attempt.asked, overwrite.attempt.on_target().last_sent
    if last_sent is None or not asked.terms.apply_delay:
        return True
    while overwrite.attempt.now() < last_sent + asked.terms.apply_delay:
        if clock.now() >= asked.deadline:
            return False
        overwrite.attempt.require_lease()
        time.sleep(_POLL_SECONDS)
    return True


def _conclude(overwrite: Overwrite, sending: Sending) -> Receipt:
    planned, overwrite.requests = overwrite.counts.operations, sending.requests
    pairing.require_own(overwrite.attempt.ledger, overwrite.history)
    asked = overwrite.attempt.asked
    if sending.stopped:
        stopped = DeliveryStopped(sending.stopped, sending.acknowledged, planned, missing=sending.missing)
        overwrite.end(AttemptState.STOPPED, str(stopped), missing=sending.missing)
        raise stopped
    if sending.paused and (pause := paused(overwrite.attempt.ledger, asked.sync)):
        cut_short = SyncPaused(asked.sync, pause.who, pause.why)
        overwrite.end(AttemptState.DEFERRED, str(cut_short))
        raise cut_short
    if sending.deferred or sending.paused:
        deferred = DeliveryDeferred(sending.done, planned, _eta(overwrite, sending.done), again=_asked_by_name(asked))
        overwrite.end(AttemptState.DEFERRED, str(deferred))
        raise deferred
    overwrite.attempt.mark_sent()
    rejected_adds, rejected_removals = overwrite.rejected()
    left_over = overwrite.left_over()
    if rejected_removals > overwrite.excused() or left_over or rejected_adds > asked.terms.rejection_tolerance:
        refused = DeliveryRejected(rejected_adds, rejected_removals, left_over)
        overwrite.end(AttemptState.REJECTED, str(refused))
        raise refused
    return overwrite.end(AttemptState.ACCEPTED if _may_be_unapplied(overwrite) else AttemptState.DELIVERED)


def _asked_by_name(asked: DeliveryRequest) -> str:
    """Return the name of what only a person repeats; empty for a window of a schedule."""
    return _BY_NAME.get(asked.kind) or ("" if opening_of(asked.window) else "export")


def _may_be_unapplied(overwrite: Overwrite) -> bool:
    """Say whether the partner may still have to apply something that it acknowledged."""
    within, last_sent = overwrite.attempt.asked.terms.apply_delay, overwrite.attempt.on_target().last_sent
    if not within:
        return False
    return bool(overwrite.counts.operations) or (last_sent is not None and overwrite.attempt.now() < last_sent + within)


def _eta(overwrite: Overwrite, done: int) -> float | None:
    """Return the seconds that the rest needs at the attempt's own pace, or None when it had none."""
    seconds = (overwrite.attempt.now() - overwrite.attempt.started).total_seconds()
    return seconds / done * (overwrite.counts.operations - done) if done else None
