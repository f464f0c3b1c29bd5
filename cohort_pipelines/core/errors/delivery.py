"""Overwrites that did not end green."""

from collections.abc import Iterable
from datetime import datetime
from shlex import quote

from cohort_pipelines.core.errors.base import NOTHING_SENT, CohortPipelinesError


class DeliveryError(CohortPipelinesError):
    """An overwrite did not end green."""


class DeliveryHeld(DeliveryError):
    """A gate holds the payload; nothing of it was sent."""

    def __init__(self, gate: str, verdict: str, remedy: str) -> None:
        super().__init__(f"Held by the gate {gate}: {verdict}. {NOTHING_SENT} {remedy}")
        self.gate = gate


class DeliverySuperseded(DeliveryError):
    """Something newer has been delivered or claimed; what is older must not go over it.

    ``newer`` is what, in words. ``overtaken``: the snapshot may well be newer than that, but the run was asked for
    before.
    """

    def __init__(self, window: str, newer: str, *, export_of: str = "", overtaken: bool = False) -> None:
        if overtaken:
            said = (
                f"The run for {window} was asked for before {newer}. Nothing was sent; what was asked for since stays, "
                "unless this is asked for again."
            )
        else:
            said = (
                f"The snapshot of {window} is older than {newer}, which the target already has or is getting. "
                "Nothing was sent; the newer audience stays."
            )
        if export_of:
            said += f" To put a delivered export back: cohort-pipelines restore {export_of} {quote(window)}"
        super().__init__(said)
        self.newer = newer


class TargetBusy(DeliveryError):
    """Another writer holds the target's lease."""

    def __init__(self, target: str, until: datetime) -> None:
        super().__init__(
            f"Another run is writing {target!r}; its lease lasts until {until:%H:%M:%S} UTC unless renewed. "
            "Nothing was sent by this run. The next delivery goes on from what that run has delivered."
        )


class TargetNotItsOwn(DeliveryError):
    """The sync must not write this target as it is declared: it is another's, or another one is its own."""


class TargetOwnedByAnother(TargetNotItsOwn):
    """The target is pinned in the ledger to another sync."""

    def __init__(self, target: str, owner: str) -> None:
        super().__init__(
            f"The target {target!r} belongs to the sync {owner!r}. {NOTHING_SENT} A target has one owner: give this "
            "sync another target, or, where it is the same sync under a new name, hand the target over with "
            "`cohort-pipelines retarget`."
        )


class TargetMoved(TargetNotItsOwn):
    """The sync's declaration names another target than the one that it owns."""

    def __init__(self, sync: str, owned: str, declared: str) -> None:
        super().__init__(
            f"{sync} delivers to {owned!r}, and is now declared for {declared!r}. {NOTHING_SENT} "
            f"`cohort-pipelines retarget {sync}` empties the old target, so that the next window fills the new one."
        )


class CohortMoved(TargetNotItsOwn):
    """The sync's declaration names another cohort than the one in whose name its target was filled."""

    def __init__(self, sync: str, target: str, filled_by: int, declared: int) -> None:
        super().__init__(
            f"{target!r} was filled in the name of the cohort {filled_by}, and {sync} is now declared for the cohort "
            f"{declared}, by which the receiver may know another group. {NOTHING_SENT} `cohort-pipelines retarget "
            f"{sync}` empties the old one, so that the next window fills the new one."
        )


class CohortDeliveredTwice(TargetNotItsOwn):
    """The receiver has another target in the name of the same cohort."""

    def __init__(self, host: str, cohort_id: int, target: str, owner: str) -> None:
        super().__init__(
            f"The receiver at {host} already has {target!r}, of the sync {owner!r}, in the name of the cohort "
            f"{cohort_id}, and may know its groups by that. {NOTHING_SENT} Give it up: cohort-pipelines retire {owner}."
            " Or give the destination another `account` label, if the receiver tells its groups by their names alone."
        )


class PayloadOfAnotherCohort(TargetNotItsOwn):
    """The audience is of another cohort than the one in whose name it would be sent."""

    def __init__(self, sync: str, window: str, cohort_id: int, declared: int) -> None:
        super().__init__(
            f"The audience of {window} is that of the cohort {cohort_id}, and {sync} is declared for the cohort "
            f"{declared}. {NOTHING_SENT} The next window takes a snapshot of the one that is declared."
        )


class TargetNotKnown(DeliveryError):
    """There is no such target to retarget or to retire."""

    def __init__(self, sync: str, problem: str) -> None:
        super().__init__(f"{sync}: {problem}. {NOTHING_SENT}")


class SyncPaused(DeliveryError):
    """The sync is paused: no request is started for it until it is resumed."""

    def __init__(self, sync: str, who: str, why: str) -> None:
        super().__init__(
            f"{sync} was paused by {who}: {why}. No further request is sent; what was sent before is known, and the "
            f"next delivery after `cohort-pipelines resume {sync}` goes on from there."
        )


class NothingToRestore(DeliveryError):
    """The window's payload was never delivered by this sync, so it cannot be put back."""

    def __init__(self, sync: str, window: str, known: Iterable[str]) -> None:
        there = ", ".join(known) or "none yet"
        super().__init__(
            f"{sync} has delivered nothing in the window {window}. {NOTHING_SENT} The newest that can be restored: "
            f"{there}."
        )


