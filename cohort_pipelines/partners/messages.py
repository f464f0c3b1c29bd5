"""Mixpanel's cohort message, as bytes: what is sent and how the reply is read.

Source: Mixpanel's docs/cohort-sync/webhooks.mdx, which Mixpanel names as the specification for partners.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal

import msgspec

from cohort_pipelines.errors import PartnerError, PartnerOutcomeUnknown, PartnerRequestRefused
from cohort_pipelines.http import Response
from cohort_pipelines.partners.exchange import failure, require_success

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

    status: str | None = None
    action: str | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Reply)


def require_accepted(partner: str, action: Action, response: Response) -> None:
    """Refuse a reply that does not say that the message was taken.

    A reply is good when it is a 2xx whose body is empty, or a JSON object that says `status: success` for the same
    action, or says neither status nor error. Usertour answers a failure with 200, so the body counts as well.

    Raises:
        PartnerKeyRefused, PartnerRequestRefused, PartnerOutcomeUnknown: what the status or the body says.
    """
    require_success(partner, response)
    if not response.content:
        return
    try:
        reply = _decoder.decode(response.content)
    except msgspec.DecodeError:
        raise _not_the_wire(partner, response) from None
    if reply.status == "failure":
        raise _reported_failure(partner, reply.error, response)
    accepted = reply.status == "success" or (reply.status is None and not reply.error)
    if not accepted or reply.action not in {None, action}:
        raise _not_the_wire(partner, response)


def _reported_failure(partner: str, error: object, response: Response) -> PartnerError:
    code = str(error.get("code")) if isinstance(error, dict) else ""
    if code.isdecimal() and int(code) >= HTTPStatus.BAD_REQUEST:
        return failure(partner, int(code))
    return PartnerRequestRefused(partner, response.status_code)


def _not_the_wire(partner: str, response: Response) -> PartnerOutcomeUnknown:
    return PartnerOutcomeUnknown(partner, f"HTTP {response.status_code} with a body that is no reply to this message")
