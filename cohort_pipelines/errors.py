"""Everything that can go wrong, as a taxonomy: configuration, source, history, delivery, partner.

Each message says what happened, what it means for the audience and what to do. No message carries a secret or a
user id. Whether trying again can help is a type: :class:`Transient` or not.
"""

from collections.abc import Iterable
from datetime import datetime
from pathlib import PurePath

NOTHING_SENT = "Nothing was sent; the audience is as it was."


class CohortPipelinesError(Exception):
    """Base of every error this project raises on purpose."""


class Transient:
    """Mixed into errors that may pass by themselves; ``retry_after`` is in seconds, when the server named it."""

    retry_after: float | None = None


# -- configuration ----------------------------------------------------------------------------------------------


class ConfigurationError(CohortPipelinesError):
    """The declarations or the environment are wrong; no service was asked anything."""


class MissingVariable(ConfigurationError):
    """An environment variable that a declaration refers to is not set."""

    def __init__(self, name: str, wanted_for: str) -> None:
        super().__init__(
            f"The environment variable {name} is not set; {wanted_for} needs it. {NOTHING_SENT} "
            f"Set {name} in the environment or in the project's .env file, then run again."
        )
        self.name = name


class SyncUnknown(ConfigurationError):
    """A command named a sync that the project does not declare."""

    def __init__(self, name: str, known: tuple[str, ...], kind: str = "sync") -> None:
        super().__init__(
            f"This project declares no {kind} {name!r}. Nothing was run. Declared are: {', '.join(known) or 'none'}."
        )


class ProjectFolderInvalid(ConfigurationError):
    """A command was pointed at a folder that it cannot or must not use."""

    def __init__(self, folder: PurePath, problem: str, remedy: str) -> None:
        super().__init__(f"{folder}: {problem}. Nothing was changed. {remedy}")


class DestinationInvalid(ConfigurationError):
    """A destination's setting cannot be sent as it is: its URL, a header, its key."""

    def __init__(self, partner: str, problem: str) -> None:
        super().__init__(f"{partner}: {problem}. {NOTHING_SENT} Correct this setting of the destination.")


# -- serving ----------------------------------------------------------------------------------------------------


class ServingError(CohortPipelinesError):
    """A project cannot be served, or no longer."""


class PortTaken(ServingError):
    """Another program listens at the port that was asked for."""

    def __init__(self, port: int) -> None:
        super().__init__(
            f"Another program listens at port {port}. Nothing was started. Stop it, or name another port: --port."
        )


class ServiceEnded(ServingError):
    """One of the processes that serve a project ended by itself."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(
            f"{name} ended by itself (exit code {code}); its own words stand above. Everything else was stopped. "
            "No schedule runs until the project is served again; a delivery goes on from what was sent."
        )


# -- windows ----------------------------------------------------------------------------------------------------


class WindowError(CohortPipelinesError):
    """A snapshot was asked for in a window that cannot have one."""


class WindowClosed(WindowError):
    """The window is over and no snapshot of it was sealed."""

    def __init__(self, key: str, closed_at: datetime) -> None:
        super().__init__(
            f"The window {key} closed at {closed_at:%Y-%m-%d %H:%M} UTC without a sealed snapshot, and "
            "Mixpanel answers "
            f"only for now: what the cohort was then can no longer be read. {NOTHING_SENT} "
            "Materialize the newest window, or make a one-time export."
        )


class WindowNotOpenYet(WindowError):
    """The window lies in the future."""

    def __init__(self, key: str, opens_at: datetime) -> None:
        super().__init__(
            f"The window {key} opens at {opens_at:%Y-%m-%d %H:%M} UTC; a snapshot taken now does not belong to it. "
            f"{NOTHING_SENT} Materialize the window that is open now."
        )


class ExportNameInvalid(WindowError):
    """A one-time export's partition has a name that cannot be kept."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"A one-time export needs a name of 1 to {limit} characters that still fits a file name once encoded. "
            f"{NOTHING_SENT} Add a partition with a shorter name, such as the date."
        )


# -- the source: Mixpanel ---------------------------------------------------------------------------------------


class MixpanelError(CohortPipelinesError):
    """Mixpanel refused, failed or answered something that cannot be trusted."""