class NothingHeld(DeliveryError):
    """There is no held payload to approve."""

    def __init__(self, sync: str) -> None:
        super().__init__(f"No payload of {sync} is held by a gate. {NOTHING_SENT} There is nothing to approve.")


class ApprovalIncomplete(DeliveryError):
    """An approval does not say all that it must."""

    def __init__(self, sync: str, problem: str) -> None:
        super().__init__(f"Nothing of {sync} was approved: {problem}. {NOTHING_SENT}")


class LeaseLost(DeliveryError):
    """This run was paused or cut off for so long that another took the target over."""

    def __init__(self, target: str) -> None:
        super().__init__(
            f"Another run has taken over {target!r} while this one was out of time. This run sends nothing more; what "
            "it had under way is known to the other run, which sends it again."
        )


class TargetInDoubt(DeliveryError):
    """A target was emptied to be retired, and ids may still be put back into it."""

    def __init__(self, target: str, in_doubt: int, until: datetime) -> None:
        super().__init__(
            f"{target!r} was emptied, but {in_doubt:,} users may still be put back by requests that got no clear "
            f"answer. It is not given up yet: ask for the same again after {until:%Y-%m-%d %H:%M} UTC."
        )


class NotSealedYet(DeliveryError):
    """A step needs the file of an earlier step of its window, which was never sealed."""

    def __init__(self, wanted: str, sync: str, window: str) -> None:
        super().__init__(
            f"{sync} has no sealed {wanted} for the window {window}. {NOTHING_SENT} Materialize {sync}/{wanted} first."
        )


class DeliveryStopped(DeliveryError):
    """The delivery ended before its plan was done; what is unknown is remembered and sent again.

    ``missing``: the partner does not know the target any more.
    """

    def __init__(self, cause: str, done: int, planned: int, *, missing: bool = False) -> None:
        holds = "a mix of the old and the new audience" if done else "what it held, but for what got no clear answer,"
        until = f"The target holds {holds} until the next run, which goes on from exactly what is known."
        if missing:
            until = "Nobody is in the target until the next run, which makes it anew and sends whom it shall hold."
        elif done == planned > 0:
            until = "All of it was acknowledged; the next run goes on from exactly what is known."
        super().__init__(f"The delivery stopped after {done:,} of {planned:,} changes: {cause.rstrip('.')}. {until}")
        self.missing = missing


class DeliveryDeferred(DeliveryError):
    """Time was over before the plan was done; a later delivery goes on.

    ``again`` is what was asked for by name and has to be asked for again: an export, a restore, a retirement. Empty: a
    window's own delivery.
    """

    BEGINS = "The delivery deferred at its deadline"
    """What tells it, in the ledger's windows, from a delivery that was cancelled or paused."""

    def __init__(self, done: int, planned: int, eta_seconds: float | None, *, again: str = "") -> None:
        self.done, self.planned, self.eta_seconds = done, planned, eta_seconds
        eta = "" if eta_seconds is None else f" At this pace {eta_seconds / 60:,.0f} more minutes are needed."
        whoever = f"the same {again}, asked for again," if again else "the next window"
        super().__init__(f"{self.BEGINS} after {done:,} of {planned:,} changes; {whoever} goes on from there.{eta}")


class DeliveryRejected(DeliveryError):
    """Everything was sent, and the partner refused some of it."""

    def __init__(self, rejected_adds: int, rejected_removals: int, left_over: int = 0) -> None:
        rest = "everything else was sent"
        if left_over:
            rest = (
                f"{left_over:,} that it rejected before were left for the next delivery, and everything else was sent"
            )
        super().__init__(
            f"The partner rejected {rejected_adds:,} additions and {rejected_removals:,} removals; {rest}. The receipt "
            "in the history lists the rejected rows, up to 10,000; the next delivery tries them again."
        )


class LedgerUnusable(DeliveryError):
    """The ledger cannot be opened, or does not fit this history."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"The ledger at {where} cannot be used: {problem}. {NOTHING_SENT}")


class LedgerUnpaired(LedgerUnusable):
    """The ledger and the history are not of one piece: a ledger was lost, put back from a copy, or there are two."""

    def __init__(self, where: str, history: str, finding: str, way_out: str = "") -> None:
        rebuild = (
            "so it does not know all that was sent. If the right ledger still exists, put it back; if not, "
            "cohort-pipelines ledger rebuild makes this one the ledger of the history, and takes every id found there "
            "for possibly delivered"
        )
        super().__init__(where, f"{finding}, {way_out or rebuild} (the history is {history})")


class HistoryUnpaired(LedgerUnpaired):
    """The ledger tells of deliveries, and the history of none: it is gone, or another place was named."""

    def __init__(self, where: str, history: str) -> None:
        super().__init__(
            where,
            history,
            "it tells of deliveries, and the history of none",
            "so the right one is gone, or this is another one. Put it back, or name its place in "
            "COHORT_PIPELINES_DATA; if it is lost for good, cohort-pipelines ledger rebuild --forget does without it",
        )


class NoLedgerYet(LedgerUnusable):
    """A command that changes nothing was asked about a ledger that no delivery has made yet."""

    def __init__(self, where: str) -> None:
        super().__init__(where, "there is none yet")
