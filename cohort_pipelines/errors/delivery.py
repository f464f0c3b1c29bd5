"""Overwrites that did not end green."""

from datetime import datetime

from cohort_pipelines.errors.base import NOTHING_SENT, CohortPipelinesError


class DeliveryError(CohortPipelinesError):
    """An overwrite did not end green."""


class DeliveryHeld(DeliveryError):
    """A gate holds the payload; nothing of it was sent."""

    def __init__(self, gate: str, verdict: str, remedy: str) -> None:
        super().__init__(f"Held by the gate {gate}: {verdict}. {NOTHING_SENT} {remedy}")
        self.gate = gate


class DeliverySuperseded(DeliveryError):
    """A newer snapshot has been delivered or claimed; this older one must not go over it."""

    def __init__(self, window: str, newer: str) -> None:
        super().__init__(
            f"The snapshot of {window} is older than that of {newer}, which the target already has or is getting. "
            "Nothing was sent; the newer audience stays."
        )
        self.newer = newer


class TargetBusy(DeliveryError):
    """Another writer holds the target's lease."""

    def __init__(self, target: str, until: datetime) -> None:
        super().__init__(
            f"Another run is writing {target!r}; its lease lasts until {until:%H:%M:%S} UTC unless renewed. "
            "Nothing was "
            "sent by this run. The next window goes on from what that run has delivered."
        )
        self.until = until


class TargetOwnedByAnother(DeliveryError):
    """The target is pinned in the ledger to another sync."""

    def __init__(self, target: str, owner: str) -> None:
        super().__init__(
            f"The target {target!r} belongs to the sync {owner!r}. {NOTHING_SENT} A target has one owner: give this "
            "sync another target."
        )


class LeaseLost(DeliveryError):
    """This run was paused or cut off for so long that another took the target over."""

    def __init__(self, target: str) -> None:
        super().__init__(
            f"Another run has taken over {target!r} while this one was out of time. This run sends nothing more; what "
            "it had under way is known to the other run, which sends it again."
        )


class NotSealedYet(DeliveryError):
    """A step needs the file of an earlier step of its window, which was never sealed."""

    def __init__(self, wanted: str, sync: str, window: str) -> None:
        super().__init__(
            f"{sync} has no sealed {wanted} for the window {window}. {NOTHING_SENT} Materialize {sync}/{wanted} first."
        )


class DeliveryStopped(DeliveryError):
    """The delivery ended before its plan was done; what is unknown is remembered and sent again."""

    def __init__(self, cause: str, done: int, planned: int) -> None:
        holds = "a mix of the old and the new audience" if done else "what it held, but for what got no clear answer,"
        super().__init__(
            f"The delivery stopped after {done:,} of {planned:,} changes: {cause.rstrip('.')}. "
            f"The target holds {holds} until the next run, which goes on from exactly what is known."
        )


class DeliveryYielded(DeliveryError):
    """The window's time was over before the plan was done; the next window goes on."""

    def __init__(self, done: int, planned: int, eta_seconds: float | None) -> None:
        eta = "" if eta_seconds is None else f" At this pace {eta_seconds / 60:,.0f} more minutes are needed."
        super().__init__(
            f"The delivery yielded at its deadline after {done:,} of {planned:,} changes; the next window goes on from "
            f"there.{eta}"
        )


class DeliveryRefused(DeliveryError):
    """Everything was sent, and the partner refused some of it."""

    def __init__(self, refused_adds: int, refused_removals: int) -> None:
        super().__init__(
            f"The partner refused {refused_adds:,} additions and {refused_removals:,} removals; everything else was "
            "sent. The receipt in the history lists the refused rows; they are tried again in the next window."
        )


class LedgerUnusable(DeliveryError):
    """The ledger cannot be opened, or does not fit this history."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"The ledger at {where} cannot be used: {problem}. {NOTHING_SENT}")
