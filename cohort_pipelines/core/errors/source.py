"""Windows that cannot have a snapshot, and what Mixpanel refused, failed or garbled."""

from datetime import datetime

from cohort_pipelines.core.errors.base import NOTHING_SENT, CohortPipelinesError, Transient


class WindowError(CohortPipelinesError):
    """A snapshot was asked for in a window that cannot have one."""


class WindowClosed(WindowError):
    """The window is over and no snapshot of it was sealed."""

    def __init__(self, key: str, closed_at: datetime) -> None:
        super().__init__(
            f"The window {key} closed at {closed_at:%Y-%m-%d %H:%M} UTC without a sealed snapshot, and "
            f"Mixpanel answers only for now: what the cohort was then can no longer be read. {NOTHING_SENT} "
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


class ClockSkewed(CohortPipelinesError):
    """This host's clock and another one differ so much that windows, leases and waits would go wrong."""

    def __init__(self, whose: str, their_time: datetime, host_time: datetime, *, confirmed: bool = False) -> None:
        apart = abs(their_time - host_time).total_seconds()
        alone = (
            "Two answers say so: this host's clock is the one that is wrong" if confirmed else "One of them is wrong"
        )
        super().__init__(
            f"The clocks differ by {apart:,.0f} seconds: {whose} says {their_time:%Y-%m-%d %H:%M:%S} UTC, this host "
            f"{host_time:%Y-%m-%d %H:%M:%S} UTC. {alone}. {NOTHING_SENT} Set the wrong clock by NTP, such as with "
            "`timedatectl set-ntp true`, then run again."
        )


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
            f"{NOTHING_SENT} Check cohort_id, and share the cohort with the account if it is private."
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
            "service account, the project and the cohort of the sync."
        )
        self.status = status


class MixpanelNotReached(MixpanelError):
    """Something else answered in Mixpanel's place."""

    def __init__(self, asked: str, answer: str) -> None:
        super().__init__(
            f"What answered {asked} is not Mixpanel's API: {answer}. {NOTHING_SENT} Check the region and api_url of "
            "the Mixpanel project, and the proxy or firewall between this host and Mixpanel."
        )


class MixpanelGroupCohort(MixpanelError):
    """The cohort is made up of groups, such as companies, and not of users."""

    def __init__(self, cohort_id: int, project_id: int) -> None:
        super().__init__(
            f"Cohort {cohort_id} of Mixpanel project {project_id} is a cohort of groups, such as companies: it has a "
            f"data_group_id. {NOTHING_SENT} Only users can be synced; set cohort_id to a cohort of users."
        )


class MixpanelAnswerUnreadable(MixpanelError):
    """Mixpanel answered, but not as it documents."""

    def __init__(self, asked: str, defect: str) -> None:
        super().__init__(
            f"Mixpanel's answer to {asked} cannot be used: {defect}. {NOTHING_SENT} The next window tries again; if it "
            "stays, check the region and api_url of the Mixpanel project, and what stands between."
        )
        self.defect = defect


class MixpanelAnswerTooLarge(MixpanelError):
    """Mixpanel's answer was given up, because it is larger than may be read."""

    def __init__(self, asked: str, cause: str) -> None:
        super().__init__(
            f"Mixpanel's answer to {asked} was given up: {cause}. {NOTHING_SENT} If the profiles are so large, raise "
            "max_page_bytes of the Mixpanel project, or set anonymous_members: skip to read needed properties alone."
        )


class MixpanelBusy(Transient, MixpanelError):
    """Mixpanel turned a query away (429), which does not count as one."""


class QueryBudgetExhausted(MixpanelBusy):
    """The project's queries of this hour are used up."""

    def __init__(self, limit: str, retry_after: float | None) -> None:
        super().__init__(
            f"The Mixpanel project has used up its queries ({limit}), and there was no time to wait for more. "
            f"{NOTHING_SENT} The next window tries again; fewer syncs or a higher limit prevent it."
        )
        self.retry_after = retry_after


class TooManyConcurrentQueries(MixpanelBusy):
    """More queries of the project run at once than Mixpanel allows."""

    def __init__(self, retry_after: float | None) -> None:
        super().__init__(
            f"Mixpanel is running as many queries of this project as it allows at once. {NOTHING_SENT} Others use the "
            "project too; the next window tries again."
        )
        self.retry_after = retry_after


class MixpanelOverloaded(MixpanelBusy):
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


class ReadingDeferred(Transient, MixpanelError):
    """Other readings of the project left no time for this one."""

    def __init__(self, project: str) -> None:
        super().__init__(
            f"Other cohorts of Mixpanel {project} were read until this run's deadline. {NOTHING_SENT} The next window "
            "asks again; fewer syncs of the project, or later windows for some of them, prevent it."
        )


class SnapshotTorn(MixpanelError):
    """The pages that were read do not make up the cohort that page 0 promised."""

    def __init__(self, defect: str) -> None:
        super().__init__(
            f"Mixpanel's pages do not make up one cohort, twice in a row: {defect}. The snapshot was dropped. "
            f"{NOTHING_SENT} The next window reads afresh; if it stays, the cohort changes while it is read."
        )