class MixpanelCredentialRefused(MixpanelError):
    """The service account is unknown, expired, or its secret is wrong."""

    def __init__(self) -> None:
        super().__init__(
            f"Mixpanel refused the service account. {NOTHING_SENT} Check the user name and secret, and that the "
            "account has not expired (Project settings > Service accounts)."
        )


class MixpanelPlanWithoutApi(MixpanelError):
    """The project's plan does not include the Query API (status 402)."""

    def __init__(self) -> None:
        super().__init__(
            f"This Mixpanel project's plan does not allow API calls (402). {NOTHING_SENT} The Query API comes with the "
            "Growth and Enterprise plans."
        )


class MixpanelProjectUnknown(MixpanelError):
    """The service account has no access to the project, or there is no such project."""

    def __init__(self, project_id: int) -> None:
        super().__init__(
            f"The service account sees no Mixpanel project {project_id}. {NOTHING_SENT} Check project_id and region, "
            "and add the service account to the project."
        )


class MixpanelCohortUnknown(MixpanelError):
    """The project has no cohort of that id, or the account may not see it."""

    def __init__(self, cohort_id: int, project_id: int) -> None:
        super().__init__(
            f"Mixpanel project {project_id} has no cohort {cohort_id} that this service account can see. "
            f"{NOTHING_SENT} "
            "Check cohort_id, and share the cohort with the account if it is private."
        )


class NotProjectAdmin(MixpanelError):
    """The service account's role may not connect a cohort sync."""

    def __init__(self, role: str, project_id: int) -> None:
        super().__init__(
            f"The service account is {role!r} in Mixpanel project {project_id}; connecting a sync takes a project "
            f"admin. {NOTHING_SENT} Give the account the Admin role, or use one that has it."
        )


class MixpanelRequestRefused(MixpanelError):
    """A permanent refusal that has no class of its own."""

    def __init__(self, status: int, asked: str) -> None:
        super().__init__(
            f"Mixpanel answered {status} to {asked}. {NOTHING_SENT} The request will not succeed as it is; check the "
            "project and cohort of the sync."
        )
        self.status = status


class QueryBudgetExhausted(Transient, MixpanelError):
    """The project's queries of this hour are used up."""

    def __init__(self, limit: str, retry_after: float | None) -> None:
        super().__init__(
            f"The Mixpanel project has used up its queries ({limit}), and there was no time to wait for more. "
            f"{NOTHING_SENT} The next window tries again; fewer syncs or a higher limit prevent it."
        )
        self.retry_after = retry_after


class TooManyConcurrentQueries(Transient, MixpanelError):
    """More queries of the project run at once than Mixpanel allows."""

    def __init__(self, retry_after: float | None) -> None:
        super().__init__(
            f"Mixpanel is running as many queries of this project as it allows at once. {NOTHING_SENT} Others use the "
            "project too; the next window tries again."
        )
        self.retry_after = retry_after


class MixpanelOverloaded(Transient, MixpanelError):
    """Mixpanel sheds load: a 429 without any rate-limit header."""

    def __init__(self, retry_after: float | None) -> None:
        super().__init__(f"Mixpanel is shedding load (429). {NOTHING_SENT} The next window tries again.")
        self.retry_after = retry_after


class MixpanelTimedOut(Transient, MixpanelError):
    """The query took longer than Mixpanel or we allow."""

    def __init__(self, asked: str) -> None:
        super().__init__(
            f"Mixpanel did not answer {asked} in time. {NOTHING_SENT} The next window tries again; for a very large "
            "cohort set anonymous_members: skip."
        )


class MixpanelUnavailable(Transient, MixpanelError):
    """Mixpanel could not be reached, broke off, or answered with a server error."""

    def __init__(self, asked: str, answer: str, retry_after: float | None = None) -> None:
        super().__init__(f"Mixpanel could not answer {asked}: {answer}. {NOTHING_SENT} The next window tries again.")
        self.retry_after = retry_after


class SnapshotTorn(MixpanelError):
    """The pages that were read do not make up the cohort that page 0 promised."""

    def __init__(self, defect: str) -> None:
        super().__init__(
            f"Mixpanel's pages do not make up one cohort, twice in a row: {defect}. The snapshot was dropped. "
            f"{NOTHING_SENT} The next window reads afresh; if it stays, the cohort changes while it is read."
        )
        self.defect = defect


# -- history ----------------------------------------------------------------------------------------------------


