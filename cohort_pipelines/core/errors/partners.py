"""What a partner refused or left open. Nothing is said of the audience: only delivery knows what was sent before."""

from http import HTTPStatus
from pathlib import PurePath

from cohort_pipelines.core.errors.base import CohortPipelinesError, Transient


class PartnerError(CohortPipelinesError):
    """A partner refused, failed or answered something that its wire does not promise.

    Messages say nothing about the audience: a partner adapter cannot know what was sent before; delivery does.
    ``requests`` were made until it was raised, retries included.
    """

    requests: int = 1


class PartnerKeyRefused(PartnerError):
    """The partner does not accept the key or token (401, 403)."""

    def __init__(self, partner: str, status: int) -> None:
        super().__init__(f"{partner} refused the key ({status}). Check the credential of this destination.")
        self.status = status


class PartnerRequestRejected(PartnerError):
    """The partner refused a whole request for good (400, 402, 404, 413, 422)."""

    def __init__(self, partner: str, status: int) -> None:
        super().__init__(
            f"{partner} refused the request ({status}). Check the destination's URL and settings, and that the target "
            "exists where the partner asks for it."
        )
        self.status = status

    @property
    def may_miss_the_target(self) -> bool:
        """Whether the partner may have said that there is no such target (404, 410), rather than no such user."""
        return self.status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}


class PartnerTargetMissing(PartnerError):
    """The partner knows no such target (404, 410): it was deleted there, or something else answers at that URL."""

    def __init__(self, partner: str, status: int) -> None:
        super().__init__(f"{partner} does not know the target ({status}): it was deleted there, or the URL is wrong.")


class PartnerUnreachable(Transient, PartnerError):
    """No connection could be made, so nothing of the request arrived."""

    def __init__(self, partner: str, cause: str) -> None:
        super().__init__(
            f"{partner} could not be reached ({cause}). Check the destination's URL, the network, and the "
            "proxy where one is set."
        )


class PartnerOutcomeUnknown(Transient, PartnerError):
    """The request may or may not have taken effect: a server error, a cut connection, a time-out, a wrong body."""

    def __init__(self, partner: str, answer: str, retry_after: float | None = None) -> None:
        super().__init__(f"{partner} did not confirm the request ({answer}).")
        self.retry_after = retry_after


class PartnerRateLimited(PartnerOutcomeUnknown):
    """The request was rate limited for now (429), or not even made for want of time: this try of it has no effect."""


class PartnerFolderNotWritable(PartnerOutcomeUnknown):
    """The folder that a partner's files are imported from refuses to be written."""

    requests = 0

    def __init__(self, partner: str, folder: PurePath, cause: str) -> None:
        super().__init__(partner, f"{folder}: {cause}; check free space and permissions of that folder")


class NewerFilePublished(PartnerError):
    """The target's pointer already names a file of a later generation, and stays there."""

    requests = 0

    def __init__(self, partner: str, published: int, generation: int) -> None:
        super().__init__(
            f"{partner} already has the file of generation {published}, which is newer than {generation}. The pointer "
            "was left as it is. Where ledger and history were lost and begin anew, remove the target's current.csv: "
            "the next window publishes its own."
        )
