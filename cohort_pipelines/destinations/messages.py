"""Mixpanel's cohort message, as bytes: what is sent and how the reply is read.

Source: Mixpanel's docs/cohort-sync/webhooks.mdx, which Mixpanel names as the specification for partners.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from cohort_pipelines.core.errors import PartnerError, PartnerOutcomeUnknown, PartnerRequestRejected
from cohort_pipelines.core.http import NO_JSON, Response
from cohort_pipelines.destinations.exchange import failure, require_success

Action = Literal["members", "add_members", "remove_members"]

MEMBER_ID_KEY = "mixpanel_distinct_id"
PAGE_ROWS = 1_000  # the published size of a batch, and the most that Flagsmith takes


class Cohort(msgspec.Struct, frozen=True, kw_only=True):
    """What every message says of the cohort, under the published names; the session is one for each export."""

    mixpanel_project_id: str
    mixpanel_cohort_id: str
    mixpanel_cohort_name: str
    mixpanel_cohort_description: str = ""
    mixpanel_session_id: str


def encode(cohort: Cohort, action: Action, members: Sequence[Mapping[str, str]], *, page: int, pages: int) -> bytes:
    """Return the message that carries ``members`` as page ``page`` (from 1) of ``pages``."""
    parameters = msgspec.structs.asdict(cohort) | {
        "page_info": {"total_pages": pages, "page_count": page},
        "members": members,
    }
    return msgspec.json.encode({"action": action, "parameters": parameters})


class _Reply(msgspec.Struct):
    """The reply's published fields; the error is read leniently, since receivers differ in its shape."""

    status: str
    action: str | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Reply)
_AN_ERROR = re.compile("[45][0-9][0-9]")


def require_accepted(partner: str, action: Action, response: Response) -> None:
    """Refuse every reply but the published one: a 2xx and a JSON object with `status: success` and the same action.

    One that names an error beside is none. Flagsmith and Usertour answer so; Usertour answers a failure with a 2xx too,
    so the body decides.

    Raises:
        PartnerKeyRefused, PartnerRequestRejected, PartnerOutcomeUnknown: what the status or the body says.
    """
    require_success(partner, response)
    try:
        reply = _decoder.decode(response.content)
    except NO_JSON:
        raise _not_the_wire(partner, response) from None
    if reply.status == "failure":
        raise _reported_failure(partner, reply.error, response)
    if reply.error or (reply.status, reply.action) != ("success", action):
        raise _not_the_wire(partner, response)


def _reported_failure(partner: str, error: object, response: Response) -> PartnerError:
    code = str(error.get("code")) if isinstance(error, dict) else ""
    if _AN_ERROR.fullmatch(code):
        return failure(partner, int(code))
    return PartnerRequestRejected(partner, response.status_code)


def _not_the_wire(partner: str, response: Response) -> PartnerOutcomeUnknown:
    return PartnerOutcomeUnknown(partner, f"HTTP {response.status_code} with a body that is no reply to this message")