class HistoryError(CohortPipelinesError):
    """A file of the history cannot be written, found or trusted."""


class HistoryNotWritable(HistoryError):
    """The history's folder refuses to be written."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(
            f"The history could not be written at {path}: {cause}. No partial file was left. {NOTHING_SENT} Check free "
            "space and permissions of that folder."
        )


class HistoryFileMissing(HistoryError):
    """A sealed file that is needed is not there."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"The sealed file {path} is gone from the history. {NOTHING_SENT} Restore it from a backup, or materialize "
            "the step that makes it."
        )


class HistoryFileDamaged(HistoryError):
    """A sealed file no longer has the bytes that its checksum names."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"The sealed file {path} does not match its checksum. {NOTHING_SENT} Restore it from a backup, "
            "or remove it "
            "and materialize the step that makes it."
        )


class NotInHistory(HistoryError):
    """What was asked for was never stored under that name."""

    def __init__(self, name: str, kind: str, known: Iterable[str]) -> None:
        there = ", ".join(known) or "none yet"
        super().__init__(f"The history has no {kind} {name!r}. There is: {there}.")


# -- identity ---------------------------------------------------------------------------------------------------


class IdentityError(CohortPipelinesError):
    """Members cannot be mapped to partner ids."""


class PropertyNotInSnapshot(IdentityError):
    """The id rule reads a profile property that the snapshot did not keep."""

    def __init__(self, name: str, window: str) -> None:
        super().__init__(
            f"The snapshot of {window} does not hold the profile property {name!r}, since no rule needed it when it "
            f"was taken. {NOTHING_SENT} Only a new snapshot can have it: materialize the window that is open now."
        )


class CountsDoNotAddUp(IdentityError):
    """A member is in neither the payload nor the rejects, or in both."""

    def __init__(self, members: int, users: int, rejected: int) -> None:
        super().__init__(
            f"The snapshot has {members:,} members, but the payload ({users:,}) and the rejects ({rejected:,}) have "
            f"{users + rejected:,}. {NOTHING_SENT} Materialize identified_users and partner_payload from this "
            "snapshot again; if it stays, report it as a bug."
        )


# -- delivery ---------------------------------------------------------------------------------------------------


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


# -- partners ---------------------------------------------------------------------------------------------------


class PartnerError(CohortPipelinesError):
    """A partner refused, failed or answered something that its wire does not promise.

    Messages say nothing about the audience: a partner adapter cannot know what was sent before; delivery does.
    """


class PartnerKeyRefused(PartnerError):
    """The partner does not accept the key or token (401, 403)."""

    def __init__(self, partner: str, status: int) -> None:
        super().__init__(f"{partner} refused the key ({status}). Check the credential of this destination.")
        self.status = status


class PartnerRequestRefused(PartnerError):
    """The partner refused a whole request for good (400, 402, 404, 413, 422)."""

    def __init__(self, partner: str, status: int) -> None:
        super().__init__(
            f"{partner} refused the request ({status}). Check the destination's URL and settings, and that the target "
            "exists where the partner asks for it."
        )
        self.status = status


class PartnerUnreachable(Transient, PartnerError):
    """No connection could be made, so nothing of the request arrived."""

    def __init__(self, partner: str, cause: str) -> None:
        super().__init__(f"{partner} could not be reached ({cause}). Check the destination's URL and the network.")


class PartnerOutcomeUnknown(Transient, PartnerError):
    """The request may or may not have taken effect: a server error, a cut connection, a time-out, a wrong body."""

    def __init__(self, partner: str, answer: str, retry_after: float | None = None) -> None:
        super().__init__(f"{partner} did not confirm the request ({answer}).")
        self.retry_after = retry_after


class PartnerFolderNotWritable(PartnerOutcomeUnknown):
    """The folder that a partner's files are imported from refuses to be written."""

    def __init__(self, partner: str, folder: PurePath, cause: str) -> None:
        super().__init__(partner, f"{folder}: {cause}; check free space and permissions of that folder")


class NewerFilePublished(PartnerError):
    """The target's pointer already names a file of a later generation, and stays there."""

    def __init__(self, partner: str, published: int, generation: int) -> None:
        super().__init__(
            f"{partner} already has the file of generation {published}, which is newer than {generation}. The pointer "
            "was left as it is."
        )
